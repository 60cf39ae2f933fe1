"""Predicted seconds against measured ones: seedling's clips, and one pass of a transformer of Linum's true width.

    python benchmarks/plan_seconds.py [--weights DIR] [--threads N] [--lengths 1 2] [--layers 40] [--cpu-time]

The device is measured as `linnet plan --measure` does; then clips of seedling are made, a row each for denoising and
for decoding and writing, exact and fast, of which the best of three counts; and one guidance pass of Linum's
transformer, random weights, takes a 360p clip of two latent frames. --cpu-time counts this process's CPU seconds in
both, for a machine that is not quiet. Ends with one line of JSON.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch

from linnet import pipeline
from linnet.catalog import CATALOG, SEEDLING
from linnet.cli.plan import measured
from linnet.measure import rate_measurement as measure
from linnet.measure.bench import invented
from linnet.models.transformer import Transformer, linum_v2
from linnet.plan.memory import LINUM_V2, shape_of
from linnet.request import make_request
from linnet.runtime.device import default_dtype
from linnet.weights.store import resolve

PROMPT = "a red star spins on a blue background"
TIMES = 3


def seedling(weights: Path | None, lengths: list[float], dtype: str) -> dict[str, tuple[float, float]]:
    """Of each clip and stage, what was predicted and what was measured."""
    files = resolve(SEEDLING, weights=weights)
    shape, rates = shape_of(files), measured(SEEDLING, files, dtype, "cpu")
    one = pipeline.Pipeline.open(SEEDLING, files, dtype=getattr(torch, dtype))
    found: dict[str, tuple[float, float]] = {}
    for seconds, profile in product(lengths, ("exact", "fast")):
        request = make_request(SEEDLING, prompt=PROMPT, seconds=seconds, seed=1, profile=profile)
        request = one.settled(request)
        with tempfile.TemporaryDirectory() as folder:
            clips = [one.generate(request, Path(folder) / f"{i}.mp4") for i in range(TIMES)]
        predicted = rates.of(SEEDLING, shape, request)
        for stage in ("denoise", "decode"):
            took = min(clip.seconds[stage] for clip in clips)
            found[f"seedling, {seconds:g} s, {profile}, {stage}"] = predicted[stage], took
    return found


def true_width(layers: int, dtype: str) -> tuple[float, float]:
    """One pass, predicted and measured."""
    spec, kind = CATALOG["linum-v2-360p"], getattr(torch, dtype)
    rates = SimpleNamespace(**measure.denoise_rates(spec, LINUM_V2, kind, "cpu"))
    config = replace(linum_v2(), num_layers=layers)
    model = invented(lambda: Transformer(config), torch.device("cpu"), kind)
    latents = torch.randn(1, config.channels, 2, 45, 80)
    with torch.inference_mode():
        text = model.encode_text([torch.randn(32, config.text_dim)])
        model(latents[..., :8, :8], torch.tensor([500.0]), text)
        start = measure.time.perf_counter()
        model(latents, torch.tensor([500.0]), text)
        took = measure.time.perf_counter() - start
    tokens = 2 * 23 * 40
    block = rates.block + tokens * (rates.token + tokens * rates.pair)
    return layers * block + rates.call + tokens * rates.step, took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--lengths", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    clock = time.process_time if options.cpu_time else time.perf_counter
    clocks = SimpleNamespace(perf_counter=clock, monotonic=clock)
    dtype = str(default_dtype("cpu")).removeprefix("torch.")
    with patch.object(measure, "time", clocks), patch.object(pipeline, "time", clocks):
        found = seedling(options.weights, options.lengths, dtype)
        found[f"true width, {options.layers} layers, one pass"] = true_width(options.layers, dtype)
    rows = [
        {"what": name, "predicted": guess, "measured": took, "difference": guess / took - 1}
        for name, (guess, took) in found.items()
    ]
    for row in rows:
        print(f"{row['what']:>35} {row['predicted']:8.2f} {row['measured']:8.2f} s {row['difference']:+7.1%}")
    facts = {
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "clock": "cpu" if options.cpu_time else "wall",
    }
    print(json.dumps({**facts, "rows": rows}))


if __name__ == "__main__":
    main()

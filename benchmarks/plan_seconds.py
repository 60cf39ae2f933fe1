"""Predicted seconds against measured ones: seedling's clips, and one pass of a transformer of Linum's true width.

    python benchmarks/plan_seconds.py [--weights DIR] [--threads N] [--lengths 1 2] [--layers 40] [--decode]
        [--cpu-time]

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
from linnet.measure import rate_measurement as measure
from linnet.measure.bench import invented
from linnet.models.transformer import Transformer, linum_v2
from linnet.models.vae import VAE, VAEConfig
from linnet.plan.execution import ExecutionConfig
from linnet.plan.machine import Machine
from linnet.plan.memory import LINUM_V2
from linnet.plan.plan import SizedModel
from linnet.request import make_request
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import resolve

PROMPT = "a red star spins on a blue background"
TIMES = 3


def seedling(weights: Path | None, lengths: list[float], machine: Machine) -> dict[str, tuple[float, float]]:
    """Of each clip and stage, what was predicted and what was measured."""
    files = resolve(SEEDLING, weights=weights)
    model = SizedModel.of(SEEDLING, files)
    costs = measure.measure_machine(machine, model, files)
    one = pipeline.Pipeline.open(SEEDLING, files, machine)
    found: dict[str, tuple[float, float]] = {}
    for seconds, profile in product(lengths, ("exact", "fast")):
        request = make_request(SEEDLING, prompt=PROMPT, seconds=seconds, seed=1, profile=profile)
        request = one.settled(request)
        with tempfile.TemporaryDirectory() as folder:
            clips = [one.generate(request, Path(folder) / f"{i}.mp4") for i in range(TIMES)]
        predicted = costs.of(machine.workload(model, request), ExecutionConfig())
        for stage in ("denoise", "decode"):
            written = [clip.seconds["write"] if stage == "decode" else 0.0 for clip in clips]
            took = min(clip.seconds[stage] + more for clip, more in zip(clips, written, strict=True))
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


def true_size() -> tuple[float, float]:
    """A latent frame of a 360p clip through the Wan decoder in float32, whole, predicted and measured."""
    frame, cell, _, _ = measure.decode_rates(CATALOG["linum-v2-360p"], "cpu", None)
    decoder, latents = VAE(VAEConfig()).eval(), torch.randn(1, 16, 2, 45, 80)
    with torch.inference_mode():
        stream = decoder.decode_stream(latents)
        next(stream)
        start = measure.time.perf_counter()
        next(stream)
        took = measure.time.perf_counter() - start
    return frame + 45 * 80 * cell, took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--lengths", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--decode", action="store_true", help="also two latent frames of a 360p clip")
    options = parser.parse_args()
    machine = resolve_machine("cpu", threads=options.threads)
    torch.set_num_threads(machine.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    clocks = SimpleNamespace(perf_counter=clock, monotonic=clock)
    with patch.object(measure, "time", clocks), patch.object(pipeline, "time", clocks):
        found = seedling(options.weights, options.lengths, machine)
        found[f"true width, {options.layers} layers, one pass"] = true_width(options.layers, machine.dtype)
        if options.decode:
            found["true size, decoding of a latent frame"] = true_size()
    rows = [
        {"what": name, "predicted": guess, "measured": took, "difference": guess / took - 1}
        for name, (guess, took) in found.items()
    ]
    for row in rows:
        print(f"{row['what']:>35} {row['predicted']:8.2f} {row['measured']:8.2f} s {row['difference']:+7.1%}")
    facts = {
        "dtype": machine.dtype,
        "threads": torch.get_num_threads(),
        "clock": "cpu" if options.cpu_time else "wall",
    }
    print(json.dumps({**facts, "rows": rows}))


if __name__ == "__main__":
    main()

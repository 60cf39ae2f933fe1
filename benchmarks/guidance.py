"""Guidance in float32 against the same in float64: what it changes in the latents of a whole run, and what it saves.

    python benchmarks/guidance.py [--weights DIR] [--clips 3] [--steps N] [--size 1280x720] [--seconds 2]

First seedling: clips of two seconds, in float32 and in bfloat16, with only the guidance's arithmetic changed; `differ`
is the relative difference of the final latents. Beside it stands what another source of rounding does to the same clip,
the number of tokens that go through a layer at a time, for a sense of scale. Then one step's guidance of a clip of the
size given, random velocities: relative difference and time. Ends with one line of JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import linnet
from linnet.catalog import SEEDLING
from linnet.evaluate.adherence import questions
from linnet.geometry import Size, frames_for, latent_grid
from linnet.request import Request, make_request
from linnet.sampling import denoise
from linnet.sampling.denoise import apg

CHUNK = 64  # tokens


def wide(cond: Tensor, null: Tensor, running: Tensor | None, **settings: Any) -> tuple[Tensor, Tensor]:
    """`apg` in float64, what it remembers included."""
    guided, running = apg(cond.double(), null.double(), running, **settings)
    return guided.float(), running


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def latents(pipeline: Any, request: Request) -> Tensor:
    *_, last = pipeline.runner.sample(request)
    return last.latents


def whole_runs(weights: Path | None, clips: int, steps: int | None) -> list[dict[str, Any]]:
    rows = []
    for dtype in ("float32", "bfloat16"):
        pipeline = linnet.load("seedling", weights=weights, device="cpu", dtype=dtype)
        for question in questions(clips, held_out=False):
            request = make_request(SEEDLING, prompt=question.prompt, seed=question.seed, steps=steps)
            narrow = latents(pipeline, request)
            with patch.object(denoise, "apg", wide):
                reference = latents(pipeline, request)
            pipeline.model.execution = replace(pipeline.model.execution, token_chunk=CHUNK)
            chunked = latents(pipeline, request)
            pipeline.model.execution = replace(pipeline.model.execution, token_chunk=None)
            row = {
                "dtype": dtype,
                "seed": question.seed,
                "differ": distance(narrow, reference),
                "chunks_differ": distance(chunked, narrow),
            }
            rows.append(row)
            print("  ".join(f"{k} {v:.2e}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return rows


def one_step(size: Size, seconds: float) -> dict[str, Any]:
    shape = (1, 16, *latent_grid(frames_for(seconds), size))
    generator = torch.Generator().manual_seed(0)
    cond = torch.randn(shape, generator=generator)
    null = cond + 0.1 * torch.randn(shape, generator=generator)
    settings = {"scale": 10.0, "momentum": -0.75, "eta": 0.0, "rescale": 20.0}
    outcomes, spent = {}, {}
    for name, way in (("float32", apg), ("float64", wide)):
        times = []
        for _ in range(5):
            start = time.process_time()
            outcomes[name], _ = way(cond, null, None, **settings)
            times.append(time.process_time() - start)
        spent[name] = min(times)
    differ = distance(outcomes["float32"], outcomes["float64"])
    print(f"{size}, {seconds:g} s: differ {differ:.2e}, seconds {spent}")
    return {"size": str(size), "seconds_of_clip": seconds, "differ": differ, "cpu_seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=Size.parse, default=Size(1280, 720))
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    with torch.inference_mode():
        rows = whole_runs(options.weights, options.clips, options.steps)
        step = one_step(options.size, options.seconds)
    print(json.dumps({"runs": rows, "step": step}))


if __name__ == "__main__":
    main()

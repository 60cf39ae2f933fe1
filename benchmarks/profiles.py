"""What each way to save steps costs in quality, on seedling: the table from which the profiles are chosen.

    python benchmarks/profiles.py [--weights DIR] [--n 200] [--seconds 2] [--folder DIR] [--only "exact;fast"]

Each row answers the same questions with the same seeds as `linnet evaluate adherence`: seconds a clip (all of it, from
the prompt's states to the file; the median) by the clock and of CPUs, which is more where threads wait, how often the
model is asked, how many clips are right in everything, PSNR and SSIM of its frames against "exact" (medians of clips;
--only must then begin with it), and peak memory as planned. Clips stay in the folder, so that a stopped run goes on,
but only clips made in this run are timed.
A Markdown table, then one JSON line.
"""

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.clip import Clip
from linnet.evaluate.adherence import ALL, Question, examine
from linnet.pipeline import Pipeline
from linnet.plan.execution import FORMATS, ExecutionConfig
from linnet.plan.passes import forwards
from linnet.request import make_request
from linnet.runtime.machine import resolve_machine

EXACT = "exact"
SOLVERS = ("euler", "dpm++", "unipc")
INTERVALS = ((0, 0.5), (0, 0.75), (0.25, 1))
WAYS: dict[str, dict[str, Any]] = {
    EXACT: {"profile": EXACT},
    "fast": {"profile": "fast"},
    "draft": {"profile": "draft"},
    **{f"{solver}, {n} steps": {"solver": solver, "steps": n} for n in (10, 6) for solver in SOLVERS},
    **{f"guided {a:g} to {b:g}": {"guidance_from": a, "guidance_until": b} for a, b in INTERVALS},
    **{f"reuse {change}": {"reuse": str(change)} for change in (0.1, 0.2, 0.4)},
    "decoder in bfloat16": {"decoder_dtype": "bfloat16"},
    **{f"text encoder in {format}": {"knobs": ExecutionConfig(text_format=format)} for format in FORMATS},
    **{
        f"transformer in {format}": {"knobs": ExecutionConfig(transformer_format=format)}
        for format in FORMATS
    },
}


def asked(request: Any, clip: Clip) -> int:
    """Passes of the model; those that were left out while running do not count."""
    left_out = clip.choices.get("reused", [])
    return sum(forwards(replace(request, reuse=",".join(map(str, left_out)) or "none")))


def psnr(path: Path, reference: Path) -> float:
    """Decibels over all pixels of both clips' frames."""
    pairs = zip(media.read_frames(path), media.read_frames(reference), strict=True)
    error = np.mean([np.square(a.astype(np.float64) - b).mean() for a, b in pairs])
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(path: Path, reference: Path) -> float:
    """Structural similarity of both clips' frames in gray (Wang et al. 2004, in windows of 8x8), the mean over all."""

    def gray(clip: Path) -> Tensor:
        frames = np.stack([frame.mean(-1) for frame in media.read_frames(clip)])
        return torch.from_numpy(frames).float()[:, None]

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 8, stride=1)

    a, b = gray(path), gray(reference)
    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    together = mean(a * b) - mean_a * mean_b
    light, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    over = (2 * mean_a * mean_b + light) * (2 * together + contrast)
    return float((over / ((mean_a**2 + mean_b**2 + light) * (spread_a + spread_b + contrast))).mean())


def measure(name: str, pipeline: Any, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    steps = {"steps": arguments.steps} if arguments.steps else {}
    settings = {"seconds": arguments.seconds, **steps, **WAYS[name]}
    if execution := settings.pop("knobs", None):
        pipeline = Pipeline.open(
            SEEDLING,
            pipeline.files,
            resolve_machine("cpu", dtype=pipeline.machine.dtype, threads=arguments.threads),
            execution=execution,
        )
    seconds: list[tuple[float, float]] = []
    counts: list[int] = []

    def make(question: Question, path: Path) -> None:
        request = make_request(SEEDLING, prompt=question.prompt, seed=question.seed, **settings)
        start = time.perf_counter(), time.process_time()
        clip = pipeline.generate(request, path)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        counts.append(asked(request, clip))

    usual = make_request(SEEDLING, prompt="any", seed=0, **settings).to_json()
    subject = {
        "weights": pipeline.model_hash,
        "request": usual,
        "knobs": execution.record() if execution else {},
    }
    place = folder / "".join(c if c.isalnum() or c in ".+" else "-" for c in name)
    examination = examine(
        make, folder=place, n=arguments.n, held_out=False, seconds=arguments.seconds, subject=subject
    )
    share = examination.share(ALL)
    exact = [folder / EXACT / "made" / answer.path.name for answer in examination.answers]
    pairs = [(a.path, b) for a, b in zip(examination.answers, exact, strict=True) if b.exists()]
    compared = pairs if name != EXACT else []
    return {
        "way": name,
        "seconds": median(clock for clock, _ in seconds) if seconds else None,
        "cpu_seconds": median(cpu for _, cpu in seconds) if seconds else None,
        "passes": median(counts) if counts else None,
        "right": share.right,
        "of": share.of,
        "rate": share.rate,
        "interval": share.interval,
        "psnr": median(psnr(*pair) for pair in compared) if compared else None,
        "ssim": median(ssim(*pair) for pair in compared) if compared else None,
        "bytes": pipeline.plan(make_request(SEEDLING, prompt="any", seed=0, **settings)).peak_bytes,
    }


def row(result: dict[str, Any], exact: dict[str, Any] | None) -> str:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    times = result["seconds"], exact["seconds"] if exact else None
    faster = times[1] / times[0] if times[0] and times[1] else None
    cells = [
        result["way"],
        shown(result["passes"], "g"),
        shown(result["seconds"], ".2f"),
        shown(result["cpu_seconds"], ".2f"),
        shown(faster, ".1f"),
        f"{result['rate']:.1%} ({result['interval'][0]:.0%} to {result['interval'][1]:.0%})",
        shown(result["psnr"], ".1f"),
        shown(result["ssim"], ".3f"),
        shown(result["bytes"] and result["bytes"] / 1e6, ".0f"),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--steps", type=int, help="of each row that says no other number")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", help="rows, separated by semicolons")
    arguments = parser.parse_args()
    pipeline = linnet.load("seedling", weights=arguments.weights, device="cpu", threads=arguments.threads)
    names = [name.strip() for name in arguments.only.split(";")] if arguments.only else list(WAYS)
    heads = "way | passes | seconds | CPU seconds | times faster | all right (95 %) | PSNR, dB | SSIM | planned, MB"
    print(f"| {heads} |\n|{'---|' * 9}")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            results[name] = measure(name, pipeline, arguments, arguments.folder or Path(temporary))
            print(row(results[name], results.get(EXACT)), flush=True)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "weights": pipeline.model_hash}
    print(json.dumps({**facts, "n": arguments.n, "rows": list(results.values())}))


if __name__ == "__main__":
    main()

"""Train seedling on the toy theatre.

    python -m linnet.train.theatre --sprites sprites.safetensors --output runs/theatre \\
        --phase autoencoder:1.5 --phase stills:2.5 --phase clips:4

Phases run one after the other, each for its minutes; the same command again goes on from the folder's state. What is to
be carried away lies in OUTPUT/leaves (or --leaves): weights in parts of at most 15 MB, report.json, and a sheet of
samples for each phase. --from PARTS begins a new folder with them. `--export FOLDER --from PARTS` writes the model's
files instead.
"""

import argparse
import json
from pathlib import Path
from typing import get_args

import torch

from linnet.errors import LinnetError
from linnet.runtime.device import resolve_device
from linnet.train.loop import Report
from linnet.train.theatre.config import SIZES
from linnet.train.theatre.run import Phase, TheatreRun, export_parts, run_phases


def phase(text: str) -> tuple[Phase, float]:
    name, _, minutes = text.partition(":")
    known_phase: Phase | None = next((known for known in get_args(Phase) if known == name), None)
    if known_phase is None or float(minutes) <= 0:
        raise ValueError(text)
    return known_phase, float(minutes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sprites", type=Path, help="written by `python scripts/theatre.py pack`")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/theatre"), help="where the full state stays"
    )
    parser.add_argument("--leaves", type=Path, help="where what is carried away goes")
    parser.add_argument("--phase", type=phase, action="append", metavar="NAME:MINUTES")
    parser.add_argument("--from", dest="begin", type=Path, metavar="PARTS")
    parser.add_argument("--export", type=Path, metavar="FOLDER")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=8, help="processes that draw scenes ahead (0: none)")
    parser.add_argument(
        "--compile",
        choices=("none", "blocks", "all"),
        help="the transformer's blocks, or what draws the scenes too; on a GPU blocks unless show otherwise",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.export:
        if not options.begin:
            parser.error("--export needs --from PARTS")
        export_parts(options.begin, options.export)
        print(options.export)
        return
    if not options.phase or not options.sprites:
        parser.error("--phase and --sprites are needed")
    device = resolve_device(options.device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    run = TheatreRun(
        config=SIZES[options.size],
        sprites=options.sprites,
        folder=options.output,
        leaves=options.leaves or options.output / "leaves",
        device=device,
        begin=options.begin,
        workers=options.workers,
        seed=options.seed,
        compiled=options.compile or ("blocks" if device == "cuda" else "none"),
    )
    for report in run_phases(run, options.phase, show):
        print(json.dumps(report), flush=True)


def show(name: str, report: Report) -> None:
    numbers = " ".join(f"{key} {value:.4g}" for key, value in report.numbers.items())
    print(f"{name} step {report.step}: {numbers}, {report.seconds_a_step:.3f} s a step", flush=True)


if __name__ == "__main__":
    try:
        main()
    except LinnetError as error:
        raise SystemExit(f"error: {error}") from None

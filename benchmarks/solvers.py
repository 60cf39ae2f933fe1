"""How few steps each solver can do with, on seedling: the table from which the catalogue's `least_steps` come.

    python benchmarks/solvers.py [--n 50] [--seconds 2] [--only "euler, 8;unipc, 10"] [--folder DIR]

Each row answers the same questions with the same seeds as `linnet evaluate adherence`, at the model's own guidance, and
is read back from the files. Rows that a request refuses are made all the same: this table says why they are. Clips stay
in the folder, so that a stopped run goes on. A Markdown table, then one JSON line.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from linnet import media
from linnet.catalog import SEEDLING
from linnet.evaluate.adherence import ALL, Answer, Examination, claim, questions
from linnet.evaluate.parse import parse
from linnet.pipeline import Pipeline
from linnet.request import check_dtype, make_request
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import resolve

SOLVERS = ("euler", "dpm++", "unipc")
STEPS = (6, 8, 10, 14, 20)
ROWS = [f"{solver}, {steps}" for solver, steps in product(SOLVERS, STEPS)]


def measure(name: str, pipeline: Pipeline, n: int, seconds: float, folder: Path) -> dict[str, Any]:
    solver, steps = name.split(", ")
    usual = make_request(SEEDLING, prompt="any", seed=0, seconds=seconds)
    request = pipeline.settled(replace(usual, solver=solver, steps=int(steps)))  # pyright: ignore[reportArgumentType]
    claim(folder, {"weights": pipeline.model_hash, "request": request.to_json()})
    answers = []
    for question in questions(n, held_out=False):
        path = folder / f"{question.index:04}.mp4"
        if not path.exists():
            pipeline.generate(replace(request, prompt=question.prompt, seed=question.seed), path)
        answers.append(Answer(question=question, path=path, seen=parse(media.read_frames(path))))
    share = Examination(settings={}, answers=answers, drawn=[]).share(ALL)
    return {
        "solver": solver,
        "steps": int(steps),
        "right": share.right,
        "of": share.of,
        "rate": share.rate,
        "interval": share.interval,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", help="rows, separated by semicolons")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args()
    machine = resolve_machine("cpu", dtype=check_dtype(asked.dtype), threads=1)
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING), machine)
    dtype = machine.dtype
    names = [name.strip() for name in asked.only.split(";")] if asked.only else ROWS
    print("| solver, steps | all right (95 %) |\n|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            folder = (asked.folder or Path(temporary)) / name.replace(", ", "-")
            rows.append(measure(name, pipeline, asked.n, asked.seconds, folder))
            least, most = rows[-1]["interval"]
            print(f"| {name} | {rows[-1]['rate']:.0%} ({least:.0%} to {most:.0%}) |", flush=True)
    found = {"weights": pipeline.model_hash, "dtype": dtype, "n": asked.n, "seconds": asked.seconds}
    print(json.dumps({**found, "rows": rows}))


if __name__ == "__main__":
    main()

"""Whether short clips of seedling show what is asked as often as those of 49 frames do.

    python benchmarks/short_clips.py [--n 36] [--frames 13 17 21 25 49] [--folder DIR]

Each length answers the same questions with the same seeds as `linnet evaluate adherence`. A short clip can show less:
of a hop under 24 frames only the way up, of a slow motion less than the reader asks for. So `as drawn` counts the clips
in which the reader sees what it sees in the same scene drawn in as many frames. `all right` counts those in which it
sees what was asked, and stands beside the same count of the drawn clips. Clips stay in the folder, so that a stopped
run goes on. A Markdown table, then one JSON line.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from linnet.catalog import SEEDLING
from linnet.evaluate.adherence import ALL, Question, Share, examine
from linnet.pipeline import Pipeline
from linnet.request import make_request
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import resolve

FRAMES = (13, 17, 21, 25, 49)


def measure(frames: int, pipeline: Pipeline, n: int, folder: Path) -> dict[str, Any]:
    def make(question: Question, path: Path) -> None:
        request = make_request(SEEDLING, prompt=question.prompt, seed=question.seed, frames=frames)
        pipeline.generate(request, path)

    found = examine(make, folder=folder, n=n, held_out=False, seconds=(frames - 1) / SEEDLING.fps)
    same = sum(made.seen == drawn.seen for made, drawn in zip(found.answers, found.drawn, strict=True))
    as_drawn = Share(same, n)
    return {
        "frames": frames,
        "as_drawn": same,
        "all_right": found.share(ALL).right,
        "drawn_all_right": found.ceiling(ALL).right,
        "of": n,
        "rate": as_drawn.rate,
        "interval": as_drawn.interval,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=36)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    machine = resolve_machine("cpu", threads=1)
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING), machine)
    rows = []
    print("| frames | as drawn | all right | drawn: all right | of |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for frames in asked.frames:
            row = measure(frames, pipeline, asked.n, (asked.folder or Path(temporary)) / str(frames))
            rows.append(row)
            cells = (row[name] for name in ("frames", "as_drawn", "all_right", "drawn_all_right", "of"))
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print(json.dumps({"weights": pipeline.model_hash, "dtype": machine.dtype, "rows": rows}))


if __name__ == "__main__":
    main()

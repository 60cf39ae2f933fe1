"""The proof that training works: seedling learns a shape from 24 clips, and keeps what it knew.

    python benchmarks/teach.py --folder /tmp/teach --threads 2

Draws the clips, runs `linnet train lora`, and asks for 50 clips of the new shape in colours and motions that the 24 do
not hold, and for clips of the old shapes with and without the LoRA. What is in the folder already is not made again.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import linnet
from linnet import media
from linnet.data import synthetic
from linnet.data.example import draw_example, unseen
from linnet.evaluate.adherence import Question, questions
from linnet.evaluate.parse import parse
from linnet.models.lora import apply_lora, remove_lora
from linnet.pipeline import Pipeline
from linnet.weights.lora import parameter_shapes, read_lora

SHAPES = (*synthetic.SHAPES, *synthetic.NEW_SHAPES)


def new_questions(shape: str, n: int) -> list[Question]:
    made = []
    for index in range(n):
        rng = random.Random(f"teach {shape} {index}")
        scene = synthetic.sample_scene(rng, triples=unseen(shape))
        words = synthetic.caption(scene, rng)
        made.append(Question(index=index, prompt=words, seed=rng.randrange(2**32), scene=scene))
    return made


def right(pipeline: Pipeline, exam: Sequence[Question], folder: Path, settings: Any) -> list[dict[str, Any]]:
    """Of each question what was asked for and what its clip shows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for question in exam:
        path = folder / f"{question.index:03}.mp4"
        if not path.exists():
            request = linnet.make_request(
                pipeline.spec, prompt=question.prompt, seed=question.seed, **settings
            )
            pipeline.generate(request, path)
        seen = parse(media.read_frames(path), SHAPES)
        wrong = [n for n, value in vars(question.wanted).items() if getattr(seen, n) != value]
        rows.append({"prompt": question.prompt, "wrong": {n: getattr(seen, n) for n in wrong}})
    return rows


def share(rows: Sequence[dict[str, Any]], attribute: str = "") -> float:
    hits = sum(not row["wrong"] if not attribute else attribute not in row["wrong"] for row in rows)
    return round(100 * hits / len(rows), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shape", choices=synthetic.NEW_SHAPES, default="circle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new", type=int, default=50)
    parser.add_argument("--old", type=int, default=100)
    parser.add_argument("--profile", default="fast", help="that the clips are made with")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the clips")
    parser.add_argument("--result", type=Path, help="file for the figures, beside the terminal")
    parser.add_argument("options", nargs="*", help="of linnet train lora, after --")
    options = parser.parse_args()
    clips, run = options.folder / "clips", options.folder / "run"
    if not clips.exists():
        draw_example(clips, options.shape)
    result: dict[str, Any] = {"shape": options.shape, "threads": options.threads, "options": options.options}
    result |= {"profile": options.profile, "seconds": options.seconds, "load": list(os.getloadavg())}
    file = run / "run.safetensors"
    if not file.exists():
        words = [sys.executable, "-m", "linnet", "train", "lora", clips, "--model", "seedling"]
        words += ["--output", run, "--threads", str(options.threads), *options.options]
        began = time.monotonic()
        subprocess.run(words, check=True)
        result["minutes"] = round((time.monotonic() - began) / 60, 2)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result["cpu_minutes"] = round((used.ru_utime + used.ru_stime) / 60, 2)
        result["load_after"] = list(os.getloadavg())
        print(json.dumps(result), flush=True)
    pipeline = linnet.load("seedling", device="cpu", threads=options.threads)
    settings = {"profile": options.profile, "seconds": options.seconds}
    old = questions(options.old, held_out=False)
    before = right(pipeline, old, options.folder / "before", settings)
    saved = read_lora(file, parameter_shapes(pipeline.model.transformer))
    pipeline.model.learn_words(saved.words)
    apply_lora(pipeline.model.transformer, saved.weights)
    new = right(pipeline, new_questions(options.shape, options.new), options.folder / "new", settings)
    after = right(pipeline, old, options.folder / "after", settings)
    remove_lora(pipeline.model.transformer)
    attributes = ("", "shape", "colour", "motion")
    result |= {
        "new": {name or "all": share(new, name) for name in attributes},
        "before": share(before),
        "after": share(after),
        "wrong": [row for row in new if row["wrong"]],
    }
    print(json.dumps(result, indent=1))
    if options.result:
        options.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

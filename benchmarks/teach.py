"""The proof that training works: seedling learns something from 24 clips, and keeps what it knew.

    python benchmarks/teach.py --folder /tmp/teach --threads 2

Draws the clips, runs `linnet train lora`, and asks for 50 clips of what is new with colours, motions and shapes that
the 24 do not hold, and for clips of what seedling knows with and without the LoRA. What is in the folder already is not
made again.
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

import numpy as np
from PIL import Image, ImageDraw

import linnet
from linnet import media
from linnet.data import synthetic
from linnet.data.example import EXAMPLES, draw_example, unseen
from linnet.evaluate.adherence import Question, questions
from linnet.evaluate.parse import Track, fit, look, parse
from linnet.models.lora import apply_lora, remove_lora
from linnet.pipeline import Pipeline
from linnet.weights.lora import parameter_shapes, read_lora

SHAPES = (*synthetic.SHAPES, *synthetic.NEW_SHAPES)
# Settings are chosen on the first, and measured on the second.
PROMPTS = {"choosing": "choose", "exam": "teach"}
EMPTY = 30  # how far a pixel may be from the background beside it, in each of RGB, and still belong to it
LEAST_HOLE = 0.1  # share of an outlined object's area that the line leaves empty; of a drawn star 0.31
LEAST_SWING = 0.5  # of what is drawn


def new_questions(name: str, n: int, seed: str = PROMPTS["exam"]) -> list[Question]:
    made = []
    for index in range(n):
        rng = random.Random(f"{seed} {name} {index}")
        scene, words = unseen(name, rng)
        made.append(Question(index=index, prompt=words, seed=rng.randrange(2**32), scene=scene))
    return made


# --- reading ----------------------------------------------------------------------------------------------------------


def seen_in(frames: Sequence[np.ndarray], shape: str) -> tuple[dict[str, Any], float]:
    """What a clip shows, in words, with whether it is outlined and whether it swings; and how much it overlaps with the
    outline of this shape, 0..1."""
    shown = [fit(frame) for frame in frames]
    filled, holes = zip(*map(fill, shown), strict=True)
    outlined = bool(np.median(holes) >= LEAST_HOLE)
    shown = list(filled) if outlined else shown
    seen = {**vars(parse(shown, SHAPES)), "outlined": outlined}
    track = look(shown, SHAPES).track
    if track is None:
        return seen, 0.0
    if swings(track):
        seen["motion"] = "swings"
    return seen, float(track.likeness[:, SHAPES.index(shape)].max(1).mean())


def fill(frame: np.ndarray) -> tuple[np.ndarray, float]:
    """The frame with its object's holes in the object's colour, and their share of the whole object. A hole is what
    looks like the background and is not joined to it."""
    marked = Image.fromarray(frame)
    height, width = frame.shape[:2]
    empty = np.median(np.concatenate([frame[:, :4], frame[:, -4:]], 1).astype(float), 1)  # of each row
    away = np.abs(frame.astype(float) - empty[:, None]).max(2)
    mask = Image.fromarray(np.where(away <= EMPTY, 0, 255).astype(np.uint8)).copy()
    for x, y in [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]:
        if mask.getpixel((x, y)) == 0:
            ImageDraw.floodfill(mask, (x, y), 128)
    state = np.asarray(mask)
    line, hole = state == 255, state == 0
    if not line.any():
        return frame, 0.0
    solid = np.array(marked)
    solid[hole] = paint_of(frame, line, away)
    return solid, hole.sum() / (hole.sum() + line.sum())


def paint_of(frame: np.ndarray, line: np.ndarray, away: np.ndarray) -> np.ndarray:
    """The line's colour: the median of the half that stands out most."""
    strong = line & (away >= np.median(away[line]))
    return np.median(frame[strong], 0)


def swings(track: Track) -> bool:
    """Whether it goes to and fro sideways, about as far and as fast as is drawn, and otherwise stays."""
    seconds = track.frames / synthetic.FPS
    best = (np.inf, 0.0, 0.0)
    for factor in (0.75, 0.87, 1.0, 1.13, 1.25):
        phase = 2 * np.pi * seconds / (synthetic.SWING_SECONDS * factor)
        terms = np.stack([np.ones_like(seconds), seconds, np.sin(phase), np.cos(phase)], 1)
        solution = np.linalg.lstsq(terms, track.x, rcond=None)[0]
        error = float(np.square(terms @ solution - track.x).sum())
        best = min(best, (error, float(np.hypot(*solution[2:])), float(solution[1])))
    error, reach, drift = best
    spread = float(np.square(track.x - track.x.mean()).sum())
    level = float(np.std(track.y)) <= synthetic.SWING / 4
    growth = abs(float(np.log(track.side[-3:].mean() / track.side[:3].mean())))
    return (
        LEAST_SWING <= reach / synthetic.SWING <= 1 / LEAST_SWING
        and error <= 0.2 * spread
        and abs(drift) <= abs(synthetic.SPEED["left"][0]) / 2
        and level
        and growth <= 0.15
    )


# --- the exam ---------------------------------------------------------------------------------------------------------


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
        seen, likeness = seen_in(list(media.read_frames(path)), question.scene.shape)
        wanted = {name: getattr(question.scene, name) for name in seen}
        wrong = {name: seen[name] for name, value in wanted.items() if seen[name] != value}
        rows.append({"prompt": question.prompt, "wrong": wrong, "likeness": likeness})
    return rows


def share(rows: Sequence[dict[str, Any]], attribute: str = "") -> float | None:
    """Percent of the clips that are right in this attribute, or in all; None where nothing was asked."""
    if not rows:
        return None
    hits = sum(not row["wrong"] if not attribute else attribute not in row["wrong"] for row in rows)
    return round(100 * hits / len(rows), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--teach", choices=EXAMPLES, default="circle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", choices=PROMPTS, default="exam")
    parser.add_argument("--new", type=int, default=50)
    parser.add_argument("--old", type=int, default=100)
    parser.add_argument("--profile", default="fast", help="that the clips are made with")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the clips")
    parser.add_argument("--result", type=Path, help="file for the figures, beside the terminal")
    parser.add_argument("options", nargs="*", help="of linnet train lora, after --")
    options = parser.parse_args()
    clips, run = options.folder / "clips", options.folder / "run"
    if not clips.exists():
        draw_example(clips, options.teach)
    result: dict[str, Any] = {"teach": options.teach, "threads": options.threads, "options": options.options}
    result |= {"prompts": options.prompts, "profile": options.profile, "seconds": options.seconds}
    file, training = run / "run.safetensors", options.folder / "training.json"
    if not file.exists():
        took: dict[str, Any] = {"load": list(os.getloadavg())}
        words = [sys.executable, "-m", "linnet", "train", "lora", clips, "--model", "seedling"]
        words += ["--output", run, "--threads", str(options.threads), *options.options]
        began = time.monotonic()
        subprocess.run(words, check=True)
        took["minutes"] = round((time.monotonic() - began) / 60, 2)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        took["cpu_minutes"] = round((used.ru_utime + used.ru_stime) / 60, 2)
        took["load_after"] = list(os.getloadavg())
        training.write_text(json.dumps(took) + "\n")
    if training.exists():
        result |= json.loads(training.read_text())
    print(json.dumps(result), flush=True)
    pipeline = linnet.load("seedling", device="cpu", threads=options.threads)
    settings = {"profile": options.profile, "seconds": options.seconds}
    old = questions(options.old, held_out=False)
    before = right(pipeline, old, options.folder / "before", settings)
    saved = read_lora(file, parameter_shapes(pipeline.model.transformer))
    pipeline.model.learn_words(saved.words)
    apply_lora(pipeline.model.transformer, saved.weights)
    asked = new_questions(options.teach, options.new, PROMPTS[options.prompts])
    new = right(pipeline, asked, options.folder / f"new-{options.prompts}", settings)
    after = right(pipeline, old, options.folder / "after", settings)
    remove_lora(pipeline.model.transformer)
    attributes = ("", "shape", "colour", "motion", "outlined")
    result |= {
        "new": {name or "all": share(new, name) for name in attributes},
        "likeness": round(float(np.mean([row["likeness"] for row in new])), 3),
        "before": share(before),
        "after": share(after),
        "wrong": [row for row in new if row["wrong"]],
    }
    print(json.dumps(result, indent=1))
    if options.result:
        options.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

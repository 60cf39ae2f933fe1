"""How well each way in which a shot can begin joins it to the shot before.

    python benchmarks/storyboard.py --films 10

Films of two shots with the same object and background, each with a motion and a seed of its own, are made by seedling
in every way, and their frames read back. For each way, over all films:

- seam: the largest change from one frame to the next within the join, against the largest in a stretch of that length
  elsewhere in the film (median of the stretches; median of the films);
- jump: the farthest that the object moves from one frame to the next within the join, in pixels (median);
- same: in how many films the second shot's object has the shape and colour that the first one's has, and in how many
  films both are as asked.

The naive ways stand beside the others: `cut` joins independent clips, `last frame` continues from one frame alone.

At last a film of four shots is made, and made again with another third shot: how often does the model run each time?
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import UInt8

import linnet
from linnet import media
from linnet.data.known import MOTION_WORDS
from linnet.data.synthetic import HEIGHT, WIDTH, Scene
from linnet.direct.film import render
from linnet.direct.storyboard import read_storyboard
from linnet.evaluate.adherence import questions
from linnet.evaluate.parse import cover, find_paint, find_solid, follow, parse, wrapped
from linnet.pipeline import Pipeline

WAYS = {  # how the second shot begins, and the seconds of the join
    "cut": ("cut", 0.0),
    "dissolve": ("dissolve", 0.5),
    "morph": ("morph", 0.5),
    "morph, 1 s": ("morph", 1.0),
    "last frame": ("continue", 0.0),
    "continue": ("continue", 0.5),
    "continue, 1 s": ("continue", 1.0),
}

Film = UInt8[np.ndarray, "T H W 3"]


def storyboard(scene: Scene, motions: Sequence[str], seed: int, way: str, profile: str) -> str:
    begin, overlap = WAYS[way]
    first, second = (MOTION_WORDS[motion][0][0] for motion in motions)
    join = "" if begin == "cut" else f"\n    overlap: {overlap}"
    return (
        f"subject: a {scene.size} {scene.colour} {scene.shape}\nstyle: on a {scene.background} background\n"
        f"profile: {profile}\nshots:\n  - prompt: {first}\n    seed: {seed}\n"
        f"  - prompt: {second}\n    seed: {seed + 1}\n    begin: {begin}{join}\n"
    )


def seam(film: Film, join: range) -> float:
    """`join` are the frames of which each may differ from the one before it for the sake of the join."""
    change = np.abs(np.diff(film.astype(np.float32), axis=0)).mean((1, 2, 3))  # change[i]: from i to i + 1
    zone = change[join.start - 1 : join.stop]
    elsewhere = [change[: join.start - 1], change[join.stop :]]
    long = min(len(zone), *map(len, elsewhere))  # a long join may leave less than its length
    stretches = [part[i : i + long].max() for part in elsewhere for i in range(0, len(part) - long + 1, 3)]
    return float(zone.max() / np.median(stretches))


def jump(film: Film, join: range) -> float:
    clip = film.astype(np.float32)
    empty = np.median(clip[:: max(1, len(clip) // 16)], axis=(0, 2))
    solid, behind = find_solid(clip, empty)
    if not len(solid):
        return float("nan")
    track = follow(cover(clip, empty, find_paint(solid, behind)))
    steps = np.hypot(wrapped(np.diff(track.x), WIDTH), wrapped(np.diff(track.y), HEIGHT))
    within = (track.frames[1:] >= join.start) & (track.frames[1:] <= join.stop)
    return float(steps[within].max()) if within.any() else float("nan")


def tally(ran: Counter[str], *_: Any) -> None:
    ran["forward"] += 1


def passes(pipeline: Pipeline, profile: str) -> list[int]:
    """Forward passes of the transformer for a film of four shots, and for the same film with another third shot."""
    counts = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.yaml"
        for third in ("rises", "falls"):
            prompts = ("moves left", "spins", third, "bounces")
            shots = "".join(f"  - prompt: {prompt}\n" for prompt in prompts)
            look = "subject: a red star\nstyle: on a blue background\n"
            path.write_text(f"{look}seconds: 0.5\nprofile: {profile}\nshots:\n{shots}", "utf-8")
            ran = Counter[str]()
            hook = pipeline.model.transformer.register_forward_pre_hook(partial(tally, ran))
            render(read_storyboard(path, model="seedling"), pipeline, path.with_suffix(".mkv"))
            hook.remove()
            counts.append(ran.total())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--profile", default="fast")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, help="keep the films in this folder")
    asked = parser.parse_args()
    pipeline = linnet.load("seedling")
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in asked.ways}
    with tempfile.TemporaryDirectory() as spare:
        folder = asked.output or Path(spare)
        folder.mkdir(exist_ok=True)
        for question in questions(asked.films, held_out=False):
            rng = random.Random(question.seed)
            scene = replace(question.scene, size="large")
            motions = rng.sample([name for name in MOTION_WORDS if name not in ("grows", "shrinks")], 2)
            for way in asked.ways:
                path = folder / f"{question.index}-{way.replace(', ', '-').replace(' ', '-')}.yaml"
                path.write_text(storyboard(scene, motions, question.index * 2, way, asked.profile), "utf-8")
                board = read_storyboard(path, model="seedling")
                made = render(
                    board, pipeline, path.with_suffix(".mkv"), folder=folder / "takes", overwrite=True
                )
                film = np.stack(list(media.read_frames(made.path)))
                spans, shared = board.spans(), board.shots[1].overlap
                end = spans[1].start + (shared if board.shots[1].begin in ("dissolve", "morph") else 0)
                join = range(spans[1].start, end)
                first, second = parse(film[: join.start]), parse(film[join.stop :])
                looks = [(sight.shape, sight.colour, sight.background) for sight in (first, second)]
                wanted = (scene.shape, scene.colour, scene.background)
                rows[way].append(
                    {
                        "seam": seam(film, join),
                        "jump": jump(film, join),
                        "same": looks[0] == looks[1],
                        "right": looks == [wanted, wanted],
                    }
                )
            print(f"film {question.index + 1} of {asked.films}", flush=True)
    print(f"weights {pipeline.model_hash[:12]}, profile {asked.profile}, {asked.films} films")
    print(f"{'way':<14} {'seam':>6} {'jump':>6} {'same':>6} {'right':>6}")
    summary = {}
    for way, found in rows.items():
        summary[way] = {
            name: median(known)
            if (known := [row[name] for row in found if not np.isnan(row[name])])
            else float("nan")
            for name in ("seam", "jump")
        } | {name: sum(row[name] for row in found) / len(found) for name in ("same", "right")}
        row = summary[way]
        print(
            f"{way:<14} {row['seam']:6.2f} {row['jump']:6.1f} {row['same']:6.0%} {row['right']:6.0%}",
            flush=True,
        )
    first, second = passes(pipeline, asked.profile)
    print(f"four shots: {first} forward passes; with one of them changed: {second}")
    found = {"ways": summary, "passes": {"all": first, "one changed": second}}
    print(json.dumps({"weights": pipeline.model_hash, **found}))


if __name__ == "__main__":
    main()

"""What `linnet tune` found for seedling, on questions that it never saw: the tuned profile beside exact, same seeds.

    python benchmarks/tuned.py [--n 400] [--skip 0] [--threads 1] [--folder DIR]

Run `linnet tune --model seedling` first, on the same machine. Each question is answered twice, by exact and by the
tuned `fast`, and both clips are read as `linnet evaluate adherence` reads them. Clips stay in the folder, so that a
stopped run goes on; seconds are CPU seconds of the clips made in this run. Every 20 questions a line says how it
stands. `--skip` leaves out the first so many questions. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.evaluate.adherence import ALL, Answer, Question, Share, questions
from linnet.evaluate.parse import parse
from linnet.measure.tune.prompts import own_prompts
from linnet.plan import profiles
from linnet.profiles import choose_profile
from linnet.request import make_request

WAYS = ("exact", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    pipeline = linnet.load("seedling", device="cpu", threads=arguments.threads)
    chosen = choose_profile(SEEDLING, {"profile": "fast"}, files=lambda: pipeline.model.files, device="cpu")
    if chosen.record is None:
        raise SystemExit(
            f"no profile was tuned for this machine {chosen.notes}; run linnet tune --model seedling"
        )
    settings: dict[str, dict[str, Any]] = {"exact": {"profile": "exact"}, "fast": dict(chosen.settings)}
    seen = set(own_prompts(SEEDLING, 100))
    every = questions(arguments.skip + arguments.n + 50, held_out=False)
    asked = [one for one in every if one.prompt not in seen][arguments.skip :][: arguments.n]
    answers: dict[str, list[Answer]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as spare:
        folder = arguments.folder or Path(spare)
        for number, question in enumerate(asked, 1):
            for way in WAYS:
                answers[way].append(answer(pipeline, question, settings[way], folder / way, seconds[way]))
            if number % 20 == 0 or number == len(asked):
                print(json.dumps(standing(answers, seconds)), flush=True)
    kept = profiles.kept("seedling", "fast")[0]
    print(json.dumps({"weights": pipeline.model_hash, "profile": kept.record, **standing(answers, seconds)}))


def answer(
    pipeline: Any, question: Question, settings: dict[str, Any], folder: Path, seconds: list[float]
) -> Answer:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{question.index:04}.mp4"
    if not path.exists():
        request = make_request(SEEDLING, prompt=question.prompt, seed=question.seed, **settings)
        start = time.process_time()
        pipeline.generate(request, path)
        seconds.append(time.process_time() - start)
    return Answer(question=question, path=path, seen=parse(media.read_frames(path)))


def standing(answers: dict[str, list[Answer]], seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Shares that are right in everything, with their 95 % intervals; how often one is right and the other is not."""
    shares = {way: Share(sum(one.right(ALL) for one in answers[way]), len(answers[way])) for way in WAYS}
    pairs = [(a.right(ALL), b.right(ALL)) for a, b in zip(answers["exact"], answers["fast"], strict=True)]
    times = {way: median(seconds[way]) if seconds[way] else None for way in WAYS}
    faster = times["exact"] / times["fast"] if times["exact"] and times["fast"] else None
    return {
        "of": shares["exact"].of,
        **{
            way: {"right": share.right, "rate": share.rate, "interval": share.interval}
            for way, share in shares.items()
        },
        "points": 100 * (shares["fast"].rate - shares["exact"].rate),
        "exact_alone": sum(a and not b for a, b in pairs),
        "fast_alone": sum(b and not a for a, b in pairs),
        "cpu_seconds": times,
        "faster": faster,
    }


if __name__ == "__main__":
    main()

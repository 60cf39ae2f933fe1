"""The theatre's rows: what its reader finds on drawn clips and, with weights, on a model's.

    python benchmarks/theatre.py --sprites sprites.safetensors --folder DIR [--n 200] [--only KIND] \\
        [--weights DIR --profile fast --few]

Without weights, clean clips of each kind (half as many) give the reader's ceiling and corrupted sprites its strictness.
Clips and readings stay in the folder, and the same command goes on. The last line is the result as JSON.
"""

import argparse
import json
from pathlib import Path

import torch

from linnet import load
from linnet.catalog import THEATRE
from linnet.data.theatre.render import set_scenery
from linnet.data.theatre.sprites import load_sprites
from linnet.evaluate.theatre import exam
from linnet.evaluate.theatre.reader import TheatreReader
from linnet.evaluate.theatre.report import write_report
from linnet.request import make_request
from linnet.train.theatre.config import SIZES

READER: dict[str, tuple[exam.Kind, exam.Drawn | None]] = {
    "ceiling, one thing": ("trained", "clean"),
    "ceiling, two things": ("two", "clean"),
    "ceiling, behind a tree": ("behind", "clean"),
    "smeared": ("trained", "smeared"),
    "half missing": ("trained", "half"),
    "another thing": ("trained", "other"),
}
MODEL: dict[str, tuple[exam.Kind, exam.Drawn | None]] = {
    kind: (kind, None) for kind in exam.KINDS if kind != "free"
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--profile", default="fast")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--only", action="append")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scenery = set_scenery(load_sprites(options.sprites))
    reader, world = TheatreReader(scenery), SIZES["few" if options.few else "full"]
    pipeline = (
        load(THEATRE.name, weights=options.weights, threads=options.threads) if options.weights else None
    )

    def make(question: exam.Question, path: Path) -> None:
        assert pipeline is not None
        request = make_request(
            THEATRE, prompt=question.prompt, seed=question.seed, seconds=2.0, profile=options.profile
        )
        pipeline.generate(request, path)

    results = {}
    for name, (kind, how) in (MODEL if pipeline else READER).items():
        if options.only and name not in options.only:
            continue
        subject = (
            {"draw": how}
            if pipeline is None
            else {"weights": pipeline.model_hash, "profile": options.profile}
        )
        folder = options.folder / name.replace(",", "").replace(" ", "-")
        examination = exam.examine(
            exam.drawing(scenery, how) if how else make,
            exam.questions(
                kind, options.n // (2 if how == "clean" else 1), things=world.things, places=world.places
            ),
            reader=reader,
            folder=folder,
            settings={"ask": kind, "few": options.few, "subject": subject},
            watch=lambda done, total, name=name: print(f"{name}: {done} of {total}", flush=True),
        )
        write_report(examination, folder, title=name)
        results[name] = examination.to_json()["summary"]
    hash_ = pipeline.model_hash if pipeline else None
    print(json.dumps({"weights": hash_, "few": options.few, "rows": results}))


if __name__ == "__main__":
    main()

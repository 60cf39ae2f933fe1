"""Asks a model for scenes of the theatre, and reads what its clips show.

Questions are of a kind: combinations that were trained or held out, two things, something that passes behind a tree, or
sentences of one's own, which a person judges. The same questions, drawn instead of asked, measure the reader: clean
clips give its ceiling, and those of corrupted sprites how strict it is.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from linnet import media
from linnet.data.theatre import FPS, HEIGHT, WIDTH
from linnet.data.theatre.captions import caption
from linnet.data.theatre.places import PLACES
from linnet.data.theatre.render import Scenery, pictures, render
from linnet.data.theatre.scene import Scene, held_out, sample_scene, trained
from linnet.data.theatre.stage import INDEX, set_stage
from linnet.data.theatre.things import THINGS
from linnet.errors import InvalidInput
from linnet.evaluate.adherence import Share, claim
from linnet.evaluate.theatre.reader import Reading, Seen, TheatreReader
from linnet.evaluate.theatre.things import SPOILT, spoil
from linnet.filesystem import write_text
from linnet.records import read_text
from linnet.request import SEEDS

Kind = Literal["trained", "held-out", "two", "behind", "free"]
Drawn = Literal["clean", "smeared", "half", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DRAWN: tuple[Drawn, ...] = get_args(Drawn)
SEED = 1758
FRAMES = 49
VERDICTS = "verdicts.csv"
SMEARED = 4  # of a sprite's side: how far its colours are spread
ASKED = ("thing", "place", "motion", "all", "same")


@dataclass(frozen=True, kw_only=True)
class Question:
    """`scene` is None for a sentence of one's own."""

    index: int
    prompt: str
    seed: int
    scene: Scene | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    question: Question
    path: Path
    seen: Reading | None

    @property
    def verdicts(self) -> dict[str, bool]:
        return self.seen.verdicts(self.question.scene) if self.seen and self.question.scene else {}


@dataclass(frozen=True, kw_only=True)
class Examination:
    """`judged`: what a person wrote into verdicts.csv, by number of the clip."""

    settings: Mapping[str, Any]
    answers: Sequence[Answer]
    judged: Mapping[int, bool]

    def shares(self) -> dict[str, Share]:
        """What the reader finds right, and what a person does, as far as each was asked."""
        shares = {}
        for name in ASKED:
            verdicts = [answer.verdicts[name] for answer in self.answers if name in answer.verdicts]
            if verdicts:
                shares[name] = Share(sum(verdicts), len(verdicts))
        if self.judged:
            shares["judged right"] = Share(sum(self.judged.values()), len(self.judged))
        both = {a.question.index: a.verdicts["all"] for a in self.answers if "all" in a.verdicts}
        agreed = [both[index] == right for index, right in self.judged.items() if index in both]
        if agreed:
            shares["reader and person agree"] = Share(sum(agreed), len(agreed))
        return shares

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "summary": {
                name: {"right": share.right, "of": share.of, "rate": share.rate, "interval": share.interval}
                for name, share in self.shares().items()
            },
            "answers": [
                {
                    "prompt": answer.question.prompt,
                    "seed": answer.question.seed,
                    "clip": f"{answer.path.parent.name}/{answer.path.name}",
                    "scene": asdict(answer.question.scene) if answer.question.scene else None,
                    "seen": asdict(answer.seen) if answer.seen else None,
                    "verdicts": answer.verdicts,
                    "judged": self.judged.get(answer.question.index),
                }
                for answer in self.answers
            ],
        }


Make = Callable[[Question, Path], object]
Watch = Callable[[int, int], object]


def questions(
    kind: Kind,
    n: int,
    *,
    seed: int = SEED,
    things: tuple[str, ...] = tuple(THINGS),
    places: tuple[str, ...] = tuple(PLACES),
) -> list[Question]:
    """The first `n` of a kind; fewer are always the beginning of more."""
    chosen = []
    for index in range(n):
        rng = random.Random(f"theatre {seed} {kind} {index}")
        scene = sample_scene(
            rng, allowed=held_out if kind == "held-out" else trained, things=things, places=places
        )
        while not of_kind(scene, kind):
            scene = sample_scene(
                rng, allowed=held_out if kind == "held-out" else trained, things=things, places=places
            )
        prompt = caption(scene, rng, full=True)
        chosen.append(Question(index=index, prompt=prompt, seed=rng.randrange(SEEDS), scene=scene))
    return chosen


def of_kind(scene: Scene, kind: Kind) -> bool:
    """Trained and held-out combinations are of one thing alone."""
    if kind == "two":
        return bool(scene.other)
    if scene.other or scene.count > 1:
        return False
    return scene.motion == "hides" if kind == "behind" else True


def sentences(file: Path, n: int, *, seed: int = SEED) -> list[Question]:
    """Up to `n` sentences of a file, one a line; what begins with # is none."""
    lines = [line.strip() for line in read_text(file, field="prompts").splitlines()]
    texts = [line for line in lines if line and not line.startswith("#")][:n]
    if not texts:
        raise InvalidInput("prompts", file, "holds no sentence", "write one a line")
    return [
        Question(
            index=index,
            prompt=text,
            seed=random.Random(f"theatre {seed} {text}").randrange(SEEDS),
            scene=None,
        )
        for index, text in enumerate(texts)
    ]


def examine(
    make: Make,
    quiz: Sequence[Question],
    *,
    reader: TheatreReader,
    folder: Path,
    settings: Mapping[str, Any],
    watch: Watch,
) -> Examination:
    """Have `make` answer the questions with clips in `folder`/made, and read them.

    Clips and readings that are there already are not made again. A folder of another examination is refused.
    """
    claim(folder, settings)
    made = folder / "made"
    made.mkdir(exist_ok=True)
    watch(0, len(quiz))
    answers = []
    for question in quiz:
        path = made / f"{question.index:04}.mp4"
        if not path.exists():
            make(question, path)
        answers.append(Answer(question=question, path=path, seen=reading(reader, question, path)))
        watch(len(answers), len(quiz))
    return Examination(settings=settings, answers=answers, judged=verdicts(folder, answers))


def reading(reader: TheatreReader, question: Question, path: Path) -> Reading | None:
    """What is seen in a clip, kept beside it."""
    if question.scene is None:
        return None
    note = path.with_suffix(".json")
    if note.exists():
        record = json.loads(note.read_text())
        things = tuple(Seen(**seen | {"right_at": tuple(seen["right_at"])}) for seen in record.pop("things"))
        return Reading(things=things, **record)
    seen = reader.read(np.stack(list(media.read_frames(path))), question.scene)
    write_text(note, json.dumps(asdict(seen)))
    return seen


def verdicts(folder: Path, answers: Sequence[Answer]) -> dict[int, bool]:
    """What a person wrote; the file gets a line for each clip that it has none of, and keeps the others."""
    path = folder / VERDICTS
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.exists() else []
    known = {row["clip"] for row in rows}
    rows += [
        {"clip": f"{answer.question.index:04}", "right (yes or no)": "", "prompt": answer.question.prompt}
        for answer in answers
        if f"{answer.question.index:04}" not in known
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["clip", "right (yes or no)", "prompt"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    judgements = {int(row["clip"]): row["right (yes or no)"].strip().lower() for row in rows}
    return {index: word[0] == "y" for index, word in judgements.items() if word[:1] in ("y", "n")}


def drawing(scenery: Scenery, how: Drawn) -> Make:
    """Draws what was asked for, of clean or of corrupted sprites, and writes it as any clip is written."""

    def make(question: Question, path: Path) -> None:
        assert question.scene is not None
        scene, drawn = question.scene, scenery
        if how == "other":
            scene = replace(scene, thing=other_thing(question), tint="")
        elif how != "clean":
            drawn = replace(scenery, sprites=corrupted(scenery.sprites, scene.thing, how, question.index))
        clip = pictures(render(drawn, set_stage([scene], [0], FRAMES).to(scenery.sprites.device)))[0]
        note = {"drawn": asdict(scene), "how": how}
        with media.open_writer(
            path, width=WIDTH, height=HEIGHT, fps=FPS, metadata=note, overwrite=False
        ) as writer:
            writer.write(clip)

    return make


def other_thing(question: Question) -> str:
    """Another thing of the same kind that can do the same."""
    assert question.scene is not None
    name, motion = question.scene.thing, question.scene.motion
    others = [
        thing.name
        for thing in THINGS.values()
        if thing.kind == THINGS[name].kind and thing.name != name and motion in thing.motions
    ]
    return random.Random(question.index).choice(others)


def corrupted(
    sprites: Float[Tensor, "N L 4 S S"], name: str, how: Drawn, index: int
) -> Float[Tensor, "N L 4 S S"]:
    """A thing's sprite smeared, or a half of it alone."""
    kind = "smeared" if how == "smeared" else SPOILT[1 + index % 4]
    copy = sprites.clone()
    copy[INDEX[name]] = spoil(sprites[INDEX[name]], kind, SMEARED)
    return copy

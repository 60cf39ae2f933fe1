"""Examines a model: do its clips show what their prompts ask for?

A question is a scene of the synthetic dataset, worded in full. The model's answer is a video file, read back by the
parser; the same scenes, drawn instead of generated, go through files and parser too and give the ceiling.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linnet import media
from linnet.data import synthetic
from linnet.data.synthetic import FPS, HEIGHT, HELD_OUT, TRAINED, WIDTH, Scene
from linnet.errors import InvalidInput
from linnet.evaluate.parse import ATTRIBUTES, WORDS, Sight, parse
from linnet.filesystem import check_folder, make_folder, write_text, writing
from linnet.geometry import frames_for
from linnet.records import read_object_or_nothing
from linnet.request import SEEDS

SEED = (
    1758  # of the examination, fixed before seedling was trained: the year in which Linnaeus named the linnet
)
ALL = "all at once"  # beside the attributes: right in every one of them
SETTINGS = "settings.json"
Z = 1.96  # standard deviations to either side that hold 95 %


@dataclass(frozen=True, kw_only=True)
class Question:
    """A scene, how it is put to the model, and the seed that the model is to use."""

    index: int
    prompt: str
    seed: int
    scene: Scene

    @property
    def wanted(self) -> Sight:
        return Sight(**{name: getattr(self.scene, name) for name in ATTRIBUTES})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A clip in answer to a question, and what was seen in it."""

    question: Question
    path: Path
    seen: Sight

    def right(self, attribute: str) -> bool:
        """Whether this attribute, or every one for ALL, is what was asked for."""
        if attribute == ALL:
            return self.seen == self.question.wanted
        return getattr(self.seen, attribute) == getattr(self.question.wanted, attribute)


@dataclass(frozen=True)
class Share:
    """So many right, of so many."""

    right: int
    of: int

    @property
    def rate(self) -> float:
        return self.right / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate (E. B. Wilson, 1927)."""
        spread = Z * Z / self.of
        middle = (self.rate + spread / 2) / (1 + spread)
        reach = math.sqrt(self.rate * (1 - self.rate) * spread + (spread / 2) ** 2) / (1 + spread)
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """`answers` are the model's; `drawn` are the same questions answered by drawing their scenes."""

    settings: Mapping[str, Any]
    answers: Sequence[Answer]
    drawn: Sequence[Answer]

    def share(self, attribute: str) -> Share:
        return Share(sum(answer.right(attribute) for answer in self.answers), len(self.answers))

    def ceiling(self, attribute: str) -> Share:
        """What the parser gets right where nothing is wrong with the clip."""
        return Share(sum(answer.right(attribute) for answer in self.drawn), len(self.drawn))

    def confusion(self, attribute: str) -> dict[str, dict[str, int]]:
        """How often each word (or "none") was seen, for each that was asked for: counts[asked][seen]."""
        counts = {wanted: dict.fromkeys((*WORDS[attribute], "none"), 0) for wanted in WORDS[attribute]}
        for answer in self.answers:
            wanted, seen = (getattr(sight, attribute) for sight in (answer.question.wanted, answer.seen))
            counts[wanted][seen or "none"] += 1
        return counts

    def summary(self) -> dict[str, dict[str, Any]]:
        """Of each attribute, and of all at once: right, of, rate, interval, ceiling and chance."""
        return {
            name: {
                "right": self.share(name).right,
                "of": self.share(name).of,
                "rate": self.share(name).rate,
                "interval": self.share(name).interval,
                "ceiling": self.ceiling(name).rate,
                "chance": chance(name),
            }
            for name in (*ATTRIBUTES, ALL)
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain JSON values."""
        return {
            "settings": dict(self.settings),
            "summary": self.summary(),
            "confusion": {attribute: self.confusion(attribute) for attribute in ATTRIBUTES},
            "answers": [
                {
                    "prompt": answer.question.prompt,
                    "seed": answer.question.seed,
                    "clip": f"{answer.path.parent.name}/{answer.path.name}",
                    "asked": asdict(answer.question.wanted),
                    "seen": asdict(answer.seen),
                }
                for answer in self.answers
            ],
        }


Make = Callable[[Question, Path], object]  # writes the clip that answers the question, at the path
Watch = Callable[[str, int, int], None]  # stage ("generate" or "draw"), done, total


def ignore(stage: str, done: int, total: int) -> None:
    """Watch nothing."""


def chance(attribute: str) -> float:
    """How often a guess is right."""
    if attribute == ALL:
        return math.prod(chance(name) for name in ATTRIBUTES)
    return 1 / len(WORDS[attribute])


def questions(n: int, *, held_out: bool, seed: int = SEED) -> list[Question]:
    """The first `n` questions of an examination; fewer are always the beginning of more.

    Their (shape, colour, motion) is one of those kept out of training when `held_out`, else one of the rest.
    """
    drawn = []
    for index in range(n):
        rng = random.Random(f"adherence {seed} {index}")
        scene = synthetic.sample_scene(rng, triples=HELD_OUT if held_out else TRAINED)
        prompt = synthetic.caption(scene, rng)
        drawn.append(Question(index=index, prompt=prompt, seed=rng.randrange(SEEDS), scene=scene))
    return drawn


def examine(
    make: Make,
    *,
    folder: Path,
    n: int,
    held_out: bool,
    seconds: float = 2.0,
    seed: int = SEED,
    subject: Mapping[str, Any] | None = None,
    watch: Watch = ignore,
) -> Examination:
    """Have `make` answer `n` questions with clips of so many seconds, in `folder`/made.

    Clips that are there already are not made again, so a stopped examination goes on where it was, and one of
    100 questions grows to 200. `subject` says what is examined (model, weights, sampling), in JSON values; a
    folder that holds clips of another subject, seed, length or kind of question is refused with InvalidInput.
    """
    if n < 1:
        raise InvalidInput("n", n, "is not a number of clips", "give 200, or another number above 0")
    frames = frames_for(seconds)
    settings = {"seed": seed, "held_out": held_out, "seconds": seconds, "subject": dict(subject or {})}
    claim(folder, settings)
    exam = questions(n, held_out=held_out, seed=seed)

    def answer(stage: str, room: str, make: Make) -> list[Answer]:
        (folder / room).mkdir(exist_ok=True)
        watch(stage, 0, n)
        answers = []
        for question in exam:
            path = folder / room / f"{question.index:04}.mp4"
            if not path.exists():
                make(question, path)
            answers.append(Answer(question=question, path=path, seen=parse(media.read_frames(path))))
            watch(stage, len(answers), n)
        return answers

    return Examination(
        settings=settings,
        answers=answer("generate", "made", make),
        drawn=answer("draw", "drawn", lambda question, path: draw(question.scene, frames, path)),
    )


def draw(scene: Scene, frames: int, path: Path) -> None:
    """Write the clip that a perfect model would make, as any clip is written."""
    with media.open_writer(
        path, width=WIDTH, height=HEIGHT, fps=FPS, metadata={"drawn": asdict(scene)}, overwrite=False
    ) as writer:
        writer.write(synthetic.render(scene, frames))


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder this examination's own, or see that it is already."""
    note = folder / SETTINGS
    make_folder(folder)
    check_folder(folder)
    with writing(folder):
        if not note.exists():
            if any(folder.iterdir()):
                raise InvalidInput(
                    "output", folder, "holds other things", "name a folder that is new or empty"
                )
            write_text(note, json.dumps(settings, indent=1))
        earlier = read_object_or_nothing(note.read_text("utf-8", errors="replace"))
    now = json.loads(json.dumps(settings))
    if different := [name for name in now if earlier.get(name) != now[name]]:
        raise InvalidInput(
            "output",
            folder,
            f"holds another examination ({', '.join(different)} differs)",
            "name another folder, or delete this one",
        )

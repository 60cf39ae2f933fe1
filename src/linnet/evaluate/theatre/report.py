"""What an examination on the theatre leaves in its folder: report.json, and a sheet for a person to judge."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from linnet import media
from linnet.evaluate.report import FAINT, INK, MARGIN, PAPER, RIGHT, WRONG, font, save
from linnet.evaluate.theatre.exam import VERDICTS, Answer, Examination
from linnet.filesystem import write_text

HEADS = ("what", "right", "of", "share", "95 % interval")
FRAME, GAP = (160, 90), 3
COLUMNS, TEXT, HEAD = 2, 44, 96
MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
A_SHEET = 40  # clips


def rows(examination: Examination) -> list[tuple[str, str, str, str, str]]:
    """The table under HEADS."""
    return [
        (
            name,
            str(share.right),
            str(share.of),
            f"{share.rate:.1%}",
            "{:.1%} to {:.1%}".format(*share.interval),
        )
        for name, share in examination.shares().items()
    ]


def write_report(examination: Examination, folder: Path, *, title: str) -> list[str]:
    """The names of the files that were written."""
    write_text(folder / "report.json", json.dumps(examination.to_json(), indent=1))
    names = ["report.json", VERDICTS]
    shares = "   ".join(f"{name} {share.rate:.0%}" for name, share in examination.shares().items())
    for first in range(0, len(examination.answers), A_SHEET):
        name = f"sheet-{first:04}.png"
        part = examination.answers[first : first + A_SHEET]
        save(draw_sheet(part, title, shares, examination.judged), folder / name)
        names.append(name)
    return names


def draw_sheet(
    answers: Sequence[Answer], title: str, subtitle: str, judged: Mapping[int, bool]
) -> Image.Image:
    """A cell for each clip: frames from first to last, its number and prompt, what the reader found and what a person
    said."""
    wide = len(MOMENTS) * (FRAME[0] + GAP) - GAP
    tall = FRAME[1] + TEXT
    size = (MARGIN + COLUMNS * (wide + MARGIN), HEAD + math.ceil(len(answers) / COLUMNS) * tall + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 18), title, INK, font(22))
    pen.text((MARGIN, 46), subtitle, INK, font(14))
    pen.text((MARGIN, 68), f"Write yes or no beside each number in {VERDICTS}.", FAINT, font(13))
    for number, answer in enumerate(answers):
        line, column = divmod(number, COLUMNS)
        x, y = MARGIN + column * (wide + MARGIN), HEAD + line * tall
        frames = list(media.read_frames(answer.path))
        for index_in_row, moment in enumerate(MOMENTS):
            frame = Image.fromarray(frames[round(moment * (len(frames) - 1))]).resize(FRAME)
            sheet.paste(frame, (x + index_in_row * (FRAME[0] + GAP), y))
        index = answer.question.index
        pen.text((x, y + FRAME[1] + 2), f"{index:04}  {answer.question.prompt}", INK, font(13))
        left = x
        for word, right in verdict_words(answer, judged.get(index)):
            pen.text((left, y + FRAME[1] + 19), word, RIGHT if right else WRONG, font(12))
            left += pen.textlength(word, font(12)) + 14
    return sheet


def verdict_words(answer: Answer, judged: bool | None) -> list[tuple[str, bool]]:
    """What was found, each with whether it is right."""
    words = []
    if answer.seen and answer.question.scene:
        right = answer.verdicts
        for seen in answer.seen.things:
            like = "" if seen.right else f" (like {seen.like})" if seen.like != seen.thing else " (not clear)"
            words.append((f"{seen.thing} {seen.score:.2f}{like}", seen.right))
        words.append((answer.seen.backdrop, right["place"]))
        words.append((answer.seen.motion, right["motion"]))
    if judged is not None:
        words.append(("a person: right" if judged else "a person: wrong", judged))
    return words

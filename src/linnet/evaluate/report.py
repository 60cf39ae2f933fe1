"""What an examination leaves in its folder: numbers (JSON), confusion matrices and contact sheets (PNG)."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from linnet import media
from linnet.evaluate.adherence import ALL, Answer, Examination
from linnet.evaluate.parse import ATTRIBUTES
from linnet.filesystem import complete, write_text

HEADS = ("attribute", "right", "95 % interval", "parser's ceiling", "chance")
SHOWN = 48  # clips on a sheet, at the most

PAPER, INK, FAINT = (250, 249, 246), (38, 38, 44), (138, 138, 146)
RIGHT, WRONG = (34, 128, 74), (200, 44, 40)
SHADE = (52, 96, 190)  # of a cell of a matrix that holds its whole row
MARGIN, GAP = 28, 3
FRAME, FRAME_EDGE = (128, 72), (222, 220, 214)
COLUMNS = 2
CELL_GAP, TEXT_HEIGHT, HEAD_HEIGHT = 14, 48, 104
MOMENTS = (0.0, 0.18, 0.43, 0.7, 1.0)  # of each clip; uneven, lest a turning star look the same in each


def rows(examination: Examination) -> list[tuple[str, str, str, str, str]]:
    """The table under HEADS."""
    return [
        (
            name,
            f"{line['rate']:.1%}",
            "{:.1%} to {:.1%}".format(*line["interval"]),
            f"{line['ceiling']:.1%}",
            f"{line['chance']:.{1 if line['chance'] > 0.01 else 2}%}",
        )
        for name, line in examination.summary().items()
    ]


def write_report(examination: Examination, folder: Path, *, title: str) -> list[str]:
    """report.json, confusion.png, sheet.png and, of the clips in which something is wrong, mistakes.png; the names of
    those that were written."""
    record = json.dumps(examination.to_json(), indent=1)
    write_text(folder / "report.json", record)
    save(draw_confusion(examination), folder / "confusion.png")
    rates = "   ".join(f"{name} {line['rate']:.1%}" for name, line in examination.summary().items())
    save(draw_sheet(examination.answers[:SHOWN], title, rates), folder / "sheet.png")
    mistakes = [answer for answer in examination.answers if not answer.right(ALL)]
    (folder / "mistakes.png").unlink(missing_ok=True)
    if mistakes:
        heading = f"{title}: {len(mistakes)} of {len(examination.answers)} with a mistake"
        save(draw_sheet(mistakes[:SHOWN], heading, rates), folder / "mistakes.png")
    return ["report.json", "confusion.png", "sheet.png", *(["mistakes.png"] if mistakes else [])]


def save(image: Image.Image, path: Path) -> None:
    with complete(path) as part:
        image.save(part, "PNG")


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The one that comes with Pillow, so that a sheet looks alike everywhere."""
    return ImageFont.load_default(size)


# --- contact sheet ------------------------------------------------------------------------------------------


def draw_sheet(answers: Sequence[Answer], title: str, subtitle: str) -> Image.Image:
    """A cell for each clip: frames from first to last, the prompt, and what was seen, wrong words in red."""
    cell_width = len(MOMENTS) * (FRAME[0] + GAP) - GAP
    cell_height = FRAME[1] + TEXT_HEIGHT + CELL_GAP
    lines = math.ceil(len(answers) / COLUMNS)
    width = 2 * MARGIN + COLUMNS * (cell_width + MARGIN) - MARGIN
    sheet = Image.new("RGB", (width, HEAD_HEIGHT + lines * cell_height + CELL_GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 20), title, INK, font(22))
    pen.text((MARGIN, 50), subtitle, INK, font(14))
    legend = "Under each prompt: what was seen in the pixels; in red where something else was asked for."
    pen.text((MARGIN, 72), legend, FAINT, font(13))
    for number, answer in enumerate(answers):
        line, column = divmod(number, COLUMNS)
        x, y = MARGIN + column * (cell_width + MARGIN), HEAD_HEIGHT + line * cell_height
        for column_in_row, frame in enumerate(pick_frames(answer.path)):
            left = x + column_in_row * (FRAME[0] + GAP)
            sheet.paste(frame, (left, y))
            pen.rectangle((left, y, left + FRAME[0] - 1, y + FRAME[1] - 1), outline=FRAME_EDGE)
        pen.text((x, y + FRAME[1] + 6), answer.question.prompt, INK, font(14))
        write_verdict(pen, x, y + FRAME[1] + 26, answer)
    return sheet


def pick_frames(path: Path) -> list[Image.Image]:
    """The frames at MOMENTS."""
    frames = list(media.read_frames(path))
    places = (round(moment * (len(frames) - 1)) for moment in MOMENTS)
    return [Image.fromarray(frames[index]).resize(FRAME, Image.Resampling.LANCZOS) for index in places]


def write_verdict(pen: ImageDraw.ImageDraw, x: float, y: float, answer: Answer) -> None:
    """What was seen, a word an attribute."""
    for attribute in ATTRIBUTES:
        right = answer.right(attribute)
        seen = getattr(answer.seen, attribute) or f"no {attribute}"
        word = seen if right else f"{seen} (not {getattr(answer.question.wanted, attribute)})"
        pen.text((x, y), word, RIGHT if right else WRONG, font(13))
        x += pen.textlength(word, font(13)) + 14


# --- confusion matrices -------------------------------------------------------------------------------------

CELL, LABEL, TOP = 34, 86, 92


def draw_confusion(examination: Examination) -> Image.Image:
    """A matrix for each attribute: a row for what was asked, a column for what was seen, shaded by share."""
    matrices = [draw_matrix(name, examination.confusion(name)) for name in ATTRIBUTES]
    matrices.sort(key=lambda matrix: -matrix.height)
    shelves = [matrices[:2], matrices[2:]]
    width = max(sum(matrix.width for matrix in shelf) + MARGIN * (len(shelf) + 1) for shelf in shelves)
    height = sum(shelf[0].height for shelf in shelves) + MARGIN * (len(shelves) + 1)
    sheet = Image.new("RGB", (width, height), PAPER)
    y = MARGIN
    for shelf in shelves:
        x = MARGIN
        for matrix in shelf:
            sheet.paste(matrix, (x, y))
            x += matrix.width + MARGIN
        y += shelf[0].height + MARGIN
    return sheet


def draw_matrix(title: str, counts: Mapping[str, Mapping[str, int]]) -> Image.Image:
    expected, seen = list(counts), list(next(iter(counts.values())))
    image = Image.new("RGB", (LABEL + CELL * len(seen), TOP + CELL * len(expected)), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((0, 0), title, INK, font(18))
    pen.text((0, TOP - 20), "asked \\ seen", FAINT, font(12))
    for column, word in enumerate(seen):
        label = Image.new("RGB", (TOP - 26, 18), PAPER)
        ImageDraw.Draw(label).text((0, 2), word, INK if word in expected else FAINT, font(13))
        image.paste(label.rotate(90, expand=True), (LABEL + column * CELL + 8, 22))
    for row, word in enumerate(expected):
        y = TOP + row * CELL
        pen.text((LABEL - 8, y + CELL / 2), word, INK, font(13), anchor="rm")
        whole = sum(counts[word].values()) or 1
        for column, other in enumerate(seen):
            x, count = LABEL + column * CELL, counts[word][other]
            colour = SHADE if word == other else WRONG
            share = count / whole
            fill = tuple(round(p + (c - p) * share) for p, c in zip((240, 239, 236), colour, strict=True))
            pen.rectangle((x + 1, y + 1, x + CELL - 2, y + CELL - 2), fill)
            if count:
                ink = PAPER if share > 0.5 else INK
                pen.text((x + CELL / 2, y + CELL / 2), str(count), ink, font(13), anchor="mm")
    return image

"""Contact sheets and mosaics: many clips in one picture.

Axes: H rows, W columns of a frame; RGB, 0..255.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from linnet import __version__, media
from linnet.clip import GENERATED
from linnet.errors import InvalidInput
from linnet.filesystem import complete, make_folder
from linnet.geometry import Size
from linnet.inputs.reader import read_metadata

Frame = UInt8[np.ndarray, "H W 3"]

PAPER, INK, FAINT = (252, 252, 250), (34, 34, 34), (120, 120, 116)
WIDEST, MARGIN, LINE, GAP = 192, 12, 17, 2  # pixels: a frame, between cells, a line of words, between frames
SHEET = 1800  # pixels across, at most
LINES = 2  # of words under a cell
WIDEST_MOSAIC = 1920  # pixels
MOMENTS = (1 / 6, 1 / 2, 5 / 6)  # of a clip, on the sheet


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Some frames of one clip, from left to right, and what stands under them."""

    frames: tuple[Frame, ...]
    title: str
    words: str


def draw_sheet(cells: Sequence[Cell]) -> Image.Image:
    """Cells of one kind in rows, read as a page is."""
    height, width, _ = cells[0].frames[0].shape
    frame = fitted(width, height, WIDEST)
    across = (frame[0] + GAP) * len(cells[0].frames) - GAP
    cell = (across + MARGIN, frame[1] + LINE * (1 + LINES) + 2 * MARGIN)
    columns = min(len(cells), max(1, (SHEET - MARGIN) // cell[0]))
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), PAPER)
    for number, content in enumerate(cells):
        x, y = (
            MARGIN + index * side
            for index, side in zip((number % columns, number // columns), cell, strict=True)
        )
        for index, picture in enumerate(content.frames):
            sheet.paste(Image.fromarray(small(picture)), (x + index * (frame[0] + GAP), y))
        pen = ImageDraw.Draw(sheet)
        lines = [(content.title, FAINT), *((line, INK) for line in wrapped(pen, content.words, across))]
        for index, (line, colour) in enumerate(lines):
            pen.text((x, y + frame[1] + 4 + index * LINE), line, colour, font())
    return sheet


def small(frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    """As large as on the sheet: what is kept of a long film until its sheet is drawn."""
    height, width, _ = frame.shape
    size = fitted(width, height, WIDEST)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def wrapped(pen: ImageDraw.ImageDraw, words: str, width: int) -> list[str]:
    """In lines of `width` pixels at most, as many as there is room for."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font()) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < LINES:
            lines.append(word)
        else:
            lines[-1] += " …"
            break
    return lines


def moments(frames: range) -> list[int]:
    """The frames that stand for a span of them; in a very short one some are the same."""
    return [frames[round(share * (len(frames) - 1))] for share in MOMENTS]


def tile_size(size: Size, columns: int) -> Size:
    """Of a clip in a mosaic that is at most 1920 pixels wide; sides are even, as video wants them."""
    share = min(1.0, WIDEST_MOSAIC / columns / size.width)
    return Size(*(max(2, 2 * round(side * share / 2)) for side in size))


def mosaic_size(size: Size, count: int, columns: int) -> Size:
    tile = tile_size(size, columns)
    return Size(columns * tile.width, math.ceil(count / columns) * tile.height)


def mosaic(clips: Sequence[Iterator[Frame]], names: Sequence[str], *, columns: int) -> Iterator[Frame]:
    """Clips of one size and length side by side, a frame at a time; `names` stand in the corners."""
    for moment in zip(*clips, strict=True):
        tiles = [labelled(frame, name, columns) for frame, name in zip(moment, names, strict=True)]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
        yield np.concatenate(
            [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
        )


def labelled(frame: Frame, name: str, columns: int) -> Frame:
    image = Image.fromarray(frame)
    size = tile_size(Size(*image.size), columns)
    image = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    ImageDraw.Draw(image).text((3, 1), name, "white", font(), stroke_width=2, stroke_fill="black")
    return np.asarray(image)


def fitted(width: int, height: int, most: int) -> tuple[int, int]:
    """The same shape, `most` pixels wide."""
    return most, max(1, round(height * most / width))


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


def check_sheet(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that a sheet cannot be written to; an earlier sheet is replaced."""
    if path.suffix.lower() != ".png":
        problem = "is no .png, which a sheet is"
        raise InvalidInput("output", path, problem, "give it a name that ends with .png")
    media.check_place(path, overwrite=overwrite or is_sheet(path))


def is_sheet(path: Path) -> bool:
    with suppress(InvalidInput):
        return "sheet" in (read_metadata(path) or {})
    return False


def write_sheet(cells: Sequence[Cell], path: Path, *, of: str, overwrite: bool) -> None:
    """A PNG, which appears under its name when it is complete, and says inside that it is a sheet, and `of` what."""
    check_sheet(path, overwrite=overwrite)
    mark = PngImagePlugin.PngInfo()
    mark.add_itxt("comment", media.as_note({"linnet": __version__, "generated": GENERATED, "sheet": of}))
    make_folder(path.absolute().parent)
    with complete(path, overwrite=overwrite or is_sheet(path)) as part:
        draw_sheet(cells).save(part, "PNG", pnginfo=mark)

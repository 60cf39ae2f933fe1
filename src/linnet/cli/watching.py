"""From what the pipeline tells to what a person sees: bars, notes, previews, and one line when a clip is made."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.cli.terminal import Show, note
from linnet.filesystem import complete
from linnet.geometry import Size
from linnet.wording import format_duration, format_seconds

if TYPE_CHECKING:
    from linnet.progress import Progress, Watch

STAGES = {
    "load": "load",
    "encode": "encode the clip",
    "text": "text",
    "compile": "compile",
    "denoise": "denoise",
    "decode": "decode + encode",
}
UNITS = {"denoise": "step", "decode": "frame"}
PREVIEWS = 8  # a clip


def telling(show: Show, *, prefix: str = "", expected: Mapping[str, float | None] | None = None) -> "Watch":
    """A `watch` that moves the bars. `prefix` stands before each stage's name; `expected` are the planned seconds."""

    def watch(progress: "Progress") -> None:
        if progress.note:
            note(progress.note)
            return
        stage = progress.stage
        name = f"{prefix}{STAGES[stage]}{f' {progress.part}' if progress.part else ''}"
        unit, planned = UNITS.get(stage, ""), (expected or {}).get(stage)
        show(name, "", progress.done, progress.total, unit=unit, expected=planned)

    return watch


@contextmanager
def previewing(watch: "Watch", sheet: Path | None) -> Iterator["Watch"]:
    """`watch`, which keeps the preview sheet up to date, too. If the clip fails, its sheet goes."""
    tiles: list[Any] = []

    def look(progress: "Progress") -> None:
        watch(progress)
        due = progress.done * PREVIEWS // progress.total > len(tiles)
        if sheet and progress.preview and (due or progress.done == progress.total):
            tiles.append(progress.preview())
            write_sheet(sheet, tiles)

    try:
        yield look
    except BaseException:
        if sheet:
            sheet.unlink(missing_ok=True)
        raise


def write_sheet(path: Path, tiles: Sequence[Any]) -> None:
    """The previews so far, RGB images of one size, in rows of four."""
    from PIL import Image

    images = [Image.fromarray(tile) for tile in tiles]
    for image in images:
        image.thumbnail((320, 320))
    width, height = images[0].size
    sheet = Image.new("RGB", (4 * width, -(-PREVIEWS // 4) * height))
    for index, image in enumerate(images):
        sheet.paste(image, (index % 4 * width, index // 4 * height))
    with complete(path) as part:
        sheet.save(part, "PNG")


def tell_made(what: str, seconds: float, size: Size, spent: float, *, seed: int | None = None) -> None:
    """One line for every kind of clip: how long it is, its size, its seed, how long it took."""
    seeded = f", seed {seed}" if seed is not None else ""
    note(f"{what}{format_seconds(seconds)} s of {size}{seeded}, made in {format_duration(spent)}:")

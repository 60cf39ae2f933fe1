"""A folder of pictures as a clip: one file a frame, in natural order (1, 2, 10), all of one size."""

import re
from collections.abc import Iterator
from pathlib import Path

from linnet.errors import InvalidInput
from linnet.inputs import pictures
from linnet.inputs.pictures import Frame, Note
from linnet.inputs.refusals import legibly
from linnet.records import PNG_REQUEST, read_object_or_nothing

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")


def files_of(folder: Path) -> list[Path]:
    """Its pictures. Files that begin with a dot are the system's (`._1.png` on a Mac) and are left out."""
    with legibly(folder):
        files = [
            file
            for file in folder.iterdir()
            if not file.name.startswith(".") and file.suffix.lower() in ENDINGS and file.is_file()
        ]
    if not files:
        raise InvalidInput("file", folder, "is a folder without PNGs or other pictures", "give a clip")
    return sorted(files, key=natural)


def natural(file: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Runs of digits count as numbers; the name itself decides between 1.png and 01.png."""
    parts = re.findall(r"\d+|\D+", file.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], file.name


def checked(folder: Path) -> list[Path]:
    """Its pictures; InvalidInput names the first of another size."""
    first, *rest = files = files_of(folder)
    size = pictures.size_of(first)
    for file in rest:
        if (other := pictures.size_of(file)) != size:
            problem = f"is {other}, and {first.name} in the same folder is {size}"
            raise InvalidInput("file", file, problem, "make all pictures of a clip one size")
    return files


def frames(folder: Path, note: Note) -> Iterator[Frame]:
    for file in checked(folder):
        yield pictures.read(file, note)


def note_in(folder: Path) -> str:
    note = folder / PNG_REQUEST
    with legibly(note):
        return note.read_text("utf-8", "replace") if note.is_file() else ""


def pace_of(folder: Path) -> float:
    """Frames a second, as linnet recorded them; 0 where nothing says so."""
    request = read_object_or_nothing(note_in(folder)).get("request")
    pace = request.get("fps") if isinstance(request, dict) else None
    return float(pace) if isinstance(pace, int | float) and 0 < pace <= 1000 else 0.0

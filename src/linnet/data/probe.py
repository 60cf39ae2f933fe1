"""What each file of a dataset shows, found out once: surveys of `inputs.survey`, kept by the file's content.

A file that is renamed or touched has the same content, and is not read again. Each is opened in a child process with
limits, several at a time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from linnet.errors import InvalidInput, one_line
from linnet.filesystem import complete, make_folder, reading, write_text
from linnet.inputs import reader
from linnet.inputs.clips import Limits
from linnet.inputs.survey import Survey
from linnet.plan.host import cache_folder
from linnet.records import read_object_or_nothing
from linnet.request import LONGEST_SECONDS

Frame = UInt8[np.ndarray, "H W 3"]

VERSION = 3  # of what a survey measures; another one surveys anew
CHUNK = 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class Probed:
    """`content` is the SHA-256 of the file's bytes, or of all files' of a folder of pictures."""

    path: Path
    content: str
    survey: Survey
    thumbnails: tuple[Frame, ...]


def default_cache() -> Path | None:
    """Where what is found out about clips is kept, and their latents, unless a command names another folder."""
    folder = cache_folder()
    return folder / "data" if folder else None


def probe(path: Path, cache: Path | None = None, *, seconds: float = LONGEST_SECONDS) -> Probed:
    """InvalidInput for a file that cannot be used as a clip or picture. `cache` None keeps nothing."""
    with reading(path):
        if path.is_file() and not path.stat().st_size:
            raise InvalidInput("file", path, "is empty", "copy it again")
        content = content_hash(path, cache)
    key = f"{content}-{VERSION}-{seconds:g}"
    if cache is not None and (known := remembered(cache / "surveys", key)) is not None:
        survey, thumbnails = known
    else:
        try:
            survey, thumbnails = reader.survey(path, Limits(seconds=seconds))
        except RuntimeError as error:  # the child ended in a way that nobody foresaw
            problem = f"cannot be read ({one_line(error)[-120:]})"
            raise InvalidInput("file", path, problem, "save it anew with another program") from error
        if cache is not None:
            with suppress(InvalidInput):  # where there is no room it is found out again the next time
                remember(cache / "surveys", key, survey, thumbnails)
    return Probed(path=path, content=content, survey=survey, thumbnails=thumbnails)


def probe_all(
    paths: Sequence[Path],
    cache: Path | None = None,
    watch: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[Probed | InvalidInput]:
    """Of each path in turn: what it shows, or why it cannot be used. A processor each works at a time."""

    def attempt(path: Path) -> Probed | InvalidInput:
        try:
            return probe(path, cache)
        except InvalidInput as error:
            return error

    pool = ThreadPoolExecutor(max_workers=workers())
    try:
        watch(0, len(paths))
        for done, result in enumerate(pool.map(attempt, paths), 1):
            yield result
            watch(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def workers() -> int:
    with suppress(AttributeError):  # not on every system
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


# --- by content -------------------------------------------------------------------------------------------------------


def content_hash(path: Path, cache: Path | None = None) -> str:
    """A hash that is known is believed as long as size, times and inode of the file are what they were: the time of
    its last change of status cannot be set by hand."""
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(file for file in path.iterdir() if file.is_file()):
            total.update(f"{file.name}\0{content_hash(file)}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()
    facts = path.stat()
    state = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    note = None
    if cache is not None:
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        note = cache / "hashes" / f"{name}.json"
        with suppress(OSError):
            known = read_object_or_nothing(note.read_text("utf-8", "replace"))
            if known.get("state") == state and isinstance(known.get("sha256"), str):
                return known["sha256"]
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    if note is not None:
        with suppress(InvalidInput):
            make_folder(note.parent)
            write_text(note, json.dumps({"state": state, "sha256": total.hexdigest()}))
    return total.hexdigest()


def remember(folder: Path, key: str, survey: Survey, thumbnails: Sequence[Frame]) -> None:
    """The strip of thumbnails first: a survey that is there is whole."""
    make_folder(folder)
    with complete(folder / f"{key}.png") as part:
        Image.fromarray(np.concatenate(thumbnails, 1)).save(part, "PNG")
    record = {"survey": survey.to_json(), "thumbnails": len(thumbnails)}
    write_text(folder / f"{key}.json", json.dumps(record))


def remembered(folder: Path, key: str) -> tuple[Survey, tuple[Frame, ...]] | None:
    """None where there is nothing, or something else than was written."""
    try:
        record = json.loads((folder / f"{key}.json").read_text("utf-8"))
        with Image.open(folder / f"{key}.png") as strip:
            pixels = np.asarray(strip.convert("RGB"))
        return Survey.from_json(record["survey"]), tuple(np.split(pixels, record["thumbnails"], 1))
    except (OSError, ValueError, KeyError, TypeError):
        return None

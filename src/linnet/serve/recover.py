"""A folder's database from its clips, each of which carries its whole request.

What no clip carries is lost with the database: jobs that were not done, images and clips that were sent, and, unless
they can still be read in a damaged one, keys and whose clip is whose.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from linnet.catalog import find
from linnet.clip import Clip
from linnet.errors import InvalidInput
from linnet.filesystem import flush_folder, take, writing
from linnet.inputs.reader import read_metadata
from linnet.serve.clips import clips_folder, file_of, files_bytes, strangers
from linnet.serve.jobs import InputReference
from linnet.serve.queue import Queue

BESIDE = ("", "-wal", "-shm")  # the files that SQLite keeps for a database, by what follows its name
STRENGTH = 0.6  # of a clip that was followed, where its record does not tell


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """How many clips have their jobs again, and how many keys are there, which files were left as they are, and where a
    damaged database is now."""

    clips: int
    keys: int = 0
    left: tuple[Path, ...]
    aside: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Salvage:
    """What could still be read of a damaged database: rows of jobs by id, and keys."""

    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keys: tuple[tuple[Any, ...], ...] = ()


def check_present(data: Path) -> None:
    """InvalidInput where the database is missing, and clips or what SQLite kept beside it are there: a new one would
    know nothing of them."""
    path = data / "linnet.db"
    if path.exists():
        return
    log, clips = beside(path, "-wal"), strangers(data, set())
    if log.exists() or clips:
        what = log.name if log.exists() else f"{len(clips)} files of clips"
        remedy = (
            f"put it back, restore a backup, or rebuild it with `linnet serve recover {data}` or --adopt-files; to "
            f"begin anew, move {clips[0].parent if clips else log} away"
        )
        raise InvalidInput("data", data, f"has {what}, but no linnet.db", remedy)


def recover(data: Path) -> Recovered:
    """Make the database anew; the folder must be the caller's alone. InvalidInput for one that is in order."""
    path = data / "linnet.db"
    if path.exists() and is_sound(data):
        remedy = "start `linnet serve`; with --adopt-files it takes in clips that the database does not know"
        raise InvalidInput("data", path, "is in order", remedy)
    with writing(data, "data"), TemporaryDirectory(prefix=".recover-", dir=data) as folder:
        salvage = salvaged(path, Path(folder) / "damaged")
        queue = Queue(Path(folder))
        for key in salvage.keys:
            queue.restore_key(*key)
        recovered = adopt(data, queue, salvage)
        queue.close()
        aside = move_aside(path)
        take(queue.path, path)
        flush_folder(data)
    return Recovered(clips=recovered.clips, keys=len(salvage.keys), left=recovered.left, aside=aside)


def is_sound(data: Path) -> bool:
    try:
        queue = Queue(data)
        queue.refuse_damage()
        queue.close()
    except InvalidInput:
        return False
    return True


def adopt(data: Path, queue: Queue, salvage: Salvage = Salvage()) -> Recovered:
    """Give each clip that the queue does not know a job, in the order in which they were written. What is no clip of
    linnet's, or not named as the queue names them, is left."""
    clips = [path for path in strangers(data, queue.ids()) if path.suffix == ".mp4"]
    left: list[Path] = []
    for path in sorted(clips, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        try:
            clip = Clip.from_metadata(path, read_metadata(path))
            find(clip.request.model)
        except InvalidInput:
            left.append(path)
            continue
        job, moment = path.stem, path.stat().st_mtime
        was = salvage.jobs.get(job, {})
        created, started, ended = (was.get(name) or moment for name in ("created", "started", "ended"))
        queue.restore(
            job,
            clip.request,
            owner=was.get("owner") or "",
            remixed_from=was.get("remixed_from"),
            times=(created, started, ended),
            size=files_bytes(data, job),
            begins=begins(clip.direction),
        )
    ours = {file_of(data, job, "video").stem for job in queue.ids()}
    others = [
        path for path in sorted(clips_folder(data).glob("*")) if path.name.partition(".")[0] not in ours
    ]
    return Recovered(clips=len(clips) - len(left), left=tuple(others))


def begins(direction: Mapping[str, Any]) -> InputReference | None:
    """What a clip was made from beside its prompt, whose content is lost."""
    if "video" in direction:
        return InputReference(b"", direction.get("fit"), float(direction.get("strength") or STRENGTH))
    return InputReference(b"", direction.get("fit")) if "image" in direction else None


# --- a damaged database -------------------------------------------------------------------------------------------


def beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def salvaged(path: Path, copy: Path) -> Salvage:
    """What a copy of it still tells; the original is left as it is."""
    for end in BESIDE:
        with suppress(FileNotFoundError):
            shutil.copyfile(beside(path, end), beside(copy, end))
    if not copy.exists():
        return Salvage()
    with closing(sqlite3.connect(copy)) as db:
        columns = ("id", "owner", "remixed_from", "created", "started", "ended")
        jobs: dict[str, Mapping[str, Any]] = {
            row[0]: dict(zip(columns, row, strict=True))
            for row in rows_of(db, f"SELECT {', '.join(columns)} FROM jobs")
        }
        keys = tuple(rows_of(db, "SELECT id, name, hash, created, revoked FROM keys"))
    return Salvage(jobs=jobs, keys=keys)


def rows_of(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """As far as they can be read."""
    with suppress(sqlite3.Error, UnicodeDecodeError):
        yield from db.execute(query)


def move_aside(path: Path) -> Path | None:
    """Give what is left of a database another name, which none has yet."""
    if not any(os.path.lexists(beside(path, end)) for end in BESIDE):
        return None
    names = (path.with_name(f"linnet.damaged-{number}.db") for number in count(1))
    aside = next(name for name in names if not any(os.path.lexists(beside(name, end)) for end in BESIDE))
    for end in BESIDE:
        with suppress(FileNotFoundError):
            beside(path, end).rename(beside(aside, end))
    return aside

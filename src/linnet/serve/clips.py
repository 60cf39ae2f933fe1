"""The files of the jobs, each named after the id that the queue gave its job."""

import errno
import sqlite3
from pathlib import Path

from linnet.errors import InvalidInput
from linnet.filesystem import complete, remove
from linnet.serve.queue import Queue

KINDS = {"video": ".mp4", "thumbnail": ".webp", "spritesheet": ".jpg"}


def clips_folder(data: Path) -> Path:
    return data / "clips"


def file_of(data: Path, job: str, variant: str = "video") -> Path:
    """Where a job's file of that variant is, or will be."""
    return clips_folder(data) / f"{job}{KINDS[variant]}"


def files_bytes(data: Path, job: str) -> int:
    files = (file_of(data, job, variant) for variant in KINDS)
    return sum(file.stat().st_size for file in files if file.exists())


def remove_files(data: Path, job: str) -> None:
    for variant in KINDS:
        file_of(data, job, variant).unlink(missing_ok=True)


def forget(data: Path, queue: Queue, job: str) -> None:
    """Remove what a job that came to nothing left, unless another worker is at it."""
    now = queue.get(job)
    if now is None or now.status == "failed":
        remove_files(data, job)


def put(path: Path, content: bytes) -> None:
    """A file that is complete under its name, and on the disk."""
    with complete(path) as part:
        part.write_bytes(content)


def told(error: Exception) -> tuple[str, str]:
    """The code and the words of a failure that another try would not mend; no code for any other."""
    if is_full(error):
        return "disk_full", "the disk is full; make room and ask again"
    return (f"invalid_{error.field}", str(error)) if isinstance(error, InvalidInput) else ("", "")


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind it, found by the system or by SQLite."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error is not None and is_full(error.__cause__)


def tidy(data: Path, queue: Queue) -> None:
    """Remove what nobody will ask for: files half-written when all was killed, and files of deleted jobs."""
    folder = clips_folder(data)
    folder.mkdir(exist_ok=True)
    known = {f"{job}{ending}" for job in queue.ids() for ending in KINDS.values()}
    for path in folder.iterdir():
        if path.name not in known and path.name.startswith((".video_", "video_")):
            remove(path)

"""The files of the jobs, each named after the id that the queue gave its job."""

import errno
import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from linnet.errors import InvalidInput
from linnet.filesystem import complete, writer_of, writing
from linnet.serve.queue import Queue
from linnet.serve.wire import on_the_wire, wire_name

KINDS = {"video": ".mp4", "thumbnail": ".webp", "spritesheet": ".jpg"}
JOB = "video_[0-9a-f]{32}"  # the ids that the queue gives
FILE = re.compile(rf"({JOB})\.(?:mp4|webp|jpg)")
BEGINNING = 20  # letters of a job's id, at least, in the name of a file that is half-written


def clips_folder(data: Path) -> Path:
    return data / "clips"


def file_of(data: Path, job: str, variant: str = "video") -> Path:
    """Where a job's file of that variant is, or will be."""
    return clips_folder(data) / f"{job}{KINDS[variant]}"


def files_bytes(data: Path, job: str) -> int:
    files = (file_of(data, job, variant) for variant in KINDS)
    return sum(file.stat().st_size for file in files if file.exists())


def make_folder(data: Path) -> None:
    """That of the clips, for its owner alone if it is made here."""
    with writing(data, "data"):
        clips_folder(data).mkdir(mode=0o700, exist_ok=True)


def remove_files(data: Path, job: str) -> None:
    for variant in KINDS:
        with suppress(FileNotFoundError, IsADirectoryError):  # a folder is not linnet's
            file_of(data, job, variant).unlink()


def half_written(data: Path) -> Iterator[tuple[Path, str, int]]:
    """Files of jobs that are not complete: how the job's id begins, and the process that writes it."""
    for path in clips_folder(data).glob(".video_*.part"):
        writer = writer_of(path)
        if writer and not path.is_dir() and len(job := writer[0].partition(".")[0]) >= BEGINNING:
            yield path, job, writer[1]


def remove_half_written(data: Path, process: int) -> None:
    """What a process of ours, which has ended, left."""
    for path, _, writer in half_written(data):
        if writer == process:
            path.unlink(missing_ok=True)


def strangers(data: Path, jobs: set[str]) -> list[Path]:
    """Files under names of linnet's that belong to none of these jobs."""
    if not clips_folder(data).is_dir():
        return []
    matches = ((path, FILE.fullmatch(path.name)) for path in sorted(clips_folder(data).iterdir()))
    return [path for path, match in matches if match and match[1] not in jobs]


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
        return "disk_full", "the server's disk is full; delete some videos and ask again"
    if not isinstance(error, InvalidInput) or isinstance(
        error.value, Path
    ):  # of a file that the server chose
        return "", ""
    return f"invalid_{wire_name(error.field)}", without_folders(on_the_wire(error))


def without_folders(words: str) -> str:
    """Where the server keeps its files is for its log, not for clients: of each absolute path, the name alone."""
    for pattern in (r'"/(?:[^"]*/)?([^"]*)"', r"'/(?:[^']*/)?([^']*)'"):  # with spaces in it
        words = re.sub(pattern, r'"\1"', words)
    return re.sub(r"(?<![\w.:/])/(?:[^\s/:;,()\"']+/)*([^\s/:;,()\"']+)/?", r"\1", words)


def log_error(log: logging.Logger, words: str, error: Exception) -> None:
    """A full disk is one line of the log; what nobody foresaw comes with its stack trace."""
    if is_full(error):
        log.error("%s: the disk is full", words)
    else:
        log.error("%s", words, exc_info=error)


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind it, found by the system or by SQLite."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error is not None and is_full(error.__cause__)


def tidy(data: Path, queue: Queue) -> None:
    """At a start, when no worker is left: remove the files of deleted jobs, and what was half-written for any job. What
    is not known to be so stays, whoever made it."""
    make_folder(data)
    deleted = queue.deleted()
    ours = deleted | queue.ids()
    for job in deleted:
        remove_files(data, job)
    for path, beginning, _ in half_written(data):
        if any(job.startswith(beginning) for job in ours):
            path.unlink(missing_ok=True)
    queue.bury(deleted)

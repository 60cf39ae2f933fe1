"""A copy of the service's folder, taken while it runs."""

import shutil
from contextlib import suppress
from pathlib import Path

from linnet.errors import InvalidInput
from linnet.filesystem import temporary_name, writing
from linnet.serve.clips import KINDS, file_of, make_folder
from linnet.serve.database import MIGRATIONS, explained, version_of
from linnet.serve.lock import is_used
from linnet.serve.queue import Queue
from linnet.serve.webhook import SECRET_FILE


def open_beside(data: Path) -> Queue:
    """The queue of a folder that a server may be using; InvalidInput if there is none, or the server is an older one,
    to which a file that is brought up to date would be strange."""
    path = data / "linnet.db"
    if not path.is_file():
        raise InvalidInput("data", data, "holds no linnet data", "give the --data of `linnet serve`")
    if is_used(data) and version_of(path) < len(MIGRATIONS):
        remedy = "stop it first, or use the linnet that it runs"
        raise InvalidInput("data", data, "is in use by an older linnet", remedy)
    return Queue(data)


def backup(data: Path, target: Path) -> int:
    """Copy the jobs as they are at one moment, the webhook's secret, then the files of completed jobs; how many.

    `target` appears when it is complete. A clip that is deleted meanwhile is missing from the copy, and its job too.
    """
    queue = open_beside(data)
    queue.refuse_damage()
    if target.exists():
        raise InvalidInput("backup", target, "is there already", "choose another name")
    part = temporary_name(target)
    try:
        with explained(queue.path), writing(target, "backup"):
            clips = fill(part, data, queue)
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return clips


def fill(part: Path, data: Path, queue: Queue) -> int:
    """Copy into `part`; how many clips."""
    part.parent.mkdir(parents=True, exist_ok=True)
    part.mkdir(mode=0o700)
    make_folder(part)
    queue.backup(part / "linnet.db")
    copy = Queue(part)
    for job in copy.kept():
        try:
            for variant in KINDS:
                shutil.copy2(file_of(data, job.id, variant), file_of(part, job.id, variant))
        except FileNotFoundError:
            copy.delete(job.id)
    with suppress(FileNotFoundError):
        shutil.copyfile(data / SECRET_FILE, part / SECRET_FILE)
        (part / SECRET_FILE).chmod(0o600)
    clips = len(copy.kept())
    copy.close()
    return clips

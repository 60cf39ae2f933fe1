"""One at a time."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linnet.errors import InvalidInput
from linnet.filesystem import reading, writing


@contextmanager
def lock(data: Path) -> Iterator[None]:
    """Nobody else may use the folder meanwhile; the lock goes with the process, however it ends."""
    make_data_folder(data)
    with writing(data, "data"):
        descriptor = open_lock(data, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            problem = "is in use by another linnet"
            raise InvalidInput("data", data, problem, "stop that one, or give another folder") from None
        yield
    finally:
        os.close(descriptor)


def make_data_folder(data: Path) -> None:
    """One that is made here is its owner's alone; one that is there keeps its mode."""
    with writing(data, "data"):
        if data.exists() and not data.is_dir():
            raise InvalidInput("data", data, "is not a folder", "name a folder, or one that is to be made")
        data.mkdir(mode=0o700, parents=True, exist_ok=True)


def is_used(data: Path) -> bool:
    """Whether somebody has the folder alone just now."""
    with reading(data, "data"):
        try:
            descriptor = open_lock(data, os.O_RDONLY)
        except FileNotFoundError:
            return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def open_lock(data: Path, flags: int) -> int:
    """Its descriptor. The file stays as it is, and a link is not followed: someone who can write to the folder could
    have made it point to any file."""
    path = data / "lock"
    remedy = "remove it; linnet makes its own"
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        what = "a symbolic link" if error.errno == errno.ELOOP else "not a file"
        raise InvalidInput("lock", path, f"is {what}", remedy) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput("lock", path, "is not a file", remedy)
    return descriptor


def is_open_to_others(data: Path) -> bool:
    """Whether other users of the machine can look into the folder."""
    return bool(data.stat().st_mode & 0o077)

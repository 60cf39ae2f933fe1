"""One at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linnet.errors import InvalidInput


@contextmanager
def alone(data: Path) -> Iterator[None]:
    """Nobody else may use the folder meanwhile; the lock goes with the process, however it ends."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            problem = "is in use by another linnet"
            raise InvalidInput("data", data, problem, "stop that one, or give another folder") from None
        data.chmod(0o700)
        yield


def is_used(data: Path) -> bool:
    """Whether somebody has the folder alone just now."""
    try:
        with (data / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False

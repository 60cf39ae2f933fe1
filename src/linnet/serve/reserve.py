"""Room on the disk for what must be written even when the disk is full: that a job is deleted or cancelled, and how it
ended."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BYTES = 8 * 2**20
STEP = 64 * 2**10


class Reserve:
    """A file that only takes up room. All processes of a service share it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "reserve"

    def keep(self) -> None:
        """Make it whole again, as far as there is room."""
        with suppress(OSError):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                for start in range(os.fstat(file).st_size, BYTES, STEP):
                    os.posix_fallocate(file, start, STEP)
            finally:
                os.close(file)

    def release(self) -> None:
        with suppress(OSError):
            if not self.path.is_symlink() and self.path.is_file():
                os.truncate(self.path, 0)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Its room is free meanwhile."""
        self.release()
        try:
            yield
        finally:
            self.keep()

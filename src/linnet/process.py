"""What a command needs of its process: standard streams that take every letter and never stop the work, and a Ctrl-C
that is one line, also while modules are imported.

Imports nothing that takes time, since it is asked for before anything else is.
"""

import codecs
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Any

from linnet.errors import one_line

NOBODY_READS = {
    errno.EPIPE,
    errno.EIO,
    errno.ENXIO,
    errno.ECONNRESET,
}  # a closed pipe, a terminal that is gone
IMPORTING = "<frozen importlib._bootstrap>"
LETTERS = "linnet"  # the name under which `spelt` is known to Python's encoders


class Stream(io.FileIO):
    """Standard output or error. What cannot be written there is no reason to lose a clip: the first reason is kept, and
    none where nobody reads any more."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in NOBODY_READS:
                self.failed = self.failed or error
            return len(data)


def prepare() -> None:
    """Once, before a command's module is imported."""
    fill_closed()
    codecs.register_error(LETTERS, spelt)
    sys.stdout, sys.stderr = open_stream(sys.stdout, 1), open_stream(sys.stderr, 2)
    # Not where it is ignored, as in the background of a script.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)


def fill_closed() -> None:
    """Of the three standard streams, those that are closed lead nowhere from now on; otherwise the next file that is
    opened would take the number of one, and get what a library prints."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest free number


def open_stream(stream: Any, number: int) -> Any:
    """The stream again, as `Stream`; a test's own, or one that is prepared already, stays."""
    file = raw_file(stream)
    if stream is not None and type(file) is not io.FileIO:
        return stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    raw = Stream(number, "w", closefd=False)
    at_once = number == 2 or bool(getattr(stream, "line_buffering", False)) or is_unbuffered(stream)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=LETTERS, line_buffering=at_once)


def raw_file(stream: object) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer between the two


def is_unbuffered(stream: object) -> bool:
    return isinstance(getattr(stream, "buffer", None), io.RawIOBase)


def spelt(error: UnicodeError) -> tuple[str | bytes, int]:
    """What an encoding lacks: a byte of a file's name as that byte, any other letter as \\xe9."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    parts = [
        bytes([ord(letter) - 0xDC00])
        if "\udc80" <= letter <= "\udcff"
        else letter.encode("ascii", "backslashreplace")
        for letter in missing
    ]
    return b"".join(parts), error.end


def interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C. While modules are imported nothing is being made yet, and some of them take KeyboardInterrupt for an
    error of their own: the process ends here and now."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            os.write(2, b"stopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def unwritten() -> str | None:
    """Flush both streams; why standard output could not be written, if it could not."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    failed = getattr(raw_file(sys.stdout), "failed", None)
    return one_line(failed.strerror or failed) if isinstance(failed, OSError) else None

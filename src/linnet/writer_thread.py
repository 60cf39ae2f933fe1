"""A clip's file is encoded in a thread of its own, while the next frames are decoded: the same bytes, sooner.

Errors and cancelling travel both ways. What the encoder raises is raised by the next `write`, or at the end of the
`with` block. What ends the block early, Ctrl-C too, drops the frames that wait, and nothing is left of the file.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from linnet.geometry import Size

Frames = UInt8[np.ndarray, "f H W 3"]

WAITING = 16  # frames that may wait for the encoder; a tiled decoder hands so many over at once


@runtime_checkable
class Target(Protocol):
    """What encodes: the writers of `linnet.media`."""

    size: Size

    def write(self, frames: Frames) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ThreadedWriter:
    """`target` with the same interface, at work in another thread.

    `count`: frames that were handed over. `encoding`: seconds that the encoder worked, so far. `waited`: seconds that
    whoever writes waited for it. The file is opened and completed by the thread that writes.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.count, self.encoding, self.waited = 0, 0.0, 0.0
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="encoder"
        )  # begins with the first
        self._ahead: deque[tuple[int, Future[None]]] = deque()  # frames, and when they are encoded

    def write(self, frames: Frames) -> None:
        """Have them encoded; waits only while too many others are ahead of them."""
        size = self.target.size
        if len(frames) and frames.shape[1:] != (size.height, size.width, 3):
            raise ValueError(f"a frame of {frames.shape[2]}x{frames.shape[1]} in a clip of {size}")
        start = time.monotonic()
        while self._ahead and (self._ahead[0][1].done() or self._waiting + len(frames) > WAITING):
            self._finish_first()
        self.waited += time.monotonic() - start
        self._ahead.append((len(frames), self._thread.submit(self._encode, frames)))
        self.count += len(frames)

    @property
    def _waiting(self) -> int:
        return sum(count for count, _ in self._ahead)

    def _encode(self, frames: Frames) -> None:
        start = time.monotonic()
        self.target.write(frames)
        self.encoding += time.monotonic() - start

    def _finish_first(self) -> None:
        self._ahead[0][1].result()
        self._ahead.popleft()

    def __enter__(self) -> Self:
        self.target.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        start, stopped = time.monotonic(), error
        while True:
            try:
                while stopped is None and self._ahead:
                    self._finish_first()
                # Nobody may close what the thread still writes to, however often Ctrl-C is pressed. To end the thread
                # does not tell: a wait for it that is interrupted counts as done.
                for _, encoded in reversed(self._ahead):
                    if not encoded.cancel():
                        encoded.exception()
                self._thread.shutdown(cancel_futures=True)
                break
            except BaseException as failed:
                stopped = stopped or failed
        idle = time.monotonic()
        try:
            self.target.__exit__(type(stopped) if stopped else None, stopped, trace)
        finally:
            now = time.monotonic()
            self.encoding += now - idle
            self.waited += now - start
        if stopped is not error and stopped is not None:
            raise stopped

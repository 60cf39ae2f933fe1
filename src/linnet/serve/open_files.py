"""Whose clips are being read: those are not removed to make room."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

RECENTLY = 60.0  # seconds: a player asks for one piece after the other


class OpenFiles:
    """Of all jobs, whichever threads ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._leaving: set[str] = set()

    def begin(self, job: str) -> bool:
        """Before its files are looked at; False if they are being removed."""
        with self._lock:
            if job not in self._leaving:
                self._now[job] += 1
            return job not in self._leaving

    def end(self, job: str) -> None:
        """All was sent, or nobody listens any more."""
        with self._lock:
            self._now -= Counter([job])  # which keeps no zeros
            self._last[job] = time.monotonic()

    @contextmanager
    def keep_out(self, job: str) -> Iterator[bool]:
        """Whether nobody reads it, or did so recently; then nobody can begin to meanwhile."""
        with self._lock:
            past = time.monotonic() - RECENTLY
            self._last = {read: last for read, last in self._last.items() if last > past}
            free = job not in self._last and job not in self._now
            if free:
                self._leaving.add(job)
        try:
            yield free
        finally:
            with self._lock:
                self._leaving.discard(job)

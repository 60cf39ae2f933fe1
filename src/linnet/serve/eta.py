"""What a job may expect: its place among those that wait, and when its clip will be there."""

import threading
import time
from typing import NamedTuple

from linnet.request import Request
from linnet.serve.jobs import InputReference, Job
from linnet.serve.queue import Queue

FRESH = 1.0  # seconds that what was reckoned once is good for all who ask


class Eta(NamedTuple):
    """Of a job that waits. `seconds` until its clip is there, None where a clip before it is like none that was made;
    `worker_ready`: there is somebody to make it."""

    position: int
    seconds: float | None
    worker_ready: bool


class EtaEstimator:
    """Of all that wait, at a time."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._lock, self._at = threading.Lock(), 0.0
        self._found: dict[str, Eta] = {}

    def of(self, job: Job) -> Eta | None:
        """None if it waits no longer."""
        with self._lock:
            if time.monotonic() - self._at > FRESH or job.id not in self._found:
                self._found, self._at = self.reckon(), time.monotonic()
            return self._found.get(job.id)

    def reckon(self) -> dict[str, Eta]:
        """As if all workers were alike, and shared what is before a job evenly."""
        took: dict[tuple[Request, InputReference | None], float | None] = {}
        ready = self.queue.ready_workers()
        ahead = total([seconds_left(self.queue, job) for job in self.queue.running()])
        etas: dict[str, Eta] = {}
        for position, (job, request, given) in enumerate(self.queue.line(), 1):
            if (wanted := (request, given)) not in took:
                speed = self.queue.speed(request, given)
                took[wanted] = speed[0] if speed else None
            own = took[wanted]
            known = None if ahead is None or own is None else round(ahead / max(ready, 1) + own, 1)
            etas[job] = Eta(position, known, ready > 0)
            ahead = total([ahead, own])
        return etas


def total(seconds: list[float | None]) -> float | None:
    """None if one of them is unknown."""
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None


def seconds_left(queue: Queue, job: Job) -> float | None:
    """Of a job that runs, until its clip is there: the stage that it is in, at the pace that it has gone so far, and
    those behind that one. Before there is a pace, what such a clip takes here. None where that is unknown, too."""
    given, now = queue.begins(job.id), queue.clock.steady()
    behind = queue.speed_behind(job.request, job.stage or "", given)
    if job.done and job.stage_started is not None and behind is not None:
        return round((now - job.stage_started) / job.done * (job.total - job.done) + behind, 1)
    speed = queue.speed(job.request, given)
    return None if speed is None else round(max(0.0, speed[0] - (now - (job.claimed or now))), 1)

"""Supervisors of workers. A worker that dies, sends no heartbeat or makes no progress is ended, its job put back, and
another started, at once at first and then ever more slowly while they die young."""

import json
import logging
import secrets
import signal
import subprocess
import sys
import threading
import time
from abc import abstractmethod
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from linnet.serve.clips import log_error, remove_half_written, without_folders
from linnet.serve.clock import Awake
from linnet.serve.queue import Queue
from linnet.serve.render import RenderSettings
from linnet.serve.worker import WorkerSettings, cause
from linnet.wording import format_duration

log = logging.getLogger("linnet.serve")

LOOK = 0.1  # seconds between two looks at a worker
START = 60.0  # seconds that a worker has to import all and begin, beside those of silence
WEARY = (0.1, 30.0)  # seconds before another start: at first, and at most, doubling while workers die young
YOUNG = 30.0  # seconds
AGAIN = 1.0  # seconds until a job is put back after all, when that failed


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds: `silence` without a heartbeat, or `stall` without progress, and a worker is ended; `grace` for a job
    to finish when all is to stop."""

    silence: float = 30.0
    stall: float = 3600.0
    grace: float = 30.0


class Member(threading.Thread):
    """Sees to it that jobs are done until told to `leave`; when told to `hurry`, without waiting for the last one."""

    def __init__(self, data: Path, queue: Queue, patience: Patience) -> None:
        super().__init__(daemon=True)
        self.data, self.queue, self.patience = data, queue, patience
        self.leave, self.hurry = threading.Event(), threading.Event()


class Supervisor(Member):
    """Keeps one worker at work."""

    runs_on: str

    def run(self) -> None:
        pause = WEARY[0]
        while not self.leave.is_set():
            begun, name = time.monotonic(), secrets.token_hex(8)
            try:
                reason = self.supervise(name)
            except (
                Exception
            ) as error:  # a full disk, or no process to be had: what ends a worker, never its supervisor
                log_error(log, f"could not look after the worker for {self.runs_on}", error)
                reason = f"could not be looked after, {cause(error)}"
            self.put_back(name, reason)
            if reason is None:
                return
            log.warning("the worker for %s %s; starting another", self.runs_on, reason)
            pause = WEARY[0] if time.monotonic() - begun > YOUNG else min(2 * pause, WEARY[1])
            self.leave.wait(pause)

    @abstractmethod
    def supervise(self, name: str) -> str | None:
        """Start a worker and stay until it is gone; why, or None if it was asked to go."""

    def put_back(self, name: str, reason: str | None) -> None:
        failed, words = False, without_folders(f"the worker {reason or 'was stopped'}")
        while True:
            try:
                self.queue.release(name, words, blame=reason is not None)
                return
            except Exception as error:  # a full disk: nothing else to do until there is room
                if not failed:
                    log_error(log, "could not put back a job; trying again", error)
                failed = True
                if self.hurry.wait(AGAIN):  # the next start does
                    return


class Signs:
    """A worker's signs of life, which count from when they are seen to change: on the clock of who looks, and only
    while that one is awake."""

    def __init__(self, patience: Patience, awake: Awake) -> None:
        self.patience, self.awake = patience, awake
        self._beat: float | None = None
        self._busy: float | None = None
        self._heard = self._moved = awake()

    def trouble(self, beat: float | None, busy: float | None) -> str | None:
        """What is wrong with a worker that still runs. `beat` is the last heartbeat, None before the first; `busy`
        when it last got on with its job, whether or not anybody still wants that, None while it waits for one."""
        now = self.awake()
        if beat != self._beat:
            self._beat, self._heard = beat, now
        if busy != self._busy:
            self._busy, self._moved = busy, now
        if now - self._heard > self.patience.silence + (START if beat is None else 0.0):
            return f"sent no heartbeat for {format_duration(self.patience.silence)}"
        if busy is not None and now - self._moved > self.patience.stall:
            return f"made no progress for {format_duration(self.patience.stall)}"
        return None


class ProcessSupervisor(Supervisor):
    """Of a process on this machine, for one device."""

    def __init__(self, settings: RenderSettings, data: Path, queue: Queue, patience: Patience) -> None:
        super().__init__(data, queue, patience)
        self.runs_on = settings.device
        self.settings = WorkerSettings(data=str(data.absolute()), **asdict(settings))
        self.process: subprocess.Popen[bytes] | None = None

    def supervise(self, name: str) -> str | None:
        process = subprocess.Popen(
            [sys.executable, "-m", "linnet.serve.worker", json.dumps(asdict(self.settings)), name],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the service alone
        )
        self.process = process
        try:
            return self.watch(process, name)
        finally:
            process.kill()  # nothing, if it has ended
            process.wait()
            remove_half_written(self.data, process.pid)

    def watch(self, process: subprocess.Popen[bytes], name: str) -> str | None:
        """Until it has ended, or should; why, as `supervise` has it."""
        awake = Awake(self.queue.clock)
        signs, stopping = Signs(self.patience, awake), None
        reason = None
        while (status := process.poll()) is None:
            if self.leave.is_set() and stopping is None:
                stopping = awake()
                with suppress(OSError):
                    assert process.stdin is not None
                    process.stdin.write(b"leave\n")
                    process.stdin.flush()
            late = stopping is not None and awake() - stopping > self.patience.grace
            if stopping is None:
                worker = self.queue.workers().get(name) or {}
                reason = signs.trouble(worker.get("beat"), worker.get("busy"))
            if late or self.hurry.is_set() or reason:
                break
            time.sleep(LOOK)
        if stopping is not None or self.hurry.is_set():
            return None
        words = (self.queue.workers().get(name) or {}).get("words")
        return reason or (f"failed, {words}" if words else died(status or 0))


def died(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (out of memory?)"
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"

"""Those who look after workers: what goes wrong with one worker does not end its supervisor, and its job learns why."""

import errno
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linnet.catalog import SEEDLING
from linnet.errors import DeviceLost
from linnet.request import Request, make_request
from linnet.serve import supervisor
from linnet.serve.clips import clips_folder
from linnet.serve.clock import Awake
from linnet.serve.jobs import InputReference
from linnet.serve.queue import TRIES, Queue
from linnet.serve.render import Renderer, RenderSettings, Report
from linnet.serve.supervisor import Patience, ProcessSupervisor, Signs, Supervisor
from linnet.serve.worker import Worker, WorkerSettings

REQUEST = make_request(SEEDLING, prompt="a red star", frames=1)


class Clumsy(Supervisor):
    """Each of its workers claims a job; then this goes wrong, one thing after the other."""

    runs_on = "cpu"
    wrongs: Iterator[Exception | None]

    def supervise(self, name: str) -> str | None:
        self.queue.claim(name)
        if (wrong := next(self.wrongs)) is not None:
            raise wrong
        return None


def test_a_keeper_outlives_what_goes_wrong_and_puts_the_job_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(tmp_path)
    job = queue.add(REQUEST).id
    release, full = Queue.release, [True]

    def when_there_is_room(self: Queue, *given: Any, **more: Any) -> None:
        if full and full.pop():
            raise sqlite3.OperationalError("database or disk is full")
        release(self, *given, **more)

    monkeypatch.setattr(Queue, "release", when_there_is_room)
    monkeypatch.setattr(supervisor, "WEARY", (0.001, 0.01))
    monkeypatch.setattr(supervisor, "AGAIN", 0.001)
    clumsy = Clumsy(tmp_path, queue, Patience())
    none_left = OSError(errno.ENOMEM, "no process to be had")
    clumsy.wrongs = iter([sqlite3.OperationalError("disk I/O error"), none_left, None])
    clumsy.run()
    found = queue.get(job)
    assert found is not None
    assert (found.status, found.tries, found.worker) == ("queued", 2, None)
    restarts = {label for name, label in queue.statistics()["sums"] if name == "worker_restarts"}
    words = "the worker could not be looked after"
    assert restarts == {f"{words}, OperationalError", f"{words}, OSError"}


def test_a_process_does_not_outlive_a_keeper_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Queue) -> dict[str, Any]:
        raise sqlite3.OperationalError("disk I/O error")

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **more: real(["sleep", "60"], **more))
    monkeypatch.setattr(Queue, "workers", fail)
    its = ProcessSupervisor(
        RenderSettings(model="seedling", device="cpu"), tmp_path, Queue(tmp_path), Patience()
    )
    with pytest.raises(sqlite3.OperationalError):
        its.supervise("w")
    assert its.process is not None
    assert its.process.returncode is not None


def test_a_worker_that_hangs_is_found_out_even_after_its_job_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips_folder(tmp_path).mkdir()
    settings: Any = {"model": "seedling", "device": "cpu"}
    worker = Worker(WorkerSettings(data=str(tmp_path), **settings), "w")
    signs = Signs(Patience(stall=0.0), Awake(worker.queue.clock))
    found: list[str | None] = []

    def look() -> None:
        worker.beat()
        its = worker.queue.workers()["w"]
        signs.trouble(its["beat"], its["busy"])
        found.append(signs.trouble(its["beat"], its["busy"]))  # what stands still does so between two looks

    def hang(
        self: Renderer, request: Request, path: Path, report: Report, image: InputReference | None
    ) -> Any:
        worker.queue.cancel(job)
        look()
        report("denoise", 1, 2, None)  # it comes round after all, and learns of it

    def rest(seconds: float) -> None:
        look()
        worker.leaving = True

    monkeypatch.setattr(Renderer, "warm", lambda self: None)
    monkeypatch.setattr(Renderer, "make", hang)
    monkeypatch.setattr("linnet.serve.worker.time", SimpleNamespace(sleep=rest))  # for no other thread
    job = worker.queue.add(REQUEST).id
    worker.run()
    assert found == ["made no progress for 0 s", None]


def test_a_job_learns_what_its_workers_died_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*what: Any) -> None:
        raise DeviceLost("cuda:0 stopped working\nin the denoise stage")

    monkeypatch.setattr(Renderer, "warm", lambda self: None)
    monkeypatch.setattr(Renderer, "make", lose)
    clips_folder(tmp_path).mkdir()
    settings: Any = {"model": "seedling", "device": "cpu"}
    worker = Worker(WorkerSettings(data=str(tmp_path), **settings), "w")
    its = ProcessSupervisor(RenderSettings(**settings), tmp_path, worker.queue, Patience())
    job = worker.queue.add(REQUEST).id
    reason = None
    for _ in range(TRIES):
        with pytest.raises(DeviceLost):
            worker.run_or_say()
        worker.queue.beat("w", ready=True, memory=5)  # which does not silence it
        reason = its.watch(subprocess.Popen(["false"], stdin=subprocess.PIPE), "w")
        its.put_back("w", reason)
    assert reason == "failed, DeviceLost: cuda:0 stopped working in the denoise stage"
    found = worker.queue.get(job)
    assert found is not None
    assert (found.status, found.code) == ("failed", "worker_died")
    assert str(found.message).startswith(f"the worker {reason}")
    sums = worker.queue.statistics()["sums"]
    assert sums["worker_restarts", "the worker failed, DeviceLost"] == TRIES
    assert its.watch(subprocess.Popen(["false"], stdin=subprocess.PIPE), "v") == "ended with status 1"

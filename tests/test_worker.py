"""The worker where things go wrong: no room on the disk, a job taken away, a process that hangs."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from linnet.catalog import SEEDLING
from linnet.media import VideoWriter, probe
from linnet.pipeline import Pipeline
from linnet.request import Request, make_request
from linnet.serve.clips import clips_folder, file_of
from linnet.serve.keeper import Patience, ProcessKeeper
from linnet.serve.queue import Job, Queue
from linnet.serve.render import RenderSettings
from linnet.serve.worker import Worker, WorkerSettings
from serving import until


def request(*, frames: int = 5, steps: int = 2) -> Request:
    return make_request(SEEDLING, prompt="a red star", seed=1, frames=frames, steps=steps)


@pytest.fixture
def worker(tmp_path: Path, tiny_model: Path) -> Worker:
    clips_folder(tmp_path).mkdir()
    settings = WorkerSettings(data=str(tmp_path), model="seedling", weights=str(tiny_model), device="cpu")
    return Worker(settings, "w")


def rendered(worker: Worker) -> Job:
    """The next job, after the worker was at it."""
    job = worker.queue.claim(worker.name)
    assert job is not None
    worker.render(job)
    return worker.queue.get(job.id) or job


def test_a_clip_that_is_over_the_budget_fails_and_says_so(tmp_path: Path, tiny_model: Path) -> None:
    clips_folder(tmp_path).mkdir()
    settings: Any = {"data": str(tmp_path), "model": "seedling", "weights": str(tiny_model), "device": "cpu"}
    frugal = Worker(WorkerSettings(**settings, ram=1000), "w")
    frugal.renderer.warm()  # which would not fit either
    frugal.queue.add(request())
    job = rendered(frugal)
    assert (job.status, "takes about" in str(job.message)) == ("failed", True)


def test_a_full_disk_fails_the_job_and_leaves_nothing_of_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, frame: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    worker.queue.add(request())
    worker.queue.add(request())
    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "add", full)
        failed = rendered(worker)
    assert (failed.status, failed.code) == ("failed", "disk_full")
    assert list(clips_folder(worker.data).iterdir()) == []
    done = rendered(worker)
    assert (done.status, probe(file_of(worker.data, done.id)).frames) == ("completed", 5)


def test_a_job_that_is_deleted_while_it_is_made_leaves_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = worker.queue.add(request())
    generate = Pipeline.generate

    def late(self: Pipeline, *given: Any, **more: Any) -> Any:
        clip = generate(self, *given, **more)
        worker.queue.delete(job.id)  # when the file stands complete, but nobody knows of it
        return clip

    monkeypatch.setattr(Pipeline, "generate", late)
    rendered(worker)
    assert list(clips_folder(worker.data).iterdir()) == []
    assert worker.queue.ids() == set()


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, tiny_model: Path) -> None:
    clips_folder(tmp_path).mkdir()
    queue = Queue(tmp_path)
    settings = RenderSettings(model="seedling", weights=str(tiny_model), device="cpu", threads=1)
    keeper = ProcessKeeper(settings, tmp_path, queue, Patience(silence=5.0))
    keeper.start()
    job = queue.add(request(steps=1000, frames=121)).id

    def now() -> Job:
        found = queue.get(job)
        assert found is not None
        return found

    until(lambda: now().status == "in_progress")
    assert keeper.process is not None
    stuck = keeper.process.pid
    os.kill(stuck, signal.SIGSTOP)
    until(lambda: now().tries > 0)
    assert "no sign of life" in str(now().message)
    until(lambda: now().status == "in_progress")
    assert keeper.process.pid != stuck
    queue.cancel(job)
    keeper.leave.set()
    keeper.join(60)
    assert not keeper.is_alive()

"""The worker where things go wrong: no room on the disk, a job taken away, a process that hangs."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from helper_processes import helpers_of
from linnet.catalog import SEEDLING
from linnet.errors import InvalidInput
from linnet.media import VideoWriter, probe
from linnet.pipeline import Pipeline
from linnet.request import Request, make_request
from linnet.serve.clips import clips_folder, file_of, without_folders
from linnet.serve.jobs import Job
from linnet.serve.queue import Queue
from linnet.serve.render import RenderSettings
from linnet.serve.supervisor import Patience, ProcessSupervisor
from linnet.serve.worker import Worker, WorkerSettings, cause
from linnet.serve.worker_pool import WorkerPool
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


def test_a_folder_that_is_moved_away_is_made_again(worker: Worker) -> None:
    clips_folder(worker.data).rmdir()
    worker.queue.add(request())
    assert rendered(worker).status == "completed"


def test_clients_do_not_see_where_the_server_keeps_its_files(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.queue.add(request())
    clips_folder(worker.data).rmdir()
    clips_folder(worker.data).write_text("in the way")
    with pytest.raises(InvalidInput) as error:  # another try may find it as it should be
        rendered(worker)
    assert str(worker.data) in str(error.value)
    supervisor = ProcessSupervisor(RenderSettings(model="seedling"), worker.data, worker.queue, Patience())
    supervisor.put_back(worker.name, f"failed, {cause(error.value)}")
    (job,) = (worker.queue.get(job) for job in worker.queue.ids())
    assert job is not None
    assert job.message
    assert str(worker.data) not in job.message
    words = {
        "[Errno 2] No such file: '/srv/my clips/a b.mp4'": '[Errno 2] No such file: "a b.mp4"',
        'output "/srv/x/video_1.mp4": is missing; see /var/log/x': 'output "video_1.mp4": is missing; see x',
        "ask for 5/8 of it, or see https://linnet.example/a/b": "ask for 5/8 of it, or see https://linnet.example/a/b",
    }
    assert {said: without_folders(said) for said in words} == words


def test_a_job_that_is_deleted_while_it_is_made_leaves_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = worker.queue.add(request())
    run = Pipeline.run

    def late(self: Pipeline, *given: Any, **more: Any) -> Any:
        clips = run(self, *given, **more)
        worker.queue.delete(job.id)  # when the file stands complete, but nobody knows of it
        return clips

    monkeypatch.setattr(Pipeline, "run", late)
    rendered(worker)
    assert list(clips_folder(worker.data).iterdir()) == []
    assert worker.queue.ids() == set()


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, tiny_model: Path) -> None:
    clips_folder(tmp_path).mkdir()
    queue = Queue(tmp_path)
    settings = RenderSettings(model="seedling", weights=str(tiny_model), device="cpu", threads=1)
    supervisor = ProcessSupervisor(settings, tmp_path, queue, Patience(silence=5.0))
    supervisor.start()
    job = queue.add(request(steps=1000, frames=121)).id

    def now() -> Job:
        found = queue.get(job)
        assert found is not None
        return found

    until(lambda: now().status == "in_progress")
    assert supervisor.process is not None
    stuck = supervisor.process.pid
    os.kill(stuck, signal.SIGSTOP)
    until(lambda: now().tries > 0)
    assert "no heartbeat" in str(now().message)
    until(lambda: now().status == "in_progress")
    assert supervisor.process.pid != stuck
    queue.cancel(job)
    supervisor.leave.set()
    supervisor.join(60)
    assert not supervisor.is_alive()


def test_a_worker_of_two_processes_makes_its_jobs_and_leaves_none_behind(
    tmp_path: Path, tiny_model: Path
) -> None:
    clips_folder(tmp_path).mkdir()
    queue = Queue(tmp_path)
    settings = RenderSettings(model="seedling", weights=str(tiny_model), device="cpu", threads=1, gpus=2)
    supervisor = ProcessSupervisor(settings, tmp_path, queue, Patience())
    supervisor.start()
    job = queue.add(request(steps=4, frames=1)).id
    until(lambda: (found := queue.get(job)) is not None and found.status == "completed")
    assert supervisor.process is not None
    helpers = helpers_of(supervisor.process.pid)
    assert helpers
    supervisor.leave.set()
    supervisor.join(60)
    until(lambda: not any(Path(f"/proc/{helper}").exists() for helper in helpers))


def test_two_workers_share_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("linnet.multi_gpu.resolve_device", lambda name: name)
    WorkerPool(model="seedling", devices=("cuda:0", "cuda:2"), gpus=2).check_budget()
    with pytest.raises(InvalidInput, match='gpus_per_worker "2": would have two workers on cuda:1'):
        WorkerPool(model="seedling", devices=("cuda:0", "cuda:1"), gpus=2).check_budget()
    with pytest.raises(InvalidInput, match='gpus_per_worker "8": this machine has 4 GPUs'):
        WorkerPool(model="seedling", devices=("cuda",), gpus=8).check_budget()

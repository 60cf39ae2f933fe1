"""A clip of several processes is the clip of one, and none of them stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import linnet
from helper_processes import helpers_of
from linnet.catalog import CATALOG, SEEDLING
from linnet.errors import DeviceLost, InvalidInput
from linnet.multi_gpu import attach, check_gpus
from linnet.pipeline import Pipeline
from linnet.plan.several import faster_split
from linnet.request import Request, make_request


def opened(weights: Path) -> Pipeline:
    return linnet.load("seedling", weights=weights, device="cpu", dtype="float32", threads=1)


def asked(**settings: Any) -> Request:
    given: dict[str, Any] = {"steps": 4, "frames": 25, **settings}
    return make_request(SEEDLING, prompt="a red star", seed=3, **given)


def latents(pipeline: Pipeline, request: Request, gpus: int = 1) -> Tensor:
    plan = pipeline.plan(request)
    if gpus > 1:
        attach(pipeline, gpus, plan, device="cpu")
    try:
        return pipeline.latents(plan).latents
    finally:
        pipeline.unload()


@pytest.mark.parametrize("settings", [{"profile": "exact"}, {"guidance": 0.0}])
def test_two_processes_equal_one(settings: dict[str, Any], tiny_model: Path) -> None:
    request = asked(**settings)
    assert faster_split(request, 2) == ("guidance" if request.guidance else "tokens")
    pipeline = opened(tiny_model)
    alone, shared = latents(pipeline, request), latents(pipeline, request, gpus=2)
    assert float((shared - alone).norm() / alone.norm()) < 1e-5
    assert pipeline.choices()["processes"] == {"count": 2, "split": faster_split(request, 2)}


def test_a_helper_that_is_killed_is_an_error_and_not_a_wait(tiny_model: Path) -> None:
    pipeline, request = opened(tiny_model), asked(steps=40)
    attach(pipeline, 2, pipeline.plan(request), device="cpu")
    pipeline.model.follow(pipeline.plan(request))
    steps = pipeline.runner.sample(request)
    next(steps)
    assert pipeline.runner.processes is not None
    pipeline.runner.processes.helpers[0].process.kill()
    with pytest.raises(DeviceLost, match="ended with status -9"):
        list(steps)
    pipeline.unload()
    assert not pipeline.runner.processes.helpers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_stays_behind(number: signal.Signals, tiny_model: Path, tmp_path: Path) -> None:
    words = ["generate", "a red star", "--model", "seedling", "--weights", str(tiny_model), "--steps", "1000"]
    words += ["--device", "cpu", "--threads", "1", "--gpus", "2", "--output", str(tmp_path / "a.mp4")]
    process = subprocess.Popen([sys.executable, "-m", "linnet", *words], stderr=subprocess.PIPE, text=True)
    while not (helpers := helpers_of(process.pid)) and process.poll() is None:
        time.sleep(0.05)
    assert helpers
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert told.endswith("stopped; nothing was written\n")
    until = time.monotonic() + 60
    while any(Path(f"/proc/{helper}").exists() for helper in helpers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{helper}").exists() for helper in helpers)
    assert not list(tmp_path.iterdir())


def test_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.cpu_count() or 1
    with pytest.raises(InvalidInput, match=rf"gpus \"{cores + 1}\": the CPU has {cores} core"):
        check_gpus(cores + 1, "cpu")
    monkeypatch.setattr("linnet.multi_gpu.resolve_device", lambda name: "cpu" if name == "auto" else name)
    with pytest.raises(
        InvalidInput, match=r"gpus \"2\": this machine has no GPU; leave it out, or .*device=cpu"
    ):
        check_gpus(2, None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert check_gpus(2, "cuda:1") == ["cuda:1", "cuda:2"]
    with pytest.raises(InvalidInput, match=r"gpus \"4\": this machine has 3 GPUs from cuda:1 on"):
        check_gpus(4, "cuda:1")
    wrong: dict[str, Any] = {"gpus": "2"}
    with pytest.raises(InvalidInput, match=r"gpus \"2\": is not a number of GPUs"):
        linnet.generate("a red star", "a.mp4", model="seedling", device="cpu", **wrong)


def test_the_faster_split_is_chosen() -> None:
    linum = CATALOG["linum-v2-360p"]
    settings: dict[str, Any] = {"prompt": "a fox", "seed": 1}
    assert faster_split(make_request(linum, **settings), 2) == "guidance"
    assert faster_split(make_request(linum, **settings, guidance_until=0.1), 2) == "tokens"
    assert faster_split(make_request(linum, **settings), 3) == "tokens"
    assert faster_split(make_request(linum, **settings, seconds=8, onward=False), 2) == "tokens"

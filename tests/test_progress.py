"""What a person is told while something takes long, with a terminal and without."""

import io
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from linnet.catalog import SEEDLING
from linnet.cli import terminal
from linnet.cli.terminal import Stage
from linnet.clip import Clip, Progress
from linnet.request import make_request


def slow_stage(*, expected: float | None = None) -> Stage:
    stage = Stage("denoise", 20, 0.0, unit="step", expected=expected)
    stage.update(0.0, "", 0, 20)
    return stage


# --- time left --------------------------------------------------------------------------------------------------------


def test_steps_of_ten_minutes_have_a_time_left() -> None:
    stage = slow_stage()
    assert stage.left(300) is None  # nothing is known yet
    stage.update(700, "", 1, 20)
    stage.update(1300, "", 2, 20)
    stage.update(1900, "", 3, 20)
    assert stage.pace == 600  # the first step, which is slower, does not count
    assert stage.left(1900) == 17 * 600
    assert stage.left(2200) == 17 * 600 - 300


def test_a_plan_tells_the_time_left_before_the_first_step_is_done() -> None:
    stage = slow_stage(expected=12_000)
    assert stage.left(0) == 12_000
    assert stage.left(540) == 12_000 - 540
    assert stage.left(900) == 19 * 900  # a step that lasts longer than planned tells of the others


def test_within_a_step_its_time_and_a_share_of_it_are_shown() -> None:
    stage = slow_stage(expected=12_000)
    assert stage.reached(300) == 0.5
    assert stage.reached(6000) == 0.95  # of a step, until it is done
    assert "5 min in this step" in stage.times(300)
    assert stage.line(300) == "denoise: step 1 of 20, 5 min so far, 5 min in this step, about 3 h 15 min left"


def test_frames_that_come_together_are_counted_together() -> None:
    stage = Stage("decode", 49, 0.0, unit="frame")
    for now, done in ((0, 0), (1, 1), (5, 5), (9, 9)):
        stage.update(now, "", done, 49)
    assert stage.left(9) == 40
    assert stage.left(11) == 38  # and not twenty times two seconds: four frames take four


def test_a_stage_that_begins_again_expects_its_old_pace() -> None:
    stages = terminal.Stages()
    for done in range(4):
        stages.show("denoise", "", done, 3, unit="step")
        time.sleep(0.01)
    stages.show("denoise", "", 0, 6, unit="step")
    assert 0.01 < (stages.known["denoise"].pace or 0) < 10
    assert stages.known["denoise"].done == 0


def test_a_stage_that_is_gone_on_with_counts_from_there() -> None:
    stage = Stage("clips", 100, 0.0)
    stage.update(0, "", 60, 100)
    stage.update(30, "", 70, 100)
    assert stage.left(30) == 90


# --- without a terminal -----------------------------------------------------------------------------------------------


def test_without_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terminal.LINE_EVERY == 30
    monkeypatch.setattr(terminal, "LINE_EVERY", 0.01)
    with terminal.bars(quiet=False) as show:
        show("drafts", "", 1, 9, unit="draft")
        show("denoise", "", 2, 20, unit="step")
        printed = ""
        until_printed = time.monotonic() + 30
        while time.monotonic() < until_printed and "progress" in {t.name for t in threading.enumerate()}:
            time.sleep(0.01)
            if (printed := capsys.readouterr().err) and "step 3 of 20" in printed:
                break
    line = printed.splitlines()[0]
    assert line.startswith("drafts: draft 2 of 9, ")
    assert "; denoise: step 3 of 20, " in line
    assert line.count(" so far") == 2
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LINE_EVERY", 0.001)
    with terminal.bars(quiet=True) as show:
        show("denoise", "", 2, 20, unit="step")
        time.sleep(0.02)
    assert capsys.readouterr().err == ""


# --- with one ---------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_where_each_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    stages = terminal.Stages()
    stages.show("load transformer", "", 3, 3)
    stages.show("denoise", "", 2, 20, unit="step", expected=600)
    console = Console(width=100, force_terminal=True, record=True, file=io.StringIO())
    console.print(terminal.table(stages.known.values(), 100))
    shown = console.export_text()
    assert "step 3 of 20" in shown
    assert "about 9 min left" in shown
    assert "load transformer" not in shown  # it is done


@pytest.mark.parametrize(
    ("terminal_here", "quiet", "loaded", "told"),
    [
        (True, False, False, True),
        (True, True, False, False),
        (True, False, True, False),
        (False, False, False, False),
    ],
)
def test_a_terminal_says_that_pytorch_is_loading(
    terminal_here: bool, quiet: bool, loaded: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = io.StringIO()
    monkeypatch.setattr(err, "isatty", lambda: terminal_here)
    monkeypatch.setenv("TERM", "xterm")
    modules = {"torch": object()} if loaded else {}
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stderr=err, modules=modules))
    monkeypatch.setattr("sys.stderr", err)
    with terminal.starting(quiet=quiet):
        time.sleep(0.2)
    assert ("loading PyTorch" in err.getvalue()) == told


# --- what the pipeline tells ------------------------------------------------------------------------------------------


def test_reading_weights_and_compiling_have_stages_of_their_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linnet.pipeline import Pipeline
    from linnet.weights.store import resolve

    monkeypatch.setattr("linnet.runtime.compile.compile_blocks", lambda blocks: None)
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model), compiled=True)
    told: list[Progress] = []
    request = make_request(SEEDLING, prompt="a red star", seed=1, frames=1, steps=2)
    pipeline.generate(request, tmp_path / "a.mp4", watch=told.append)
    stages = list(dict.fromkeys((now.stage, now.part) for now in told))
    assert stages == [
        ("text", ""),
        ("load", "text encoder"),
        ("load", "transformer"),
        ("denoise", ""),
        ("compile", ""),
        ("load", "autoencoder"),
        ("decode", ""),
    ]
    first = next(i for i, now in enumerate(told) if now.stage == "denoise")
    assert all(now.stage != "load" or now.part == "autoencoder" for now in told[first:])
    told.clear()
    pipeline.generate(request, tmp_path / "b.mp4", watch=told.append)
    assert {now.stage for now in told} == {"text", "denoise", "decode"}  # all is in its place


def test_whatever_is_made_from_a_clip_is_summed_up_as_a_new_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typing import Any

    from linnet.cli.direct import run
    from linnet.cli.options import ClipOptions
    from linnet.plan.plan import SizedModel
    from linnet.prepare_direct import PreparedClip
    from linnet.runtime.machine import resolve_machine
    from linnet.weights.store import resolve

    request = make_request(SEEDLING, prompt="a red star", seed=7, seconds=2)
    clip = Clip(path=tmp_path / "a.mp4", request=request, model_hash="", version="")
    nothing: Any = None
    plan = resolve_machine("cpu").plan(SizedModel.of(SEEDLING, resolve(SEEDLING)), request)
    ready = PreparedClip(pipeline=nothing, plan=plan, output=clip.path, make=lambda watch, tell: clip)
    run(lambda **given: ready, ClipOptions())
    printed = capsys.readouterr()
    assert printed.err == "2 s of 128x72, seed 7, made in 0 s:\n"
    assert printed.out == f"{tmp_path / 'a.mp4'}\n"

"""Memory that runs out in the middle costs one more try and nothing that was done."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import linnet.sampling.denoise
import linnet.sampling.solvers
from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.clip import Progress
from linnet.direct import morph
from linnet.direct.edit import edit
from linnet.direct.footage import open_source
from linnet.direct.samplers import Edited, Renoised
from linnet.errors import DeviceLost, InvalidInput
from linnet.geometry import latent_grid
from linnet.media import open_writer
from linnet.models.tae import TAE
from linnet.models.text import T5Encoder
from linnet.models.transformer import TextContext, Transformer
from linnet.pipeline import Pipeline
from linnet.plan.execution import Waits
from linnet.plan.host import Budget
from linnet.plan.plan import Plan
from linnet.request import Request, make_request
from linnet.runtime.machine import resolve_machine
from linnet.sampling import flow
from linnet.sampling.denoise import Sampler, Step, denoise
from linnet.sampling.keep_frames import KeptFrames
from linnet.weights.store import resolve
from tiny_models import draw

REQUEST = make_request(SEEDLING, prompt="a red star spins", frames=5, steps=4, seed=3)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Failing:
    """A method that raises instead of its `at`-th call, and of those after it `times` in all."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: type, name: str, at: int, error: Exception, times=1):
        self.calls, self.failures = 0, range(at, at + times)
        original: Callable[..., Any] = getattr(owner, name)

        def call(*given: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls in self.failures:
                raise error
            return original(*given, **more)

        patch.setattr(owner, name, call)


def made(folder: Path, output: Path) -> tuple[bytes, dict[str, Any], list[Progress]]:
    """The file but for what it tells of itself, what it tells, and what was said meanwhile."""
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=folder))
    said: list[Progress] = []
    clip = pipeline.generate(REQUEST, output, watch=said.append)
    content = clip.path.read_bytes()
    return content[content.index(b"mdat") :], dict(clip.choices), said


def drawn(path: Path) -> Path:
    with open_writer(path, width=128, height=72, fps=24, metadata={}) as writer:
        writer.write(np.zeros((5, 72, 128, 3), np.uint8))
    return path


@pytest.mark.parametrize(
    ("stage", "owner", "name", "at"),
    [
        ("text", T5Encoder, "forward", 1),
        ("denoise", Transformer, "forward", 3),
        ("denoise", Transformer, "encode_text", 1),
        ("decode", TAE, "decode_stream", 1),
    ],
)
def test_a_stage_without_memory_has_another_try(
    tiny_model: Path,
    tmp_path: Path,
    stage: str,
    owner: type,
    name: str,
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, choices, _ = made(tiny_model, tmp_path / "a.mp4")
    with monkeypatch.context() as patch:
        count = Failing(patch, owner, name, 10**9, FULL)
        made(tiny_model, tmp_path / "b.mp4")
    fault = Failing(monkeypatch, owner, name, at, FULL)
    content, told, said = made(tiny_model, tmp_path / "c.mp4")
    assert content == expected
    assert told == choices | {"shrunk": stage}
    assert fault.calls == count.calls + 1  # what was done is not done again
    (note,) = [progress.note for progress in said if progress.note]
    assert note.startswith(f"ran out of memory in the {stage} stage; going on")


@pytest.mark.parametrize("name", ["apg", "euler"])
def test_guidance_and_the_solver_have_another_try(
    tiny_model: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, choices, _ = made(tiny_model, tmp_path / "a.mp4")
    owner: Any = linnet.sampling.denoise if name == "apg" else linnet.sampling.solvers.SOLVERS
    original, tried = (getattr(owner, name) if name == "apg" else owner[name]), []

    def once(*given: Any, **more: Any) -> Any:
        tried.append(name)
        if len(tried) == 2:
            raise FULL
        return original(*given, **more)

    if name == "apg":
        monkeypatch.setattr(owner, name, once)
    else:
        monkeypatch.setitem(owner, name, once)
    content, told, _ = made(tiny_model, tmp_path / "b.mp4")
    assert content == expected
    assert told == choices | {"shrunk": "denoise"}
    assert len(tried) == REQUEST.steps + 1


def loops(pipeline: Pipeline) -> dict[str, Callable[[], Iterator[Step]]]:
    """Every kind of loop from noise to latents."""
    request = pipeline.settled(replace(REQUEST, steps=4))
    onward = pipeline.settled(make_request(SEEDLING, like=request, frames=77))
    channels, *grid = pipeline.model.transformer_config.channels, *latent_grid(5, request.size)
    clip, frame = draw(1, channels, *grid), draw(1, channels, *grid[1:], seed=2)
    kept = KeptFrames(frames={0: frame}, seed=1, resampling_steps=2)

    def run(request: Request, sampler: Sampler = denoise) -> Iterator[Step]:
        return pipeline.runner.sample(request, sampler=sampler)

    def edited() -> Iterator[Step]:
        levels = flow.levels_of(request)
        source, one, two = (pipeline.runner.velocity(request, levels) for _ in range(3))
        return run(request, Edited(clip=clip, source=source, strength=0.8, seed=1, plain=(one, two)))

    return {
        "continued": lambda: run(replace(request, reuse="3")),
        "unguided": lambda: run(replace(request, reuse="hold:3", guidance=0.0, solver="unipc")),
        "kept": lambda: run(request, kept),
        "renoised": lambda: run(request, Renoised(clip=clip, strength=0.5)),
        "edited": edited,
        "onward": lambda: run(onward, kept),
        "together": lambda: run(replace(onward, onward=False)),
        "morph": lambda: morph.sample(pipeline.runner, [request, replace(request, prompt="a star")], [5]),
    }


class Scarce(TorchDispatchMode):
    """Memory for what is as large as a latent frame runs out once at each place of each try, the model's own apart;
    `outside` are places that no try is around."""

    def __init__(self, pipeline: Pipeline, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.outside, self.failures = list[str](), 0
        self.least = pipeline.runner.noise(replace(REQUEST, frames=1), [3]).numel()
        self.tries: list[
            list[int]
        ] = []  # of each that is under way, the number of its attempt, and places so far
        self.in_model = False
        retry, forward = pipeline.model.retry_on_oom, Transformer.forward

        def tried(stage: Any, run: Callable[[], Any], watch: Any) -> Any:
            attempts = count(1)

            def attempt() -> Any:
                self.tries.append([next(attempts), 0])
                try:
                    return run()
                finally:
                    self.tries.pop()

            return retry(stage, attempt, watch)

        def forwarded(*given: Any, **more: Any) -> Any:
            self.in_model = True
            try:
                return forward(*given, **more)
            finally:
                self.in_model = False

        def shrink(*given: Any) -> None:
            """Once would be the limit."""
            self.failures, pipeline.model.shrunk = self.failures + 1, None

        patch.setattr(pipeline.model, "retry_on_oom", tried)
        patch.setattr(pipeline.model, "_shrink", shrink)
        patch.setattr(Transformer, "forward", forwarded)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if isinstance(x, torch.Tensor)}
        if func is torch.ops.aten.randn.generator:  # without memory it draws nothing
            self.take(str(func))
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            new = isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given
            if new and x.is_floating_point() and x.numel() >= self.least:
                self.take(str(func))
        return result

    def take(self, what: str) -> None:
        if self.in_model:
            return
        if not self.tries:
            self.outside.append(what)
            return
        self.tries[-1][1] += 1
        if self.tries[-1][0] == self.tries[-1][1]:
            raise FULL


def quick(model: Transformer, latents: Any, timestep: Any, text: TextContext, **settings: Any) -> Any:
    """A velocity that depends on everything, instead of a model's."""
    return latents.roll(1, 2).sin() * text.keys[0].float().mean() + timestep.view(-1, 1, 1, 1, 1) / 1000


@pytest.mark.parametrize(
    "loop", ["continued", "unguided", "kept", "renoised", "edited", "onward", "together", "morph"]
)
def test_wherever_memory_runs_out_in_sampling_the_clip_is_the_same(
    tiny_model: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model))
    pipeline.model.follow(pipeline.plan(REQUEST))
    monkeypatch.setattr(Transformer, "forward", quick)
    *_, expected = loops(pipeline)[loop]()
    steps = loops(pipeline)[loop]
    with pytest.MonkeyPatch.context() as patch, Scarce(pipeline, patch) as scarce:
        *_, last = steps()
    assert scarce.outside == []
    assert scarce.failures > 20
    assert torch.equal(last.latents, expected.latents)


def test_a_preview_without_memory_is_left_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, choices, _ = made(tiny_model, tmp_path / "a.mp4")
    shown, told = [], []

    def watch(progress: Progress) -> None:
        if progress.preview:
            shown.append(progress.preview())
        told.append((progress.stage, progress.done))

    Failing(monkeypatch, TAE, "decode_stream", 2, FULL)
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model))
    clip = pipeline.generate(REQUEST, tmp_path / "b.mp4", watch=watch)
    content = clip.path.read_bytes()
    assert content[content.index(b"mdat") :] == expected
    assert clip.choices == choices
    assert len(shown) == REQUEST.steps - 1
    assert [done for stage, done in told if stage == "denoise"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("waits", "reads"), [("file", 10), ("memory", 1)])
def test_under_a_budget_what_a_plan_does_not_count_is_not_there(
    tiny_model: Path, tmp_path: Path, waits: Waits, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoencoder that waits in main memory is read once, whatever the number of previews."""
    files = resolve(SEEDLING, weights=tiny_model)
    whole = Pipeline.open(SEEDLING, files).generate(REQUEST, tmp_path / "a.mp4").path.read_bytes()
    pipeline = Pipeline.open(
        SEEDLING,
        files,
        replace(resolve_machine("cpu", dtype="float32"), budget=Budget(limited=frozenset({"ram"}))),
    )
    beside: list[bool] = []
    read: list[str] = []

    def follow(plan: Plan) -> None:
        original(replace(plan, transformer_stays=False, autoencoder_waits=waits))

    def watch(progress: Progress) -> None:
        if progress.part == "autoencoder" and progress.done:
            read.append(progress.stage)
        if progress.stage == "decode":
            beside.append(pipeline.model.has_transformer)
        if progress.preview:
            progress.preview()
            beside.append(pipeline.model.has_autoencoder)
            assert pipeline.model.has_transformer

    original = pipeline.model.follow
    monkeypatch.setattr(pipeline.model, "follow", follow)
    for name in ("b", "c"):  # the second one reads it again
        clip = pipeline.generate(REQUEST, tmp_path / f"{name}.mp4", watch=watch)
        assert clip.path.read_bytes() == whole
    assert not any(beside)
    assert len(read) == reads  # for each of 4 previews and for decoding, twice


def test_an_edit_whose_clip_is_encoded_without_memory_has_another_try(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(drawn(tmp_path / "a.mp4"), REQUEST.size, REQUEST.fps)
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model))
    plan = pipeline.plan(REQUEST, encoded_frames=REQUEST.frames)
    expected = cast(Edited, edit(pipeline, plan, source, REQUEST.prompt).sampler)
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model))
    original, loaded = TAE.encode_stream, []

    def encode_stream(model: TAE, chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        loaded.append(pipeline.model.has_transformer)
        for number, latents in enumerate(original(model, chunks)):
            if len(loaded) == 1 and number == 1:  # in the middle of the clip, whose frames are read again
                raise FULL
            yield latents

    monkeypatch.setattr(TAE, "encode_stream", encode_stream)
    sampler = cast(Edited, edit(pipeline, plan, source, REQUEST.prompt).sampler)
    assert torch.equal(sampler.clip, expected.clip)
    assert loaded == [False, False]  # no transformer takes the memory meanwhile


def test_main_memory_says_it_in_other_words(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(2**58)
    Failing(monkeypatch, Transformer, "forward", 2, full.value)
    assert made(tiny_model, tmp_path / "a.mp4")[1]["shrunk"] == "denoise"


def test_the_second_time_it_is_said_plainly_and_nothing_is_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, TAE, "decode_stream", 1, FULL, times=9)
    with pytest.raises(
        InvalidInput, match=r'^device "cpu": ran out of memory in the decode stage, with less'
    ):
        made(tiny_model, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_another_error_is_not_taken_for_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Failing(monkeypatch, Transformer, "forward", 2, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        made(tiny_model, tmp_path / "a.mp4")
    assert fault.calls == 2


def test_a_device_that_is_gone_is_said_in_one_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = torch.AcceleratorError(
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported"
    )
    Failing(monkeypatch, Transformer, "forward", 2, gone)
    with pytest.raises(
        DeviceLost, match=r"cpu stopped working in the denoise stage \(CUDA error.*`device=cpu`"
    ):
        made(tiny_model, tmp_path / "a.mp4")


def test_the_command_says_what_nobody_caught_in_one_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, Pipeline, "latents", 1, FULL)
    words = ["generate", "a red star", "--weights", str(tiny_model), "--seconds", "0", "--quiet", "--output"]
    result = CliRunner().invoke(app, [*words, str(tmp_path / "a.mp4")])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: CUDA out of memory. Tried to allocate 2.00 GiB; close other programs")


def test_the_command_says_so(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Failing(monkeypatch, Transformer, "forward", 3, FULL)
    words = ["generate", "a red star", "--weights", str(tiny_model), "--seconds", "0", "--json", "--output"]
    result = CliRunner().invoke(app, [*words, str(tmp_path / "a.mp4")])
    assert result.exit_code == 0, result.output
    assert "ran out of memory in the denoise stage; going on by a smaller plan" in result.stderr
    assert json.loads(result.stdout)["choices"]["shrunk"] == "denoise"

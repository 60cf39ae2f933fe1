"""A pipeline that saves memory makes the clip that it makes with everything in memory."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.errors import InvalidInput
from linnet.models.transformer import Block
from linnet.models.vae import VAE, Decoder, RMSNorm, VAEConfig
from linnet.pipeline import Pipeline
from linnet.plan.execution import ExecutionConfig, Tiling, recorded
from linnet.plan.host import Budget
from linnet.plan.plan import Plan, SizedModel
from linnet.request import make_request
from linnet.runtime.machine import resolve_machine
from linnet.train.state import save_weights
from linnet.weights.store import resolve
from tiny_models import draw

WAN = replace(SEEDLING, autoencoder="wan")
REQUEST = make_request(SEEDLING, prompt="a red star spins", frames=5, steps=2, seed=3)

GB = 1_000_000_000


def clip(folder: Path, output: Path, execution: ExecutionConfig) -> bytes:
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=folder), execution=execution)
    content = pipeline.generate(REQUEST, output, overwrite=True).path.read_bytes()
    return content[content.index(b"mdat") :]  # what it tells of itself comes first


@pytest.mark.parametrize(
    "execution",
    [
        ExecutionConfig(resident_blocks=0, blocks_from="file"),
        ExecutionConfig(resident_blocks=0, blocks_from="memory"),
        ExecutionConfig(resident_blocks=1, token_chunk=10_000, tiling=Tiling()),
    ],
    ids=str,
)
def test_the_clip_is_the_same(tiny_model: Path, tmp_path: Path, execution: ExecutionConfig) -> None:
    assert clip(tiny_model, tmp_path / "a.mp4", execution) == clip(
        tiny_model, tmp_path / "b.mp4", ExecutionConfig()
    )


def test_what_changes_the_bits_is_told_and_repeated(tiny_model: Path, tmp_path: Path) -> None:
    execution = ExecutionConfig(
        text_format="int8", transformer_format="float8", token_chunk=16, resident_blocks=1
    )
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model), execution=execution)
    made = pipeline.generate(REQUEST, tmp_path / "a.mp4")
    told = {"text_format": "int8", "transformer_format": "float8", "token_chunk": 16}
    assert made.choices["knobs"] == told
    same = ["generate", "--like", str(tmp_path / "a.mp4"), "--weights", str(tiny_model), "--output"]
    result = CliRunner().invoke(app, [*same, str(tmp_path / "b.mp4")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()


@pytest.mark.parametrize("held", [None, 0])
def test_blocks_are_compiled_wherever_they_are(
    tiny_model: Path, tmp_path: Path, held: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    used: list[object] = []
    monkeypatch.setattr("linnet.runtime.compile.check_compiler", lambda device: None)

    def compile_blocks(blocks: Iterable[Block]) -> None:
        for block in blocks:
            compiled.append(block)
            block.register_forward_pre_hook(lambda block, given: used.append(block))

    monkeypatch.setattr("linnet.runtime.compile.compile_blocks", compile_blocks)
    files = resolve(SEEDLING, weights=tiny_model)
    pipeline = Pipeline.open(SEEDLING, files, execution=ExecutionConfig(resident_blocks=held), compiled=True)
    assert pipeline.generate(REQUEST, tmp_path / "a.mp4").choices["compiled"] is True
    assert {id(block) for block in used} == {id(block) for block in compiled}


@pytest.mark.parametrize(
    "execution",
    [
        ExecutionConfig(convolutions="channels_last"),
        ExecutionConfig(convolutions="searched", fused_norms=True, tiling=Tiling(rows=5, columns=8)),
    ],
    ids=str,
)
def test_the_autoencoder_runs_as_the_execution_says(
    tiny_model: Path, tmp_path: Path, execution: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once it has waited in main memory; the frames are those of the plain way."""
    torch.manual_seed(0)
    config = VAEConfig(dim=4)
    save_weights(tmp_path / "vae.safetensors", VAE(config).state_dict(), asdict(config))
    files = replace(resolve(SEEDLING, weights=tiny_model), autoencoder=tmp_path / "vae.safetensors")
    latents, found, searching = draw(1, 16, 2, 9, 16), [], set[bool]()
    decode = Decoder.forward

    def seen(decoder: Decoder, *given: Any) -> torch.Tensor:
        searching.add(torch.backends.cudnn.benchmark)
        return decode(decoder, *given)

    monkeypatch.setattr(Decoder, "forward", seen)
    for each in (ExecutionConfig(), replace(execution, tiling=None), execution):
        pipeline = Pipeline.open(WAN, files, execution=each)
        plan = pipeline.plan(replace(REQUEST, dtype="float32"))
        model = pipeline.model
        model.follow(replace(plan, autoencoder_waits="memory"))
        for _ in range(2):
            found.append(np.concatenate(list(pipeline.runner.decode(latents))).astype(int))
            kernels = [layer.kernel for layer in model.autoencoder.modules() if isinstance(layer, RMSNorm)]
            weight = model.autoencoder.get_parameter("decoder.conv1.weight")
            assert set(kernels) == {each.fused_norms}
            assert weight.is_contiguous() == (each.convolutions == "plain")
            model.offload_autoencoder()
            assert not model.has_autoencoder
    assert all(abs(frames - found[0]).max() <= 1 for frames in found)
    assert not torch.backends.cudnn.benchmark
    assert searching == ({False, True} if execution.convolutions == "searched" else {False})
    record = execution.record()
    assert {name: recorded(record).get(name) for name in record} == {
        name: getattr(execution, name) for name in record
    }


def test_a_format_that_a_device_lacks_is_refused_before_a_weight_is_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_float8(*given: object, dtype: torch.dtype, **more: object) -> torch.Tensor:
        raise TypeError("Trying to convert Float8_e4m3fn to the MPS backend but it does not have support")

    files = resolve(SEEDLING, weights=tiny_model)
    monkeypatch.setattr("linnet.runtime.device.torch.ones", no_float8)
    monkeypatch.setattr("linnet.loaded_model.fill", None)
    with pytest.raises(InvalidInput, match=r'^format "float8": is not one that cpu has; use int8, or'):
        Pipeline.open(SEEDLING, files, execution=ExecutionConfig(transformer_format="float8"))


@pytest.mark.parametrize(
    "make", [lambda: ExecutionConfig(token_chunk=0), lambda: ExecutionConfig(resident_blocks=-1)]
)
def test_what_means_nothing_is_refused(make: Callable[[], ExecutionConfig]) -> None:
    with pytest.raises(InvalidInput, match="or more"):
        make()


def test_more_clips_than_the_first_keep_the_budget(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.plan.plan.LOADING", 0)  # which hides how little a tiny model takes
    files = resolve(SEEDLING, weights=tiny_model)
    request, many = replace(REQUEST, dtype="float32"), 2000
    machine = resolve_machine("cpu", dtype="float32", ram=GB)
    workload = machine.workload(SizedModel.of(SEEDLING, files), request, clips=many)
    least = Plan(workload=workload, execution=ExecutionConfig(), text_resident=True, autoencoder_waits="file")
    need = least.peak_system_bytes
    for budget, enough in ((need, True), (need - 1, False)):
        pipeline = Pipeline.open(
            SEEDLING, files, replace(machine, budget=Budget(system=budget, limited=frozenset({"ram"})))
        )
        pipeline.generate(REQUEST, tmp_path / f"{budget}.mp4")
        loaded, execution = pipeline.model.transformer, pipeline.model.execution
        pipeline.model.follow(pipeline.plan(request, clips=many))
        assert (pipeline.model.transformer is loaded) is (pipeline.model.execution == execution) is enough
        pipeline.model.follow(pipeline.plan(request))
        assert pipeline.model.execution == execution  # the slower way was for that one alone
    with pytest.raises(InvalidInput, match=r"^ram "):
        pipeline.plan(request, clips=many**2)

"""What makes the transformer faster is decided by the plan, followed by the pipeline, and told by the clip."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from linnet.catalog import CATALOG, SEEDLING, ModelSpec
from linnet.cli import app
from linnet.clip import Clip
from linnet.errors import InvalidInput
from linnet.media import read_metadata
from linnet.pipeline import Pipeline
from linnet.plan.execution import NOTHING_FIXED, ExecutionConfig, as_asked
from linnet.plan.host import Budget
from linnet.plan.machine import Machine, as_loaded, candidates, smaller
from linnet.plan.memory import LINUM_V2, Parameters
from linnet.plan.plan import Plan, SizedModel, Workload
from linnet.prepare import earlier_execution
from linnet.request import make_request
from linnet.runtime import compile as compiling
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import resolve
from tiny_models import close

LINUM = CATALOG["linum-v2-360p"]
GB = 10**9


def planned(vram: int, *, compiler: bool = True, spec: ModelSpec = LINUM, **asked: Any) -> Plan:
    budget = Budget(device=vram * GB, system=64 * GB, limited=frozenset({"vram", "ram"}))
    machine = Machine(device="cuda", dtype="bfloat16", threads=1, budget=budget, compiler=compiler)
    request = make_request(spec, prompt="a fox", seconds=2, seed=0, dtype="bfloat16")
    return machine.plan(
        SizedModel(spec=spec, shape=LINUM_V2), request, fixed=as_asked(NOTHING_FIXED, **asked)
    )


def words(plan: Plan) -> dict[str, tuple[str, str]]:
    return {choice.name: (choice.value, choice.reason) for choice in plan.choices("denoise")}


def test_a_card_compiles_and_batches_where_it_can() -> None:
    large, small = planned(80), planned(6)
    assert (large.execution.compiled, large.execution.batched_guidance) == (True, True)
    assert words(large)["blocks"][0] == "compiled"
    assert words(large)["guidance passes"][0] == "in one batch"
    assert (small.execution.compiled, small.execution.batched_guidance) == (True, False)
    assert words(small)["guidance passes"] == ("in turn", "in one batch they do not fit")
    assert (
        planned(80, spec=replace(LINUM, guidance=0.0)).execution.batched_guidance is False
    )  # there is one pass
    without, refused = planned(80, compiler=False), planned(80, compiled=False)
    assert without.execution.compiled is refused.execution.compiled is False
    assert words(without)["blocks"] == (
        "not compiled",
        "no compiler is here: it takes triton and a C compiler",
    )
    assert words(refused)["blocks"] == ("not compiled", "as asked")
    assert words(planned(80, spec=replace(LINUM, compiled=False))).keys().isdisjoint({"blocks"})


def test_passes_in_one_batch_take_more_memory() -> None:
    large = planned(80)
    turns = replace(large.execution, batched_guidance=False)
    batched, in_turn = (
        Plan(workload=large.workload, execution=execution, text_resident=False)
        for execution in (large.execution, turns)
    )
    bytes_ = [plan.stages[1].device_bytes for plan in (batched, in_turn)]
    stream = 11_960 * 4 * LINUM_V2.dim  # of another pass, the least that it holds
    assert bytes_[0] > bytes_[1] + stream


def test_fp8_halves_the_blocks_and_says_so() -> None:
    plain, fp8 = planned(80), planned(80, fp8=True)
    assert fp8.execution.record() == {
        "convolutions": "channels_last",
        "transformer_format": "float8",
        "batched_guidance": True,
        "fp8": True,
    }
    assert words(fp8)["products"][0] == "FP8, scaled by rows"
    assert "products" not in words(plain)
    saved = LINUM_V2.layers * (LINUM_V2.block.bytes("bfloat16") - LINUM_V2.block.bytes("float8"))
    decode = [plan.stages[-1].device_bytes for plan in (plain, fp8)]
    assert saved <= decode[0] - decode[1] <= 1.05 * saved  # the plan leaves a share free


def test_what_is_loaded_is_kept_and_batched_anew() -> None:
    plan = planned(80)
    loaded = replace(plan.execution, batched_guidance=False)
    assert [one.batched_guidance for one in as_loaded(plan.workload, loaded)] == [True, False]
    fixed = as_asked(loaded.fixed())
    assert [one.batched_guidance for one in as_loaded(plan.workload, loaded, fixed)] == [False]
    assert plan.execution.loads_as(loaded)
    assert not plan.execution.loads_as(replace(loaded, compiled=False))
    less = smaller(planned(80, fp8=True), "denoise").execution
    assert (less.fp8, less.compiled) == (True, True)  # weights stay as they are stored


def test_blocks_are_made_8_bit_once_and_not_at_every_step() -> None:
    """Their file has to have them in 8 bits for them to come from there."""
    workload, fixed = planned(80).workload, as_asked(NOTHING_FIXED, fp8=True)
    stored = replace(LINUM_V2, block=Parameters(0, 0, narrow=LINUM_V2.block.products))
    narrow = replace(workload, model=replace(workload.model, shape=stored))

    def from_file(workload: Workload) -> set[int | None]:
        return {each.resident_blocks for each in candidates(workload, fixed) if each.blocks_from == "file"}

    assert not from_file(workload)
    assert 0 in from_file(narrow)
    assert 0 in {each.resident_blocks for each in candidates(workload, fixed)}


@pytest.mark.parametrize("batched", [False, True])
def test_both_ways_to_guide_make_the_same_clip(
    tiny_model: Path, tmp_path: Path, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SEEDLING, batched_guidance=False)
    files = resolve(SEEDLING, weights=tiny_model)
    request = make_request(spec, prompt="a red star spins", frames=5, steps=4, seed=3, dtype="float32")
    found = []
    for execution in (ExecutionConfig(), ExecutionConfig(batched_guidance=batched)):
        pipeline = Pipeline.open(spec, files, execution=execution)
        sizes: list[int] = []
        forward = pipeline.model.transformer.forward
        monkeypatch.setattr(
            pipeline.model.transformer,
            "forward",
            lambda latents, *given, forward=forward, sizes=sizes, **more: (
                sizes.append(len(latents)),
                forward(latents, *given, **more),
            )[1],
        )
        clip = pipeline.generate(request, tmp_path / "a.mp4", overwrite=True)
        *_, last = pipeline.runner.sample(request)
        found.append(last.latents)
        assert set(sizes) == {2 if execution.batched_guidance else 1}
        assert clip.choices.get("knobs", {}) == execution.record()
        record = Clip.from_metadata(clip.path, read_metadata(clip.path))
        assert earlier_execution(record, spec).get("batched_guidance") is execution.batched_guidance
    close(found[1], found[0])


def test_fp8_is_refused_before_anything_is_read(tiny_model: Path, tmp_path: Path) -> None:
    told = 'error: fp8 "cpu": has no products in FP8; leave it out, or use a card'
    for command in (["generate", "a red star spins", "--output", str(tmp_path / "a.mp4")], ["plan"]):
        result = CliRunner().invoke(app, [*command, "--model", "seedling", "--device", "cpu", "--fp8"])
        assert result.exit_code == 2
        assert told in result.output
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="fp8"):
        Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model), fp8=True)


def test_a_compiler_is_looked_for_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(compiling, "find_spec", lambda name: name in there or None)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name if name in there else None)
    assert compiling.compiler_lacks("cuda") == "the package triton"
    there.add("triton")
    assert compiling.compiler_lacks("cuda") == "a C compiler, such as gcc"
    there.add("gcc")
    assert compiling.compiler_lacks("cuda") is None
    assert compiling.compiler_lacks("cpu") == "a C++ compiler, such as g++"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    with pytest.raises(InvalidInput, match='compile "cuda": needs a card from NVIDIA'):
        compiling.check_compiler("cuda")
    assert resolve_machine("cpu").compiler is False

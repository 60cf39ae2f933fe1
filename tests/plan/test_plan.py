"""Plans: what they count is what is there; what cannot fit is refused with what can, without importing torch."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from linnet.catalog import CATALOG, SEEDLING, ModelSpec
from linnet.cli.plan import app, is_busy, show_plan
from linnet.cli.terminal import format_bytes
from linnet.errors import InvalidInput, WeightsError
from linnet.geometry import FRAMES_PER_LATENT
from linnet.loras import LoraUse
from linnet.measure.rate_measurement import line
from linnet.measure.simulate import simulate
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.plan.cost_model import CostModel, known, remember
from linnet.plan.execution import NOTHING_FIXED, ExecutionConfig, FixedExecution, Tiling, recorded
from linnet.plan.host import Budget, parse_bytes
from linnet.plan.machine import candidates, choose, fits, frugal, key_of, smaller
from linnet.plan.memory import LINUM_V2, Shape, shape_of
from linnet.plan.passes import forwards
from linnet.plan.plan import STAGES, Plan, Row, SizedModel, Stage, Workload
from linnet.plan.refusal import TooLarge, longest_frames
from linnet.plan.tiles import tiles_of, wan_decoder, work
from linnet.request import Dtype, Request, make_request
from linnet.runtime.device import circumstances
from linnet.runtime.machine import budget_of
from linnet.weights.load import load_into
from linnet.weights.quantise import quantise_files
from linnet.weights.store import ModelFiles

LINUM = CATALOG["linum-v2-360p"]
GB = 1_000_000_000
CONFIG = TransformerConfig(dim=64, ffn_dim=256, num_heads=2, num_layers=2, text_len=8, text_dim=32)
TEXT = T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, gated=True)
TINY = TAEConfig(encoder_width=8, decoder_widths=(16, 8, 8, 8))


def workload_of(
    spec: ModelSpec, shape: Shape, request: Request, *, device: str, budget: Budget | None = None
) -> Workload:
    model = SizedModel(spec=spec, shape=shape)
    return Workload(model=model, request=request, device=device, budget=budget or Budget())


def make_plan(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    clips: int = 1,
    encoded_frames: int = 0,
    costs: CostModel | None = None,
    fixed: FixedExecution = NOTHING_FIXED,
) -> Plan:
    workload = workload_of(spec, shape, request, device=device, budget=budget)
    return choose(replace(workload, clips=clips, encoded_frames=encoded_frames), costs, fixed)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    """A tiny model with all of seedling's parts."""
    for name, module in {
        "transformer": Transformer(CONFIG),
        "text": T5Encoder(TEXT),
        "tiny": TAE(TINY),
    }.items():
        prefix = "model." if name == "transformer" else ""
        state = {prefix + key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, tmp_path / f"{name}.safetensors")
    transformer, text, tiny = (tmp_path / f"{name}.safetensors" for name in ("transformer", "text", "tiny"))
    return ModelFiles(transformer=transformer, autoencoder=tiny, text_encoder=text, tokenizer=text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_counted_as_the_loader_will_hold_them(files: ModelFiles, dtype: str) -> None:
    def held(module: nn.Module) -> int:
        return sum(parameter.nbytes for parameter in module.parameters())

    shape, kind = shape_of(files), getattr(torch, dtype)
    transformer = load_into(lambda: Transformer(CONFIG), files.transformer, dtype=kind, prefix="model.")
    assert shape.transformer.bytes(dtype) == pytest.approx(held(transformer), rel=0.02)
    assert shape.block.bytes(dtype) == pytest.approx(held(transformer.blocks[0]), rel=0.02)  # type: ignore[arg-type]
    text = load_into(lambda: T5Encoder(TEXT), files.text_encoder, dtype=kind)
    assert shape.text.bytes(dtype) == pytest.approx(held(text), rel=0.02)
    assert shape.autoencoder.bytes("float32") == held(load_into(lambda: TAE(TINY), files.autoencoder))
    assert (shape.dim, shape.ffn_dim, shape.layers) == (CONFIG.dim, CONFIG.ffn_dim, CONFIG.num_layers)
    assert (shape.text_dim, shape.text_ffn, shape.text_heads) == (TEXT.d_model, TEXT.d_ff, TEXT.num_heads)


def test_weights_in_8_bits_are_counted_as_stored(files: ModelFiles, tmp_path: Path) -> None:
    narrow = replace(
        files, transformer=tmp_path / "narrow.safetensors", text_encoder=tmp_path / "narrow-text.safetensors"
    )
    quantise_files(
        lambda: Transformer(CONFIG), files.transformer, narrow.transformer, "int8", prefix="model."
    )
    quantise_files(lambda: T5Encoder(TEXT), files.text_encoder, narrow.text_encoder, "float8")
    shape = shape_of(narrow)
    for build, file, prefix, count in (
        (lambda: Transformer(CONFIG), narrow.transformer, "model.", shape.transformer),
        (lambda: T5Encoder(TEXT), narrow.text_encoder, "", shape.text),
    ):
        module = load_into(build, file, dtype=torch.bfloat16, prefix=prefix)
        assert count.bytes("bfloat16") == pytest.approx(sum(p.nbytes for p in module.parameters()), rel=0.05)
    assert (shape.text_dim, shape.text_ffn, shape.layers) == (TEXT.d_model, TEXT.d_ff, CONFIG.num_layers)


def test_less_is_taken_where_what_was_planned_was_too_much() -> None:
    request = make_request(LINUM, prompt="a fox", seconds=5, dtype="bfloat16")
    budget = Budget(device=8 * GB, system=12 * GB)
    plan = make_plan(
        LINUM, LINUM_V2, request, device="cuda", budget=budget, fixed=FixedExecution(text_format="int8")
    )
    for stage in STAGES[1:]:
        less = smaller(plan, stage)
        (before,), (after,) = ([s.tensor_bytes for s in p.stages if s.stage == stage] for p in (plan, less))
        assert after <= 0.8 * before
        assert less.fits()
        assert less.execution.text_format == "int8"


def test_what_an_earlier_clip_decided_is_not_decided_again() -> None:
    request = make_request(LINUM, prompt="a fox", seconds=5, dtype="bfloat16")
    roomy, tight = Budget(device=80 * GB, system=80 * GB), Budget(device=7 * GB, system=12 * GB)
    way: dict[str, Any] = {"device": "cuda"}
    frugal = make_plan(LINUM, LINUM_V2, request, budget=tight, **way)
    record = frugal.execution.record()
    tiling = {"rows": 15, "columns": 20, "chunk": 4}
    assert record == {"tiling": tiling, "convolutions": "channels_last"}
    again = make_plan(
        LINUM, LINUM_V2, request, budget=roomy, fixed=recorded(json.loads(json.dumps(record))), **way
    )
    assert again.execution == frugal.execution
    with pytest.raises(InvalidInput, match="is free on cuda"):
        make_plan(LINUM, LINUM_V2, request, budget=Budget(device=4 * GB), fixed=recorded({}), **way)
    for spoilt in ({"resident_blocks": 3}, {"chunks": 4}, {"tiling": {"rows": 0}}, {"text_format": "int4"}):
        with pytest.raises(InvalidInput):
            recorded(spoilt)


def test_a_file_of_another_kind_is_refused_by_name(files: ModelFiles) -> None:
    with pytest.raises(WeightsError, match=r'tiny.safetensors": is not a video transformer'):
        shape_of(replace(files, transformer=files.autoencoder))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("transformer", "model.blocks.0.ffn.0.weight"),
        ("text_encoder", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ],
)
def test_a_tensor_that_is_no_matrix_is_refused_by_name(files: ModelFiles, part: str, name: str) -> None:
    path: Path = getattr(files, part)
    state = load_file(path)
    save_file({**state, name: state[name].flatten()}, path)
    with pytest.raises(WeightsError, match=rf'{path.name}": .*{re.escape(name)} has the shape \[\d+\]'):
        shape_of(files)


def test_a_request_that_just_fits_is_let_through(files: ModelFiles) -> None:
    request, shape = make_request(SEEDLING, prompt="a star", dtype="float32"), shape_of(files)
    need = make_plan(SEEDLING, shape, request, device="cpu", budget=Budget()).peak_system_bytes
    for left in (need, 2 * need):
        assert make_plan(SEEDLING, shape, request, device="cpu", budget=Budget(system=left)).fits()
    with pytest.raises(InvalidInput, match=r"^memory "):
        make_plan(SEEDLING, shape, request, device="cpu", budget=Budget(system=1000))


@pytest.mark.parametrize("clips", [1, 4])
@pytest.mark.parametrize(("device", "option"), [("cpu", "ram"), ("cuda", "vram")])
def test_a_refusal_names_a_budget_that_is_enough(device: str, option: str, clips: int) -> None:
    request = make_request(LINUM, prompt="a fox", seconds=5, dtype="float32")
    asked = frozenset({option})
    small = Budget(device=GB, system=None if device == "cuda" else GB, limited=asked)
    with pytest.raises(
        InvalidInput, match=rf'^{option} "1.0 GB": is too little: the \w+ stage of '
    ) as refused:
        make_plan(LINUM, LINUM_V2, request, device=device, budget=small, clips=clips)
    found = re.search(rf"`{option}=(\S+?)`", refused.value.remedy)
    assert found
    enough = parse_bytes(option, found[1])
    for size, fitting in ((enough, True), (enough - GB // 5, False)):
        budget = Budget(device=size, system=None if device == "cuda" else size, limited=asked)
        if fitting:
            make_plan(LINUM, LINUM_V2, request, device=device, budget=budget, clips=clips)
        else:
            with pytest.raises(InvalidInput):
                make_plan(LINUM, LINUM_V2, request, device=device, budget=budget, clips=clips)


@pytest.mark.parametrize("asked", [("vram", "ram"), ("vram",)])
@pytest.mark.parametrize(("vram", "ram"), [(8, 5), (4, 5), (3, 64), (3, 4), (2, 2), (80, 1)])
def test_what_a_refusal_of_two_budgets_names_is_enough(vram: int, ram: int, asked: tuple[str, ...]) -> None:
    """Of a card's memory more can be saved where main memory has room, and the other way around."""
    large = CATALOG["linum-v2-720p"]
    way: dict[str, Any] = {"device": "cuda"}
    request = make_request(large, prompt="a fox", seconds=5, dtype="bfloat16")
    budget = Budget(device=vram * GB, system=ram * GB, limited=frozenset(asked))
    with pytest.raises(TooLarge) as refused:
        make_plan(large, LINUM_V2, request, budget=budget, **way)
    text, least = str(refused.value), refused.value.least
    assert not least.fits()
    named = {name: parse_bytes(name, size) for name, size in re.findall(r"`(vram|ram)=(\S+?GB)`", text)}
    if found := re.search(r" with (\S+ GB) in main memory", refused.value.remedy):
        named["ram"] = parse_bytes("ram", found[1])
    limits = budget.limits
    assert named or refused.value.field == "memory"
    assert all(size > limits[name] for name, size in named.items()), text
    enough = replace(budget, device=named.get("vram", vram * GB), system=named.get("ram", ram * GB))
    if named:
        assert make_plan(large, LINUM_V2, request, budget=enough, **way).fits()
    for name in limits.keys() & named if len(named) == 1 else ():
        field = {"vram": "device", "ram": "system"}[name]
        less = replace(enough, **{field: named[name] - GB // 5})
        assert not fits(workload_of(large, LINUM_V2, request, budget=less, **way))


def test_an_autoencoder_in_bfloat16_is_the_last_resort() -> None:
    large = CATALOG["linum-v2-720p"]
    request = make_request(large, prompt="a fox", seconds=5, dtype="bfloat16")
    way: dict[str, Any] = {"device": "cuda"}
    pasts = make_plan(large, LINUM_V2, request, budget=Budget(device=8 * GB, system=8 * GB), **way)
    assert (pasts.execution.pasts, pasts.execution.autoencoder_dtype) == ("bfloat16", "float32")
    tight = make_plan(large, LINUM_V2, request, budget=Budget(device=6 * GB, system=7 * GB), **way)
    assert tight.execution.autoencoder_dtype == "bfloat16"
    dtype = tight.choices("decode")[0]
    assert dtype.value == "bfloat16"
    assert "can be seen" in dtype.reason

    # The ways that lose nothing come first; a CPU and a tiny autoencoder have no others.
    def decoders(spec: ModelSpec, device: str) -> list[str]:
        found = candidates(workload_of(spec, LINUM_V2, request, device=device))
        return [execution.autoencoder_dtype for execution in found]

    seen = decoders(large, "cuda")
    assert seen == sorted(seen, reverse=True)
    assert set(decoders(large, "cpu")) == set(decoders(SEEDLING, "cuda")) == {"float32"}


def test_the_transformer_goes_before_blocks_stream_or_frames_are_cut_where_a_budget_was_set() -> None:
    request = make_request(LINUM, prompt="a fox", seconds=5, dtype="bfloat16")
    way: dict[str, Any] = {"device": "cuda"}
    free = Budget(device=8 * GB, system=12 * GB)
    found = make_plan(LINUM, LINUM_V2, request, budget=free, **way)
    assert found.transformer_stays
    assert found.execution.tiling
    asked = make_plan(LINUM, LINUM_V2, request, budget=replace(free, limited=frozenset({"vram"})), **way)
    assert not asked.transformer_stays
    assert (asked.execution.resident_blocks, asked.execution.tiling) == (None, None)
    assert "dropped before" in [choice.value for choice in asked.choices("decode")]
    roomy = make_plan(
        LINUM, LINUM_V2, request, budget=Budget(device=80 * GB, limited=frozenset({"vram"})), **way
    )
    assert roomy.transformer_stays


def test_frames_that_are_given_must_fit_too() -> None:
    large, asked = CATALOG["linum-v2-720p"], frozenset({"vram"})
    request = make_request(large, prompt="a fox", seconds=2, dtype="bfloat16")
    way: dict[str, Any] = {"device": "cuda", "budget": Budget(device=7 * GB, limited=asked)}
    assert make_plan(large, LINUM_V2, request, encoded_frames=1, **way).fits()
    assert make_plan(large, LINUM_V2, request, **way).stages[-1].stage == "decode"
    with pytest.raises(
        TooLarge, match=r'^vram "7.0 GB": is too little: the encode stage .* `vram=9.8GB`, or'
    ):
        make_plan(large, LINUM_V2, request, encoded_frames=49, **way)


@pytest.mark.parametrize(
    ("dtype", "decoder", "shown"),
    [
        ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "auto", "bfloat16"),
        ("float32", "auto", "float32"),
    ],
)
def test_a_plan_tells_what_the_decoder_computes_in(dtype: Any, decoder: Any, shown: str) -> None:
    request = make_request(LINUM, prompt="a fox", dtype=dtype, decoder_dtype=decoder)
    plan = make_plan(LINUM, LINUM_V2, request, device="cuda", budget=Budget())
    assert plan.choices("decode")[0].value == shown


def test_a_refusal_names_the_nearest_request_that_fits() -> None:
    def least(spec: ModelSpec, request: Request) -> int:
        plans = frugal(workload_of(spec, LINUM_V2, request, device="cuda"))
        return min(plan.peak_device_bytes for plan in plans)

    many = make_request(LINUM, prompt="a fox", seconds=5, dtype="bfloat16")
    budget = Budget(device=least(LINUM, many))
    with pytest.raises(InvalidInput, match=r"; use one seed at a time$"):
        make_plan(LINUM, LINUM_V2, many, device="cuda", budget=budget, clips=50)
    large = CATALOG["linum-v2-720p"]
    long, short = (make_request(large, prompt="a fox", seconds=n, dtype="bfloat16") for n in (5, 2))
    assert least(LINUM, replace(short, width=640, height=360)) < least(large, short) < least(large, long)
    with pytest.raises(InvalidInput, match=r"; use `seconds=2`$"):
        make_plan(large, LINUM_V2, long, device="cuda", budget=Budget(device=least(large, short)))
    with pytest.raises(InvalidInput, match=r"; use `model=linum-v2-360p`$"):
        make_plan(large, LINUM_V2, short, device="cuda", budget=Budget(device=least(large, short) - 1))


@pytest.mark.parametrize(
    ("device", "changes"),
    [("cuda", {}), ("cpu", {"dtype": "float32"}), ("cuda", {"loop": True}), ("cuda", {"window": 49})],
)
@pytest.mark.parametrize("name", ["linum-v2-720p", "seedling"])
def test_no_way_to_run_takes_more_for_a_shorter_clip(name: str, device: str, changes: dict[str, Any]) -> None:
    """The longest clip that fits is found by this, in a few of all lengths."""
    spec = CATALOG[name]
    request = replace(make_request(spec, prompt="a fox", dtype="bfloat16"), **changes)
    workload = workload_of(spec, LINUM_V2, request, device=device)
    ways = list(frugal(workload))
    for way in ways[:: max(1, len(ways) // 20)]:
        plans = (
            replace(way, workload=workload.asking(replace(request, frames=frames)))
            for frames in range(spec.least_window, 2 * spec.max_frames, FRAMES_PER_LATENT)
        )
        for shorter, longer in pairwise(plans):
            assert shorter.peak_device_bytes <= longer.peak_device_bytes
            assert shorter.peak_system_bytes <= longer.peak_system_bytes


def test_a_loop_that_cannot_fit_is_refused_as_any_clip(files: ModelFiles) -> None:
    request = make_request(SEEDLING, prompt="a star", dtype="bfloat16", loop=True)
    with pytest.raises(TooLarge, match=r'^memory "0.1 GB": is free on cpu'):
        make_plan(SEEDLING, shape_of(files), request, device="cpu", budget=Budget(system=GB // 10))


@pytest.mark.parametrize(("vram", "ram"), [(3.2, 64), (5, 7)])
def test_the_longest_clip_that_fits_is_that_of_a_search_one_by_one(vram: float, ram: float) -> None:
    request = make_request(LINUM, prompt="a fox", dtype="bfloat16")
    budget = Budget(device=int(vram * GB), system=int(ram * GB))
    workload = workload_of(LINUM, LINUM_V2, request, device="cuda", budget=budget)
    lengths = range(LINUM.max_frames, LINUM.min_frames - 1, -FRAMES_PER_LATENT)
    one_by_one = (frames for frames in lengths if fits(workload.asking(replace(request, frames=frames))))
    assert longest_frames(workload, fits) == next(one_by_one, None)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * GB), ("8 gb", 8 * GB), ("1.5GiB", 3 * 2**29), ("500MB", GB // 2)]
)
def test_amounts_of_memory_are_read(text: str, size: int) -> None:
    assert parse_bytes("vram", text) == size


@pytest.mark.parametrize("text", ["8 gigs", "8", "GB", "-8GB", "0GB", "8GBs", "1e3GB", ""])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=rf'^vram "{re.escape(text)}": .*8GB$'):
        parse_bytes("vram", text)


def test_a_cpu_has_no_vram() -> None:
    with pytest.raises(InvalidInput, match=r'^vram "8.0 GB": .*; give main memory'):
        budget_of("cpu", vram=8 * GB)
    assert budget_of("cpu", ram=GB) == Budget(system=GB, limited=frozenset({"ram"}))


@pytest.mark.parametrize(("encoded_frames", "decoder"), [(1, "float32"), (13, "bfloat16")])
def test_a_plan_predicts_what_encoding_holds(encoded_frames: int, decoder: Dtype) -> None:
    request = make_request(LINUM, prompt="a fox", seconds=2, dtype="bfloat16")
    budget, fixed = (
        Budget(device=6 * GB, limited=frozenset({"vram"})),
        FixedExecution(autoencoder_dtype=decoder),
    )
    plan = make_plan(
        LINUM, LINUM_V2, request, device="cuda", budget=budget, fixed=fixed, encoded_frames=encoded_frames
    )
    found = plan.stages[-1].tensor_bytes
    assert found == pytest.approx(simulate(plan, "encode").device, rel=0.1)


EIGHT_BITS = FixedExecution(fp8=True, transformer_format="float8", text_format="int8")


@pytest.mark.parametrize(
    ("gigabytes", "name", "fixed"),
    [
        (4, "text", NOTHING_FIXED),
        (4, "denoise", NOTHING_FIXED),
        (24, "denoise", EIGHT_BITS),
        (12, "decode", FixedExecution(autoencoder_dtype="float32")),
        (12, "decode", FixedExecution(autoencoder_dtype="bfloat16")),
    ],
)
def test_a_plan_predicts_what_a_full_size_run_holds(
    gigabytes: int, name: Stage, fixed: FixedExecution
) -> None:
    request = make_request(LINUM, prompt="a fox", seconds=2, dtype="bfloat16")
    budget = Budget(device=gigabytes * GB, system=12 * GB)
    plan = make_plan(LINUM, LINUM_V2, request, device="cuda", budget=budget, fixed=fixed)
    (stage,) = (stage for stage in plan.stages if stage.stage == name)
    assert stage.tensor_bytes == pytest.approx(simulate(plan, name).device, rel=0.1)


@pytest.mark.parametrize("gigabytes", [4, 24])  # with blocks that come and go, and without
def test_a_plan_predicts_what_a_lora_takes(gigabytes: int) -> None:
    use = LoraUse(file="dog", numbers=118_620_160)  # rank 64 on every layer of Linum's blocks
    request = make_request(LINUM, prompt="a fox", seconds=2, dtype="bfloat16", loras=[use])
    budget = Budget(device=gigabytes * GB, system=12 * GB)
    plan = make_plan(LINUM, LINUM_V2, request, device="cuda", budget=budget)
    (stage,) = (stage for stage in plan.stages if stage.stage == "denoise")
    assert stage.tensor_bytes == pytest.approx(simulate(plan, "denoise").device, rel=0.1)


SLOW = CostModel(
    call=0.01,
    block=1e-3,
    token=1e-5,
    pair=1e-9,
    step=1e-6,
    frame=0.1,
    cell=1e-4,
    low_frame=0.05,
    low_cell=1e-5,
    pixel=1e-8,
    prompt=2.0,
    copy=1e-9,
    read=None,
)


def test_seconds_are_those_measured_or_none(tmp_path: Path) -> None:
    rates = SLOW
    request = make_request(LINUM, prompt="a fox", seconds=2, steps=10, dtype="bfloat16")
    plan = make_plan(LINUM, LINUM_V2, request, device="cpu", budget=Budget())
    assert plan.seconds is None
    assert known("here", tmp_path) is None
    remember("here", rates, tmp_path)
    remember("there", replace(rates, prompt=None), tmp_path)
    assert known("here", tmp_path) == rates
    plan = make_plan(LINUM, LINUM_V2, request, device="cpu", budget=Budget(), costs=known("here", tmp_path))
    block = 1e-3 + 11_960 * (1e-5 + 11_960 * 1e-9)
    written = 49 * 640 * 360 * 1e-8
    denoise = 20 * (40 * block + 0.01 + 11_960 * 1e-6)
    assert plan.seconds == pytest.approx(2 + denoise + 13 * (0.1 + 3600 * 1e-4) + written)
    lower = rates.of(
        workload_of(LINUM, LINUM_V2, replace(request, decoder_dtype="auto"), device="cpu"), ExecutionConfig()
    )
    assert lower["decode"] == pytest.approx(13 * (0.05 + 3600 * 1e-5) + written)
    plan = make_plan(LINUM, LINUM_V2, request, device="cpu", budget=Budget(), costs=known("there", tmp_path))
    assert plan.stages[0].seconds is None
    assert key_of("a", "float32", 1, LINUM_V2, "wan") != key_of("a", "float32", 2, LINUM_V2, "wan")


def test_what_saves_memory_is_counted_as_what_it_takes() -> None:
    request = make_request(LINUM, prompt="a fox", seconds=2, steps=1, guidance=0.0, dtype="bfloat16")

    def seconds(rates: CostModel, **execution: Any) -> dict[Row, float]:
        return rates.of(workload_of(LINUM, LINUM_V2, request, device="cuda"), ExecutionConfig(**execution))

    free = replace(SLOW, call=0.0, block=1.0, token=0.0, pair=0.0, step=0.0, pixel=0.0)
    assert seconds(free, resident_blocks=20)["denoise"] == 40  # 2 GB come in 2 s, while blocks compute
    absent = 20 * LINUM_V2.block.bytes("bfloat16")
    crawling = replace(free, copy=1e-7)
    assert seconds(crawling, resident_blocks=20)["denoise"] == pytest.approx(absent * 1e-7)
    assert "denoise" not in seconds(free, resident_blocks=20, blocks_from="file")
    plain, tiled = (seconds(replace(free, copy=0.0), tiling=way)["decode"] for way in (None, Tiling()))
    assert tiled == pytest.approx(1.143 * plain, rel=1e-3)
    assert seconds(free, tiling=Tiling())["decode"] > tiled
    read = seconds(replace(free, prompt=None, read=1e-9))
    assert read["text"] == pytest.approx(LINUM_V2.text.bytes("bfloat16") * 1e-9)


@pytest.mark.parametrize(("model", "card"), [("linum-v2-360p", 6), ("linum-v2-720p", 8)])
def test_a_small_card_is_little_slower_than_a_large_one(model: str, card: int) -> None:
    """Of a consumer's card: 60 TFLOP/s in bfloat16, 20 in float32, 12 GB/s over PCIe, and a disk that reads 3 GB/s."""
    product, single = 2 / 60e12, 2 / 20e12
    whole, tiled = wan_decoder()
    cell = sum(work(part, tile) for part in (whole, tiled) for tile in tiles_of(part, 1, 1, Tiling()))
    rates = CostModel(
        call=0.0,
        block=0.0,
        token=product * LINUM_V2.block.products,
        pair=product * 2 * LINUM_V2.dim,
        step=product * (LINUM_V2.transformer.products - 40 * LINUM_V2.block.products),
        frame=0.0,
        cell=single * cell,
        low_frame=0.0,
        low_cell=product * cell,
        pixel=3e-8,
        prompt=None,
        copy=1 / 12e9,
        read=1 / 3e9,
    )
    spec = CATALOG[model]
    request = make_request(spec, prompt="a fox", seconds=5, dtype="bfloat16")
    way: dict[str, Any] = {"device": "cuda", "budget": Budget(device=card * GB, system=12 * GB)}
    plan = make_plan(spec, LINUM_V2, request, costs=rates, **way)
    assert plan.execution.tiling
    assert plan.slower is not None
    assert 0 < plan.slower <= 0.15
    bus = make_plan(spec, LINUM_V2, request, costs=replace(rates, copy=1 / 12e6, read=1 / 3e6), **way)
    assert bus.slower is not None
    assert bus.slower > 0.15


def test_a_line_goes_through_what_was_measured_and_is_never_below_nothing() -> None:
    assert line((1, 2, 4), (3.0, 5.0, 9.0), (1.0, 1.0, 1.0)) == pytest.approx((1, 2))
    # Chance has made the short run too short: the slope is that of all, not the steep one.
    assert line((1, 2, 4), (0.5, 2.0, 4.4), (0.5, 2.0, 4.4)) == pytest.approx((0, (0.5 + 1 + 1.1) / 3))
    assert line((1, 2, 4), (3.0, 2.0, 1.0), (3.0, 2.0, 1.0)) == pytest.approx((2, 0))


def test_what_one_xeon_was_measured_at_is_not_what_another_is_capable_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(**features: bool) -> str:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
        return key_of(f"Intel Xeon, {circumstances()}", "bfloat16", 1, LINUM_V2, "wan")

    assert key(amx_bf16=True) != key(amx_bf16=False)


def test_this_device_is_measured_and_remembered(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    for name, less in (("ROUNDS", 1), ("ENOUGH", 0.0), ("ATTENDED", 64), ("WRITTEN", 2)):
        monkeypatch.setattr(f"linnet.measure.rate_measurement.{name}", less)
    words = ("--model", "seedling", "--weights", tiny_model, "--device", "cpu", "--threads", 1, "--json")
    measured, remembered = (json.loads(plan(*words, *more)[1]) for more in (["--measure"], []))
    assert all(stage["seconds"] > 0 for stage in measured["stages"])
    assert remembered["stages"] == measured["stages"]


@pytest.mark.parametrize(("load", "busy"), [(0.0, False), (99.0, True)])
def test_a_busy_processor_is_told_of(load: float, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "linnet.cli.plan.os", SimpleNamespace(getloadavg=lambda: (load, 0.0, 0.0), cpu_count=lambda: 2)
    )
    assert is_busy() is busy


def test_steps_that_do_less_are_counted_as_less() -> None:
    request = make_request(LINUM, prompt="a fox", steps=10, dtype="float32")
    assert forwards(request) == [2] * 10
    assert forwards(replace(request, guidance=0.0)) == [1] * 10
    assert forwards(replace(request, guidance_from=0.2, guidance_until=0.5)) == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    assert forwards(replace(request, reuse="4,6")) == [2] * 8
    # In floating point 0.14 of 50 is a little more than 7.
    assert forwards(replace(request, steps=50, guidance_until=0.14)) == [2] * 7 + [1] * 43


def plan(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, InvalidInput):
        return 2, str(result.exception)
    return result.exit_code, result.stdout


def test_the_command_plans_for_a_card_that_is_not_here() -> None:
    words = ("--model", "linum-v2-360p", "--device", "cuda", "--vram", "24GB", "--ram", "12GB")
    status, text = plan(*words, "--json")
    record = json.loads(text)
    assert status == 0
    assert record["fits"]
    assert 4 * GB < record["peak_device_bytes"] <= 24 * GB
    assert record["peak_system_bytes"] <= 12 * GB
    assert [stage["stage"] for stage in record["stages"]] == ["text", "denoise", "decode"]
    assert all(choice["reason"] for stage in record["stages"] for choice in stage["choices"])
    assert (record["seconds"], record["dtype"]) == (None, "bfloat16")
    status, text = plan(*words)
    assert "not measured" in text


def test_the_command_says_what_memory_costs_and_what_is_not_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = make_request(LINUM, prompt="a fox", seconds=5, dtype="bfloat16")
    rates = replace(SLOW, prompt=None, cell=1.0)
    budget = Budget(device=6 * GB, system=12 * GB)
    plan = make_plan(LINUM, LINUM_V2, request, device="cuda", budget=budget, costs=rates)
    show_plan(plan)
    shown = capsys.readouterr().out
    assert "without text" in shown
    assert plan.slower is not None
    assert f"{100 * plan.slower:.0f} % slower than with all in memory" in shown
    assert plan.to_json()["slower"] == plan.slower


def test_a_plan_says_what_is_made_in_which_windows_and_that_it_fits() -> None:
    words = (
        "--model",
        "linum-v2-360p",
        "--device",
        "cuda",
        "--vram",
        "8GB",
        "--ram",
        "16GB",
        "--seconds",
        "12",
    )
    status, text = plan(*words)
    assert status == 0
    taken = json.loads(plan(*words, "--json")[1])
    made, windows, fits, *_ = text.splitlines()
    assert made == "linum-v2-360p: 12 s of 640x360 (289 frames), 50 steps, on cuda in bfloat16."
    assert windows == f"It is made in {taken['windows']} windows of 121 frames, one after the other."
    device, system = (format_bytes(taken[f"peak_{name}_bytes"]) for name in ("device", "system"))
    limits = "8.0 GB that are allowed on cuda", "16 GB that are allowed in main memory"
    assert fits == f"It fits: {device} of the {limits[0]} and {system} of the {limits[1]}."


@pytest.mark.parametrize("driver", [False, True])
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_card_that_is_not_here_is_not_asked(
    device: str, driver: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.runtime.machine.may_have_gpu", lambda: driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    words = ("--model", "linum-v2-360p", "--device", device, "--vram", "8GB", "--json")
    status, text = plan(*words)
    assert status == 0
    assert json.loads(text)["dtype"] == "bfloat16"


def test_what_is_not_here_is_not_measured() -> None:
    words = ("--model", "linum-v2-360p", "--device", "cuda:99", "--vram", "24GB", "--measure")
    status, text = plan(*words)
    assert status == 2
    assert text.startswith('device "cuda:99": is not here to be measured')


def test_what_cannot_fit_is_refused_before_torch_is_imported() -> None:
    words = ["plan", "--model", "linum-v2-720p", "--device", "cuda", "--vram", "1GB", "--json"]
    code = f"""
import sys
from linnet.cli import app
from typer.main import get_command
try:
    get_command(app).main({words!r})
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    record = json.loads(done.stdout)
    assert record["fits"] is False
    assert record["peak_device_bytes"] > record["budget"]["device_bytes"] == GB
    assert done.stderr.startswith('error: vram "1.0 GB": is too little')

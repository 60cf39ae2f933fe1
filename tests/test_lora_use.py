"""A clip that is made with LoRAs: from Python, in blocks that come and go, on several processes, and found again."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import linnet
from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.direct.storyboard import read_storyboard
from linnet.errors import InvalidInput, WeightsError
from linnet.loras import LoraUse, parse_lora
from linnet.media import read_metadata
from linnet.models.lora import LoraLinear, LoraWeights, apply_lora, part_of
from linnet.models.transformer import Transformer
from linnet.multi_gpu import attach
from linnet.pipeline import Pipeline
from linnet.plan.execution import ExecutionConfig
from linnet.prepare import Settings, prepare_clips
from linnet.runtime.machine import resolve_machine
from linnet.runtime.stream import stream_into
from linnet.weights.files import read_header
from linnet.weights.load import load_into, matched
from linnet.weights.lora import Lora, parameter_shapes, write_lora
from linnet.weights.lora_files import shapes_in
from linnet.weights.lora_formats import Shape
from linnet.weights.store import resolve
from tiny_models import DEEPER, close, draw, random_model, velocity

PROMPT = "a red star"
FEW: Settings = {
    "model": "seedling",
    "device": "cpu",
    "dtype": "float32",
    "frames": 13,
    "steps": 8,
    "seed": 3,
}


def lora_for(shapes: dict[str, Shape], seed: int = 1, size: float = 0.2) -> Lora:
    """On every layer and every norm of the blocks."""
    weights: dict[str, LoraWeights] = {}
    for name, shape in shapes.items():
        module, _, own = name.rpartition(".")
        if len(shape) == 2 and own == "weight":
            down, up = draw(2, shape[1], seed=seed), draw(shape[0], 2, seed=seed + 1)
            lengths = draw(shape[0]).abs() + 1 if module.endswith("self_attn.q") else None
            weights[module] = LoraWeights(size * down, size * up, 2.0, dora_scale=lengths)
        elif "norm1" in module and own == "weight":
            weights[module] = LoraWeights(diff=size * draw(*shape, seed=seed))
    return Lora(weights=weights)


# --- blocks that come and go ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.parametrize("source", ["file", "memory"])
def test_streamed_blocks_carry_their_own(
    tmp_path: Path, held: int, source: Literal["file", "memory"]
) -> None:
    file = tmp_path / "transformer.safetensors"
    save_file({f"model.{k}": v for k, v in random_model(config=DEEPER).state_dict().items()}, file)
    resident = load_into(lambda: Transformer(DEEPER), file, prefix="model.").eval()
    lora = dict(lora_for(parameter_shapes(resident)).weights)
    del lora["blocks.2.self_attn.k"]  # not all blocks alike
    apply_lora(resident, lora, 0.5)
    model, headers = matched(lambda: Transformer(DEEPER), file, prefix="model.")
    blocks = stream_into(
        model,
        headers,
        device="cpu",
        dtype=torch.float32,
        resident_blocks=held,
        blocks_from=source,
        prefix="model.",
        adapt=lambda part, name: apply_lora(part, part_of(lora, name), 0.5),
    )
    assert torch.equal(velocity(model.eval(), blocks), velocity(resident))


# --- clips ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(tiny_model: Path, tmp_path: Path) -> Path:
    return write_lora(tmp_path / "dog.safetensors", lora_for(shapes_of(tiny_model), size=0.05))


def shapes_of(model: Path) -> dict[str, Shape]:
    return shapes_in(read_header(model / "transformer.safetensors"))


def latents(pipeline: Pipeline, settings: dict[str, Any]) -> Tensor:
    request = linnet.make_request(pipeline.spec, prompt=PROMPT, frames=13, steps=8, seed=3, **settings)
    return pipeline.latents(pipeline.plan(request)).latents


def test_a_loaded_model_changes_its_loras_from_request_to_request(tiny_model: Path, lora: Path) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu", dtype="float32", threads=1)
    use = LoraUse(file=str(lora), strength=0.7)
    plain, taught = latents(pipeline, {}), latents(pipeline, {"loras": [use]})
    assert (taught - plain).norm() > 0.01 * plain.norm()
    assert torch.equal(latents(pipeline, {}), plain)
    assert torch.equal(latents(pipeline, {"loras": [LoraUse(file=str(lora), strength=0)]}), plain)
    assert torch.equal(latents(pipeline, {"loras": [use]}), taught)
    pipeline.unload()
    assert torch.equal(latents(pipeline, {"loras": [use]}), taught)


@pytest.mark.parametrize("held", [None, 1])
def test_merged_ones_make_the_same_clip(tiny_model: Path, lora: Path, held: int | None) -> None:
    """To rounding, of several at once, also in blocks that come and go; without them the model is as it was."""
    other = write_lora(lora.with_name("cat.safetensors"), lora_for(shapes_of(tiny_model), seed=5, size=0.05))
    execution = None if held is None else ExecutionConfig(resident_blocks=held, blocks_from="memory")
    machine = resolve_machine("cpu", dtype="float32", threads=1)
    files = resolve(SEEDLING, weights=tiny_model)
    pipeline = Pipeline.open(SEEDLING, files, machine, execution=execution)
    uses = [
        LoraUse(file=str(lora), strength=0.7, numbers=99),
        LoraUse(file=str(other), strength=-0.4, numbers=9),
    ]
    plain, beside = latents(pipeline, {}), latents(pipeline, {"loras": uses})
    merged = latents(pipeline, {"loras": [replace(use, merged=True) for use in uses]})
    assert (merged - beside).norm() < 1e-5 * beside.norm()
    assert not any(isinstance(module, LoraLinear) for module in pipeline.model.transformer.modules())
    assert torch.equal(latents(pipeline, {}), plain)


def test_merging_is_recorded_and_refused_where_it_would_round_away(
    tiny_model: Path, lora: Path, tmp_path: Path
) -> None:
    settings: Settings = {**FEW, "weights": tiny_model, "loras": [str(lora)], "lora_merge": True}
    made = linnet.generate(PROMPT, tmp_path / "a.mp4", **settings)
    assert (read_metadata(made.path) or {})["request"]["loras"][0]["merged"] is True
    again = linnet.generate(None, tmp_path / "b.mp4", like=made.path, weights=tiny_model, device="cpu")
    assert again.path.read_bytes() == made.path.read_bytes()
    beside = linnet.generate(
        None, tmp_path / "c.mp4", like=made.path, lora_merge=False, weights=tiny_model, device="cpu"
    )
    assert "merged" not in (read_metadata(beside.path) or {})["request"]["loras"][0]

    with pytest.raises(InvalidInput, match=r"lora_merge.*has no LoRA to merge"):
        prepare_clips(PROMPT, {**FEW, "weights": tiny_model, "lora_merge": True})
    narrow = Pipeline.open(
        SEEDLING,
        resolve(SEEDLING, weights=tiny_model),
        resolve_machine("cpu", threads=1),
        execution=ExecutionConfig(transformer_format="int8"),
    )
    with pytest.raises(InvalidInput, match=r"lora_merge.*round the LoRA away, since the weights are in int8"):
        narrow.plan(again.request)
    with pytest.raises(InvalidInput, match="merged in part"):
        linnet.make_request(
            SEEDLING, prompt=PROMPT, loras=[LoraUse(file="a", merged=True), LoraUse(file="b")]
        )


def test_two_processes_use_them_too(tiny_model: Path, lora: Path) -> None:
    settings = {"loras": [LoraUse(file=str(lora), strength=0.7)], "guidance": 3.0}
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu", dtype="float32", threads=1)
    alone = latents(pipeline, settings)
    request = linnet.make_request(pipeline.spec, prompt=PROMPT, frames=13, steps=8, seed=3, **settings)
    attach(pipeline, 2, pipeline.plan(request), device="cpu")
    try:
        close(latents(pipeline, settings), alone)
    finally:
        pipeline.unload()


def test_a_clip_records_them_and_like_finds_them(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    settings: Settings = {**FEW, "weights": tiny_model}
    taught: Settings = {**settings, "loras": [f"{lora}:0.7"]}
    with_it = linnet.generate(PROMPT, tmp_path / "a.mp4", **taught)
    record = (read_metadata(with_it.path) or {})["request"]["loras"]
    assert [(use["file"], use["strength"], len(use["hash"])) for use in record] == [(str(lora), 0.7, 64)]
    again = linnet.generate(None, tmp_path / "b.mp4", like=with_it.path, weights=tiny_model, device="cpu")
    assert again.path.read_bytes() == with_it.path.read_bytes()
    without = linnet.generate(PROMPT, tmp_path / "c.mp4", **settings)
    assert "loras" not in (read_metadata(without.path) or {})["request"]
    off = linnet.generate(None, tmp_path / "d.mp4", like=with_it.path, loras=["none"], weights=tiny_model)
    assert off.request.loras == ()

    folder = tmp_path / "elsewhere"  # a clip and its LoRA, moved together
    folder.mkdir()
    moved, clip = lora.rename(folder / lora.name), with_it.path.rename(folder / "a.mp4")
    again = linnet.generate(None, tmp_path / "e.mp4", like=clip, weights=tiny_model, device="cpu")
    assert again.request.loras[0].hash == with_it.request.loras[0].hash

    write_lora(moved, lora_for(shapes_in(read_header(tiny_model / "transformer.safetensors")), seed=9))
    ready = prepare_clips(None, {"like": clip, "weights": tiny_model, "device": "cpu"})
    assert any("has changed since" in note for note in ready.notes)
    moved.unlink()
    with pytest.raises(
        WeightsError, match=r'lora ".*dog.safetensors": is not here, and .*a.mp4 was made with it'
    ):
        prepare_clips(None, {"like": clip, "weights": tiny_model, "device": "cpu"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("none.safetensors", "is missing"),
        ("dog.safetensors:1000", "is out of range for a strength"),
        ("dog.safetensors:nan", "is out of range for a strength"),
        ("other.safetensors", "is of nothing in this model"),
    ],
)
def test_what_cannot_be_used_is_refused_before_weights_are_read(
    text: str, problem: str, tiny_model: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lora.parent)
    save_file({"diffusion_model.blocks.77.self_attn.q.diff": torch.zeros(2, 2)}, "other.safetensors")
    with pytest.raises(InvalidInput, match=problem):
        prepare_clips(PROMPT, {**FEW, "weights": tiny_model, "loras": [text]})


def test_the_plan_counts_what_a_lora_takes(tiny_model: Path, lora: Path) -> None:
    settings: Settings = {**FEW, "weights": tiny_model}
    plain, more = (
        prepare_clips(PROMPT, {**settings, "loras": loras}).plans[0] for loras in (None, [str(lora)])
    )
    numbers = sum(tensor.numel() for tensor in tensors_of(lora))
    difference = [b.tensor_bytes - a.tensor_bytes for a, b in zip(plain.stages, more.stages, strict=True)]
    assert difference == [4 * numbers] * len(difference)

    words = ["plan", "--weights", str(tiny_model), "--seconds", "0.5", "--json"]
    own = ["--lora", str(lora)]
    without, with_it, merged = (
        json.loads(CliRunner().invoke(app, [*words, *loras]).stdout)["peak_system_bytes"]
        for loras in ([], own, [*own, "--lora-merge"])
    )
    assert with_it > without == merged


def tensors_of(path: Path) -> list[Tensor]:
    from safetensors.torch import load_file

    return list(load_file(path).values())


def test_a_clip_without_them_imports_nothing_of_them(tiny_model: Path, tmp_path: Path) -> None:
    settings = {**FEW, "weights": str(tiny_model)}
    script = (
        "import sys, json, linnet; linnet.generate('a red star', 'a.mp4', **json.loads(sys.argv[1]));"
        "names = [name for name in sys.modules if 'linnet' in name and 'lora' in name and name != 'linnet.loras'];"
        "sys.exit(', '.join(names) or 0)"
    )
    subprocess.run([sys.executable, "-c", script, json.dumps(settings)], check=True, cwd=tmp_path)


def test_a_strength_stands_behind_the_file() -> None:
    assert parse_lora("dog.safetensors:0.5") == ("dog.safetensors", 0.5)
    assert parse_lora("C:\\loras\\dog.safetensors") == ("C:\\loras\\dog.safetensors", 1.0)
    assert parse_lora("a:b:-1") == ("a:b", -1.0)


def test_a_storyboard_names_them_for_the_film_or_for_a_shot(tiny_model: Path, lora: Path) -> None:
    other = lora.with_name("cat.safetensors")
    other.write_bytes(lora.read_bytes())
    film = lora.with_name("film.yaml")
    shots = [
        "- prompt: a red star",
        "- {prompt: a red star, lora: cat}",
        "- {prompt: a red star, lora: none}",
    ]
    film.write_text("\n".join(["lora: dog.safetensors:0.7", "shots:", *shots]))
    board = read_storyboard(film, model="seedling", weights=tiny_model)
    used = [[(use.name, use.strength) for use in shot.request.loras] for shot in board.shots]
    assert used == [[("dog", 0.7)], [("cat", 1.0)], []]
    board = read_storyboard(film, model="seedling", weights=tiny_model, loras=[f"{other}:0.1"])
    assert [(use.name, use.strength) for use in board.shots[0].request.loras] == [("cat", 0.1)]
    film.write_text("shots:\n- prompt: a red star\n- {prompt: a red star, begin: morph, lora: cat}")
    with pytest.raises(InvalidInput, match=r"film.yaml:3: shot 2: loras .* differs from the shot before"):
        read_storyboard(film, model="seedling", weights=tiny_model)
    film.write_text("shots:\n- {prompt: a red star, lora: gone}")
    with pytest.raises(InvalidInput, match=r"film.yaml:2: shot 1: lora .* is missing"):
        read_storyboard(film, model="seedling", weights=tiny_model)

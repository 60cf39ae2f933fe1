"""LoRAs into a transformer's file, and out of the difference of two; the command that does it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from linnet.cli import app
from linnet.errors import WeightsError
from linnet.models.lora import LoraWeights, apply_lora
from linnet.models.transformer import Transformer
from linnet.weights.load import load_into
from linnet.weights.lora import Lora, parameter_shapes, read_lora, write_lora
from linnet.weights.lora_merge import extract_lora, merge_loras
from tiny_models import SMALL, close, draw, random_model, velocity

Q = "blocks.0.self_attn.q"
LORA = Lora(
    weights={
        Q: LoraWeights(
            draw(3, SMALL.dim), draw(SMALL.dim, 3, seed=2), 1.0, dora_scale=draw(SMALL.dim).abs() + 1
        ),
        "head.head": LoraWeights(draw(2, SMALL.dim, seed=3), draw(64, 2, seed=4), 2.0),
        "blocks.1.norm2": LoraWeights(diff=draw(SMALL.dim), diff_bias=draw(SMALL.dim, seed=5)),
        "blocks.1": LoraWeights(diff_modulation=draw(1, 6, SMALL.dim)),
    }
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "transformer.safetensors"
    save_file({f"model.{name}": weight for name, weight in random_model().state_dict().items()}, path)
    return path


def loaded(path: Path) -> Transformer:
    return load_into(lambda: Transformer(SMALL), path, prefix="model.").eval()


def test_merged_weights_compute_what_the_lora_does(base: Path, tmp_path: Path) -> None:
    model, target = loaded(base), tmp_path / "merged.safetensors"
    apply_lora(model, LORA.weights, 0.6)
    merge_loras(base, [(LORA, 0.6)], target)
    close(velocity(loaded(target)), velocity(model))


def test_what_was_merged_is_extracted(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "merged.safetensors"
    merge_loras(base, [(LORA, 1.0)], target)
    made = extract_lora(base, target, rank=SMALL.dim)
    assert made.kept == pytest.approx(1, abs=1e-6)
    assert made.lora.weights.keys() == LORA.weights.keys()
    model = loaded(base)
    apply_lora(model, made.lora.weights)
    close(velocity(model), velocity(loaded(target)))
    assert 0.1 < extract_lora(base, target, rank=1).kept < 0.99
    with pytest.raises(WeightsError, match="holds the weights of"):
        extract_lora(base, base, rank=1)


def test_nothing_is_merged_into_8_bits(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base)
    tensors[f"model.{Q}.weight"] = tensors[f"model.{Q}.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, base)
    with pytest.raises(WeightsError, match="in which a LoRA would be rounded away"):
        merge_loras(base, [(LORA, 1.0)], tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


def test_the_command_inspects_and_converts(tmp_path: Path, tiny_model: Path) -> None:
    few = Lora(weights={Q: LoraWeights(draw(2, 32), draw(32, 2), 1.0)})
    write_lora(tmp_path / "a.safetensors", few)

    def run(*words: str) -> str:
        result = CliRunner().invoke(
            app, ["lora", *words, "--model", "seedling", "--weights", str(tiny_model)]
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    record = json.loads(run("inspect", str(tmp_path / "a.safetensors"), "--json"))
    assert (record["layout"], record["ranks"], record["scales"]) == ("original", [2], [0.5])
    run("convert", str(tmp_path / "a.safetensors"), "--to", "peft", "--output", str(tmp_path / "b"))
    again = read_lora(tmp_path / "b", parameter_shapes(Transformer(SMALL)))
    assert (again.layout, again.weights[Q].alpha) == ("peft", 1.0)

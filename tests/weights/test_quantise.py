"""Weights in 8 bits: near the whole ones, and the same however they came to be."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from linnet.catalog import SEEDLING, Format
from linnet.cli import app
from linnet.errors import InvalidInput, WeightsError
from linnet.models.quantised import STORED, QuantisedLinear, quantise
from linnet.models.text import T5Encoder
from linnet.models.transformer import Transformer
from linnet.runtime.offload import encode_streamed
from linnet.runtime.stream import stream_into
from linnet.runtime.text import text_config
from linnet.weights.load import fill, load_into, matched
from linnet.weights.quantise import quantise_files
from linnet.weights.store import resolve
from tiny_models import DEEPER, draw, random_model, velocity

FORMATS: list[Format] = ["int8", "float8"]
formats = pytest.mark.parametrize("format", FORMATS)


def build() -> Transformer:
    return Transformer(DEEPER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "transformer.safetensors"
    save_file({f"model.{k}": v for k, v in random_model(config=DEEPER).state_dict().items()}, path)
    return path


@pytest.fixture(params=FORMATS)
def narrow(whole: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Format]:
    quantise_files(build, whole, tmp_path / "narrow.safetensors", request.param, prefix="model.")
    return tmp_path / "narrow.safetensors", request.param


@formats
def test_a_weight_is_off_by_half_a_step_at_most(format: Format) -> None:
    weight = draw(5, 400) * torch.tensor([1e-6, 1.0, 0.0, 3e4, 1e-3])[:, None]
    stored, scale = quantise(weight, STORED[format])
    assert stored.dtype == STORED[format]
    off = (stored.float() * scale.float() - weight).abs()
    # Of float8's numbers the largest have four bits and the smallest are 2^-9 apart.
    bound = 0.502 * scale.float() if format == "int8" else weight.abs() / 16 + scale.float() * 2**-10
    assert (off <= bound).all()
    assert scale[2] == 1


@formats
def test_a_layer_is_that_of_its_whole_weights(format: Format) -> None:
    stored, scale = quantise(draw(6, 8), STORED[format])
    layer = QuantisedLinear(8, 6, bias=True, format=format)
    layer.load_state_dict({"weight": stored, "scale": scale.float(), "bias": draw(6, seed=2)})
    x = draw(3, 8, seed=3)
    assert torch.equal(layer(x), F.linear(x, stored.float() * scale.float(), draw(6, seed=2)))


def similarity(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_made_at_loading_or_once_for_all_it_is_the_same(
    whole: Path, narrow: tuple[Path, Format], dtype: torch.dtype
) -> None:
    file, format = narrow
    at_loading = load_into(build, whole, dtype=dtype, prefix="model.", quantise=format).eval()
    from_file = load_into(build, file, dtype=dtype, prefix="model.").eval()
    state = from_file.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in at_loading.state_dict().items())
    assert state["blocks.0.ffn.0.weight"].dtype == STORED[format]
    assert state["blocks.0.ffn.0.scale"].dtype == state["head.head.weight"].dtype == dtype
    assert state["time_embedding.0.weight"].dtype == torch.float32
    plain = load_into(build, whole, dtype=dtype, prefix="model.").eval()
    ours, theirs = velocity(from_file), velocity(plain)
    assert not torch.equal(ours, theirs)
    assert similarity(ours, theirs) > 0.998


def test_streamed_from_its_file_it_is_the_same(narrow: tuple[Path, Format]) -> None:
    model, headers = matched(build, narrow[0], prefix="model.")
    blocks = stream_into(
        model,
        headers,
        device="cpu",
        dtype=torch.float32,
        resident_blocks=1,
        blocks_from="file",
        prefix="model.",
    )
    resident = load_into(build, narrow[0], prefix="model.").eval()
    assert torch.equal(velocity(model.eval(), blocks), velocity(resident))
    assert blocks.slot_bytes < 0.5 * sum(4 * weight.numel() for weight in model.blocks[0].parameters())


def test_blocks_are_not_made_narrow_again_at_every_step(whole: Path) -> None:
    model, headers = matched(build, whole, prefix="model.", quantise="int8")
    with pytest.raises(InvalidInput, match="linnet quantize"):
        stream_into(
            model,
            headers,
            device="cpu",
            dtype=torch.float32,
            resident_blocks=1,
            blocks_from="file",
            prefix="model.",
        )


def test_files_are_what_they_say(narrow: tuple[Path, Format], tmp_path: Path) -> None:
    file, format = narrow
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        assert opened.metadata() == {"quantisation": format}
    weight, scale = "model.blocks.1.ffn.0.weight", "model.blocks.1.ffn.0.scale"

    def refused(words: str, metadata: dict[str, str] | None = None, quantise: Format | None = None) -> None:
        save_file(tensors, tmp_path / "x.safetensors", metadata or {"quantisation": format})
        with pytest.raises(WeightsError, match=words):
            load_into(build, tmp_path / "x.safetensors", prefix="model.", quantise=quantise)

    other: Format = "int8" if format == "float8" else "float8"
    refused("unexpected tensor", {"some": "words"})
    refused("says int4", {"quantisation": "int4"})
    refused(f"holds {format} weights", quantise=other)
    refused("is stored as .* and should be", {"quantisation": other})
    kept = tensors.pop(scale)
    refused("lacks tensor")
    tensors |= {scale: kept, weight: tensors[weight].float()}
    refused("is stored as F32 and should be")
    with pytest.raises(WeightsError, match="already"):
        quantise_files(build, file, tmp_path / "twice.safetensors", "int8", prefix="model.")


def test_a_model_is_quantised_once_and_runs(tiny_model: Path, tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "narrow"

    def linnet(*words: object, status: int = 0) -> str:
        result = runner.invoke(app, [str(word) for word in words])
        assert result.exit_code == status, result.output
        return result.stdout

    asked = ("quantize", "seedling", "--weights", tiny_model, "--output", folder)
    assert json.loads(linnet(*asked, "--json"))["format"] == "int8"
    assert not list(tmp_path.glob(".*"))
    clip = ("generate", "a red star spins", "--seconds", 0, "--steps", 1, "--model", "seedling", "--seed", 1)
    linnet(*clip, "--weights", folder, "--output", tmp_path / "clip.mp4")
    linnet(*clip, "--weights", folder, "--device", "cuda", "--vram", "8GB", "--dry-run")  # here or not

    def states(folder: Path, streaming: bool = False) -> Tensor:
        files, ids = resolve(SEEDLING, weights=folder).text_encoder, torch.tensor([[5, 6, 7, 1]])
        encoder, headers = matched(lambda: T5Encoder(text_config(files)), files)
        if streaming:
            return encode_streamed(encoder, headers, [ids])[0]
        with torch.inference_mode():
            return fill(encoder, headers)(ids, torch.ones_like(ids))

    assert torch.equal(states(folder, streaming=True), states(folder))
    assert 0.99 < similarity(states(folder), states(tiny_model)) < 0.999999


@pytest.mark.parametrize("free", [None, 1000])
def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    free: int | None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    output, said = tmp_path / "file/narrow", "cannot be written (Not a directory)"
    if free:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
        output, said = tmp_path / "narrow", "has 1.0 kB free around it, and takes about"
    words = ["quantize", "seedling", "--weights", str(tiny_model), "--output", str(output)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert f'output "{output}": {said}' in result.stderr
    assert not output.exists()


def test_nothing_is_overwritten_and_no_other_format_known(tiny_model: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    asked = ["quantize", "seedling", "--weights", str(tiny_model), "--output"]
    for words, named in (([*asked, str(tmp_path)], "exists"), ([*asked, "x", "--format", "int4"], "int4")):
        result = runner.invoke(app, words)
        assert result.exit_code == 2
        assert named in result.stderr

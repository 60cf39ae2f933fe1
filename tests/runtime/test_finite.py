"""A number that is none ends a run with the stage, the step and the file, never in a black clip."""

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from linnet.cli import app


def spoil(file: Path, value: float, holds: str) -> str:
    """Put the value into the first matrix whose name holds that; its name."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    name = next(name for name in tensors if holds in name and tensors[name].dim() > 1)
    tensors[name].view(-1)[:] = value
    save_file(tensors, file, metadata)
    return name


@pytest.mark.parametrize(
    ("part", "value", "holds", "said"),
    [
        ("transformer", float("nan"), "weight", 'in tensor "{}", seen in step 1 of 2 of the denoise stage'),
        ("transformer", 3e38, "head.weight", "in step 1 of 2 of the denoise stage; use dtype float32"),
        ("autoencoder", float("nan"), "decoder", 'in tensor "{}", seen in the decode stage'),
        ("text_encoder", float("nan"), "weight", 'in tensor "{}", seen in the text stage'),
    ],
)
def test_a_number_that_is_none_is_no_black_clip(
    tiny_model: Path, tmp_path: Path, part: str, value: float, holds: str, said: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    name = spoil(model / f"{part}.safetensors", value, holds)
    output = tmp_path / "clip.mp4"
    words = ["generate", "a red star spins", "--model", "seedling", "--weights", model, "--output", output]
    words += ["--seconds", 0, "--steps", 2, "--seed", 1, "--dtype", "float32", "--quiet"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert f'{part}.safetensors": ' in line
    assert said.format(name) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

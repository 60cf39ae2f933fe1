"""Results on their way out: a number that is none ends a run with the stage, the step and the file, never in a black
clip; frames are the same whether or not the next ones are asked for first."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from linnet.cli import app
from linnet.runtime.outputs import arriving


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


def test_asking_ahead_changes_nothing_but_the_order_of_work() -> None:
    chunks = [torch.linspace(-1.2, 1.2, 3 * count * 8).view(1, 3, count, 2, 4) for count in (1, 4, 4)]
    chunks[1][0, 0, 0, 0, 0] = torch.nan
    log: list[str] = []

    def decoded() -> Iterator[Tensor]:
        for number, chunk in enumerate(chunks):
            log.append(f"decoded {number}")
            yield chunk

    def taken(*, ahead: bool) -> list[tuple[np.ndarray, bool]]:
        log.clear()
        found = []
        for number, pair in enumerate(arriving(decoded(), ahead=ahead)):
            log.append(f"used {number}")
            found.append(pair)
        return found

    plain = taken(ahead=False)
    assert log == ["decoded 0", "used 0", "decoded 1", "used 1", "decoded 2", "used 2"]
    ahead = taken(ahead=True)
    assert log == ["decoded 0", "decoded 1", "used 0", "decoded 2", "used 1", "used 2"]
    assert [finite for _, finite in plain] == [finite for _, finite in ahead] == [True, False, True]
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(plain, ahead, strict=True))
    first = plain[0][0]
    assert (first.dtype, first.shape, first.min(), first.max()) == (np.uint8, (1, 2, 4, 3), 0, 255)
    assert list(arriving(iter([]))) == []

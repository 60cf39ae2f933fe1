"""A text encoder that streams through memory says what the resident one says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from linnet.errors import WeightsError
from linnet.models.text import T5Config, T5Encoder
from linnet.runtime import offload
from linnet.runtime.offload import encode_streamed
from linnet.weights.load import load_into, matched

PROMPTS = [torch.tensor([[4, 29, 7, 7, 1]]), torch.tensor([[1]])]


def config(gated: bool = True) -> T5Config:
    return T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=3, num_heads=4, gated=gated)


def write(folder: Path, config: T5Config, *, sharded: bool, dtype: torch.dtype = torch.float32) -> Path:
    """Random weights in one file, or in shards that part in the middle of blocks."""
    weights = T5Encoder(config).initialise(torch.Generator().manual_seed(0)).state_dict()
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    if not sharded:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = {name: f"model-{i % 4}.safetensors" for i, name in enumerate(weights)}
    for shard in set(names.values()):
        save_file({name: weights[name] for name in weights if names[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def resident(config: T5Config, files: Path, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    encoder = load_into(lambda: T5Encoder(config), files, dtype=dtype)
    with torch.no_grad():
        return [encoder(ids, torch.ones_like(ids)) for ids in PROMPTS]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_equals_resident(
    tmp_path: Path, gated: bool, sharded: bool, stored: torch.dtype, dtype: torch.dtype
) -> None:
    files = write(tmp_path, config(gated), sharded=sharded, dtype=stored)
    expected = resident(config(gated), files, dtype)
    encoder, headers = matched(lambda: T5Encoder(config(gated)), files)
    for _ in range(2):  # the model is on the meta device again afterwards
        streamed = encode_streamed(encoder, headers, PROMPTS, dtype=dtype)
        for ours, theirs in zip(streamed, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_two_layers_at_most_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, config(), sharded=True)
    encoder, headers = matched(lambda: T5Encoder(config()), files)
    held: list[int] = []

    def spy(*args: object, **kwargs: object) -> object:
        layers = [layer for block in encoder.encoder.block for layer in block.layer]
        held.append(sum(any(not p.is_meta for p in layer.parameters()) for layer in layers))
        assert encoder.shared.weight.is_meta
        return fill(*args, **kwargs)  # type: ignore[arg-type]

    fill = offload.fill
    monkeypatch.setattr(offload, "fill", spy)
    reports: list[tuple[int, int]] = []
    encode_streamed(encoder, headers, PROMPTS, watch=lambda done, total: reports.append((done, total)))
    assert max(held) <= 1  # and the one that is about to be filled
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert reports == [(done, 6) for done in range(1, 7)]


def test_each_weight_is_read_once_for_all_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, config(), sharded=False)
    encoder, headers = matched(lambda: T5Encoder(config()), files)
    prefixes: list[str] = []

    def spy(part: torch.nn.Module, *args: object, prefix: str, **kwargs: object) -> object:
        prefixes.append(prefix)
        return fill(part, *args, prefix=prefix, **kwargs)  # type: ignore[arg-type]

    fill = offload.fill
    monkeypatch.setattr(offload, "fill", spy)
    encode_streamed(encoder, headers, PROMPTS)
    assert len(prefixes) == len(set(prefixes)) == 2 * 3 + 1


def test_a_file_that_breaks_on_the_way_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, config(), sharded=True)
    encoder, headers = matched(lambda: T5Encoder(config()), files)
    (tmp_path / "model-2.safetensors").write_bytes(b"gone")
    with pytest.raises(WeightsError, match=r"model-2\.safetensors.* cannot be read"):
        encode_streamed(encoder, headers, PROMPTS)

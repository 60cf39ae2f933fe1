"""A transformer whose blocks pass through memory says what the resident one says, to the last bit."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from linnet.errors import WeightsError
from linnet.models.transformer import Transformer
from linnet.runtime.stream import BlockStream, is_resident, stream_into
from linnet.weights.load import load_into, matched
from tiny_models import DEEPER, random_model, velocity


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "transformer.safetensors"
    save_file({f"model.{k}": v for k, v in random_model(config=DEEPER).state_dict().items()}, path)
    return path


def streamed(
    file: Path, held: int, source: Literal["memory", "file"] = "file", dtype: torch.dtype = torch.float32
) -> tuple[Transformer, BlockStream]:
    model, headers = matched(lambda: Transformer(DEEPER), file, prefix="model.")
    blocks = stream_into(
        model, headers, device="cpu", dtype=dtype, resident_blocks=held, blocks_from=source, prefix="model."
    )
    return model.eval(), blocks


@pytest.mark.parametrize("held", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("source", ["file", "memory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_equals_resident(
    file: Path, held: int, source: Literal["memory", "file"], dtype: torch.dtype
) -> None:
    resident = load_into(lambda: Transformer(DEEPER), file, dtype=dtype, prefix="model.").eval()
    assert torch.equal(velocity(*streamed(file, held, source, dtype)), velocity(resident))


def test_what_is_not_resident_has_two_places(file: Path) -> None:
    model, blocks = streamed(file, 2)
    absent = [
        i for i, block in enumerate(model.blocks) if any(weight.is_meta for weight in block.parameters())
    ]
    assert absent == blocks.absent == [0, 1, 3]
    assert not any(weight.is_meta for i in (2, 4) for weight in model.blocks[i].parameters())
    assert len(blocks.slots) == 2
    assert blocks.slot_bytes == sum(weight.nbytes for weight in model.blocks[2].parameters())
    assert {id(block) for block in blocks} == {
        id(block) for block in (*blocks.slots, model.blocks[2], model.blocks[4])
    }


def test_no_block_is_overwritten_while_it_is_in_use(file: Path) -> None:
    expected = [block.self_attn.q.weight for block in random_model(config=DEEPER).blocks]
    _, blocks = streamed(file, 1)
    for _ in range(2):
        for block, weight in zip(blocks, expected, strict=True):
            time.sleep(0.02)  # the reader has all the time it could want
            assert torch.equal(block.self_attn.q.weight, weight)


def test_the_next_block_is_read_while_this_one_computes(file: Path) -> None:
    model, blocks = streamed(file, 0)
    read: list[int] = []
    source, blocks.source = blocks.source, lambda i: read.append(i) or source(i)
    rounds = iter(blocks)
    next(rounds)
    time.sleep(0.1)
    assert read == [0, 1]
    blocks = BlockStream(model.blocks, blocks.source, device="cpu", dtype=torch.float32, ahead=False)
    next(iter(blocks))
    assert read == [0, 1, 0]


def test_without_reading_ahead_it_is_the_same(file: Path) -> None:
    model, blocks = streamed(file, 0)
    slow = BlockStream(model.blocks, blocks.source, device="cpu", dtype=torch.float32, ahead=False)
    assert torch.equal(velocity(model, slow), velocity(model, blocks))


def test_a_round_that_is_broken_off_leaves_no_trace(file: Path) -> None:
    model, blocks = streamed(file, 1)
    whole = velocity(model, blocks)
    for broken in (1, 2, 4):
        rounds = iter(blocks)
        for _ in range(broken):
            next(rounds)
        assert torch.equal(velocity(model, blocks), whole)


def test_a_file_that_breaks_on_the_way_is_named(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    model, blocks = streamed(copy, 0)
    copy.unlink()  # what is mapped of it stays
    copy.write_bytes(b"gone")
    with pytest.raises(WeightsError, match=r"copy\.safetensors.* cannot be read"):
        velocity(model, blocks)
    copy.unlink()
    copy.write_bytes(file.read_bytes())
    assert torch.equal(velocity(model, blocks), velocity(*streamed(file, 5)))


def test_residents_are_spread_evenly() -> None:
    for held in range(41):
        staying = [i for i in range(40) if is_resident(i, held, 40)]
        assert len(staying) == held
        gaps = [b - a for a, b in pairwise(staying)]
        assert not gaps or max(gaps) - min(gaps) <= 1

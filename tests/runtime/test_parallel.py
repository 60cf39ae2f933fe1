"""Tokens that several processes share give what one gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from linnet.models.attention import attend_plainly
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.runtime import parallel
from linnet.runtime.parallel import Ring, look, look_plainly, merge

CONFIG = TransformerConfig(dim=13 * 8, ffn_dim=40, num_heads=13, num_layers=2, text_len=6, text_dim=8)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build() -> tuple[Transformer, list[Any]]:
    model = Transformer(CONFIG).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model, [model.encode_text([draw(rows, 8, seed=rows)]) for rows in (5, 1)]


LATENTS = draw(2, 16, 3, 5, 6)  # 27 tokens a sample: 13 or 14, 9, 6 or 7 a process


@torch.no_grad()
def forward() -> Tensor:
    model, (prompt, _) = build()
    share = Ring() if dist.is_initialized() else None
    return model(LATENTS, torch.tensor([700.0, 40.0]), prompt, share=share)


def work(rank: int, size: int, folder: Path) -> None:
    """One of `size` processes: note the result, and the most keys ever looked at."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    honest = parallel.look
    widths = [0]

    def watched(query: Tensor, key: Tensor, value: Tensor) -> Any:
        widths.append(key.shape[2])
        return honest(query, key, value)

    parallel.look = watched
    torch.save((forward(), max(widths)), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("size", "widest"), [(2, 14), (3, 9)])
def test_several_processes_equal_one(size: int, widest: int, tmp_path: Path) -> None:
    spawn(work, (size, tmp_path), nprocs=size)
    alone = forward()
    for rank in range(size):
        result, seen = torch.load(tmp_path / f"{rank}.pt")
        assert float((result - alone).norm() / alone.norm()) < 1e-5
        assert seen == widest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_the_keys_merge_into_the_whole(dtype: torch.dtype) -> None:
    query, key, value = (draw(1, 3, 50, 16, seed=seed).to(dtype) * 2 for seed in range(3))
    whole = attend_plainly(query.float(), key.float(), value.float())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    for way in (look, look_plainly):
        parts = [way(query, key[:, :, part], value[:, :, part]) for part in (slice(0, 20), slice(20, 50))]
        merged = merge(*parts).mixed
        assert float((merged - whole).norm() / whole.norm()) < tolerance

"""A model whose weights, gradients and optimiser are spread over several processes, each of which has a part (FSDP2:
Zhao et al., arXiv 2304.11277). A block is whole only while it computes.

Its states are written by all processes together, with torch.distributed.checkpoint.
"""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linnet.models.transformer import Transformer
from linnet.train.distributed import Ranks
from linnet.train.state import fill_in_place, learnt


def shard(transformer: Transformer, ranks: Ranks, device: str) -> None:
    """Spread it, block by block. Gradients of the processes are added up, not averaged: each loss is a share."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(torch.device(device).type, (ranks.count,))
    for block in transformer.blocks:
        fully_shard(block.cross_attn, mesh=mesh)
        register_fsdp_forward_method(block.cross_attn, "keys_values")
        fully_shard(block, mesh=mesh)
    fully_shard(transformer, mesh=mesh)
    register_fsdp_forward_method(transformer, "encode_padded_text")
    for module in transformer.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def is_sharded(model: nn.Module) -> bool:
    return any(
        hasattr(p, "full_tensor") for p in model.parameters()
    )  # torch's DTensor, not imported for this


def whole(tensor: Tensor) -> Tensor:
    """Of a tensor that is spread, all of it; every process has to ask."""
    return cast(Any, tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor


def save_sharded(
    path: Path,
    *,
    step: int,
    model: nn.Module,
    average: dict[str, Tensor],
    optimisers: list[Optimizer],
    ranks: Ranks,
) -> None:
    """Into a folder beside `path`, which then takes its name: a kill leaves the old or the new one."""
    from torch.distributed.checkpoint.state_dict_saver import save

    part, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    if ranks.main and part.exists():
        shutil.rmtree(part)
    ranks.wait()
    state = {**tensors_of(model, average, optimisers), "step": torch.tensor(step)}
    save(state, checkpoint_id=part)
    ranks.wait()
    if ranks.main:
        if old.exists():
            shutil.rmtree(old)
        if path.exists():
            path.rename(old)
        part.rename(path)
        if old.exists():
            shutil.rmtree(old)
    ranks.wait()


def load_sharded(
    path: Path, *, model: nn.Module, average: dict[str, Tensor], optimisers: list[Optimizer]
) -> int:
    """Restore in place what `save_sharded` wrote; the step to go on with, 0 where there is nothing."""
    old = path.with_name(f".{path.name}.old")
    source = path if path.exists() else old  # a kill between the two renames
    if not source.exists():
        return 0
    from torch.distributed.checkpoint.state_dict_loader import load

    for optimiser in optimisers:
        fill_in_place(optimiser, None)
    step = torch.tensor(0)
    state: dict[str, Any] = {**tensors_of(model, average, optimisers), "step": step}
    load(state, checkpoint_id=source)
    return int(state["step"])


def tensors_of(
    model: nn.Module, average: dict[str, Tensor], optimisers: list[Optimizer]
) -> dict[str, Tensor]:
    state = {f"model.{name}": value for name, value in learnt(model).items()}
    state |= {f"average.{name}": value for name, value in average.items()}
    for number, optimiser in enumerate(optimisers):
        for index, slots in optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{number}.{index}.{slot}": value for slot, value in slots.items()}
    return state

"""Several processes that train one model together, each on its part of every batch.

Replicas hold the same weights and add up their gradients. The sums are what one process would have for the whole batch,
so each of them takes the same step.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed as dist
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """This process among `count` ones; `rank` 0 writes files and talks to the user."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def own(self, samples: int) -> range:
        """Which samples of a batch are this process's."""
        return range(self.rank, samples, self.count)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each parameter's gradient over all processes, in one message; one without a gradient counts as zero."""
        if self.count == 1:
            return
        learning = [p for p in parameters if p.requires_grad]
        for p in learning:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in learning if p.grad is not None])
        dist.all_reduce(flat)
        for p, part in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
            p.grad = part.view_as(p)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()


def join(device: str) -> Ranks:
    """The processes that torchrun, or `--gpus`, started this one among; alone where there are none."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(dist.get_rank(), count)

"""Several processes that train one model together, each on its part of every batch.

Replicas hold the same weights and add up their gradients. The sums are what one process would have for the whole batch,
so each of them takes the same step.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

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
WAIT = timedelta(hours=24)  # for a process that encodes the dataset, or makes a preview


def join(device: str) -> Ranks:
    """The processes that torchrun, or `launch`, started this one among; alone where there are none."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=WAIT)
    return Ranks(dist.get_rank(), count)


def own_device(device: str | None) -> str | None:
    """Each of several processes has a card of its own."""
    rank = os.environ.get("LOCAL_RANK")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"cuda:{rank}" if several and rank is not None and (device or "").startswith("cuda") else device


def launch(command: Sequence[str], count: int) -> int:
    """Run `command` in so many processes that train together, and return the first exit status that is not 0. When one
    ends so, the others are stopped."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    try:
        while any(process.poll() is None for process in processes):
            if status := next((p.returncode for p in processes if p.returncode), 0):
                return status
            time.sleep(0.1)
        return next((p.returncode for p in processes if p.returncode), 0)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()

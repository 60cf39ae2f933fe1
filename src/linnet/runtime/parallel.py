"""The tokens of one clip shared out among several processes (see `runtime.processes` for guidance's two passes apart).

Axes: B batch, N heads, L this process's tokens, S some process's tokens, d head width.

Linum v2 has 13 heads, a prime, so sharing out heads would fit 13 processes and no other number; tokens fit any. Keys
and values go round in a ring (Liu et al., arXiv 2310.01889): a process holds its own and one neighbour's at a time,
never all, and merges what it finds by the logarithm of the softmax's denominator.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist

from linnet.errors import InvalidInput

Heads = Float[Tensor, "B N S d"]
Pair = Float[Tensor, "2 B N S d"]  # keys and values


class Found(NamedTuple):
    """Attention to some of the keys; `weight` is the logarithm of their softmax's denominator."""

    mixed: Float[Tensor, "B N L d"]
    weight: Float[Tensor, "B N L"]


def look(query: Float[Tensor, "B N L d"], key: Heads, value: Heads) -> Found:
    """By torch's own kernels, which know the denominator but seldom tell it."""
    aten: Any = torch.ops.aten
    if query.device.type == "cpu":
        mixed, weight = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[:2]
    elif query.device.type == "cuda" and query.dtype != torch.float32:
        mixed, weight = aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    else:
        return look_plainly(query, key, value)
    return Found(mixed.float(), weight.float())


def look_plainly(query: Float[Tensor, "B N L d"], key: Heads, value: Heads) -> Found:
    logits = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).float()
    return Found(logits.softmax(-1) @ value.float(), logits.logsumexp(-1))


def merge(first: Found, second: Found) -> Found:
    """Attention to the keys of both."""
    weight = torch.logaddexp(first.weight, second.weight)
    mixed = first.mixed * (first.weight - weight).exp()[..., None]
    return Found(mixed + second.mixed * (second.weight - weight).exp()[..., None], weight)


@dataclass(frozen=True)
class Ring:
    """The processes of a group (None: all there are) as the `share` of a transformer's forward pass."""

    group: dist.ProcessGroup | None = None

    def __call__(self, tokens: int) -> "RingShare":
        size = dist.get_world_size(self.group)
        if tokens < size:
            problem = f"are more than the clip's {tokens} tokens"
            raise InvalidInput("processes", size, problem, f"use {tokens} or fewer")
        borders = [tokens * rank // size for rank in range(size + 1)]  # as equal as whole tokens can be
        return RingShare(tuple(map(slice, borders, borders[1:])), dist.get_rank(self.group), self.group)


@dataclass(frozen=True)
class RingShare:
    shares: tuple[slice, ...]
    rank: int
    group: dist.ProcessGroup | None

    @property
    def own(self) -> slice:
        return self.shares[self.rank]

    def attend(self, query: Heads, key: Heads, value: Heads) -> Heads:
        pair, merged = torch.stack((key, value)), None
        for turn in range(len(self.shares)):
            coming, transfers = self._pass_on(pair, turn)
            part = look(query, *pair)
            merged = merge(merged, part) if merged else part
            for transfer in transfers:
                transfer.wait()
            pair = coming
        assert merged is not None
        return merged.mixed.to(value.dtype)

    def _pass_on(self, pair: Pair, turn: int) -> tuple[Pair, list[dist.Work]]:
        """Send what is held to the next process; what the one before holds will be there when the transfers are."""
        size = len(self.shares)
        if turn == size - 1:  # everyone's has been everywhere
            return pair, []
        origin = self.shares[(self.rank - turn - 1) % size]
        coming = pair.new_empty((*pair.shape[:3], origin.stop - origin.start, pair.shape[4]))
        transfers = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, pair, group=self.group, group_peer=(self.rank + 1) % size),
                dist.P2POp(dist.irecv, coming, group=self.group, group_peer=(self.rank - 1) % size),
            ]
        )
        return coming, transfers

    def gather(self, x: Float[Tensor, "B own c"]) -> Float[Tensor, "B L c"]:
        parts = [x.new_empty(len(x), share.stop - share.start, x.shape[2]) for share in self.shares]
        for rank, part in enumerate(parts):  # by broadcasts, since shares differ in length
            if rank == self.rank:
                part.copy_(x)
            dist.broadcast(part, group=self.group, group_src=rank)
        return torch.cat(parts, dim=1)

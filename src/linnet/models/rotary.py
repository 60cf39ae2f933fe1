"""Three-dimensional rotary position embedding, in real arithmetic.

Axes: B batch, L tokens (T*H*W of them, ordered T, H, W), N heads, d head width, P = d/2 pairs.

Source: Su et al., arXiv 2104.09864, as Wan 2.1 and Linum v2 spread it over time, rows and columns.
"""

from collections.abc import Container
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

THETA = 10_000.0
CPU = torch.device("cpu")


class Rotary(NamedTuple):
    """The cosine and sine by which each pair of channels of each token turns; one table serves all blocks."""

    cos: Float[Tensor, "L 1 P"]
    sin: Float[Tensor, "L 1 P"]


def float64_device(device: torch.device) -> torch.device:
    """Where float64 arithmetic for `device` can happen: Apple's GPUs have none, so there it is the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def frequencies(head_dim: int, axis: int, device: torch.device = CPU) -> Float[Tensor, "p"]:
    """Radians a token, in float64, of the pairs that turn with time (axis 0), rows (1) or columns (2).

    Of a head's P pairs, the last P//3 turn with the column, those before with the row and the rest with time.
    """
    pairs = head_dim // 2
    share = pairs - 2 * (pairs // 3) if axis == 0 else pairs // 3
    return THETA ** (-torch.arange(share, dtype=torch.float64, device=device) / share)


def nearness(head_dim: int, axes: Container[int], strength: float) -> Float[Tensor, "d"]:
    """What to add to queries and keys alike so that attention falls with the distance along `axes` of the grid.

    Rotation turns the product of this constant with itself into a sum of cosines of the distance; slow pairs, which
    hardly tell neighbours apart, are left out.
    """
    every = [frequencies(head_dim, axis) for axis in range(3)]
    even = torch.cat([strength * float(axis in axes) * (f >= 0.1) for axis, f in enumerate(every)])
    return torch.stack((even, torch.zeros_like(even)), dim=-1).flatten().float()


def rotary_tables(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Rotary:
    """Float32 tables for a (T, H, W) grid of tokens, from angles in float64.

    Only T + H + W rows of angles are ever computed; the rest is broadcasting, cheap enough for every forward.
    """
    pairs, home = head_dim // 2, float64_device(device)

    def spread(axis: int) -> Float[Tensor, "T H W p"]:
        position = torch.arange(grid[axis], dtype=torch.float64, device=home)
        frequency = frequencies(head_dim, axis, home)
        shape = [1, 1, 1, len(frequency)]
        shape[axis] = grid[axis]
        return torch.outer(position, frequency).view(shape)

    angles = [spread(axis) for axis in range(3)]

    def table(values: list[Tensor]) -> Float[Tensor, "L 1 P"]:
        return torch.cat(
            [value.to(device, torch.float32).expand(*grid, -1) for value in values], dim=-1
        ).view(-1, 1, pairs)

    return Rotary(table([a.cos() for a in angles]), table([a.sin() for a in angles]))


def rotate(x: Float[Tensor, "B L N d"], rotary: Rotary) -> Float[Tensor, "B L N d"]:
    """Turn the interleaved channel pairs (2i, 2i+1) of every head.

    Each pair times its cosine, plus the swapped pair times the signed sine: a compiler reads and writes every number
    once this way, where joining the two halves would take a buffer and masked reads.
    """
    cos = torch.stack((rotary.cos, rotary.cos), dim=-1).flatten(-2)
    signed = torch.stack((-rotary.sin, rotary.sin), dim=-1).flatten(-2)
    return x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * signed

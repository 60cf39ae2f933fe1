"""RMSNorm over channels and SiLU as one Triton kernel: each number is read and written once, where torch's own kernels
take five passes. For CUDA cards on which triton is there; `slow` is the same anywhere else.

Axes: B batch, C channels, F frames, H and W rows and columns.
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BLOCK = 2048  # numbers that a program of the kernel takes: 16 for each of its threads
SMALLEST = 1e-12  # length below which a position has no direction


def slow(x: Float[Tensor, "B C F H W"], gamma: Float[Tensor, "C 1 1 1"]) -> Float[Tensor, "B C F H W"]:
    """Every position's channels scaled to root mean square 1 and by `gamma`, in float32, and SiLU of them."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    scaled = x * (x.shape[1] ** 0.5 / length.clamp_min(SMALLEST))
    return F.silu(scaled.mul_(gamma).to(x.dtype), inplace=True)


def norm_silu(x: Float[Tensor, "B C F H W"], gamma: Float[Tensor, "C 1 1 1"]) -> Float[Tensor, "B C F H W"]:
    """As `slow`, by the kernel where it can run. A tensor that is only a description of one, as torch's fake ones are,
    goes the slow way, and so does one that needs gradients."""
    plain = type(x) is Tensor and x.is_cuda and not torch.is_grad_enabled()
    if not plain or torch.is_autocast_enabled("cuda") or find_spec("triton") is None:
        return slow(x, gamma)
    return launched(x, gamma)


def launched(x: Float[Tensor, "B C F H W"], gamma: Float[Tensor, "C 1 1 1"]) -> Float[Tensor, "B C F H W"]:
    """By the kernel. Channels of a position have to lie beside each other, as convolutions leave them."""
    from linnet.models.triton_kernels import norm_silu_kernel  # torch's builds for the CPU lack triton

    x = x.contiguous(memory_format=torch.channels_last_3d)
    out, channels = torch.empty_like(x), x.shape[1]
    positions, width = x.numel() // channels, 1 << (channels - 1).bit_length()
    rows = max(1, BLOCK // width)
    kernel: Any = norm_silu_kernel[(-(-positions // rows),)]  # pyright: ignore[reportIndexIssue]
    kernel(
        x,
        gamma.flatten(),
        out,
        positions,
        channels**0.5,
        SMALLEST=SMALLEST,
        CHANNELS=channels,
        WIDTH=width,
        POSITIONS=rows,
    )
    return out

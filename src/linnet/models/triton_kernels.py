"""Kernels for CUDA cards. Imported where they run: triton comes with torch's builds for CUDA alone."""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def norm_silu_kernel(
    x,
    gamma,
    out,
    positions,
    scale,
    SMALLEST: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """See `norm_silu.slow`. A program takes POSITIONS rows of CHANNELS numbers, in a block WIDTH wide."""
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.arange(0, WIDTH)
    inside = (position[:, None] < positions) & (channel[None, :] < CHANNELS)
    at = position[:, None] * CHANNELS + channel[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(value * value, axis=1))
    factor = scale / tl.maximum(length, SMALLEST)
    weight = tl.load(gamma + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    # Rounded in between as the slow way rounds.
    scaled = (value * factor[:, None] * weight[None, :]).to(x.dtype.element_ty).to(tl.float32)
    tl.store(out + at, scaled / (1.0 + tl.exp(-scaled)), mask=inside)

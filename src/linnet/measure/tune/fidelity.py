"""How near a clip is to another of the same prompt and seed, measured without any weights.

Axes: T frames, t differences of frames, H rows, W columns; RGB, 0..255. PSNR is in dB.
"""

import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

Clip = UInt8[np.ndarray, "T H W 3"]
Luma = Float[Tensor, "T H W"]

LUMA = (0.2126, 0.7152, 0.0722)  # BT.709
PEAK = 255.0
MOST = 99.0  # dB, of what does not differ
WINDOW = 7  # pixels to each side of a square, as scikit-image takes it
TENTH = 0.1


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """`psnr` and `ssim` of each frame's luma. `motion`: PSNR of the differences of frames that follow each other.
    `flicker`: the change of the change from frame to frame, divided by exact's; 1 is as in exact. `brightness` and
    `saturation`: the mean's drift, as a share of the whole range."""

    psnr: list[float]
    ssim: list[float]
    motion: float
    flicker: float
    brightness: float
    saturation: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(clip: Clip, exact: Clip) -> Fidelity:
    """The clip beside the exact one, which has as many frames of the same size."""
    a, b = luma(clip), luma(exact)
    return Fidelity(
        psnr=[psnr(x, y) for x, y in zip(a, b, strict=True)],
        ssim=[ssim(x, y) for x, y in zip(a, b, strict=True)],
        motion=psnr(a.diff(dim=0), b.diff(dim=0)) if len(a) > 1 else MOST,
        flicker=(flicker(a) + 0.01) / (flicker(b) + 0.01),
        brightness=float((a.mean() - b.mean()) / PEAK),
        saturation=(saturation(clip) - saturation(exact)) / PEAK,
    )


def luma(clip: Clip) -> Luma:
    return torch.from_numpy(np.ascontiguousarray(clip)).float() @ torch.tensor(LUMA)


def psnr(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float:
    """In dB, at most 99."""
    error = float((a - b).square().mean())
    return MOST if error == 0 else min(MOST, 10 * math.log10(PEAK**2 / error))


def clip_psnr(clip: Clip, exact: Clip) -> float:
    """The mean over the frames."""
    return fmean(psnr(a, b) for a, b in zip(luma(clip), luma(exact), strict=True))


def ssim(a: Float[Tensor, "H W"], b: Float[Tensor, "H W"]) -> float:
    """Structural similarity (Wang et al., 2004), in square windows."""
    window = min(WINDOW, *a.shape)

    def mean(x: Float[Tensor, "H W"]) -> Float[Tensor, "1 h w"]:
        return F.avg_pool2d(x[None], window, 1)

    light, contrast = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + light) * (2 * covariance + contrast)
    return float((alike / ((mean_a**2 + mean_b**2 + light) * (spread_a + spread_b + contrast))).mean())


def flicker(clip: Luma) -> float:
    """The mean change of the change from frame to frame; 0 of fewer than three."""
    return float(clip.diff(n=2, dim=0).abs().mean()) if len(clip) > 2 else 0.0


def saturation(clip: Clip) -> float:
    """The mean distance between a pixel's strongest and weakest colour."""
    return float((clip.max(-1).astype(np.int16) - clip.min(-1)).mean())


def worst_tenth(values: list[float]) -> float:
    """The mean of the lowest tenth, of one value at least."""
    count = max(1, math.ceil(TENTH * len(values)))
    return fmean(sorted(values)[:count])


def relative_error(latents: Float[Tensor, "*shape"], exact: Float[Tensor, "*shape"]) -> float:
    """The length of the difference, divided by the exact one's length."""
    return float((latents.float() - exact.float()).norm() / exact.float().norm().clamp(min=1e-12))

"""How near a clip is to another of the same prompt and seed, measured without any weights.

Colours count as much as light: a thing whose colour is as bright as what is behind it is seen as well. SSIM counts
where there is something to see, since an even background is alike in any clip.

Axes: T frames, t differences of frames, C the three colours, H rows, W columns; RGB, 0..255. PSNR is in dB.
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
Colours = Float[Tensor, "T C H W"]

PEAK = 255.0
MOST = 99.0  # dB, of what does not differ
EVEN = 0.1  # the least variance of a window, so that even ones are compared where there are no others
WINDOW = 7  # pixels to each side of a square, as scikit-image takes it
TENTH = 0.1


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """`psnr` and `ssim` of each frame. `motion`: PSNR of the differences of frames that follow each other.
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
    a, b = colours(clip), colours(exact)
    return Fidelity(
        psnr=[psnr(x, y) for x, y in zip(a, b, strict=True)],
        ssim=[ssim(x, y) for x, y in zip(a, b, strict=True)],
        motion=psnr(a.diff(dim=0), b.diff(dim=0)) if len(a) > 1 else MOST,
        flicker=(flicker(a) + 0.01) / (flicker(b) + 0.01),
        brightness=float((a.mean() - b.mean()) / PEAK),
        saturation=(saturation(clip) - saturation(exact)) / PEAK,
    )


def colours(clip: Clip) -> Colours:
    return torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2).float()


def psnr(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float:
    """In dB, at most 99."""
    error = float((a - b).square().mean())
    return MOST if error == 0 else min(MOST, 10 * math.log10(PEAK**2 / error))


def clip_psnr(clip: Clip, exact: Clip) -> float:
    """The mean over the frames."""
    return fmean(psnr(a, b) for a, b in zip(colours(clip), colours(exact), strict=True))


def ssim(a: Float[Tensor, "C H W"], b: Float[Tensor, "C H W"]) -> float:
    """Structural similarity in square windows (Wang et al., 2004). A window counts as much as what is in it varies, in
    either (after Wang and Li, 2011, Information Content Weighting)."""
    window = min(WINDOW, *a.shape[1:])

    def mean(x: Float[Tensor, "C H W"]) -> Float[Tensor, "C h w"]:
        return F.avg_pool2d(x, window, 1)

    light, contrast = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + light) * (2 * covariance + contrast)
    alike = alike / ((mean_a**2 + mean_b**2 + light) * (spread_a + spread_b + contrast))
    weights = (spread_a + spread_b).clamp(min=EVEN)
    return float((alike * weights).sum() / weights.sum())


def flicker(clip: Colours) -> float:
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

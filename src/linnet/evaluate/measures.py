"""What can be measured of a clip's frames as they go on: how much they change, where the object goes, what jumps.

Axes: T frames, t changes from a frame to the next, H rows, W columns; RGB, 0..255. Lengths are in pixels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from linnet.data import synthetic
from linnet.data.synthetic import FPS, SPEED
from linnet.evaluate.parse import Track, cover, find_paint, find_solid, follow, measure_motion, wrapped

Clip = UInt8[np.ndarray, "T H W 3"]

FAR = 1e3  # pixels: how far an object is that was not found
SEAM = 4  # frames: a latent frame's
LEAST_AHEAD, MOST_AHEAD = 0.5, 2.0  # of what the synthetic dataset's speed gives in a second
JUMP = 8.0  # pixels in one frame; the synthetic dataset's fastest goes 1.3


def changes(clip: Clip) -> Float[np.ndarray, "t"]:
    """Mean absolute difference of each frame to the next."""
    return np.array([np.abs(a.astype(np.float32) - b).mean() for a, b in pairwise(clip)])


def backdrop(clip: Clip) -> Float[np.ndarray, "H 3"]:
    """The empty scene, a colour for each row."""
    return np.median(clip.astype(np.float32), axis=(0, 2))


def psnr(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """In dB, no more than 99."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))


def tracked(clip: Clip) -> Track | None:
    """Where the object is, or None where nothing stands out."""
    frames = clip.astype(np.float32)
    empty = backdrop(clip[:: max(1, len(clip) // 16)])
    solid, behind = find_solid(frames, empty)
    if not len(solid):
        return None
    track = follow(cover(frames, empty, find_paint(solid, behind)))
    return track if len(track.frames) else None


def direction_of(clip: Clip) -> str | None:
    """Which way the object goes at half the synthetic dataset's speed or more, if it does."""
    track = tracked(clip)
    if track is None or len(track.frames) < len(clip) / 2:
        return None
    strengths = {name: value for name, value in measure_motion(track).items() if name in SPEED}
    best = max(strengths, key=strengths.__getitem__, default=None)
    return best if best and strengths[best] >= 0.5 else None


def path_of(clip: Clip) -> Float[np.ndarray, "T 2"]:
    """The object's x and y, on past the frame's edges; nan where it is not found."""
    places, track = np.full((len(clip), 2), np.nan), tracked(clip)
    if track is not None:
        places[track.frames.astype(int)] = np.stack([track.x, track.y], 1)
    return places


def apart(first: Float[np.ndarray, "T 2"], second: Float[np.ndarray, "T 2"]) -> float:
    """Pixels, around the frame's edges, that two paths keep within in 95 % of the frames; FAR where one is lost."""
    x, y = (first - second).T
    away = np.hypot(wrapped(x, synthetic.WIDTH), wrapped(y, synthetic.HEIGHT))
    return float(np.quantile(np.nan_to_num(away, nan=FAR), 0.95))


def strays(places: Float[np.ndarray, "T 2"], velocity: tuple[float, float]) -> bool:
    """Whether in any second the object stops, turns, rushes or is mostly lost, or jumps from one frame to the next.

    So a clip that is frozen from some moment on strays, and one that begins again and again.
    """
    visible, frames = ~np.isnan(places[:, 0]), np.arange(len(places))
    if sliding_window_view(visible, FPS).mean(1).min() < 0.5:
        return True
    filled = np.stack([np.interp(frames, frames[visible], axis[visible]) for axis in places.T], 1)
    # The median of five frames passes over one that is misread, and keeps a jump as it is.
    steady = np.median(sliding_window_view(np.pad(filled, ((2, 2), (0, 0)), "edge"), 5, axis=0), axis=-1)
    ahead = (steady[FPS:] - steady[:-FPS]) @ velocity / np.square(velocity).sum()
    x, y = np.diff(steady, axis=0).T
    return bool(ahead.min() < LEAST_AHEAD or ahead.max() > MOST_AHEAD or np.hypot(x, y).max() > JUMP)


def seam(change: Float[np.ndarray, "t"], borders: Sequence[int]) -> float:
    """The largest change at the borders over the largest elsewhere, each in as many stretches of SEAM frames.

    As many, since the largest of more would be larger. The stretches elsewhere are spread evenly; nan without any.
    """
    zones = [slice(max(0, border - SEAM // 2), border + SEAM // 2) for border in borders]
    free = np.ones(len(change), bool)
    for zone in zones:
        free[zone] = False
    inside: list[int] = []
    for start in range(len(change) - SEAM + 1):
        if free[start : start + SEAM].all() and (not inside or start >= inside[-1] + SEAM):
            inside.append(start)
    if not inside:
        return math.nan
    some = (np.arange(len(zones)) + 0.5) * len(inside) / len(zones)
    elsewhere = max(change[inside[int(zone_start)] :][:SEAM].max() for zone_start in some)
    return float(max(change[zone].max() for zone in zones) / max(elsewhere, 1e-6))

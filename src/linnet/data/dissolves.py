"""Where one scene of a video blends into the next.

In the middle of a dissolve a frame is half of both scenes. Two pictures that have nothing to do with each other add up
to less contrast than either has: the variance of the blend (1 - a) A + a B is (1 - a)^2 var A + a^2 var B. So the
variance goes along a parabola, however the scenes move (Alattar 1993). A camera that passes a wall, or comes in and out
of focus, has such a course, too. So the two ends must differ, the frame in the middle must be a mixture of them, and
frames between must be no more alike than such mixtures are: those of a camera that moves are.

Axes: N frames, h w a small picture of luma.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

SHORTEST, LONGEST = 6, 72  # frames
LENGTHS = (6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 48, 58, 72)  # that are tried
DIP = 0.8  # of the variance that the middle would have if the ends were alike: at most
OUTSIDE = 5  # frames before and after, in which the variance stays as it is
MISFIT = 0.12  # between the variance and the parabola, of the ends' own, at most
ALIKE = 0.8  # correlation of the two ends, at most
EXPLAINED = 0.65  # of the middle's variance by a mixture of the ends, at least
KNOWN = 0.15  # of the middle that both ends show, each moved to where it fits: at least
WIDE = 32  # pixels of the small pictures
OVERLAP = 0.5  # of two pictures, one shifted against the other, at least

Picture = Float[np.ndarray, "h w"]
Pictures = Sequence[Picture]


def small_picture(luma: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    """By averages of blocks."""
    step = max(1, luma.shape[1] // WIDE)
    step = min(step, *luma.shape)
    rows, columns = luma.shape[0] // step, luma.shape[1] // step
    blocks = luma[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return blocks.mean((1, 3)).astype(np.float16)


def dissolves(
    deviations: Float[np.ndarray, " N"], pictures: Pictures, segments: Sequence[range]
) -> list[range]:
    """Frames that show two scenes at once; `segments` are those in which to look, such as what lies between fades.
    `deviations`: of luma within each frame."""
    ranges: list[range] = []
    for segment in segments:
        variance = deviations[segment.start : segment.stop] ** 2
        taken = np.zeros(len(variance), bool)
        for middle in middles(variance):
            if taken[middle]:
                continue
            blend = fitted(variance, middle)
            if blend is None or taken[blend.start : blend.stop].any():
                continue
            frames = range(segment.start + blend.start, segment.start + blend.stop)
            if shows_both(pictures, frames):
                spare = 1 + len(blend) // 8  # editors ease in and out
                first, last = max(0, blend.start - spare), min(len(variance), blend.stop + spare)
                taken[first:last] = True
                ranges.append(range(segment.start + first, segment.start + last))
    return sorted(ranges, key=lambda each: each.start)


def middles(variance: Float[np.ndarray, " N"]) -> list[int]:
    """Frames of less variance than those around them, the clearest first."""
    depth, deviation = np.full(len(variance), np.inf), np.sqrt(variance)
    for length in LENGTHS:
        half = length // 2
        if len(variance) <= 2 * half:
            break
        ends = (deviation[: -2 * half] + deviation[2 * half :]) / 2
        inner = slice(half, len(variance) - half)
        depth[inner] = np.minimum(depth[inner], variance[inner] / np.maximum(ends, 1e-6) ** 2)
    lowest = [int(at) for at in np.argsort(depth, kind="stable") if depth[at] < DIP]
    return [at for at in lowest if variance[at] <= variance[max(0, at - 2) : at + 3].min()]


def fitted(variance: Float[np.ndarray, " N"], middle: int) -> range | None:
    """The blend around `middle` whose parabola, with constant ends, fits best; None where none fits."""
    tried = {
        (middle - length // 2 + shift, middle - length // 2 + shift + length)
        for length in LENGTHS
        for shift in range(-length // 4, length // 4 + 1, max(1, length // 12))
    }
    best = min(tried, key=lambda ends: misfit(variance, *ends))
    near = [(best[0] + a, best[1] + b) for a in (-3, -2, -1, 0, 1, 2, 3) for b in (-3, -2, -1, 0, 1, 2, 3)]
    first, last = min(near, key=lambda ends: misfit(variance, *ends))
    return range(first + 1, last) if misfit(variance, first, last) < MISFIT else None


def misfit(variance: Float[np.ndarray, " N"], first: int, last: int) -> float:
    """How far the variance is from that of a blend between two frames, as a share of theirs."""
    length = last - first
    before, after = variance[max(0, first - OUTSIDE) : first + 1], variance[last : last + OUTSIDE + 1]
    if first < 0 or length < SHORTEST or min(len(before), len(after)) < 3:
        return np.inf
    start, end = before.mean(), after.mean()
    scale = max(np.sqrt(start * end), 1e-6)
    share = np.arange(1, length) / length
    own = variance[first + 1 : last] - (1 - share) ** 2 * start - share**2 * end
    wave = 2 * share * (1 - share)
    common = float(own @ wave / (wave @ wave))  # the covariance of the scenes
    if abs(common) > ALIKE * scale:
        return np.inf
    off = np.concatenate((own - common * wave, before - start, after - end))
    return float(np.sqrt((off**2).mean()) / scale)


def shows_both(pictures: Pictures, blend: range) -> bool:
    start, end = pictures[blend.start - 1], pictures[blend.stop]
    middle = pictures[(blend.start + blend.stop) // 2]
    common = alike(start, end)[0]
    if common > ALIKE or mixture(middle, start, end) < EXPLAINED:
        return False
    for share in (0.5, 0.25):
        lag = max(2, round(share * (len(blend) + 1)))
        share = lag / (len(blend) + 1)
        first = (blend.start + blend.stop - lag) // 2
        near, far = 1 - share**2, 1 + share**2
        correlation = (near + common * far) / (far + common * near)  # of two mixtures
        if alike(pictures[first], pictures[first + lag])[0] > correlation + (1 - correlation) / 2:
            return False
    return True


def mixture(middle: Picture, start: Picture, end: Picture) -> float:
    """The share of the middle's variance that a mixture of the two ends explains, each moved to where it fits best."""
    (_, first), (_, last) = alike(middle, start), alike(middle, end)
    shifted = [moved(each, by) for each, by in ((start, first), (end, last))]
    known = ~np.isnan(shifted[0]) & ~np.isnan(shifted[1])
    if known.mean() < KNOWN:
        return 0.0
    columns = np.stack([*(each[known] for each in shifted), np.ones(int(known.sum()))], 1)
    target = middle[known].astype(np.float64)
    rest = target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]
    return float(1 - rest.var() / max(target.var(), 1e-6))


def moved(picture: Picture, by: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Nothing is known where it moves in from outside."""
    rows, columns = by
    whole = np.full(picture.shape, np.nan)
    high, wide = picture.shape
    whole[max(0, rows) : high + min(0, rows), max(0, columns) : wide + min(0, columns)] = picture[
        max(0, -rows) : high - max(0, rows), max(0, -columns) : wide - max(0, columns)
    ]
    return whole


def alike(a: Picture, b: Picture) -> tuple[float, tuple[int, int]]:
    """The largest correlation of `a` with `b` moved by some rows and columns, where they overlap, and that move."""
    first, second = (np.asarray(each, np.float64) for each in (a, b))
    first, second = first - first.mean(), second - second.mean()
    size = [2 * side for side in first.shape]

    def sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.fft.rfft2(x, s=size) * np.conj(np.fft.rfft2(y, s=size)), s=size)

    ones = np.ones(first.shape)
    count = np.maximum(sums(ones, ones), 1e-9)
    mean_a, mean_b = sums(first, ones) / count, sums(ones, second) / count
    spread_a = sums(first**2, ones) / count - mean_a**2
    spread_b = sums(ones, second**2) / count - mean_b**2
    floor = 0.05 * np.sqrt(first.var() * second.var()) + 1e-9  # of a plain part anything would be alike
    correlation = (sums(first, second) / count - mean_a * mean_b) / np.sqrt(
        np.maximum(spread_a, floor) * np.maximum(spread_b, floor)
    )
    correlation[count < OVERLAP * first.size] = -1.0
    rows, columns = np.unravel_index(correlation.argmax(), correlation.shape)
    by = [
        int(at) - side if at >= side // 2 else int(at) for at, side in ((rows, size[0]), (columns, size[1]))
    ]
    return float(correlation.max()), (by[0], by[1])

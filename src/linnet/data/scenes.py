"""Where the scenes of a video begin and end: at hard cuts, which scenedetect's adaptive detector finds, at fades, where
a frame shows one plain colour and those around it come out of it or go into it, and at dissolves (see there).

Axes: H rows, W columns; RGB, 0..255. Needs `pip install 'linnet[data]'`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from linnet.data.dissolves import Picture, dissolves, small_picture
from linnet.errors import InvalidInput
from linnet.inputs.timing import continuous

Small = UInt8[np.ndarray, "H W 3"]

PLAIN = 2.0  # deviation of luma within a frame that shows nothing
RISE = 1.01  # how much more a frame of a fade shows than the one before it, at least
LONGEST_FADE = 96  # frames
NEARBY = 2  # frames from a fade or dissolve in which a cut is part of it
MARGIN = 2  # frames left out on either side of a cut: codecs and editors blend there


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """`times` of the frames in seconds from the first; `end` of the last. `cuts`: the first frame of each scene that
    begins with a hard cut. `scenes`: frames that belong to one scene, without fades, dissolves and MARGIN."""

    times: tuple[float, ...]
    end: float
    cuts: tuple[int, ...]
    scenes: tuple[range, ...]


def check_installed() -> None:
    if find_spec("scenedetect") is None or find_spec("cv2") is None:
        remedy = "run `pip install 'linnet[data]'`"
        raise InvalidInput("package", "scenedetect-headless", "is not installed", remedy)


def find_scenes(frames: Iterable[tuple[float | None, Small]]) -> Scenes:
    """From small frames and their time stamps, in the order of showing."""
    from scenedetect.common import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector: Any = AdaptiveDetector(min_scene_len=1)
    stamps: list[float | None] = []
    deviations: list[float] = []
    pictures: list[Picture] = []
    cuts: list[int] = []
    for number, (stamp, frame) in enumerate(frames):
        stamps.append(stamp)
        luma = frame @ np.array([0.299, 0.587, 0.114])
        deviations.append(float(luma.std()))
        pictures.append(small_picture(luma))
        # The detector counts frames; what it thinks of their rate does not matter.
        found_cuts = detector.process_frame(
            FrameTimecode(number, 24.0), np.ascontiguousarray(frame[..., ::-1])
        )
        cuts += [cut.frame_num for cut in found_cuts]
    if not stamps:
        return Scenes(times=(), end=0.0, cuts=(), scenes=())
    times, _ = continuous(stamps, 1 / 24)
    steps = np.diff(times)
    end = times[-1] + (float(np.median(steps)) if len(steps) else 1 / 24)
    faded = fades(np.array(deviations))
    edges = [0, *(edge for fade in faded for edge in (fade.start, fade.stop)), len(times)]
    lit = [range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    blended = [*faded, *dissolves(np.array(deviations), pictures, lit)]
    return Scenes(
        times=tuple(times),
        end=end,
        cuts=tuple(hard := hard_cuts(cuts, blended)),
        scenes=tuple(scenes_between(hard, blended, len(times))),
    )


def fades(deviations: Float[np.ndarray, " N"]) -> list[range]:
    """Frames of one plain colour, with those before that fade into it and those after that come out of it."""
    plain = deviations < PLAIN
    ranges: list[range] = []
    start = 0
    while start < len(plain):
        if not plain[start]:
            start += 1
            continue
        stop = start
        while stop < len(plain) and plain[stop]:
            stop += 1
        first, last = ramp(deviations[:start][::-1]), ramp(deviations[stop:])
        ranges.append(range(start - first, stop + last))
        start = stop
    return ranges


def ramp(deviations: Float[np.ndarray, " n"]) -> int:
    """How many frames, going away from a plain one, show more and more."""
    count, before = 0, 0.0
    for value in deviations[:LONGEST_FADE]:
        if value < before * RISE:
            break
        count, before = count + 1, float(value)
    # A cut from or to a plain colour is no fade: its first frame shows all at once.
    return count if count > 1 else 0


def hard_cuts(cuts: Sequence[int], blended: Sequence[range]) -> list[int]:
    """Those that are not part of a fade or dissolve."""
    return [
        cut for cut in cuts if not any(each.start - NEARBY <= cut <= each.stop + NEARBY for each in blended)
    ]


def scenes_between(cuts: Sequence[int], blended: Sequence[range], count: int) -> list[range]:
    edges = sorted({0, count, *cuts, *(edge for each in blended for edge in (each.start, each.stop))})
    inside = {number for each in blended for number in each}
    scenes = []
    for start, stop in pairwise(edges):
        if start in inside:
            continue
        first = start + (MARGIN if start in cuts else 0)
        last = stop - (MARGIN if stop in cuts else 0)
        if last > first:
            scenes.append(range(first, last))
    return scenes

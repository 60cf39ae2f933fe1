"""The frames of a clip as they are trained on: at the model's frame rate, upright, without bars, at the bucket's size.

Axes: T frames, H rows, W columns; RGB, 0..255.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from jaxtyping import UInt8

from linnet.data.buckets import TrainingClip
from linnet.direct.footage import fitted
from linnet.errors import InvalidInput
from linnet.inputs import reader

Frame = UInt8[np.ndarray, "H W 3"]
Frames = UInt8[np.ndarray, "T H W 3"]


def read_frames(clip: TrainingClip) -> Frames:
    """All of them. InvalidInput where the file is not what it was when it was probed."""
    return np.stack(list(frames_of(clip)))


def read_together(clips: Sequence[TrainingClip]) -> list[Frames]:
    """Of several clips of one file, which is decoded once."""
    if any(clip.still for clip in clips):
        return [read_frames(clip) for clip in clips]
    numbers = sorted({number for clip in clips for number in clip.order})
    shown: list[dict[int, Frame]] = [{} for _ in clips]
    with closing(reader.frames(clips[0].sample.path, numbers)) as frames:
        for number, frame in zip(numbers, frames, strict=True):
            for clip, own in zip(clips, shown, strict=True):
                if number in clip.order:
                    own[number] = prepared(frame, clip)
    return [np.stack([own[number] for number in clip.order]) for clip, own in zip(clips, shown, strict=True)]


def frames_of(clip: TrainingClip) -> Iterator[Frame]:
    """One at a time."""
    path = clip.sample.path
    if clip.still:
        yield prepared(reader.read_picture(path)[0], clip)
        return
    counts: dict[int, int] = {}
    for number in clip.order:
        counts[number] = counts.get(number, 0) + 1
    with closing(reader.frames(path, [*counts])) as shown:
        for count, frame in zip(counts.values(), shown, strict=True):
            ready = prepared(frame, clip)
            for _ in range(count):
                yield ready


def prepared(frame: Frame, clip: TrainingClip) -> UInt8[np.ndarray, "high wide 3"]:
    height, width, _ = frame.shape
    box = clip.box
    if box.right > width or box.bottom > height:
        problem = f"has a frame of {width}x{height}, smaller than its first"
        raise InvalidInput("file", clip.sample.path, problem, "save it anew with one size throughout")
    cropped = frame[box.top : box.bottom, box.left : box.right]
    return fitted(
        np.ascontiguousarray(cropped), clip.bucket.size, "crop", field="file", value=clip.sample.path
    )

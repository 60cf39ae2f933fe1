"""Videos that may last for hours, read from beginning to end without being kept: small frames for whoever looks for
scenes, then a survey of each part that is to become a clip.

Axes: H rows, W columns; RGB, 0..255. Runs in the reading child.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8
from PIL import Image

from linnet.inputs import videos
from linnet.inputs.clips import Frame, Scan, legibly
from linnet.inputs.survey import Survey, Watcher

SMALL = 128  # pixels across


def small_frames(path: Path) -> Iterator[tuple[float | None, UInt8[np.ndarray, "h w 3"]]]:
    """Every frame with its time stamp, as stored but small. A video that is damaged ends where it cannot be decoded."""
    with legibly(path), videos.opened(path) as container:
        stream = videos.clip_stream(container, path, lambda line: None)
        for frame in readable(videos.decoded(container, stream, path)):
            width = min(frame.width, SMALL)
            size = (width, max(1, round(frame.height * width / frame.width)))
            small = Image.fromarray(frame.to_ndarray(format="rgb24")).resize(size, Image.Resampling.BOX)
            yield frame.time, np.asarray(small)


def surveys(
    path: Path, parts: Sequence[range], times: Sequence[float]
) -> Iterator[tuple[Survey, list[Frame]]]:
    """Of each part of a video, by the numbers of its frames, which rise; `times` are those of all frames."""
    with legibly(path), videos.opened(path) as container:
        stream = videos.clip_stream(container, path, lambda line: None)
        waiting = iter(parts)
        part = next(waiting, None)
        watch, size, quarter = Watcher(), None, 0
        aspect = float(stream.sample_aspect_ratio or 1)
        for number, frame in enumerate(readable(videos.decoded(container, stream, path))):
            if part is None:
                return
            if size is None:
                size, quarter = videos.shown_size(frame, stream, path), videos.quarter_turns(frame, path)
            if number >= part.start:
                watch(videos.view_of(frame, quarter, aspect, path), times[number] - times[part.start])
            if number + 1 == part.stop:
                own = tuple(times[index] - times[part.start] for index in part)
                end = times[part.stop] - times[part.start] if part.stop < len(times) else own[-1]
                scan = Scan(size=size, times=own, end=end, more=False, notes=())
                yield watch.survey("video", scan), watch.thumbnails(end)
                part, watch = next(waiting, None), Watcher()


def readable(frames: Iterator[Any]) -> Iterator[Any]:
    """Those before the first that cannot be decoded, if there are any."""
    count = 0
    try:
        for frame in frames:
            count += 1
            yield frame
    except FFmpegError:
        if not count:
            raise

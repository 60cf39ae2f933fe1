"""Pictures and clips that people bring, brought to the model's size and pace; what was done is said.

Axes: H rows, W columns; RGB, 0..255.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, Size, format_seconds, seconds_of
from linnet.inputs import reader
from linnet.inputs.clips import Limits, Scan
from linnet.inputs.reader import Tick, nothing
from linnet.request import LONGEST_SECONDS, check_length

Frame = UInt8[np.ndarray, "H W 3"]
Fit = Literal["crop", "pad"]

ASPECT_SLACK = 0.02  # of a side: what rounding to a grid may cost unseen
PACE_SLACK = (
    0.25  # of a frame's time: clocks are as coarse as 10 ms (GIF), and 24 frames a second no whole number
)
SPARE = 1.0  # seconds behind the longest clip that are looked at, so that a longer one is known to be


def read_image(path: Path, size: Size, fit: Fit | None = None, *, field: str = "image") -> Frame:
    """The image as a viewer shows it, at this size. Another shape is cropped or padded as `fit` says."""
    return read_image_and_notes(path, size, fit, field=field)[0]


def read_image_and_notes(
    path: Path, size: Size, fit: Fit | None = None, *, field: str, tick: Tick = nothing
) -> tuple[Frame, tuple[str, ...]]:
    """And what to tell the person of it."""
    picture, notes = reader.read_picture(path, tick)
    return fitted(picture, size, fit, field=field, value=path), notes


@dataclass(frozen=True, kw_only=True)
class Source:
    """A clip as it will be used: `frames` gives them anew each time; `notes` say in words what was changed. `more`: the
    file goes on behind what was looked at. `tick` is called while the file is read, and may raise."""

    path: Path
    size: Size
    fps: int
    fit: Fit | None
    order: Sequence[int]  # which of the file's frames each one is, in rising order
    notes: tuple[str, ...]
    more: bool = False
    tick: Tick = nothing

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """From the frame numbered `start` on, at the model's size."""
        counts: dict[int, int] = {}
        for number in self.order[start:]:
            counts[number] = counts.get(number, 0) + 1
        with closing(reader.frames(self.path, [*counts], self.tick)) as shown:
            for count, frame in zip(counts.values(), shown, strict=True):
                whole = fitted(frame, self.size, self.fit, field="video", value=self.path)
                for _ in range(count):
                    yield whole


def open_source(
    path: Path,
    size: Size,
    fps: int,
    fit: Fit | None = None,
    *,
    seconds: float = LONGEST_SECONDS,
    tick: Tick = nothing,
) -> Source:
    """A clip to begin from, of which so many seconds are looked at. InvalidInput where it is broken, has no frame, or
    another shape than `fit` allows for."""
    facts = scan(path, seconds, tick)
    check_fit(facts.size, size, fit, field="video", value=path)
    order, notes = paced(facts.times, fps, end=facts.end), []
    if order != list(range(len(facts.times))):
        notes.append(
            f"{path.name} does not run at {fps} frames a second:"
            f" resampled, {len(facts.times)} frames to {len(order)}"
        )
    limits = reader.not_limited()
    notes = (*notes, *facts.notes, *([limits] if limits else []))
    return Source(
        path=path, size=size, fps=fps, fit=fit, order=order, notes=notes, more=facts.more, tick=tick
    )


def scan(path: Path, seconds: float = LONGEST_SECONDS, tick: Tick = nothing) -> Scan:
    return reader.scan(path, Limits(seconds=seconds + SPARE), tick)


def frames_in(path: Path, spec: ModelSpec) -> int:
    """The most frames that a clip can give the model (see `length_for`)."""
    facts = scan(path)
    count = len(paced(facts.times, spec.fps, end=facts.end))
    return length_for(spec, path, count, shorten="name a part of it with `seconds`")


def length_for(spec: ModelSpec, path: Path, count: int, *, shorten: str = "give a shorter one") -> int:
    """The most frames of a clip's `count` that the model can make; InvalidInput where it makes none so short or long.
    `shorten` is what to do about one that is too long."""
    frames = on_the_grid(count)
    try:
        check_length(spec, frames, "frames", frames)
    except InvalidInput as error:
        seconds = format_seconds(seconds_of(count, spec.fps))
        problem = f"has {count} frames at {spec.fps} a second, {seconds} s, and {error.problem}"
        raise InvalidInput(
            "video", path, problem, "give a longer one" if frames < spec.min_frames else shorten
        ) from error
    return frames


def on_the_grid(count: int) -> int:
    """The most frames, of so many, that the model can make."""
    return (count - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1


def paced(times: Sequence[float], fps: float, *, end: float | None = None) -> list[int]:
    """At every 1/fps seconds until `end`, which frame is shown then. Without an `end` the last frame stands as long as
    the one before it did."""
    if end is None:
        end = times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1 / fps)
    order, shown = [], 0
    for tick in range(max(1, round(end * fps))):
        while shown + 1 < len(times) and times[shown + 1] <= (tick + PACE_SLACK) / fps:
            shown += 1
        order.append(shown)
    return order


def fitted(
    picture: Frame, size: Size, fit: Fit | None, *, field: str, value: object
) -> UInt8[np.ndarray, "high wide 3"]:
    """The picture at this size. Another shape is cropped about its middle, or padded with black, as `fit` says."""
    shown = Size(picture.shape[1], picture.shape[0])
    if shown == size:
        return picture
    image = Image.fromarray(picture)
    if same_shape(shown, size):
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    check_fit(shown, size, fit, field=field, value=value)
    method = ImageOps.fit if fit == "crop" else ImageOps.pad
    return np.asarray(method(image, size, Image.Resampling.LANCZOS))


def same_shape(shown: Size, size: Size) -> bool:
    return abs(size.width * shown.height / (size.height * shown.width) - 1) <= ASPECT_SLACK


def check_fit(shown: Size, size: Size, fit: Fit | None, *, field: str, value: object) -> None:
    """InvalidInput where a picture has another shape and nobody said what to do about it."""
    if fit is not None or same_shape(shown, size):
        return
    wide, high = size.width / shown.width, size.height / shown.height
    side, lost = ("height", 1 - high / wide) if wide > high else ("width", 1 - wide / high)
    problem = f"is {shown}, of another shape than {size}"
    remedy = f"use `fit=crop`, which cuts off {100 * lost:.0f} % of its {side}, or `fit=pad`, which adds bars"
    raise InvalidInput(field, value, problem, remedy)

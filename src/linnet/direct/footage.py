"""Pictures and clips that people bring: turned upright, brought to the model's size and pace, and what was done said.

Axes: H rows, W columns; RGB, 0..255.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from linnet import media
from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, Size, format_seconds, seconds_of
from linnet.request import check_length

Frame = UInt8[np.ndarray, "H W 3"]
Fit = Literal["crop", "pad"]

ASPECT_SLACK = 0.02  # of a side: what rounding to a grid may cost unseen
PACE_SLACK = 0.01  # of a frame's time
MISSING = 0.25  # seconds that sound may outlast the pictures without a word


def read_image(path: Path, size: Size, fit: Fit | None = None, *, field: str = "image") -> Frame:
    """The image, upright (EXIF) and at this size. Another shape is cropped or padded as `fit` says."""
    with media.legibly(path):
        if path.is_dir():
            raise InvalidInput(field, path, "is a folder", "give an image")
        with media.opened_image(path) as opened:
            upright = media.in_8_bits(ImageOps.exif_transpose(opened), path)
            image = upright.convert("RGBA") if "transparency" in opened.info else upright
            if image.mode in ("RGBA", "LA"):
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            picture = np.asarray(image.convert("RGB"))
    return fitted(picture, size, fit, field=field, value=path)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A clip as it will be used: `frames` gives them anew each time; `notes` say in words what was changed."""

    path: Path
    size: Size
    fps: int
    fit: Fit | None
    order: Sequence[int]  # which of the file's frames each one is, in rising order
    notes: tuple[str, ...]

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """From the frame numbered `start` on, at the model's size."""
        wanted = iter(self.order[start:])
        number = next(wanted, None)
        for index, frame in enumerate(upright_frames(self.path)):
            shown: Frame | None = None
            while number == index:
                shown = (
                    fitted(frame, self.size, self.fit, field="video", value=self.path)
                    if shown is None
                    else shown
                )
                yield shown
                number = next(wanted, None)
            if number is None:
                return


def open_source(path: Path, size: Size, fps: int, fit: Fit | None = None) -> Source:
    """A clip to begin from. InvalidInput where it is broken, has no frame, or another shape than `fit` allows for."""
    times, told = frame_times(path, fps)
    notes: list[str] = []
    fitted(next(iter(upright_frames(path))), size, fit, field="video", value=path)
    order = paced(times, fps)
    if order != list(range(len(times))):
        notes.append(
            f"{path.name} does not run at {fps} frames a second: resampled, {len(times)} frames to {len(order)}"
        )
    return Source(path=path, size=size, fps=fps, fit=fit, order=order, notes=(*notes, *told))


def frames_in(path: Path, spec: ModelSpec) -> int:
    """The most frames that a clip can give the model (see `length_for`)."""
    times, _ = frame_times(path, spec.fps)
    return length_for(spec, path, len(paced(times, spec.fps)), shorten="name a part of it with --seconds")


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


def frame_times(path: Path, fps: int) -> tuple[list[float], list[str]]:
    """When each frame of a clip is shown, in seconds from its first, and what to tell of the file beside; InvalidInput
    where there is no frame."""
    if path.is_dir() or path.suffix.lower() in media.IMAGES:
        found = media.probe(path)
        pace = found.fps or fps
        return [index / pace for index in range(found.frames)], []
    with media.legibly(path), media.opened_video(path) as container:
        stamps = [frame.time for frame in container.decode(video=0)]
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(stamps):
            rate = float(container.streams.video[0].average_rate or fps)
            known = [index / rate for index in range(len(stamps))]
        if not known:
            raise InvalidInput("video", path, "holds no frame", "give a clip with frames in it")
        times = [stamp - known[0] for stamp in known]
        notes = [f"the sound of {path.name} is left out"] if container.streams.audio else []
        says, shows = (container.duration or 0) / av.time_base, ends_at(times, fps)
        if says > shows + MISSING:
            notes.append(f"{path.name} says that it lasts {says:.1f} s, and has pictures for {shows:.1f} s")
        return times, notes


def ends_at(times: Sequence[float], fps: int) -> float:
    """The last frame stands as long as the one before it did."""
    return times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1 / fps)


def paced(times: Sequence[float], fps: int) -> list[int]:
    """At every 1/fps seconds, which frame is shown then."""
    order, shown = [], 0
    for tick in range(max(1, round(ends_at(times, fps) * fps))):
        while shown + 1 < len(times) and times[shown + 1] <= (tick + PACE_SLACK) / fps:
            shown += 1
        order.append(shown)
    return order


def upright_frames(path: Path) -> Iterator[Frame]:
    """Every frame as a player shows it: of square pixels, and turned as the file's display matrix says."""
    if path.is_dir() or path.suffix.lower() in media.IMAGES:
        yield from media.read_frames(path)
        return
    quarter, aspect = quarter_turns(path), pixel_aspect(path)
    for frame in media.read_frames(path):
        shown = widened(frame, aspect)
        yield np.ascontiguousarray(np.rot90(shown, quarter)) if quarter else shown


def pixel_aspect(path: Path) -> float:
    """How much wider than high a player shows the pixels of a video file."""
    with media.legibly(path), media.opened_video(path) as container:
        return float(container.streams.video[0].sample_aspect_ratio or 1)


def widened(frame: Frame, aspect: float) -> UInt8[np.ndarray, "H wide 3"]:
    height, width, _ = frame.shape
    wide = max(1, round(width * aspect))
    if wide == width:
        return frame
    return np.asarray(Image.fromarray(frame).resize((wide, height), Image.Resampling.LANCZOS))


def quarter_turns(path: Path) -> int:
    """How many times a player turns the frames of a video file, counterclockwise; InvalidInput if it mirrors them."""
    with media.legibly(path), media.opened_video(path) as container:
        for frame in islice(container.decode(video=0), 1):
            if is_mirrored(frame):
                remedy = "save it first as it is shown"
                raise InvalidInput("video", path, "is mirrored by its player", remedy)
            return round(frame.rotation / 90) % 4
        return 0


def is_mirrored(frame: av.VideoFrame) -> bool:
    """By the determinant of the display matrix: nine numbers in rows, of which two by two turn, mirror and scale."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(float)
    return bool(a * d - b * c < 0)


def fitted(picture: Frame, size: Size, fit: Fit | None, *, field: str, value: object) -> Frame:
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
    remedy = f"use --fit crop, which cuts off {100 * lost:.0f} % of its {side}, or --fit pad, which adds bars"
    raise InvalidInput(field, value, problem, remedy)

"""A clip is a video file, an animation, or a folder of pictures: one set of functions for all three."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import UInt8

from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.inputs import folders, pictures, timing
from linnet.inputs.pictures import View
from linnet.inputs.refusals import legibly

Frame = UInt8[np.ndarray, "H W 3"]
Kind = Literal["folder", "picture", "video"]

HEAD = 16  # bytes that tell a picture from a video
LENGTH_SLACK = 1.0  # seconds: how long the last frame stands is not always told
MISSING = 0.25  # seconds that sound may outlast the pictures without a word


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What of a clip is looked at, and what is refused. `seconds`: no frame behind these is looked at; `longest`: a
    clip that lasts longer is refused. None refuses nothing."""

    seconds: float
    pixels: int | None = None
    longest: float | None = None
    frames: int | None = None
    codecs: Mapping[str, str] | None = None  # ffmpeg's names and those to tell people


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A clip that was decoded once. `times`: when each frame is shown, in seconds from the first; the last one stands
    until `end`. `more`: there are frames behind the limit. `lacking`: seconds that the file says it lasts longer."""

    size: Size
    times: tuple[float, ...]
    end: float
    more: bool
    notes: tuple[str, ...]
    lacking: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        lists = {
            "size": Size(*record["size"]),
            "times": tuple(record["times"]),
            "notes": tuple(record["notes"]),
        }
        return cls(**{**record, **lists})


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What a clip is, as its file has it. `fps` is an average where frames stand for different times."""

    size: Size
    frames: int
    fps: float


Look = Callable[[View, float], None]  # is given each frame, and when it is shown


def unseen(view: View, time: float) -> None:
    """Nobody looks."""


class Notes(list[str]):
    """Each said once."""

    def add(self, line: str) -> None:
        if line not in self:
            self.append(line)


def kind_of(path: Path) -> Kind:
    """By what it is, whatever its name says."""
    with legibly(path):
        if path.is_dir():
            return "folder"
        with path.open("rb") as file:
            return "picture" if pictures.is_picture(file.read(HEAD)) else "video"


def scan(path: Path, limits: Limits, look: Look = unseen) -> Scan:
    """InvalidInput for a file that is no clip, has no frame, or is over the limits."""
    kind = kind_of(path)
    if kind == "folder":
        return scan_folder(path, look)
    return scan_animation(path, limits, look) if kind == "picture" else scan_video(path, limits, look)


def scan_folder(path: Path, look: Look = unseen) -> Scan:
    files = folders.checked(path)
    if len(files) == 1:
        raise still(files[0])
    notes = Notes()
    if not (pace := folders.pace_of(path)):
        pace = 24.0
        notes.add(f"{path.name} does not say how fast its pictures follow: read at {pace:.0f} a second")
    pictures.read(files[0], notes.add)
    times = tuple(index / pace for index in range(len(files)))
    if look is not unseen:
        for file, time in zip(files, times, strict=True):
            look(View.of(pictures.read(file, notes.add)), time)
    return Scan(
        size=pictures.size_of(files[0]),
        times=times,
        end=len(files) / pace,
        more=False,
        notes=tuple(notes),
    )


def still(path: Path) -> InvalidInput:
    return InvalidInput("video", path, "is a still image", "use `image`, or give a clip")


def scan_animation(path: Path, limits: Limits, look: Look = unseen) -> Scan:
    notes = Notes()
    with legibly(path), pictures.opened(path) as image:
        if not pictures.is_animation(image):
            raise still(path)
        size = Size(*image.size)
        times, end, more = [], 0.0, False
        for duration in pictures.durations(image):
            if end > limits.seconds:
                more = True
                break
            if not times or look is not unseen:
                look(View.of(pictures.as_shown(image, path, notes.add)), end)
            times.append(end)
            end += min(duration, timing.LONGEST_PAUSE)
    return Scan(size=size, times=tuple(times), end=end, more=more, notes=tuple(notes))


def scan_video(path: Path, limits: Limits, look: Look = unseen) -> Scan:
    from linnet.inputs import videos  # which takes longer to import than a picture to read

    notes = Notes()

    def refused(problem: str, remedy: str) -> InvalidInput:
        return InvalidInput("video", path, problem, remedy)

    large = refused(f"has over {(limits.pixels or 0) // 10**6} million pixels a frame", "send a smaller one")
    long = refused(f"lasts over {limits.longest:.0f} s", "send a shorter one") if limits.longest else None
    options = {"max_pixels": str(limits.pixels)} if limits.pixels else {}
    with legibly(path), videos.opened(path, **options) as container:
        for stream in (
            container.streams.video if limits.codecs else ()
        ):  # whoever opens the file looks into all
            if stream.codec_context is None or stream.codec.canonical_name not in (limits.codecs or {}):
                kinds = ", ".join((limits.codecs or {}).values())
                raise refused("is coded in another way than is taken", f"use {kinds}")
        for stream in container.streams.video if limits.pixels else ():
            if videos.pixels_of(stream) > (limits.pixels or 0):
                raise large
        stream = videos.clip_stream(container, path, notes.add)
        if options and stream.codec_context is not None:
            stream.codec_context.options = options
        stamps: list[float | None] = []
        size, usual, last, elapsed, more, quarter = None, 0.0, 0.0, 0.0, False, 0
        aspect = float(stream.sample_aspect_ratio or 1)
        for frame in videos.decoded(container, stream, path):
            if limits.pixels and frame.width * frame.height * widening(stream) > limits.pixels:
                raise large
            if size is None:
                size, quarter = videos.shown_size(frame, stream, path), videos.quarter_turns(frame, path)
                usual = 1 / float(stream.average_rate or 24)
                next(videos.as_shown(iter([frame]), stream, path, notes.add))
            elapsed += forward(stamps[-1] if stamps else None, frame.time, usual)
            if long and elapsed > (limits.longest or 0) + LENGTH_SLACK:
                raise long
            if elapsed > limits.seconds:
                more = True
                break
            if limits.frames and len(stamps) >= limits.frames:
                raise refused(f"has over {limits.frames} frames", "send a shorter one")
            stamps.append(frame.time)
            look(videos.view_of(frame, quarter, aspect, path), elapsed)
            last = float((frame.duration or 0) * (frame.time_base or 0))
        if size is None:
            raise refused("holds no frame", "give a clip with frames in it")
        times, mended = timing.continuous(stamps, usual)
        if mended:
            notes.add(f"the time stamps of {path.name} start again or leap: its frames are taken one by one")
        end = times[-1] + (last if 0 < last <= timing.LONGEST_PAUSE else timing.usual_step(stamps, usual))
        if container.streams.audio:
            notes.add(f"the sound of {path.name} is left out")
        says = (container.duration or 0) / 1e6
        lacking = says - end if says > end + MISSING and not more and not mended else 0.0
        if lacking:
            notes.add(f"{path.name} says that it lasts {says:.1f} s, and has pictures for {end:.1f} s")
    return Scan(
        size=size, times=tuple(times), end=end, more=more, notes=tuple(notes), lacking=round(lacking, 3)
    )


def widening(stream: Any) -> float:
    return max(1.0, float(stream.sample_aspect_ratio or 1))


def forward(before: float | None, stamp: float | None, usual: float) -> float:
    """Seconds that a frame comes after the one before it, as far as its stamp can be believed."""
    if before is None or stamp is None:
        return 0.0 if before is None else usual
    step = stamp - before
    return step if 0 <= step <= timing.LONGEST_PAUSE else usual


def frames(path: Path, notes: Notes | None = None) -> Iterator[Frame]:
    """Every frame as a player shows it, one at a time."""
    notes = Notes() if notes is None else notes
    kind = kind_of(path)
    if kind == "folder":
        yield from folders.frames(path, notes.add)
    elif kind == "picture":
        yield from pictures.frames(path, notes.add)
    else:
        from linnet.inputs import videos

        yield from videos.frames(path, notes.add)


def note_in(path: Path) -> str:
    """What a program wrote into the clip in words; linnet's own is JSON."""
    kind = kind_of(path)
    if kind == "folder":
        return folders.note_in(path)
    if kind == "picture":
        return pictures.note_in(path)
    from linnet.inputs import videos

    return videos.note_in(path)


def probe(path: Path) -> Footage:
    """Size, length and speed of a clip; InvalidInput for a file that is no clip."""
    kind = kind_of(path)
    if kind == "folder":
        files = folders.files_of(path)
        return Footage(size=pictures.size_of(files[0]), frames=len(files), fps=folders.pace_of(path))
    if kind == "picture":
        with legibly(path), pictures.opened(path) as image:
            size, seconds = Size(*image.size), list(pictures.durations(image))
            fps = len(seconds) / sum(seconds) if len(seconds) > 1 else 0.0
            return Footage(size=size, frames=len(seconds), fps=fps)
    from linnet.inputs import videos

    with legibly(path), videos.opened(path) as container:
        stream = videos.clip_stream(container, path, lambda line: None)
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        context = stream.codec_context
        size = Size(context.width, context.height) if context is not None else Size(0, 0)
        return Footage(size=size, frames=frames, fps=float(stream.average_rate or 0))

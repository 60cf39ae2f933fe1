"""What a clip shows, measured while it is decoded once: black bars, motion, brightness, sharpness, and a hash of how it
looks. Nothing is judged here; `data.findings` does that.

Axes: H rows, W columns; luma 0..255. Runs in the reading child.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from linnet.geometry import Size
from linnet.inputs import clips, pictures
from linnet.inputs.clips import Frame, Limits, Scan
from linnet.inputs.pictures import View

Luma = UInt8[np.ndarray, "H W"]

EVERY = 0.25  # seconds between two frames that are looked at closely; each is compared with the one before it
THUMB, CLOSE = 192, 256  # pixels across
COARSE = Size(64, 36)  # in which frames are compared
MOMENTS = (1 / 6, 1 / 2, 5 / 6)  # of a clip: its thumbnails and hashes
BLACK, EVEN, RINGING = 18.0, 2.5, 64  # luma of a bar: at most, on average; its deviation; at most, ever
LIT = 24
SHARE = 0.5  # of a row that is lit at once, where a bar ends: an object on a black ground lights less
LEAST_BAR = 2  # pixels
HASHED = 32  # pixels a side


class Box(NamedTuple):
    """Pixels from `left` up to `right`, from `top` up to `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        return Size(self.right - self.left, self.bottom - self.top)

    def __str__(self) -> str:
        return f"{self.size} at {self.left},{self.top}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one frame looks within the black bars: a perceptual hash of 64 bits, the mean colours of 4x4 fields, and its
    sharpness (the variance of the Laplacian of its luma, in a frame 256 pixels wide)."""

    time: float
    hash: int
    colours: tuple[int, ...]
    sharpness: float


@dataclass(frozen=True, kw_only=True)
class Survey:
    """`content` is what the black bars leave. `luma`: mean and deviation of each frame; `changes`: how much each frame
    differs from the one before, the mean of absolute differences (the first has 0). `extent`: how far the liveliest
    hundredth of the picture changes over the whole clip. `looks` are of MOMENTS."""

    kind: str
    scan: Scan
    turned: int  # degrees, by its player
    hdr: bool
    content: Box
    luma: tuple[float, ...]
    deviation: tuple[float, ...]
    changes: tuple[float, ...]
    extent: float
    looks: tuple[Look, ...]

    @property
    def size(self) -> Size:
        return self.scan.size

    @property
    def still(self) -> bool:
        """A picture, whose one frame has no length."""
        return self.kind == "picture"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        looks = [Look(**{**look, "colours": tuple(look["colours"])}) for look in record["looks"]]
        series = {name: tuple(record[name]) for name in ("luma", "deviation", "changes")}
        whole = {"scan": Scan.from_json(record["scan"]), "content": Box(*record["content"])}
        return cls(**{**record, **series, **whole, "looks": tuple(looks)})


def survey(path: Path, limits: Limits) -> tuple[Survey, list[Frame]]:
    """And a thumbnail for each of the MOMENTS. InvalidInput for a file that is no clip or picture."""
    kind = clips.kind_of(path)
    watch = Watcher()
    if kind == "picture":
        with clips.legibly(path), pictures.opened(path) as image:
            animated = pictures.is_animation(image)
        if not animated:
            return survey_picture(path, watch)
    scan = clips.scan(path, limits, watch)
    return watch.survey("animation" if kind == "picture" else kind, scan), watch.thumbnails(scan.end)


def survey_picture(path: Path, watch: "Watcher") -> tuple[Survey, list[Frame]]:
    notes = clips.Notes()
    frame = pictures.read(path, notes.add)
    watch(View.of(frame), 0.0)
    size = Size(frame.shape[1], frame.shape[0])
    scan = Scan(size=size, times=(0.0,), end=0.0, more=False, notes=tuple(notes))
    return watch.survey("picture", scan), watch.thumbnails(0.0)


class Watcher:
    """Sees each frame of a clip once."""

    def __init__(self) -> None:
        self.luma: list[float] = []
        self.deviation: list[float] = []
        self.changes: list[float] = []
        self.near: list[
            tuple[float, Frame, Luma]
        ] = []  # when, thumbnail, small luma of what is looked at closely
        self.bars: Bars | None = None
        self.before: Float[np.ndarray, "h w"] | None = None
        self.darkest: Float[np.ndarray, "h w"] | None = None
        self.brightest: Float[np.ndarray, "h w"] | None = None
        self.due = 0.0
        self.turned, self.hdr = 0, False

    def __call__(self, view: View, time: float) -> None:
        luma = view.luma()
        coarse = np.asarray(Image.fromarray(luma).resize(COARSE, Image.Resampling.BOX)).astype(np.float32)
        self.luma.append(round(float(coarse.mean()), 2))
        self.deviation.append(round(float(coarse.std()), 2))
        self.changes.append(
            0.0 if self.before is None else round(float(np.abs(coarse - self.before).mean()), 3)
        )
        self.before = coarse
        self.darkest = coarse if self.darkest is None else np.minimum(self.darkest, coarse)
        self.brightest = coarse if self.brightest is None else np.maximum(self.brightest, coarse)
        if self.bars is None:
            self.bars, self.turned, self.hdr = Bars(luma), view.turned, view.hdr
        self.bars.add(luma)
        if time >= self.due:
            self.due = time + EVERY
            self.near.append((time, across(view.shown(), THUMB), across(luma, CLOSE)))

    def chosen(self, end: float) -> list[int]:
        """Of the frames that were looked at, those nearest to the MOMENTS."""
        times = np.array([time for time, _, _ in self.near])
        return [int(np.abs(times - share * end).argmin()) for share in MOMENTS]

    def thumbnails(self, end: float) -> list[Frame]:
        return [self.near[index][1] for index in self.chosen(end)]

    def survey(self, kind: str, scan: Scan) -> Survey:
        assert self.bars is not None
        assert self.brightest is not None
        assert self.darkest is not None
        extent = np.quantile(self.brightest - self.darkest, 0.99)
        content = self.bars.content()
        return Survey(
            kind=kind,
            scan=scan,
            turned=self.turned,
            hdr=self.hdr,
            content=as_shown(content, self.bars.size, scan.size),
            luma=tuple(self.luma),
            deviation=tuple(self.deviation),
            changes=tuple(self.changes),
            extent=round(float(extent), 2),
            looks=tuple(
                look_at(time, inside(small, content, self.bars.size), inside(luma, content, self.bars.size))
                for time, small, luma in (self.near[index] for index in self.chosen(scan.end))
            ),
        )


def inside(small: UInt8[np.ndarray, "H W ..."], box: Box, stored: Size) -> UInt8[np.ndarray, "h w ..."]:
    """What of a small frame is within the box of the large one, and not at its edge."""
    if box.size == stored:
        return small
    height, width = small.shape[:2]
    wide, high = width / stored.width, height / stored.height
    left, top = int(np.ceil(box.left * wide)), int(np.ceil(box.top * high))
    right, bottom = int(box.right * wide), int(box.bottom * high)
    return np.ascontiguousarray(small[min(top, bottom - 1) : bottom, min(left, right - 1) : right])


def as_shown(box: Box, stored: Size, shown: Size) -> Box:
    """In the square pixels of the frame as it is shown."""
    wide, high = shown.width / stored.width, shown.height / stored.height
    if wide == high == 1:
        return box
    return Box(
        int(np.ceil(box.left * wide)),
        int(np.ceil(box.top * high)),
        int(box.right * wide),
        int(box.bottom * high),
    )


# --- black bars -------------------------------------------------------------------------------------------------------


class Bars:
    """Of frames of one size: where a border is black in all of them and ends along a straight line."""

    def __init__(self, luma: Luma) -> None:
        self.size = Size(luma.shape[1], luma.shape[0])
        self.sum = np.zeros(luma.shape, np.float32)
        self.most = np.zeros(luma.shape, np.uint8)
        self.count = 0
        self.rows: list[Float[np.ndarray, " H"]] = []
        self.columns: list[Float[np.ndarray, " W"]] = []

    def add(self, luma: Luma) -> None:
        if luma.shape != self.sum.shape:
            return  # a stream that changes its size in the middle
        self.sum += luma
        self.count += 1
        np.maximum(self.most, luma, out=self.most)
        if self.count % max(1, len(self.rows) // 200) == 0:  # fewer and fewer, of a long clip
            lit = luma > LIT
            self.rows.append(lit.mean(1, dtype=np.float32))
            self.columns.append(lit.mean(0, dtype=np.float32))

    def content(self) -> Box:
        """What the bars leave; all of it where nothing is a bar, or everything is black."""
        mean = self.sum / max(1, self.count)
        rows, columns = (np.quantile(np.stack(each), 0.75, axis=0) for each in (self.rows, self.columns))
        top, bottom = ends(mean, self.most, rows)
        inside = slice(top, self.size.height - bottom)
        # Of columns too only what is not in the bars above and below counts.
        share = (self.size.height - top - bottom) / self.size.height
        left, right = ends(mean[inside].T, self.most[inside].T, columns / max(share, 1e-6))
        return Box(left, top, self.size.width - right, self.size.height - bottom)


def ends(
    mean: Float[np.ndarray, "N _"], most: UInt8[np.ndarray, "N _"], lit: Float[np.ndarray, " N"]
) -> tuple[int, int]:
    """How many lines are a bar at the beginning and at the end."""
    black = (mean.mean(1) < BLACK) & (mean.std(1) < EVEN) & (np.quantile(most, 0.98, axis=1) < RINGING)
    if black.all():
        return 0, 0
    line = mean.mean(1)

    def bar(black: np.ndarray, lit: np.ndarray, line: np.ndarray) -> int:
        count = int(np.argmin(black))
        if count < LEAST_BAR or lit[count : count + 2].max() < SHARE:
            return 0
        # A codec's blocks let the picture ring into the bar: the edge is where the lines differ most.
        near = range(max(1, count - 2), min(len(line) - 1, count + 2))
        return max(near, key=lambda at: (line[at] - line[at - 1], -abs(at - count)))

    return bar(black, lit, line), bar(black[::-1], lit[::-1], line[::-1])


# --- how a frame looks ------------------------------------------------------------------------------------------------


def across(frame: UInt8[np.ndarray, "H W ..."], most: int) -> UInt8[np.ndarray, "h w ..."]:
    """At most so many pixels wide."""
    height, width = frame.shape[:2]
    if width <= most:
        return frame
    size = (most, max(1, round(height * most / width)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def look_at(time: float, frame: Frame, luma: UInt8[np.ndarray, "h w"]) -> Look:
    fields = Image.fromarray(frame).resize((4, 4), Image.Resampling.BOX)
    colours = tuple(int(value) for value in np.asarray(fields).ravel())
    return Look(
        time=round(time, 4), hash=perceptual_hash(luma), colours=colours, sharpness=sharpness_of(luma)
    )


def perceptual_hash(luma: Luma) -> int:
    """64 bits: which of the 8x8 lowest frequencies are over their median. Source: pHash, as imagehash writes it."""
    small = Image.fromarray(luma).resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    transform = cosines()
    low = (transform @ np.asarray(small).astype(np.float64) @ transform.T)[:8, :8].ravel()
    bits = low > np.median(low)
    return int("".join("1" if bit else "0" for bit in bits), 2)


@cache
def cosines() -> Float[np.ndarray, "8 n"]:
    """The first rows of the discrete cosine transform of HASHED numbers."""
    at = (2 * np.arange(HASHED) + 1) * np.pi / (2 * HASHED)
    return np.cos(np.arange(8)[:, None] * at)


def sharpness_of(luma: Luma) -> float:
    x = luma.astype(np.float32)
    if min(x.shape) < 3:
        return 0.0
    laplacian = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return round(float(laplacian.var()), 2)

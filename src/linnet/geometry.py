"""Seconds, frames, pixels, latents and tokens: how they follow from one another.

All counts are ints. Linum v2 and seedling share these numbers, since both see the video through an
autoencoder that is causal in time: frame 0 alone, then 4 frames to a latent frame, and 8x8 pixels to a
latent cell. The transformer reads latent cells in patches of 1x2x2.
"""

import math
import re
from typing import NamedTuple, Self

from linnet.errors import InvalidInput
from linnet.wording import format_seconds as format_seconds

FPS = 24
FRAMES_PER_LATENT = 4
PIXELS_PER_LATENT = 8
PATCH = 2
MILLISECOND = 0.001


class Size(NamedTuple):
    """Of a frame, in pixels."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "360p" (640x360), "720p" (1280x720) or "WIDTHxHEIGHT"."""
        name = text.strip().lower()
        if name in NAMED_SIZES:
            return cls(*NAMED_SIZES[name])
        if match := re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", name):
            width, height = int(match[1]), int(match[2])
            if width and height:
                return cls(width, height)
        raise InvalidInput("size", text, "is not a size", "write 360p, 720p or WIDTHxHEIGHT, such as 640x360")

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


NAMED_SIZES = {"360p": (640, 360), "720p": (1280, 720)}


class Grid(NamedTuple):
    """Extent of a clip in latent space: time, rows, columns."""

    frames: int
    height: int
    width: int


def frames_for(seconds: float, fps: int = FPS) -> int:
    """Frames of a clip that lasts `seconds`: 4k+1, where 4k frames follow frame 0 at `fps`.

    So seconds are multiples of 4/fps (1/6 s at 24 fps), read to the millisecond: 2.167 stands for 13/6.
    Anything between is refused with its neighbours on the grid.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidInput("seconds", seconds, "is not a length of time", "give a number such as 2")
    steps = seconds * fps / FRAMES_PER_LATENT
    nearest = round(steps)
    # Half a millisecond is what rounding to three decimals may cost; the rest is float error.
    if abs(steps - nearest) * FRAMES_PER_LATENT / fps > 0.501 * MILLISECOND:
        below, above = (
            format_seconds(seconds_of(FRAMES_PER_LATENT * k + 1, fps))
            for k in (math.floor(steps), math.ceil(steps))
        )
        first, second = (below, above) if nearest == math.floor(steps) else (above, below)
        problem = f"is between two frames of the model's grid (steps of {FRAMES_PER_LATENT}/{fps} s)"
        raise InvalidInput("seconds", seconds, problem, f"the nearest is {first}, then {second}")
    return FRAMES_PER_LATENT * nearest + 1


def latents_in(frames: int) -> int:
    """Latent frames of a clip of 4k+1 frames."""
    return (frames - 1) // FRAMES_PER_LATENT + 1


def frames_of(latents: int) -> int:
    """Frames of a clip of so many latent frames."""
    return FRAMES_PER_LATENT * (latents - 1) + 1


def check_frames(frames: int) -> None:
    """Refuse a frame count that is not 4k+1, naming the nearest that is."""
    if frames < 1 or (frames - 1) % FRAMES_PER_LATENT:
        nearest = max(0, round((frames - 1) / FRAMES_PER_LATENT)) * FRAMES_PER_LATENT + 1
        raise InvalidInput("frames", frames, "is not 1 plus a multiple of 4", f"the nearest is {nearest}")


def seconds_of(frames: int, fps: int = FPS) -> float:
    """From the first frame to the last: 1 frame is 0 s, 49 are 2 s at 24 fps."""
    return (frames - 1) / fps


def latent_grid(frames: int, size: Size) -> Grid:
    """Extent of the latents; `frames` is 4k+1 and both sides of `size` are multiples of 8."""
    return Grid(
        latents_in(frames),
        size.height // PIXELS_PER_LATENT,
        size.width // PIXELS_PER_LATENT,
    )


def token_count(frames: int, size: Size) -> int:
    """How many tokens the transformer attends over: patches of 1x2x2, odd sides padded."""
    grid = latent_grid(frames, size)
    return grid.frames * math.ceil(grid.height / PATCH) * math.ceil(grid.width / PATCH)

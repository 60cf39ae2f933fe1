"""In which windows a clip is denoised: one layout, which a run goes through and the cost model counts.

All counts are of latent frames, except where frames are named.
"""

import math
from dataclasses import dataclass, replace

from linnet.catalog import ModelSpec
from linnet.geometry import FRAMES_PER_LATENT, latents_in
from linnet.request import Request

GOLDEN = (3 - 5**0.5) / 2


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where the windows of a clip lie: the numbers of each one's latent frames, in the order that the model sees."""

    frames: int
    places: tuple[tuple[int, ...], ...]
    turn: int = 0  # latent frames by which they are turned on around the clip at each step

    @property
    def longest(self) -> int:
        return max(map(len, self.places))


def denoised(spec: ModelSpec, request: Request) -> Request:
    """The request of which this one's clip is a part (see `ModelSpec.denoised_frames`): mostly the same.

    A loop has no frames that could be left out.
    """
    return request if request.loop else replace(request, frames=spec.denoised_frames(request.frames))


def windows_of(request: Request) -> Windows | None:
    """The windows of a request; None where the model sees all of its latent frames at once."""
    if not (request.window or request.loop):
        return None
    frames = latents_in(request.frames)
    window = latents_in(request.window) if request.window else frames
    overlap = request.window_overlap // FRAMES_PER_LATENT if request.window else window // 2
    # A loop has no frame that stands alone, as a clip's first does: it is one latent frame shorter.
    return in_a_ring(frames - 1, window, overlap) if request.loop else in_a_row(frames, window, overlap)


def window_count(request: Request) -> int:
    """Passes of the model in the place of one."""
    windows = windows_of(request)
    return len(windows.places) if windows else 1


def latents_at_once(request: Request) -> int:
    """The most latent frames that go through the model in one pass."""
    windows = windows_of(request)
    return windows.longest if windows else latents_in(request.frames)


def in_a_row(frames: int, window: int, overlap: int) -> Windows:
    """As few windows as overlap by `overlap` or more, evenly spread."""
    last = max(0, frames - window)
    count = -(-last // (window - overlap)) + 1
    starts = [round(index * last / max(1, count - 1)) for index in range(count)]
    return Windows(
        frames=frames, places=tuple(tuple(range(start, min(start + window, frames))) for start in starts)
    )


def in_a_ring(frames: int, window: int, overlap: int) -> Windows:
    """Windows around a clip whose last frame meets its first; one with all of it where it fits in.

    Around a loop there is no beginning: the windows are turned on from step to step, so that no frame is at the edge of
    one for long (as Mobius does, arXiv 2502.20307).
    """
    length = min(window, frames)
    count = 1 if length == frames else max(2, -(-frames // (window - overlap)))
    starts = [round(index * frames / count) for index in range(count)]
    return Windows(
        frames=frames,
        places=tuple(tuple((start + step) % frames for step in range(length)) for start in starts),
        turn=turn_of(frames),
    )


def turn_of(frames: int) -> int:
    """About the golden section of a circle of so many frames, without a common divisor: every frame has its turn."""
    return min(
        (n for n in range(1, frames + 1) if math.gcd(n, frames) == 1), key=lambda n: abs(n - GOLDEN * frames)
    )

"""Through which passes of the model a clip is made: its steps, how each is guided, and the windows of a long clip. A
plan counts them, and a run goes through them.

All counts are of latent frames, except where frames are named.
"""

import math
from dataclasses import dataclass, replace

from linnet.catalog import ModelSpec
from linnet.geometry import FRAMES_PER_LATENT, latents_in
from linnet.plan.execution import ExecutionConfig
from linnet.request import Request, no_guidance

EARLY = 0.5  # share of the steps in which a clip takes its form
# Of the draft that tells the colours of a video that is followed (see direct.conditions).
DRAFT_STEPS, DRAFT_STRENGTH = 10, 0.95
# Of noise, over which what two prompts see otherwise by chance averages out (see direct.samplers).
DRAWS = 6


def step_at(share: float, count: int) -> int:
    """The first of `count` steps, from 0, that is not before `share` of them; rounding moves none across it."""
    return math.ceil(share * count - 1e-6)


def early(count: int) -> int:
    """The first steps, in which what is made is brought into line with what is held (see keep_frames.KeptFrames)."""
    return round(EARLY * count)


def left(strength: float, count: int) -> int:
    """The last steps, which a clip that sets out from another one takes; one at least."""
    return max(1, round(strength * count))


def in_one_batch(spec: ModelSpec, execution: ExecutionConfig) -> bool:
    """Whether both guidance passes go through the transformer together."""
    return spec.batched_guidance or execution.batched_guidance


def forwards(request: Request) -> list[int]:
    """Passes through the transformer of each step that is not skipped: two where it is guided, else one.

    Steps that decide for themselves whether to skip are counted as if none did.
    """
    first, last = guided_steps(request)
    steps = (step for step in range(request.steps) if step not in request.step_cache.skip)
    return [2 if first <= step < last else 1 for step in steps]


def guided_steps(request: Request) -> tuple[int, int]:
    """The first guided step, and the first behind them; no step lies between the two where none is guided."""
    if request.guidance == no_guidance(request.guidance_method):
        return 0, 0
    first, last = (step_at(share, request.steps) for share in (request.guidance_from, request.guidance_until))
    return first, last


def is_guided(request: Request) -> bool:
    """Whether any step asks the model twice."""
    return any(step not in request.step_cache.skip for step in range(*guided_steps(request)))


# --- windows ----------------------------------------------------------------------------------------------------------


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

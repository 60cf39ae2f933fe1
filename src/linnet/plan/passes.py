"""Which steps a share of all of them comes to, and how often each asks the model: a plan counts as the loop does."""

import math

from linnet.catalog import ModelSpec
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

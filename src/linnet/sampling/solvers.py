"""One step along the flow, from levels[index] to levels[index + 1].

The model's velocity at noise level sigma says which data it expects: clean = x - sigma * velocity. Every step here
goes straight towards some data, x' = target + sigma'/sigma * (x - target); the solvers differ in the target.
Euler's is `clean` itself. The others look at how `clean` changed over the last steps, measured on the scale of
log((1 - sigma) / sigma), on which the change is even, and need fewer steps for the same video.

What a solver must remember is an argument and a result, `History`; `START` opens a run. Levels fall from at most 1
to 0. Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "B C T H W"]
Levels = Float[Tensor, " levels"]  # on the CPU


class History(NamedTuple):
    """`denoised`: the data expected at the last two steps, the newer first, of which every solver gives the first;
    `origin`: where the last step set out."""

    denoised: tuple[Latents, ...] = ()
    origin: Latents | None = None


START = History()

# A step that is longer than the last continues no more of a change than a step of its length times this would. Without
# a limit the long last steps of a short schedule overshoot: of seedling's clips by unipc in 10 steps 43 of 50 were
# right, and 46 with it.
LONGEST = 1.0

Solver = Callable[[Latents, Latents, Levels, int, History], tuple[Latents, History]]


def euler(
    x: Latents, velocity: Latents, levels: Levels, index: int, history: History = START
) -> tuple[Latents, History]:
    """The published one. Straight along the velocity; goes by nothing of the steps before."""
    denoised = x - levels[index] * velocity
    return x + (levels[index + 1] - levels[index]) * velocity, History((denoised,))


def dpm2m(
    x: Latents, velocity: Latents, levels: Levels, index: int, history: History
) -> tuple[Latents, History]:
    """DPM-Solver++(2M), second order (Lu et al., arXiv 2211.01095), in the form for flows."""
    denoised = x - levels[index] * velocity
    return towards(predicted(denoised, levels, index, history), x, levels, index), History((denoised,))


def unipc(
    x: Latents, velocity: Latents, levels: Levels, index: int, history: History
) -> tuple[Latents, History]:
    """UniPC of order 2 with B(h) = e^h - 1 (Zhao et al., arXiv 2302.04867), in the form for flows.

    The predictor is DPM-Solver++(2M)'s. The corrector then takes the step that led to `x` again, now that the model
    has spoken there, at no further call of the model.
    """
    denoised = x - levels[index] * velocity
    if history.origin is not None:
        x = towards(corrected(denoised, levels, index, history), history.origin, levels, index - 1)
    target = predicted(denoised, levels, index, history)
    return towards(target, x, levels, index), History((denoised, *history.denoised[:1]), x)


SOLVERS: dict[str, Solver] = {"euler": euler, "dpm++": dpm2m, "unipc": unipc}
MULTISTEP = frozenset({"dpm++", "unipc"})  # they continue how the velocity changed over the last steps


def towards(target: Latents, x: Latents, levels: Levels, index: int) -> Latents:
    """From `x` at levels[index], straight to `target` as far as the next level."""
    return torch.lerp(target, x, float(levels[index + 1]) / float(levels[index]))


def predicted(denoised: Latents, levels: Levels, index: int, history: History) -> Latents:
    """The target that continues the last change of `clean` to the middle of the coming step."""
    if not history.denoised or levels[index + 1] == 0:  # nothing to go by, or a step without a middle
        return denoised
    ratio = min(LONGEST, stride(levels, index) / stride(levels, index - 1))
    return denoised + 0.5 * ratio * (denoised - history.denoised[0])


def corrected(denoised: Latents, levels: Levels, index: int, history: History) -> Latents:
    """The target that the last step ought to have had, given the `clean` to which it led."""
    before = history.denoised[0]
    change = denoised - before
    if len(history.denoised) == 1:
        return before + 0.5 * change
    h = stride(levels, index - 1)
    earlier = -stride(levels, index - 2) / h  # of the step before, in units of this one
    # What the exponential weight over the step asks of the changes: to first and to second order.
    weight = -1 / math.expm1(-h)
    first = weight - 1 / h
    second = weight - 2 * first / h
    older = (second - first) / (earlier - 1)
    return before + (older / earlier) * (history.denoised[1] - before) + (first - older) * change


def stride(levels: Levels, index: int) -> float:
    """The step's length on the scale of log((1 - sigma) / sigma); infinite from 1 and to 0."""
    return log_ratio(float(levels[index + 1])) - log_ratio(float(levels[index]))


def log_ratio(sigma: float) -> float:
    if sigma in (0.0, 1.0):
        return -math.inf if sigma else math.inf
    return math.log((1 - sigma) / sigma)

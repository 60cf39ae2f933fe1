"""From noise to latents, guided away from the negative prompt. The loop is a generator: progress, previews and
cancelling belong to its consumer.

Axes: B batch, C channels, T frames, t frames of a part, H and W rows and columns of the latents.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.models.transformer import TextContext
from linnet.plan.passes import step_at
from linnet.request import no_guidance
from linnet.sampling.flow import TIMESTEPS
from linnet.sampling.solvers import START, Solver, euler

P = ParamSpec("P")
T = TypeVar("T")

Latents = Float[Tensor, "B C T H W"]
# Of latents at a timestep, the same for all of a batch. It is a number on the host: nothing that depends on it has to
# wait for the device.
Velocity = Callable[[Latents, float], Latents]
Model = Callable[[Latents, float, TextContext], Latents]


@runtime_checkable
class Retrying(Protocol):
    """Gives a function back as one whose call is made again, with less, where memory runs out in it."""

    def __call__(self, run: Callable[P, T], /) -> Callable[P, T]: ...


def trying_once(run: Callable[P, T], /) -> Callable[P, T]:
    return run


@runtime_checkable
class Sampler(Protocol):
    """From noise to a clip: `denoise`, or what does more than follow the velocity down.

    `velocity` tries again by itself. All else that a sampler computes goes through `retrying`, in pieces that change
    nothing before they are done: such a piece can be made again.
    """

    def __call__(
        self,
        velocity: Velocity,
        noise: Latents,
        sigmas: Float[Tensor, " levels"],
        solver: Solver,
        /,
        retrying: Retrying = ...,
    ) -> Iterator["Step"]: ...


@dataclass(frozen=True)
class Step:
    """Step `index` (from 0) of `count` is done; `latents` are left at noise level `sigma`.

    `denoised` is where the flow points from here, the data that the model expects: what a preview shows. It may be of a
    part of the clip, the one at work.
    """

    index: int
    count: int
    sigma: float
    latents: Latents
    denoised: Float[Tensor, "B C t H W"]


def denoise(
    velocity: Velocity,
    noise: Latents,
    sigmas: Float[Tensor, " levels"],
    solver: Solver = euler,
    retrying: Retrying = trying_once,
) -> Iterator[Step]:
    """Follow `velocity` from `noise` at sigmas[0] down to sigmas[-1], in float32, one step at a time.

    `velocity` is called with latents and their timestep, 1000 * sigma. Keep `sigmas` on the CPU.
    """
    latents, history, count = noise.float(), START, len(sigmas) - 1
    solver = retrying(solver)
    for index in range(count):
        with torch.no_grad():
            direction = velocity(latents, float(TIMESTEPS * sigmas[index])).float()
        latents, history = solver(latents, direction, sigmas, index, history)
        yield Step(index, count, float(sigmas[index + 1]), latents, history.denoised[0])


# --- guidance: away from the negative prompt --------------------------------------------------------------------------

SMALLEST = 1e-24  # squared length below which a velocity has no direction


def cfg(cond: Latents, uncond: Latents, scale: float) -> Latents:
    """Ho & Salimans, arXiv 2207.12598. A scale of 1 gives `cond`."""
    return torch.lerp(uncond, cond, scale)


def apg(
    cond: Latents,
    uncond: Latents,
    momentum_buffer: Latents | None,
    *,
    scale: float,
    momentum: float,
    eta: float,
    rescale: float,
) -> tuple[Latents, Latents]:
    """Adaptive projected guidance: the guided velocity, and the running difference to hand to the next step.

    Sadat et al., arXiv 2410.02416, as Linum applies it: to velocities, the norm taken frame by frame and
    bounded by `rescale` (0: unbounded), a scale of 0 giving `cond`. `eta` is the share kept of what points
    along `cond`, the part that oversaturates; a negative `momentum` damps what repeats. The first step's
    `running` is None. Computed in the tensors' dtype: float32 is enough (benchmarks/guidance.py).
    """
    momentum_buffer = cond - uncond if momentum_buffer is None else cond - uncond + momentum * momentum_buffer
    difference = momentum_buffer
    if rescale > 0:
        norm = difference.square().sum((1, 3, 4), keepdim=True).sqrt()
        difference = difference * (rescale / norm).clamp(max=1)
    parallel = dot(difference, cond) / dot(cond, cond).clamp(min=SMALLEST) * cond
    orthogonal = difference - parallel
    return cond + scale * (orthogonal + eta * parallel), momentum_buffer


def steady_state(difference: Latents, momentum: float) -> Latents:
    """The running difference to start from so that, as long as `difference` stays, it does not change: its limit.

    Momentum counts steps, not noise levels. From its start it swings about this limit (for -0.75: 1, 0.25, 0.81, 0.39,
    ... of the difference, and the limit is 0.57), and each swing is a change of the velocity that is not the flow's.
    In many small steps of Euler's the swings even out. In few they do not, and a multistep solver takes them for the
    flow's own and continues them: the clip is spoilt. At the limit, guidance is as strong as momentum makes it on
    average.
    """
    return difference / (1 - momentum)


def dot(a: Latents, b: Latents) -> Float[Tensor, "B 1 1 1 1"]:
    """Of each sample. Torch sums in pairs, so that float32 loses nothing over millions of numbers, as its norms do."""
    return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and how, to steer away from the negative prompt; rescale, momentum and eta are APG's alone.

    Outside of `levels`, noise levels from the lowest (excluded) to the highest, nothing is steered, which saves half
    of the work there (Kynkaanniemi et al., arXiv 2404.07724). APG's running difference then rests: it begins at the
    first level within and counts steered steps alone.

    `steady`: APG's momentum is at its limit from the first step on (see `steady_state`), as solvers
    need it that look back.
    """

    method: Literal["apg", "cfg"] = "apg"
    scale: float = 10.0
    rescale: float = 20.0
    momentum: float = -0.75
    eta: float = 0.0
    levels: tuple[float, float] = (0.0, 1.0)
    steady: bool = False

    def acts(self, timestep: float) -> bool:
        """False where the scale or the noise level leaves the prompt's own velocity as it is."""
        lowest, highest = self.levels
        return self.scale != no_guidance(self.method) and lowest < timestep / TIMESTEPS <= highest


def per_clip(timestep: float, latents: Latents) -> Float[Tensor, "B"]:
    """The timestep as a transformer takes it, one for each clip. It is filled in on their device: a copy would wait."""
    return torch.full((len(latents),), timestep, device=latents.device)


def levels_between(sigmas: Float[Tensor, " levels"], start: float, stop: float) -> tuple[float, float]:
    """For `Guidance`: the noise levels around the steps from start*n on and before stop*n, of n steps."""

    def border(share: float) -> float:
        """Halfway between two steps' levels, so that rounding cannot move a step across it."""
        step = step_at(share, len(sigmas) - 1)
        return float(sigmas[max(0, step - 1)] + sigmas[step]) / 2 if share < 1 else 0.0

    return border(stop), border(start)


@dataclass(kw_only=True)
class GuidedVelocity:
    """A model steered by a prompt and away from a negative one: the `velocity` of one run of `denoise`.

    Each text has batch 1, for all samples, or one row a sample. `batched` runs both through the model at
    once: faster where the device is not full, for twice the memory. `running` is APG's state, so a new run
    needs a new object.
    """

    model: Model
    prompt: TextContext
    negative: TextContext
    guidance: Guidance
    batched: bool = False
    momentum_buffer: Latents | None = None
    _both: TextContext | None = None

    def __call__(self, latents: Latents, timestep: float) -> Latents:
        if not self.guidance.acts(timestep):
            return self.model(latents, timestep, self.prompt)
        cond, uncond = (
            self._in_one_batch(latents, timestep) if self.batched else self._in_turn(latents, timestep)
        )
        g = self.guidance
        if g.method == "cfg":
            return cfg(cond, uncond, g.scale)
        before = steady_state(cond - uncond, g.momentum) if g.steady else self.momentum_buffer
        guided, self.momentum_buffer = apg(
            cond, uncond, before, scale=g.scale, momentum=g.momentum, eta=g.eta, rescale=g.rescale
        )
        return guided

    def _in_turn(self, latents: Latents, timestep: float) -> tuple[Latents, Latents]:
        return self.model(latents, timestep, self.prompt), self.model(latents, timestep, self.negative)

    def _in_one_batch(self, latents: Latents, timestep: float) -> tuple[Latents, Latents]:
        if self._both is None:
            texts = (self.prompt, self.negative)
            prompt, negative = (text.repeat(len(latents) // len(text.bias)) for text in texts)
            self._both = prompt.join(negative)
        cond, uncond = self.model(latents.repeat(2, 1, 1, 1, 1), timestep, self._both).chunk(2)
        return cond, uncond

"""Samplers that start from another clip instead of from noise.

Each is a `Sampler`, like `sampling.keep_frames.KeptFrames`: it takes what `sampling.denoise.denoise` takes and yields
its steps, so it works with every solver and with windows. Latents that are given are the transformer's own (see
`ModelRunner.encode_frames`).

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.plan.passes import DRAWS, left
from linnet.sampling.denoise import (
    Latents,
    Retrying,
    Step,
    Velocity,
    denoise,
    per_clip,
    trying_once,
)
from linnet.sampling.flow import TIMESTEPS, add_noise, noise_like
from linnet.sampling.solvers import Solver

Levels = Float[Tensor, " levels"]

BLURRED = 0.75  # of the noise: what a prompt does not tell of vanishes, and where it is still shows
MOST = 0.99  # quantile of the differences that counts as a whole one
UNTOUCHED, CHANGED = 0.3, 0.6  # shares of it: below nothing changes, above everything


@dataclass(frozen=True, kw_only=True)
class Renoised:
    """Set out from a clip, of batch 1, instead of from noise: the last `strength` of the steps alone (SDEdit, arXiv
    2108.01073). The more, the less is left of it."""

    clip: Float[Tensor, "1 C T H W"]
    strength: float

    def __call__(
        self,
        velocity: Velocity,
        noise: Latents,
        sigmas: Levels,
        solver: Solver,
        /,
        retrying: Retrying = trying_once,
    ) -> Iterator[Step]:
        levels = levels_left(sigmas, self.strength)
        clip = retrying(lasting)(self.clip, noise)
        begun = retrying(add_noise)(clip, noise, per_clip(float(levels[0]), noise))
        yield from denoise(velocity, begun, levels, solver, retrying)


@dataclass(frozen=True, kw_only=True)
class Edited:
    """A clip, of batch 1, moved by the difference of two velocities: `source` says what it shows, the course's own
    what it should (FlowEdit, arXiv 2412.08629). What the two agree on, such as the motion, stays.

    It is never noise itself: at each of the last `strength` of the steps both look at it under new noise. Solvers other
    than Euler have nothing to go by here. With `plain`, the velocities of both without guidance, only what these see
    otherwise changes (see `differences`).
    """

    clip: Float[Tensor, "1 C T H W"]
    source: Velocity
    strength: float
    seed: int
    plain: tuple[Velocity, Velocity] | None = None

    def __call__(
        self,
        velocity: Velocity,
        noise: Latents,
        sigmas: Levels,
        solver: Solver,
        /,
        retrying: Retrying = trying_once,
    ) -> Iterator[Step]:
        levels = levels_left(sigmas, self.strength)
        count = len(levels) - 1
        fresh = torch.Generator(noise.device).manual_seed(self.seed)
        edited = before = retrying(lasting)(self.clip, noise)
        within = None
        if self.plain is not None:
            within = differences(before[:1], *self.plain, seed=self.seed, retrying=retrying)
        for index, sigma in enumerate(levels[:-1]):
            timestep = float(TIMESTEPS * sigma)
            fresh_noise = retrying(noise_like)(noise, fresh)
            as_is = retrying(add_noise)(before, fresh_noise, per_clip(timestep / TIMESTEPS, noise))
            as_wanted = retrying(shifted)(edited, before, as_is)
            with torch.no_grad():
                wanted, own = velocity(as_wanted, timestep), self.source(as_is, timestep)
            edited = retrying(moved)(edited, wanted, own, levels[index + 1] - sigma, within)
            yield Step(index, count, float(levels[index + 1]), edited, edited)


def shifted(edited: Latents, before: Latents, as_is: Latents) -> Latents:
    """What was edited so far, under the noise of `as_is`, which is `before` with noise."""
    return edited + as_is - before


def moved(
    edited: Latents,
    wanted: Latents,
    own: Latents,
    length: Float[Tensor, ""] | float = 1.0,
    within: Float[Tensor, "1 1 T H W"] | None = None,
) -> Latents:
    """A step along the difference of two velocities, as far as it lies `within`; everywhere where that is None."""
    change = wanted.float() - own.float()
    return edited + (length if within is None else length * within) * change


def lasting(clip: Float[Tensor, "1 C t H W"], noise: Latents) -> Latents:
    """The clip for all of the noise's batch. Its last frame stays, where more frames are denoised than it has (see
    `ModelSpec.denoised_frames`)."""
    more = noise.shape[2] - clip.shape[2]
    longer = torch.cat((clip, clip[:, :, -1:].expand(-1, -1, more, -1, -1)), 2)
    return longer.to(noise).expand_as(noise)


def differences(
    clip: Float[Tensor, "1 C T H W"],
    first: Velocity,
    second: Velocity,
    *,
    seed: int,
    retrying: Retrying = trying_once,
) -> Float[Tensor, "1 1 T H W"]:
    """Where two prompts' velocities, without guidance, see something else in a clip: 0 where they agree, 1 where they
    do not (DiffEdit, arXiv 2210.11427).

    A model that is told of a blue star takes the red one for noise, and draws its own wherever there is room: only by
    this it is known where that ought to be.
    """
    fresh = torch.Generator(clip.device).manual_seed(seed)
    change = retrying(torch.zeros_like)(clip)
    with torch.no_grad():
        for _ in range(DRAWS):
            fresh_noise = retrying(noise_like)(clip, fresh)
            seen = retrying(add_noise)(clip, fresh_noise, per_clip(BLURRED, clip))
            pair = first(seen, TIMESTEPS * BLURRED), second(seen, TIMESTEPS * BLURRED)
            change = retrying(moved)(change, *pair)
    return retrying(share_of)(change)


def share_of(change: Float[Tensor, "1 C T H W"]) -> Float[Tensor, "1 1 T H W"]:
    """How much of the largest change each place has, in a smooth step from 0 to 1."""
    size = change.square().sum(1, keepdim=True).sqrt()
    # Prompts may agree everywhere.
    whole = size.flatten().quantile(MOST).clamp(min=torch.finfo(size.dtype).tiny)
    share = ((size / whole - UNTOUCHED) / (CHANGED - UNTOUCHED)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def levels_left(sigmas: Levels, strength: float) -> Float[Tensor, " left"]:
    """The noise levels of the last `strength` of the steps; of one step at least."""
    return sigmas[-1 - left(strength, len(sigmas) - 1) :]


def check_strength(strength: float) -> float:
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not 0 < strength <= 1:  # false for NaN too
        raise InvalidInput(
            "strength", strength, "is out of range", "use a share of the steps above 0, up to 1"
        )
    return strength

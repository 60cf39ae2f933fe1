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
from linnet.sampling.denoise import Latents, Step, Velocity, denoise
from linnet.sampling.flow import TIMESTEPS, add_noise
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

    def __call__(self, velocity: Velocity, noise: Latents, sigmas: Levels, solver: Solver) -> Iterator[Step]:
        levels = levels_left(sigmas, self.strength)
        level = levels[:1].expand(len(noise)).to(noise.device)
        clip = lasting(self.clip, noise.shape[2]).to(noise).expand_as(noise)
        yield from denoise(velocity, add_noise(clip, noise, level), levels, solver)


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

    def __call__(self, velocity: Velocity, noise: Latents, sigmas: Levels, solver: Solver) -> Iterator[Step]:
        levels = levels_left(sigmas, self.strength)
        count = len(levels) - 1
        fresh = torch.Generator(noise.device).manual_seed(self.seed)
        before = lasting(self.clip, noise.shape[2]).to(noise).expand_as(noise)
        edited = before.clone()
        within = 1.0 if self.plain is None else differences(before[:1], *self.plain, seed=self.seed)
        for index, sigma in enumerate(levels[:-1]):
            timestep = (TIMESTEPS * sigma).expand(len(noise)).to(noise.device)
            fresh_noise = torch.randn(noise.shape, generator=fresh, device=noise.device)
            as_is = add_noise(before, fresh_noise, timestep / TIMESTEPS)
            as_wanted = edited + as_is - before
            with torch.no_grad():
                change = velocity(as_wanted, timestep).float() - self.source(as_is, timestep).float()
            edited = edited + (levels[index + 1] - sigma) * within * change
            yield Step(index, count, float(levels[index + 1]), edited, edited)


def lasting(clip: Float[Tensor, "1 C t H W"], frames: int) -> Float[Tensor, "1 C T H W"]:
    """A clip whose last frame stays, where more frames are denoised than it has (see `ModelSpec.denoised_frames`)."""
    return torch.cat((clip, clip[:, :, -1:].expand(-1, -1, frames - clip.shape[2], -1, -1)), 2)


def differences(
    clip: Float[Tensor, "1 C T H W"], first: Velocity, second: Velocity, *, seed: int
) -> Float[Tensor, "1 1 T H W"]:
    """Where two prompts' velocities, without guidance, see something else in a clip: 0 where they agree, 1 where they
    do not (DiffEdit, arXiv 2210.11427).

    A model that is told of a blue star takes the red one for noise, and draws its own wherever there is room: only by
    this it is known where that ought to be.
    """
    fresh = torch.Generator(clip.device).manual_seed(seed)
    level = torch.full((1,), BLURRED, device=clip.device)
    change = torch.zeros_like(clip)
    with torch.no_grad():
        for _ in range(DRAWS):
            fresh_noise = torch.randn(clip.shape, generator=fresh, device=clip.device)
            seen = add_noise(clip, fresh_noise, level)
            change += first(seen, TIMESTEPS * level).float() - second(seen, TIMESTEPS * level).float()
    size = change.square().sum(1, keepdim=True).sqrt()
    whole = (
        size.flatten().quantile(MOST).clamp(min=torch.finfo(size.dtype).tiny)
    )  # prompts may agree everywhere
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

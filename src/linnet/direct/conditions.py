"""Clips that begin from pictures, not from words alone: ways from noise to a clip that pass through what is given.

Each is a `Course`: it takes what `sampling.denoise.denoise` takes and yields its steps, so that it goes with every
solver and with windows. Latents that are given are the transformer's own (see `Pipeline.encode_frames`).

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.sampling.denoise import Latents, Step, Velocity, denoise
from linnet.sampling.flow import TIMESTEPS, add_noise
from linnet.sampling.solvers import Solver

Levels = Float[Tensor, " levels"]

EARLY = 0.5  # share of the steps in which what is made is brought into line with what is held
TURNS = 2  # times that each of those steps is taken


@dataclass(frozen=True, kw_only=True)
class Held:
    """Latent frames that the clip has to keep: number from 0 (or, from the end, -1) to what it shows, batch 1.

    Of these the flow is known, straight from their noise to what they show, so the model sees them at every step as
    noisy as all the rest and the last step arrives at them exactly. In the early steps, where the rest takes its form,
    each step is taken `turns` times, between which the noise comes back (RePaint, arXiv 2201.09865, for flows). `seed`
    is of that noise.
    """

    frames: Mapping[int, Float[Tensor, "1 C H W"]]
    seed: int
    turns: int = TURNS

    def __call__(self, velocity: Velocity, noise: Latents, sigmas: Levels, solver: Solver) -> Iterator[Step]:
        count = len(sigmas) - 1
        early = round(EARLY * count) if self.turns > 1 else 0
        fresh = torch.Generator(noise.device).manual_seed(self.seed)
        held, x = self.holding(velocity), noise.float()
        for index in range(early):
            here = sigmas[index : index + 2]
            step = next(denoise(held, x, here))
            for _ in range(self.turns - 1 if index else 0):  # back to pure noise would be to another clip
                x = noisier(step.latents, float(here[1]), float(here[0]), fresh)
                step = next(denoise(held, x, here))
            x = step.latents
            yield replace(step, index=index, count=count)
        for step in denoise(held, x, sigmas[early:], solver):
            yield replace(step, index=early + step.index, count=count)

    def holding(self, velocity: Velocity) -> Velocity:
        """The same velocity, but for the frames that are held."""

        def held(latents: Latents, timestep: Float[Tensor, "B"]) -> Latents:
            direction = velocity(latents, timestep).clone()
            sigma = (timestep / TIMESTEPS).view(-1, 1, 1, 1)
            for frame, shown in self.frames.items():
                direction[:, :, frame] = (latents[:, :, frame] - shown.to(latents)) / sigma
            return direction

        return held


def noisier(x: Latents, low: float, high: float, generator: torch.Generator) -> Latents:
    """From noise level `low` back to `high`."""
    kept = (1 - high) / (1 - low)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return kept * x + (high**2 - (kept * low) ** 2) ** 0.5 * noise


@dataclass(frozen=True, kw_only=True)
class Renoised:
    """Set out from a clip, of batch 1, instead of from noise: the last `strength` of the steps alone (SDEdit, arXiv
    2108.01073). The more, the less is left of it."""

    clip: Float[Tensor, "1 C T H W"]
    strength: float

    def __call__(self, velocity: Velocity, noise: Latents, sigmas: Levels, solver: Solver) -> Iterator[Step]:
        left = levels_left(sigmas, self.strength)
        level = left[:1].expand(len(noise)).to(noise.device)
        yield from denoise(
            velocity, add_noise(self.clip.to(noise).expand_as(noise), noise, level), left, solver
        )


@dataclass(frozen=True, kw_only=True)
class Edited:
    """A clip, of batch 1, moved by the difference of two velocities: `source` says what it shows, the course's own
    what it should (FlowEdit, arXiv 2412.08629). What the two agree on, such as the motion, stays.

    It is never noise itself: at each of the last `strength` of the steps both look at it under new noise. Solvers other
    than Euler have nothing to go by here.
    """

    clip: Float[Tensor, "1 C T H W"]
    source: Velocity
    strength: float
    seed: int

    def __call__(self, velocity: Velocity, noise: Latents, sigmas: Levels, solver: Solver) -> Iterator[Step]:
        left = levels_left(sigmas, self.strength)
        count = len(left) - 1
        fresh = torch.Generator(noise.device).manual_seed(self.seed)
        before = self.clip.to(noise).expand_as(noise)
        edited = before.clone()
        for index, sigma in enumerate(left[:-1]):
            timestep = (TIMESTEPS * sigma).expand(len(noise)).to(noise.device)
            veil = torch.randn(noise.shape, generator=fresh, device=noise.device)
            as_is = add_noise(before, veil, timestep / TIMESTEPS)
            as_wanted = edited + as_is - before
            with torch.no_grad():
                change = velocity(as_wanted, timestep).float() - self.source(as_is, timestep).float()
            edited = edited + (left[index + 1] - sigma) * change
            yield Step(index, count, float(left[index + 1]), edited, edited)


def levels_left(sigmas: Levels, strength: float) -> Float[Tensor, " left"]:
    """The noise levels of the last `strength` of the steps; of one step at least."""
    return sigmas[-1 - max(1, round(strength * (len(sigmas) - 1))) :]


def check_strength(strength: float) -> float:
    if not 0 < strength <= 1:  # false for NaN too
        raise InvalidInput(
            "strength", strength, "is out of range", "use a share of the steps above 0, up to 1"
        )
    return strength

"""Clips of which some frames are given: a way from noise to a clip that passes through what is held.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.plan.passes import early
from linnet.sampling.denoise import (
    Latents,
    Retrying,
    Step,
    Velocity,
    denoise,
    trying_once,
)
from linnet.sampling.flow import TIMESTEPS, noise_like
from linnet.sampling.solvers import Solver

Levels = Float[Tensor, " levels"]
KeptVelocity = Mapping[int, Float[Tensor, "B C H W"]]  # by the number of the frame

CONDITIONING_NOISE = 0.5  # of the noise, over what is held


@dataclass(frozen=True, kw_only=True)
class KeptFrames:
    """Latent frames that the clip has to keep: number from 0 (or, from the end, -1) to what it shows.

    Of these the flow is known, straight from their noise to what they show, so the last step arrives at them exactly.
    Under as much noise as all the rest they would say little in the first steps, in which is decided where things are:
    the model sees them under `conditioning_noise` of it. (With a seedling that had seen no such clip in training, what
    moved went on from where it was, within 6 pixels, in 83 of 100 clips after half of it, and in 50 after all of it.
    The one that ships has seen them under any share.)
    In the early steps, where the rest takes its form, each step is taken `resampling_steps` times, between which the
    noise comes back (RePaint, arXiv 2201.09865, for flows). `seed` is of that noise.
    """

    frames: Mapping[int, Float[Tensor, "B C H W"]]
    seed: int
    resampling_steps: int = 1
    conditioning_noise: float = CONDITIONING_NOISE

    def __call__(
        self,
        velocity: Velocity,
        noise: Latents,
        sigmas: Levels,
        solver: Solver,
        /,
        retrying: Retrying = trying_once,
    ) -> Iterator[Step]:
        count = len(sigmas) - 1
        first = early(count) if self.resampling_steps > 1 else 0
        fresh = torch.Generator(noise.device).manual_seed(self.seed)
        constrained, x = self.holding(velocity, retrying), noise.float()
        for index in range(first):
            here = sigmas[index : index + 2]
            step = next(denoise(constrained, x, here, retrying=retrying))
            # Not in the first step: back to pure noise would be to another clip.
            for _ in range(self.resampling_steps - 1 if index else 0):
                again = retrying(noise_like)(x, fresh)
                x = retrying(noisier)(step.latents, again, float(here[1]), float(here[0]))
                step = next(denoise(constrained, x, here, retrying=retrying))
            x = step.latents
            yield replace(step, index=index, count=count)
        for step in denoise(constrained, x, sigmas[first:], solver, retrying):
            yield replace(step, index=first + step.index, count=count)

    def holding(self, velocity: Velocity, retrying: Retrying = trying_once) -> Velocity:
        """The same velocity, but for the frames that are held."""

        def constrained(latents: Latents, timestep: float) -> Latents:
            sigma = timestep / TIMESTEPS
            known = retrying(self.straight)(latents, sigma)
            seen = retrying(self.seen)(latents, known, sigma)
            return retrying(with_frames)(velocity(seen, timestep), known)

        return constrained

    def straight(self, latents: Latents, sigma: float) -> KeptVelocity:
        """The way of the frames that are held, from where they are to what they show."""
        return {
            frame: (latents[:, :, frame] - shown.to(latents)) / sigma for frame, shown in self.frames.items()
        }

    def seen(self, latents: Latents, known: KeptVelocity, sigma: float) -> Latents:
        """What the model sees: less noise over the frames that are held."""
        less = {
            frame: latents[:, :, frame] - (1 - self.conditioning_noise) * sigma * straight
            for frame, straight in known.items()
        }
        return with_frames(latents, less)


def with_frames(latents: Latents, frames: KeptVelocity) -> Latents:
    """A copy with these in their places."""
    whole = latents.clone()
    for frame, own in frames.items():
        whole[:, :, frame] = own
    return whole


def noisier(x: Latents, noise: Latents, low: float, high: float) -> Latents:
    """From noise level `low` back to `high`."""
    kept = (1 - high) / (1 - low)
    return kept * x + (high**2 - (kept * low) ** 2) ** 0.5 * noise

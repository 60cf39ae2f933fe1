"""Rectified flow, for sampling and training alike: x = (1 - sigma) * data + sigma * noise.

Sigma falls from 1 (noise) to 0 (data); a model is told it as timestep = 1000 * sigma and predicts the
velocity dx/dsigma = noise - data. Axes: B batch, C channels, T frames, H and W rows and columns of the
latents.
"""

from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.request import Request

TIMESTEPS = 1000

Number = TypeVar("Number", float, Tensor)


def shifted(sigma: Number, shift: float) -> Number:
    """Spend more of the way at high noise, as large latents need (Esser et al., arXiv 2403.03206, 5.3.2)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigmas(
    steps: int, shift: float, spacing: Literal["linspace", "trailing"] = "linspace"
) -> Float[Tensor, "{steps}+1"]:
    """The noise levels between `steps` steps, from 1 down to 0, in float32 rounded from float64, on the CPU.

    Before the shift they are even, in the two ways that diffusers names. "linspace" is the published schedule
    (diffusers' FlowMatchEulerDiscreteScheduler): its last step, from almost no noise, is one that few steps cannot
    spare, and the shift is applied twice, to the last level and to the levels. "trailing" (Lin et al., arXiv
    2305.08891) has equal steps down to 0.
    """
    lowest = 1 / steps if spacing == "trailing" else shifted(1 / TIMESTEPS, shift)
    levels = shifted(torch.linspace(1, lowest, steps, dtype=torch.float64), shift)
    return torch.cat([levels, levels.new_zeros(1)]).float()


def levels_of(request: Request) -> Float[Tensor, " levels"]:
    """The noise levels between the request's steps."""
    return sigmas(request.steps, request.shift, request.spacing)


def noise(seed: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Float[Tensor, "..."]:
    """One sample's noise, float32 holding bfloat16 values, as the published pipeline draws them.

    A sample has a generator of its own, so it does not depend on its neighbours in a batch. Different devices
    give different noise for the same seed.
    """
    generator = torch.Generator(device).manual_seed(seed % 2**32)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16).float()


def noise_like(x: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Noise of the same shape. Its memory is taken before a number is drawn, so that a call without can be repeated."""
    return torch.randn(x.shape, generator=generator, device=x.device)


def add_noise(
    data: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"], sigma: Float[Tensor, "B"]
) -> Float[Tensor, "B C T H W"]:
    return torch.lerp(data, noise, sigma.view(-1, 1, 1, 1, 1))


def velocity_target(
    data: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"]
) -> Float[Tensor, "B C T H W"]:
    return noise - data


def sample_sigmas(
    batch: int, *, shift: float, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, "B"]:
    """Noise levels to train at: logit-normal (arXiv 2403.03206, 3.1), then shifted as in sampling."""
    device = generator.device if generator else None
    normal = torch.randn(batch, generator=generator, device=device)
    return shifted(torch.sigmoid(mean + std * normal), shift)

"""Away from the negative prompt: classifier-free guidance and the projected form that Linum v2 uses.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Velocity = Float[Tensor, "B C T H W"]


def cfg(cond: Velocity, null: Velocity, scale: float) -> Velocity:
    """Ho & Salimans, arXiv 2207.12598. A scale of 1 gives `cond`."""
    return torch.lerp(null, cond, scale)


def apg(
    cond: Velocity,
    null: Velocity,
    running: Velocity | None,
    *,
    scale: float,
    momentum: float,
    eta: float,
    rescale: float,
) -> tuple[Velocity, Velocity]:
    """Adaptive projected guidance: the guided velocity, and the running difference to hand to the next step.

    Sadat et al., arXiv 2410.02416, as Linum applies it: to velocities, the norm taken frame by frame and
    bounded by `rescale` (0: unbounded), a scale of 0 giving `cond`. `eta` is the share kept of what points
    along `cond`, the part that oversaturates; a negative `momentum` damps what repeats. The first step's
    `running` is None.
    """
    running = cond - null if running is None else cond - null + momentum * running
    difference = running
    if rescale > 0:
        norm = torch.linalg.vector_norm(difference, dim=(1, 3, 4), keepdim=True)
        difference = difference * (rescale / norm).clamp(max=1)
    # One number a sample, summed over millions: float64, where the device has it.
    wide = torch.float32 if cond.device.type == "mps" else torch.float64
    along = F.normalize(cond.to(wide).flatten(1), dim=1).view_as(cond)
    parallel = (difference * along).flatten(1).sum(1).view(-1, 1, 1, 1, 1) * along
    orthogonal = difference - parallel
    return cond + scale * (orthogonal + eta * parallel).to(cond.dtype), running

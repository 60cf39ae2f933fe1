"""Away from the negative prompt: classifier-free guidance and the projected form that Linum v2 uses.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Velocity = Float[Tensor, "B C T H W"]

SMALLEST = 1e-24  # squared length below which a velocity has no direction


def cfg(cond: Velocity, uncond: Velocity, scale: float) -> Velocity:
    """Ho & Salimans, arXiv 2207.12598. A scale of 1 gives `cond`."""
    return torch.lerp(uncond, cond, scale)


def apg(
    cond: Velocity,
    uncond: Velocity,
    momentum_buffer: Velocity | None,
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


def steady_state(difference: Velocity, momentum: float) -> Velocity:
    """The running difference to start from so that, as long as `difference` stays, it does not change: its limit.

    Momentum counts steps, not noise levels. From its start it swings about this limit (for -0.75: 1, 0.25, 0.81, 0.39,
    ... of the difference, and the limit is 0.57), and each swing is a change of the velocity that is not the flow's.
    In many small steps of Euler's the swings even out. In few they do not, and a multistep solver takes them for the
    flow's own and continues them: the clip is spoilt. At the limit, guidance is as strong as momentum makes it on
    average.
    """
    return difference / (1 - momentum)


def dot(a: Velocity, b: Velocity) -> Float[Tensor, "B 1 1 1 1"]:
    """Of each sample. Torch sums in pairs, so that float32 loses nothing over millions of numbers, as its norms do."""
    return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1, 1)

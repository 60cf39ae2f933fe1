"""A clip longer than the model's own, one window after another: each goes on from the frames it shares with the last.

What is made together, in windows whose velocities are averaged (sampling.windows), agrees on how things look; where
something has moved to by now, only the windows before can tell.

Axes: B batch, C channels, T latent frames of the clip, t of one window, H and W rows and columns of the latents.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.plan.passes import Windows
from linnet.sampling.denoise import Latents, Retrying, Sampler, Step, Velocity, denoise, trying_once
from linnet.sampling.keep_frames import KeptFrames
from linnet.sampling.solvers import Solver


def autoregressive(
    fresh: Callable[[], Velocity],
    noise: Latents,
    sigmas: Float[Tensor, " levels"],
    solver: Solver,
    windows: Windows,
    *,
    given: Mapping[int, Float[Tensor, "B C H W"]],
    seed: int,
    resampling_steps: int = 1,
    retrying: Retrying = trying_once,
) -> Iterator[Step]:
    """Denoise each window to its end; the next one keeps those of its frames that it begins with.

    `fresh` gives each run its own velocity, for clips of a window's length: guidance remembers. `given` are frames of
    the whole clip that are kept from the outset, as in `KeptFrames`; a window with one of them takes
    `resampling_steps`. Steps count on through all windows; their `latents` are the whole clip's, noise where no window
    has been yet, and `denoised` is of the window at work.
    """
    whole, done, total = noise.float(), 0, len(windows.places) * (len(sigmas) - 1)
    given = {frame % windows.frames: shown for frame, shown in given.items()}
    for number, window in enumerate(windows.places):
        shared = {index: whole[:, :, frame] for index, frame in enumerate(window) if frame < done}
        own = {index: given[frame] for index, frame in enumerate(window) if frame in given and frame >= done}
        kept = KeptFrames(
            frames=shared | own, seed=seed + number, resampling_steps=resampling_steps if own else 1
        )
        sampler: Sampler = kept if kept.frames else denoise
        at = torch.tensor(window, device=whole.device)
        own_noise = retrying(noise.index_select)(2, at)
        for step in sampler(fresh(), own_noise, sigmas, solver, retrying):
            whole = retrying(whole.index_copy)(2, at, step.latents)
            yield replace(step, index=number * step.count + step.index, count=total, latents=whole)
        done = window[-1] + 1


def kept_by(sampler: Sampler) -> KeptFrames:
    """What windows that follow each other have to keep of a sampler's; InvalidInput if it is of another kind."""
    if isinstance(sampler, KeptFrames):
        return sampler
    if sampler is denoise:
        return KeptFrames(frames={}, seed=0)
    problem = "is a way to make a clip from noise, not from another clip"
    raise InvalidInput("onward", "true", problem, "make its windows together")

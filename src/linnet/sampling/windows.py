"""A clip longer than the model's own, as windows that overlap and are denoised together.

At every step each window goes through the model as a clip of its own, and where windows overlap their velocities are
averaged (MultiDiffusion, arXiv 2302.08113, in time instead of space). Guidance and solver see the whole. So a long
clip takes the memory of one window, and its latents.

Axes: B batch, C channels, T latent frames of the clip, t of one window, H and W rows and columns of the latents.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linnet.models.transformer import TextContext
from linnet.plan.passes import Windows
from linnet.sampling.denoise import Latents, Model


def shares_of(windows: Windows) -> list[Float[Tensor, " t"]]:
    """How much of each latent frame's velocity each window decides; for every frame they add up to 1.

    A window's share falls evenly from its middle to its ends, where it knows least of what is beside it.
    """
    raw = [hill(len(window)) for window in windows.places]
    total = torch.zeros(windows.frames)
    for window, weight in zip(windows.places, raw, strict=True):
        total.index_add_(0, torch.tensor(window), weight)
    return [weight / total[list(window)] for window, weight in zip(windows.places, raw, strict=True)]


def hill(length: int) -> Float[Tensor, " t"]:
    steps = torch.arange(1, length + 1)
    return torch.minimum(steps, steps.flip(0)).float()


class Windowed:
    """A model of windows as a model of the whole clip, for one run. With one window it is that model exactly."""

    def __init__(self, model: Model, windows: Windows) -> None:
        self.model, self.windows = model, windows
        self.levels: list[float] = []  # timesteps so far
        self._parts: list[tuple[Int[Tensor, " t"], Float[Tensor, " t 1 1"]]] = []

    def __call__(self, latents: Latents, timestep: float, text: TextContext) -> Latents:
        turned = self.turned(timestep)
        clip, total = latents.roll(-turned, 2) if turned else latents, torch.zeros_like(latents)
        for number, (frames, weight) in enumerate(self.parts(latents.device)):
            velocity = self.model(clip.index_select(2, frames), timestep, self.text_of(number, text))
            total.index_add_(2, frames, velocity * weight)
        return total.roll(turned, 2) if turned else total

    def parts(self, device: torch.device) -> list[tuple[Int[Tensor, " t"], Float[Tensor, " t 1 1"]]]:
        """Each window's frames and its say in them, copied to the device once."""
        if not self._parts:
            pairs = zip(self.windows.places, shares_of(self.windows), strict=True)
            self._parts = [
                (torch.tensor(window, device=device), weight.to(device)[:, None, None])
                for window, weight in pairs
            ]
        return self._parts

    def turned(self, timestep: float) -> int:
        """By how many frames the windows are turned on at this level of noise; the same when it is asked for again."""
        if not self.windows.turn:
            return 0
        if timestep not in self.levels:
            self.levels.append(timestep)
        return self.windows.turn * self.levels.index(timestep) % self.windows.frames

    def text_of(self, window: int, text: TextContext) -> TextContext:
        """What this window is told: the same as every other."""
        return text


def free_noise(
    noise: Float[Tensor, "C t H W"], frames: int, shift: int, seed: int
) -> Float[Tensor, "C T H W"]:
    """Noise for `frames` latent frames in which every window sees nearly the noise of the first one.

    Each next `shift` frames repeat those a window earlier in another order (FreeNoise, arXiv 2310.15169): what is far
    apart in time then agrees on what is shown, and does not move alike.
    """
    length = noise.shape[1]
    order = torch.Generator().manual_seed(seed)
    places = list(range(length))
    while len(places) < frames:
        stretch = places[len(places) - length :][:shift]
        places += [stretch[index] for index in torch.randperm(len(stretch), generator=order).tolist()]
    return noise[:, places[:frames]]

"""A clip longer than the model's own, as windows that overlap and are denoised together.

At every step each window goes through the model as a clip of its own, and where windows overlap their velocities are
averaged (MultiDiffusion, arXiv 2302.08113, in time instead of space). Guidance and solver see the whole. So a long
clip takes the memory of one window, and its latents.

Axes: B batch, C channels, T latent frames of the clip, t of one window, H and W rows and columns of the latents.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linnet.models.transformer import TextContext
from linnet.sampling.denoise import Model

Latents = Float[Tensor, "B C T H W"]

GOLDEN = (3 - 5**0.5) / 2


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where the windows of a clip lie: the numbers of each one's latent frames, in the order that the model sees."""

    frames: int
    places: tuple[tuple[int, ...], ...]
    turn: int = 0  # latent frames by which they are turned on around the clip at each step

    def weights(self) -> list[Float[Tensor, " t"]]:
        """How much of each latent frame's velocity each window decides; for every frame they add up to 1.

        A window's say falls evenly from its middle to its ends, where it knows least of what is beside it.
        """
        raw = [hill(len(place)) for place in self.places]
        total = torch.zeros(self.frames)
        for place, weight in zip(self.places, raw, strict=True):
            total.index_add_(0, torch.tensor(place), weight)
        return [weight / total[list(place)] for place, weight in zip(self.places, raw, strict=True)]


def hill(length: int) -> Float[Tensor, " t"]:
    steps = torch.arange(1, length + 1)
    return torch.minimum(steps, steps.flip(0)).float()


def in_a_row(frames: int, window: int, overlap: int) -> Windows:
    """As few windows as overlap by `overlap` or more, evenly spread; all counts are of latent frames."""
    last = max(0, frames - window)
    count = -(-last // (window - overlap)) + 1
    starts = [round(index * last / max(1, count - 1)) for index in range(count)]
    return Windows(
        frames=frames, places=tuple(tuple(range(start, min(start + window, frames))) for start in starts)
    )


def in_a_ring(frames: int, window: int, overlap: int) -> Windows:
    """Windows around a clip whose last frame meets its first; one with all of it where it fits in.

    Around a loop there is no beginning: the windows are turned on from step to step, so that no frame is at the edge of
    one for long (as Mobius does, arXiv 2502.20307).
    """
    length = min(window, frames)
    count = 1 if length == frames else max(2, -(-frames // (window - overlap)))
    starts = [round(index * frames / count) for index in range(count)]
    return Windows(
        frames=frames,
        places=tuple(tuple((start + step) % frames for step in range(length)) for start in starts),
        turn=turn_of(frames),
    )


def turn_of(frames: int) -> int:
    """About the golden section of a circle of so many frames, without a common divisor: every frame has its turn."""
    return min(
        (n for n in range(1, frames + 1) if math.gcd(n, frames) == 1), key=lambda n: abs(n - GOLDEN * frames)
    )


class Windowed:
    """A model of windows as a model of the whole clip, for one run. With one window it is that model exactly."""

    def __init__(self, model: Model, windows: Windows) -> None:
        self.model, self.windows = model, windows
        self.weights = windows.weights()
        self.levels: list[float] = []  # timesteps so far

    def __call__(self, latents: Latents, timestep: Float[Tensor, "B"], text: TextContext) -> Latents:
        turned = self.turned(timestep)
        clip, total = latents.roll(-turned, 2) if turned else latents, torch.zeros_like(latents)
        for number, (place, weight) in enumerate(zip(self.windows.places, self.weights, strict=True)):
            frames: Int[Tensor, " t"] = torch.tensor(place, device=latents.device)
            velocity = self.model(clip.index_select(2, frames), timestep, self.text_of(number, text))
            total.index_add_(2, frames, velocity * weight.to(latents.device)[:, None, None])
        return total.roll(turned, 2) if turned else total

    def turned(self, timestep: Float[Tensor, "B"]) -> int:
        """By how many frames the windows are turned on at this level of noise; the same when it is asked for again."""
        if not self.windows.turn:
            return 0
        level = float(timestep[0])
        if level not in self.levels:
            self.levels.append(level)
        return self.windows.turn * self.levels.index(level) % self.windows.frames

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

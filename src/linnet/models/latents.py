"""What all autoencoders share: frames in groups of four, and the two spaces of latents. Those are the autoencoder's own
and the transformer's, where each channel is centred.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT

# Linum v2's statistics of Wan 2.1's latents over its training videos, one number a channel.
MEAN = (
    *(-0.0663, 0.0412, -0.5472, 0.2165, -0.3675, 0.2322, -0.2412, 0.0367),
    *(-0.2894, -0.4233, 0.2349, 0.5966, 0.0849, -1.2945, 1.0459, 0.5444),
)
STD = (
    *(1.0406, 0.6302, 1.1242, 1.3156, 0.6202, 0.7880, 0.9484, 0.9519),
    *(1.2490, 0.8381, 1.0187, 0.6503, 0.6616, 0.5637, 1.2180, 0.9530),
)


class LatentSpace(NamedTuple):
    """A transformer's latents are an autoencoder's times `scale` plus `bias`."""

    scale: Float[Tensor, " C"]
    bias: Float[Tensor, " C"]

    def enter(self, latents: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        """From the autoencoder to the transformer."""
        return latents * self._spread(self.scale, latents) + self._spread(self.bias, latents)

    def leave(self, latents: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        """From the transformer to the autoencoder."""
        return (latents - self._spread(self.bias, latents)) / self._spread(self.scale, latents)

    @staticmethod
    def _spread(values: Float[Tensor, " C"], like: Tensor) -> Float[Tensor, "C 1 1 1"]:
        return values.to(like.device).view(-1, 1, 1, 1)


def linum_v2_latents() -> LatentSpace:
    """The published models' space, for a checkpoint that does not carry its own: half a deviation to one."""
    mean, scale = torch.tensor(MEAN), 0.5 / torch.tensor(STD)
    return LatentSpace(scale, -mean * scale)


def regroup(chunks: Iterable[Float[Tensor, "B 3 _ H W"]]) -> Iterator[Float[Tensor, "B 3 F H W"]]:
    """The same frames as 1, then 4 at a time. InvalidInput at their end if they do not come out even."""
    buffer: Tensor | None = None
    total, wanted = 0, 1
    for chunk in chunks:
        total += chunk.shape[2]
        buffer = chunk if buffer is None else torch.cat([buffer, chunk], dim=2)
        while buffer.shape[2] >= wanted:
            yield buffer[:, :, :wanted]
            buffer, wanted = buffer[:, :, wanted:], FRAMES_PER_LATENT
    if total % FRAMES_PER_LATENT != 1:
        raise off_grid(total, f"{FRAMES_PER_LATENT}n + 1")


def off_grid(frames: int, grid: str) -> InvalidInput:
    return InvalidInput("frames", frames, f"the autoencoder takes {grid}", "drop or repeat some to fit")

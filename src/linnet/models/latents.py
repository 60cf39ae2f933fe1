"""The two spaces of latents: the autoencoder's own, and the transformer's, where each channel is centred.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

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

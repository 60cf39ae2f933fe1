"""Training a text-to-video transformer by flow matching on cached latents; the text encoder learns along with it.

Axes: B clips, C latent channels, T H W the latent grid, S text tokens.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from linnet.models.text import T5Config, T5Encoder, Tokenizer, relative_bucket
from linnet.models.transformer import TextContext, Transformer, TransformerConfig
from linnet.sampling.flow import TIMESTEPS, add_noise, sample_sigmas, velocity_target

ALMOST_NOISE = 0.01  # of the clip, at most, is in a sample that stands where sampling begins
NEARBY = ((1,), (-1,), (-2, 2))  # words from a word, for a head each
ATTENTIVE = 4.0  # in log-odds: four fifths of a head's attention, in a prompt of a dozen words

Mix = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    transformer: TransformerConfig
    text: T5Config
    tokens: int = 8960  # of video a batch; clips a batch follow from their length
    # From which step on, clips of how many latent frames, and how often: short ones show more scenes in a batch.
    lengths: tuple[tuple[int, Mix], ...] = ((0, ((1, 0.1), (4, 0.4), (7, 0.3), (13, 0.2))),)
    # Noise levels (Esser et al., arXiv 2403.03206): how far towards noise, and how widely spread in log-odds. A latent
    # that still shows its clip at nine parts noise to one needs most of its training above that.
    shift: float = 3.0
    spread: float = 1.0
    full_captions: float = 0.75
    dropped_captions: float = 0.1
    # From which step on (None: never) the batches lean towards what is learnt last: hard scenes are drawn so many times
    # as often, fine shapes too, and a share of the samples stands where sampling begins, where the caption alone tells
    # what to make.
    focus_from: int | None = None
    hard_scenes: float = 4.0
    fine_shapes: float = 3.0
    almost_noise: float = 0.1
    # From which step on (None: never) a share of the longest clips goes on from first frames that are given, as windows
    # of a long clip do (sampling.autoregressive): from anywhere in their scene, with up to so many given frames.
    # All others then begin with their scene: what is cut from later on, with nothing given, teaches to begin anywhere,
    # and an object that begins halfway round the frame's edge is the hardest to draw.
    onward_from: int | None = None
    onward: float = 0.5
    most_given: int = 7


class FlowModel(nn.Module):
    """The two networks that learn together, under the names that their files have."""

    def __init__(self, config: FlowConfig, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.text = T5Encoder(config.text).initialise(generator)
        look_around(self.text)
        self.transformer = Transformer(config.transformer).initialise(generator)

    def context(self, ids: Int[Tensor, "B S"], lengths: Int[Tensor, "B"]) -> TextContext:
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return self.transformer.encode_padded_text(self.text(ids, mask.long()), lengths)


@torch.no_grad()
def look_around(text: T5Encoder) -> None:
    """Let the text encoder's first heads begin with their eyes on the next word, the one before, and those two away.

    From even attention it learns which words are there, and stays so for thousands of steps without learning in which
    order: white on blue is then as likely as blue on white.
    """
    config = text.config
    bias = text.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for head, distances in zip(range(config.num_heads), NEARBY, strict=False):
        buckets = relative_bucket(
            torch.tensor(distances), config.relative_buckets, config.relative_max_distance
        )
        bias[buckets, head] += ATTENTIVE


class Batch(NamedTuple):
    """Normalised latents, a caption for each clip, and how many of its first frames are given."""

    latents: Float[Tensor, "B C T H W"]
    captions: list[str]
    given: list[int]


def known_frames(given: list[int], frames: int) -> Bool[Tensor, "B {frames}"]:
    return torch.arange(frames) < torch.tensor(given)[:, None]


def squared_error(
    transformer: Callable[[Tensor, Tensor, TextContext], Tensor],
    context: TextContext,
    data: Float[Tensor, "B C T H W"],
    noise: Float[Tensor, "B C T H W"],
    sigma: Float[Tensor, "B"],
    known: Bool[Tensor, "B T"],
    conditioning_noise: Float[Tensor, "B"],
) -> Float[Tensor, "B C T H W"]:
    """How wrong the velocity is, of clips as `noised` makes them."""
    noisy = noised(data, noise, sigma, known, conditioning_noise)
    return (transformer(noisy, TIMESTEPS * sigma, context) - velocity_target(data, noise)).square()


def noised(
    data: Float[Tensor, "B C T H W"],
    noise: Float[Tensor, "B C T H W"],
    sigma: Float[Tensor, "B"],
    known: Bool[Tensor, "B T"],
    conditioning_noise: Float[Tensor, "B"],
) -> Float[Tensor, "B C T H W"]:
    """Frames that are `known` have only their share of the noise, `conditioning_noise`."""
    seen = known[:, None, :, None, None]
    return torch.where(
        seen, add_noise(data, noise, sigma * conditioning_noise), add_noise(data, noise, sigma)
    )


class FlowTask:
    """Flow matching on batches that a subclass chooses. `scale` and `bias` are a channel's, from the autoencoder's
    latents to the transformer's."""

    def __init__(self, config: FlowConfig, tokenizer: Tokenizer, *, seed: int = 0) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.model = FlowModel(config, seed=seed)
        channels = config.transformer.channels
        self.scale, self.bias = torch.ones(channels), torch.zeros(channels)

    def batch(self, step: int, rng: random.Random) -> Batch:
        raise NotImplementedError

    def sigmas(self, step: int, clips: int, generator: torch.Generator) -> Float[Tensor, "B"]:
        return sample_sigmas(clips, shift=self.config.shift, std=self.config.spread, generator=generator)

    def loss(
        self, step: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        batch = self.batch(step, rng)
        device = generator.device
        data, known = batch.latents.to(device), known_frames(batch.given, batch.latents.shape[2]).to(device)
        ids, lengths = (x.to(device) for x in self.tokenize(batch.captions))
        noise = torch.randn(data.shape, generator=generator, device=device)
        sigma = self.sigmas(step, len(data), generator)
        noise_level = torch.rand(len(data), generator=generator, device=device)
        context = self.model.context(ids, lengths)
        error = squared_error(self.model.transformer, context, data, noise, sigma, known, noise_level).mean(
            (1, 3, 4)
        )
        return error[~known].mean(), {"frames": float(data.shape[2])}

    def tokenize(self, captions: list[str]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B"]]:
        """Ids padded to `text_len`, so that every batch has one shape, and how many of each are real."""
        limit = self.config.transformer.text_len
        rows = [self.tokenizer.encode(text, limit).ids for text in captions]
        lengths = torch.tensor([len(row) for row in rows])
        return torch.tensor([row + [0] * (limit - len(row)) for row in rows]), lengths

    def sample(self, folder: Path, step: int) -> None:
        """A few captioned clips, decoded; filled in by the recipe, which knows the autoencoder."""

"""Training a text-to-video transformer by flow matching on cached latents; the text encoder learns along with it.

Axes: B clips, C latent channels, T H W the latent grid, S text tokens.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from linnet.data.cache import LatentCache
from linnet.data.synthetic import BACKGROUNDS, COLOURS, Scene, at_rest, caption
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT
from linnet.models.text import T5Config, T5Encoder, Tokenizer, relative_bucket
from linnet.models.transformer import TextContext, Transformer, TransformerConfig
from linnet.sampling.flow import TIMESTEPS, add_noise, sample_sigmas, velocity_target

ALMOST_NOISE = 0.01  # of the clip, at most, is in a sample that stands where sampling begins
NEARBY = ((1,), (-1,), (-2, 2))  # words from a word, for a head each
FINE = ("moon", "star")  # their points are smaller than a cell of the latents
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


def hard(scene: Scene, moment: int) -> bool:
    """Whether a clip of a scene, from that frame on, is of those that are learnt last.

    A shape that turns is another in every frame; where object and background could change colours, only the order of
    the words tells which is which; and of what is shown from later on, no word says where it is.
    """
    swapped = scene.colour in BACKGROUNDS and scene.background in COLOURS
    return scene.motion == "spins" or swapped or moment > 0


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
    """How wrong the velocity is; frames that are `known` have only their share of the noise, `conditioning_noise`."""
    seen = known[:, None, :, None, None]
    noisy = torch.where(
        seen, add_noise(data, noise, sigma * conditioning_noise), add_noise(data, noise, sigma)
    )
    return (transformer(noisy, TIMESTEPS * sigma, context) - velocity_target(data, noise)).square()


class FlowTask:
    def __init__(
        self,
        config: FlowConfig,
        cache: LatentCache,
        tokenizer: Tokenizer,
        *,
        seed: int = 0,
    ) -> None:
        if config.onward_from is not None and 0 not in cache.moments:
            problem = "has no clip that begins with its scene, as all with no frames given have to"
            raise InvalidInput("clips", len(cache), problem, "cache more, or leave out onward_from")
        self.config, self.cache, self.tokenizer = config, cache, tokenizer
        self.model = FlowModel(config, seed=seed)
        mean, std = cache.statistics()
        self.shares = {  # of each clip and those before it: whether hard ones count for more, and later ones at all
            (focused, later): list(
                accumulate(
                    self.share(clip, focused=focused, later=later)
                    for clip in zip(cache.scenes, cache.moments, strict=True)
                )
            )
            for focused in (False, True)
            for later in (False, True)
        }
        self.scale, self.bias = 1 / std, -mean / std  # z_model = z * scale + bias, unit spread a channel

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

    def sigmas(self, step: int, clips: int, generator: torch.Generator) -> Float[Tensor, "B"]:
        sigma = sample_sigmas(clips, shift=self.config.shift, std=self.config.spread, generator=generator)
        if not self.focused(step):
            return sigma
        begins, where = torch.rand(2, clips, generator=generator, device=generator.device)
        return torch.where(begins < self.config.almost_noise, 1 - ALMOST_NOISE * where, sigma)

    def focused(self, step: int) -> bool:
        return self.config.focus_from is not None and step >= self.config.focus_from

    def batch(self, step: int, rng: random.Random) -> Batch:
        """Clips of one length, each under one of its captions."""
        mix = [mix for first, mix in self.config.lengths if first <= step][-1]
        lengths, weights = zip(*mix, strict=True)
        (frames,) = rng.choices(lengths, weights)
        _, _, _, rows, columns = self.cache.latents.shape
        clips = max(1, self.config.tokens // (frames * -(-rows // 2) * -(-columns // 2)))
        clips = min(clips, len(self.cache))
        apart = self.goes_on(step)
        share = self.config.onward if apart and frames == max(lengths) else 0.0
        continued = sum(rng.random() < share for _ in range(clips))
        chosen = self.choose(step, rng, continued, later=True)
        chosen += self.choose(step, rng, clips - continued, later=not apart)
        captions = [self.caption(index, rng, still=frames == 1) for index in chosen]
        begun = [
            self.anywhere(rng, clip, frames) if index < continued else (0, 0)
            for index, clip in enumerate(chosen)
        ]
        latents = torch.stack(
            [self.cut(clip, start, frames) for clip, (start, _) in zip(chosen, begun, strict=True)]
        )
        latents = latents * self.scale.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)
        return Batch(latents, captions, [given for _, given in begun])

    def goes_on(self, step: int) -> bool:
        return self.config.onward_from is not None and step >= self.config.onward_from

    def share(self, clip: tuple[Scene, int], *, focused: bool, later: bool) -> float:
        """How often a clip, a scene from some frame on, is drawn."""
        if clip[1] and not later:
            return 0.0
        if not focused:
            return 1.0
        fine = self.config.fine_shapes if clip[0].shape in FINE else 1.0
        return fine * (self.config.hard_scenes if hard(*clip) else 1.0)

    def choose(self, step: int, rng: random.Random, clips: int, *, later: bool) -> list[int]:
        """So many clips of the cache; `later`: those too that begin later than their scene."""
        shares = self.shares[self.focused(step), later]
        return rng.choices(range(len(self.cache)), cum_weights=shares, k=clips)

    def anywhere(self, rng: random.Random, clip: int, frames: int) -> tuple[int, int]:
        """(The latent frame of its scene at which a clip begins that goes on, how many of its frames are given).

        What has come to rest may begin as late as that: a model that hardly sees it lets what is done growing grow on
        with every window.
        """
        given = rng.randint(1, self.config.most_given)
        last = self.cache.latents.shape[2] - 1
        rests = at_rest(self.cache.scenes[clip], self.cache.moments[clip] + FRAMES_PER_LATENT * last)
        return rng.randint(0, last if rests else last + 1 - frames), given

    def cut(self, clip: int, start: int, frames: int) -> Float[Tensor, "C {frames} H W"]:
        """A clip's latent frames from `start` on; past its end the last one stays."""
        latents = self.cache.latents[clip]
        return latents[:, (start + torch.arange(frames)).clamp(max=latents.shape[1] - 1)].float()

    def caption(self, index: int, rng: random.Random, *, still: bool) -> str:
        if rng.random() < self.config.dropped_captions:
            return ""
        full = rng.random() < self.config.full_captions
        return caption(self.cache.scenes[index], rng, full=full, still=still)

    def tokenize(self, captions: list[str]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B"]]:
        """Ids padded to `text_len`, so that every batch has one shape, and how many of each are real."""
        limit = self.config.transformer.text_len
        rows = [self.tokenizer.encode(text, limit).ids for text in captions]
        lengths = torch.tensor([len(row) for row in rows])
        return torch.tensor([row + [0] * (limit - len(row)) for row in rows]), lengths

    def sample(self, folder: Path, step: int) -> None:
        """A few captioned clips, decoded; filled in by the recipe, which knows the autoencoder."""

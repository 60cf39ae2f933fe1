"""Which clips of the synthetic dataset a model like seedling is shown, when, and under which captions.

Axes: B clips, C latent channels, T H W the latent grid.
"""

import random
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.data.cache import LatentCache
from linnet.data.known import BACKGROUNDS, COLOURS
from linnet.data.synthetic import Scene, at_rest, caption
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT
from linnet.models.text import Tokenizer
from linnet.train.flow import ALMOST_NOISE, Batch, FlowConfig, FlowTask

FINE = ("moon", "star")  # their points are smaller than a cell of the latents


def hard(scene: Scene, moment: int) -> bool:
    """Whether a clip of a scene, from that frame on, is of those that are learnt last.

    A shape that turns is another in every frame; where object and background could change colours, only the order of
    the words tells which is which; and of what is shown from later on, no word says where it is.
    """
    swapped = scene.colour in BACKGROUNDS and scene.background in COLOURS
    return scene.motion == "spins" or swapped or moment > 0


class SyntheticFlow(FlowTask):
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
        super().__init__(config, tokenizer, seed=seed)
        self.cache = cache
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

    def sigmas(self, step: int, clips: int, generator: torch.Generator) -> Float[Tensor, "B"]:
        sigma = super().sigmas(step, clips, generator)
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

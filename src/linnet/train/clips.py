"""Flow matching on somebody's clips: what LoRA training and full training share.

Axes: B clips, C latent channels, T H W the latent grid, S text tokens, M the text encoder's width.
"""

import random
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from linnet.data.encoded import Encoded
from linnet.loaded_model import LoadedModel
from linnet.models.lora import without_lora
from linnet.models.transformer import Block, TextContext, Transformer
from linnet.sampling.flow import TIMESTEPS, velocity_target
from linnet.train.distributed import ALONE, Ranks
from linnet.train.flow import noised
from linnet.train.loop import drawn_from
from linnet.train.order import Order
from linnet.train.timesteps import timesteps

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of noise, at which the held-out loss is measured
MOST_HELD_OUT = 32  # clips that are measured each time


@runtime_checkable
class Clips(Protocol):
    """An encoded dataset (see data.encoded). Clips are numbered."""

    @property
    def buckets(self) -> Sequence[Hashable]: ...

    @property
    def training(self) -> Sequence[int]: ...

    @property
    def held_out(self) -> Sequence[int]: ...

    def epoch(self, seed: int, number: int) -> Sequence[int]:
        """The clips of one epoch, in its order."""
        ...

    def sample(self, index: int) -> Encoded: ...

    def text(self, caption: str) -> Float[Tensor, "_ M"]:
        """The states of one of the captions, or of the empty one; of a large text encoder alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """`timesteps`: see there; `shift` is the model's own. `caption_dropout`: the share of samples without a caption,
    which guidance needs. `first_frame`: the share of samples whose first latent frame is given (image to video)."""

    batch: int = 1
    timesteps: str = "logit-normal"
    shift: float
    caption_dropout: float = 0.1
    first_frame: float = 0.0
    seed: int = 0


class Learner(nn.Module):
    """The transformer, and rows of the text encoder's table for words that it has to learn, if there are any. What of
    it learns is for who makes it to say."""

    def __init__(self, transformer: Transformer, rows: Float[Tensor, "n M"] | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.rows = None if rows is None else nn.Parameter(rows)

    def to(self, *given: object, **more: object) -> Self:
        """Where it is: a plan decided what of it is on the device."""
        return self


class Texts:
    """Captions as the transformer's text sees them.

    The states of a large text encoder are with the dataset. A small one runs at each step, since the rows of new words
    change."""

    def __init__(self, model: LoadedModel, learner: Learner, clips: Clips) -> None:
        self.model, self.learner, self.clips = model, learner, clips
        self.encoder = model.text.resident() if model.text.small else None

    def __call__(self, captions: Sequence[str]) -> tuple[Float[Tensor, "B S M"], Tensor]:
        """States padded to one length, and how many of each are real."""
        device = self.model.device
        if self.encoder is None:
            rows = [self.clips.text(caption).to(device).float() for caption in captions]
            return pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows], device=device)
        ids = [torch.tensor(self.model.encode(text).ids) for text in captions]
        lengths = torch.tensor([len(each) for each in ids], device=device)
        padded = pad_sequence(ids, batch_first=True).to(device)
        table = self.encoder.shared.weight.float()
        if self.learner.rows is not None:
            table = torch.cat((table[: self.encoder.config.vocab_size], self.learner.rows))
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]
        return self.encoder.contextualise(F.embedding(padded, table), mask.long()), lengths


class ClipsTask:
    """`publish` saves what was learnt, and shows it. `kept` are clips that a LoRA is to leave as they are: their target
    is the transformer's own prediction without it (Li & Hoiem, arXiv 1606.09282). That has none of the randomness of a
    clip's own velocity, so a few such clips keep what the model knew. Where there are any, a sample without its caption
    is left so, too: guidance then moves away from what the model showed before, and towards what is new."""

    def __init__(
        self,
        learner: Learner,
        clips: Clips,
        texts: Texts,
        config: ClipsConfig,
        *,
        blocks: Sequence[Block] | None = None,
        publish: Callable[[Path, int], None] = lambda folder, step: None,
        kept: Container[int] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.clips, self.texts, self.config, self.kept = learner, clips, texts, config, kept
        self.preserving = any(index in kept for index in range(len(clips.buckets)))
        self.blocks, self.publish, self.ranks = blocks, publish, ranks
        self.timesteps = timesteps(config.timesteps, shift=config.shift)
        epoch = partial(clips.epoch, config.seed)
        self.order = Order(epoch, clips.buckets, config.batch, seed=config.seed)

    def loss(
        self, step: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Of the batch's samples that are this process's: their share of the mean over the batch. Each sample has
        generators of its own, so the noise does not depend on how many processes there are."""
        samples = self.order[step]
        own = list(self.ranks.own(len(samples)))
        counted = bool(own)  # a process without a sample takes part with one that does not count
        draws = [drawn_from(f"{self.config.seed}/{step}/{n}", str(generator.device)) for n in own or [0]]
        shown = [self.clips.sample(samples[position]) for position in own or [0]]
        torch.manual_seed(rng.getrandbits(60) + self.ranks.rank)  # of an adapter's dropout
        captions = [
            "" if coin.random() < self.config.caption_dropout else sample.caption
            for sample, (coin, _) in zip(shown, draws, strict=True)
        ]
        kept = [
            samples[position] in self.kept or (self.preserving and not caption)
            for position, caption in zip(own or [0], captions, strict=True)
        ]
        given = torch.tensor([coin.random() < self.config.first_frame for coin, _ in draws])
        generators = [each for _, each in draws]
        data = torch.stack([sample.latents for sample in shown]).to(generator.device)
        quantiles, levels = torch.stack([torch.rand(2, generator=g, device=g.device) for g in generators], 1)
        noise = torch.stack([torch.randn(data.shape[1:], generator=g, device=g.device) for g in generators])
        error = self.errors(captions, data, noise, self.timesteps(quantiles), given, levels, kept)
        weight = float(counted) / len(samples)
        return weight * error.sum(), {"frames": float(data.shape[2])}

    def errors(
        self,
        captions: Sequence[str],
        data: Float[Tensor, "B C T H W"],
        noise: Float[Tensor, "B C T H W"],
        sigma: Float[Tensor, "B"],
        given: Tensor,
        conditioning_noise: Float[Tensor, "B"],
        kept: Sequence[bool] = (),
    ) -> Float[Tensor, "B"]:
        """The mean squared error of each clip's velocity, over the frames that are not given."""
        known = torch.zeros(len(data), data.shape[2], dtype=torch.bool, device=data.device)
        if data.shape[2] > 1:
            known[:, 0] = given.to(data.device)
        noisy = noised(data, noise, sigma, known, conditioning_noise)
        target = velocity_target(data, noise)
        if any(kept):
            rows = [row for row, keep in enumerate(kept) if keep]
            target[rows] = self.before([captions[row] for row in rows], noisy[rows], sigma[rows])
        error = (
            (self._run(noisy, TIMESTEPS * sigma, self.context(captions)) - target).square().mean((1, 3, 4))
        )
        return (error * ~known).sum(1) / (~known).sum(1)

    @torch.no_grad()
    def before(self, captions: Sequence[str], noisy: Tensor, sigma: Float[Tensor, "B"]) -> Tensor:
        """The velocities without the LoRA."""
        with without_lora(self.model.transformer):
            return self._run(noisy, TIMESTEPS * sigma, self.context(captions))

    def context(self, captions: Sequence[str]) -> TextContext:
        return self.model.transformer.encode_padded_text(*self.texts(captions), blocks=self.blocks)

    def _run(self, latents: Tensor, timestep: Tensor, text: TextContext) -> Tensor:
        return self.model.transformer(latents, timestep, text, blocks=self.blocks)

    def validate(self) -> dict[str, float]:
        """The loss of held-out clips by level of noise, which is the same each time, and its mean."""
        device, shown = self.texts.model.device, self.clips.held_out[:MOST_HELD_OUT]
        if not shown:
            return {}
        sums = dict.fromkeys(LEVELS, 0.0)
        for index in shown:
            sample = self.clips.sample(index)
            data = sample.latents[None].to(device)
            for level in LEVELS:
                _, generator = drawn_from(f"held out {index}/{level}", str(device))
                noise = torch.randn(data.shape, generator=generator, device=device)
                sigma = torch.full((1,), level, device=device)
                error = self.errors(
                    [sample.caption],
                    data,
                    noise,
                    sigma,
                    torch.tensor([False]),
                    torch.ones_like(sigma),
                )
                sums[level] += error.item() / len(shown)
        losses = {f"held_out/{level}": value for level, value in sums.items()}
        return {"held_out": sum(sums.values()) / len(LEVELS), **losses}

    def sample(self, folder: Path, step: int) -> None:
        self.publish(folder, step)

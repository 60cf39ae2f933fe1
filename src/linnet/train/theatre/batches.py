"""Batches of scenes and captions as numbers, drawn ahead by other processes while a card trains.

Axes: B clips, F frames, S text tokens.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from linnet.data.theatre.captions import caption
from linnet.data.theatre.stage import Stage, set_stage
from linnet.geometry import FRAMES_PER_LATENT
from linnet.models.text import Tokenizer
from linnet.train.loop import randomness
from linnet.train.theatre.config import TEXT_LENGTH, TheatreConfig

LATEST = 48  # the frame of its scene at which a clip or a still begins, at most
Mix = tuple[tuple[int, int, float], ...]


class Batch(NamedTuple):
    """`given`: how many of a clip's first latent frames are known, for one that goes on."""

    stage: Stage
    ids: Int[Tensor, "B S"]
    lengths: Int[Tensor, "B"]
    given: Int[Tensor, "B"]


class SceneBatches(Dataset[Batch]):
    """Batch `step` of a seed, whichever process draws it."""

    def __init__(self, config: TheatreConfig, mix: Mix, tokenizer: Tokenizer, *, seed: int) -> None:
        self.config, self.mix, self.tokenizer, self.seed = config, mix, tokenizer, seed

    def __getitem__(self, step: int) -> Batch:
        rng, _ = randomness(self.seed, step)
        (chosen,) = rng.choices(self.mix, [share for _, _, share in self.mix])
        length, clips, _ = chosen
        return self.draw(rng, length, clips)

    def draw(self, rng: random.Random, length: int, clips: int) -> Batch:
        still = length == 1
        scenes = [self.config.scene(rng, still=still) for _ in range(clips)]
        given = [
            rng.randint(1, min(self.config.most_given, length - 1))
            if not still and rng.random() < self.config.continued
            else 0
            for _ in scenes
        ]
        starts = [rng.randint(0, LATEST) if still or first else 0 for first in given]
        captions = [
            "" if rng.random() < self.config.dropped_captions else caption(scene, rng, still=still)
            for scene in scenes
        ]
        stage = set_stage(scenes, starts, FRAMES_PER_LATENT * (length - 1) + 1)
        return Batch(stage, *tokenized(self.tokenizer, captions), torch.tensor(given))

    def halved(self) -> "SceneBatches":
        """Batches of half as many clips."""
        smaller = tuple((length, max(1, clips // 2), share) for length, clips, share in self.mix)
        return SceneBatches(self.config, smaller, self.tokenizer, seed=self.seed)


def tokenized(tokenizer: Tokenizer, captions: list[str]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B"]]:
    """Ids padded to one length, and how many of each are real."""
    rows = [tokenizer.encode(text, TEXT_LENGTH).ids for text in captions]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.tensor([row + [0] * (TEXT_LENGTH - len(row)) for row in rows]), lengths


def from_step(batches: SceneBatches, first: int, last: int, workers: int, *, pin: bool) -> Iterator[Batch]:
    """The batches of the steps `first` to `last`, drawn ahead by `workers` processes, or as they are asked for."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
    )
    return iter(loader)

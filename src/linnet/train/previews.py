"""Clips that show what was learnt so far: by the real pipeline, from the file that was just saved, beside the same
clips without it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from linnet import media
from linnet.filesystem import complete, make_folder
from linnet.models.lora import enable_lora, lora_weights
from linnet.pipeline import Pipeline
from linnet.request import Request
from linnet.train.clips import Learner
from linnet.weights.lora import parameter_shapes, read_lora

MOMENTS = 4  # frames of each clip on the sheet
GAP = 8  # pixels between a clip without and the one with the LoRA


@dataclass(kw_only=True)
class Previews:
    """Of each request a clip, at the seed that it names. Those without the LoRA are made once."""

    pipeline: Pipeline
    learner: Learner
    requests: Sequence[Request]
    without: list[Path] = field(default_factory=list)

    def make(self, file: Path, folder: Path, step: int) -> Path | None:
        """Clips in `folder`, and a sheet: a row for each, without on the left and with on the right."""
        if not self.requests:
            return None
        make_folder(folder)
        load_into_adapters(self.learner, file)
        self.pipeline.model.learn_words(read_lora(file, parameter_shapes(self.learner.transformer)).words)
        transformer = self.learner.transformer
        if not self.without:
            enable_lora(transformer, False)
            try:
                self.without = self.clips(folder, "without")
            finally:
                enable_lora(transformer, True)
        made = self.clips(folder, f"{step:06d}")
        rows = [beside(*pair) for pair in zip(self.without, made, strict=True)]
        width = max(row.shape[1] for row in rows)
        padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
        sheet = folder / f"{step:06d}.png"
        with complete(sheet) as part:
            Image.fromarray(np.concatenate(padded)).save(part, "PNG")
        return sheet

    def clips(self, folder: Path, name: str) -> list[Path]:
        paths = [folder / f"{name}-{number}.mp4" for number in range(1, len(self.requests) + 1)]
        for request, path in zip(self.requests, paths, strict=True):
            self.pipeline.generate(request, path, overwrite=True)
        return paths


@torch.no_grad()
def load_into_adapters(learner: Learner, file: Path) -> None:
    """The file's numbers in the place of those that learn, which whoever calls puts back: what a preview shows is what
    was saved."""
    saved = read_lora(file, parameter_shapes(learner.transformer))
    for name, own in lora_weights(learner.transformer).items():
        for part in ("down", "up", "dora_scale"):
            here, there = getattr(own, part), getattr(saved.weights[name], part)
            if here is not None:
                here.copy_(there)
    if learner.rows is not None:
        learner.rows.copy_(torch.stack(list(saved.words.values())))


def beside(without: Path, made: Path) -> UInt8[np.ndarray, "H W 3"]:
    left, right = (moments(path) for path in (without, made))
    return np.concatenate((left, np.zeros((left.shape[0], GAP, 3), np.uint8), right), 1)


def moments(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    frames = list(media.read_frames(path))
    chosen = np.linspace(0, len(frames) - 1, min(MOMENTS, len(frames))).round().astype(int)
    return np.concatenate([frames[at] for at in chosen], 1)

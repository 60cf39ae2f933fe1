"""Clips that show what was learnt so far: by the real pipeline, from the file that was just saved, beside the same
clips without it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from linnet import media
from linnet.filesystem import complete, make_folder
from linnet.models.lora import lora_weights, without_lora
from linnet.pipeline import Pipeline
from linnet.request import Request
from linnet.train.clips import Learner

MOMENTS = 4  # frames of each clip on the sheet
Picture = UInt8[np.ndarray, "_ _ 3"]
GAP = 8  # pixels between a clip without and the one with the LoRA


@runtime_checkable
class Saved(Protocol):
    """A kind of file that training writes."""

    def load(self, path: Path) -> None:
        """Compute by the file's numbers; whoever calls puts the others back."""
        ...


@dataclass(kw_only=True)
class Previews:
    """Of each request a clip, at the seed that it names. Those without what was learnt are made once, where a LoRA can
    be switched off."""

    pipeline: Pipeline
    learner: Learner
    file: Saved
    requests: Sequence[Request]
    without: list[Path] = field(default_factory=list)

    def make(self, saved: Path, folder: Path, step: int) -> Path | None:
        """Clips in `folder`, and a sheet: a row for each, without on the left and with on the right."""
        if not self.requests:
            return None
        make_folder(folder)
        self.file.load(saved)
        transformer = self.learner.transformer
        if not self.without and lora_weights(transformer):
            with without_lora(transformer):
                self.without = self.clips(folder, "without")
        made = self.clips(folder, f"{step:06d}")
        rows = [moments(path) for path in made]
        if self.without:
            rows = [beside(moments(path), row) for path, row in zip(self.without, rows, strict=True)]
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


def beside(left: Picture, right: Picture) -> Picture:
    return np.concatenate((left, np.zeros((left.shape[0], GAP, 3), np.uint8), right), 1)


def moments(path: Path) -> Picture:
    frames = list(media.read_frames(path))
    chosen = np.linspace(0, len(frames) - 1, min(MOMENTS, len(frames))).round().astype(int)
    return np.concatenate([frames[at] for at in chosen], 1)

"""A contact sheet of scenes, for a person to judge what is trained on."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from linnet.data.theatre.captions import caption
from linnet.data.theatre.render import Scenery, pictures, render
from linnet.data.theatre.scene import Scene, sample_scene
from linnet.data.theatre.stage import set_stage

MOMENTS = (0, 12, 24, 36, 48)  # frames that are shown


def contact_sheet(scenery: Scenery, path: Path, *, count: int, seed: int) -> None:
    """A row for each scene: its caption, and five moments of its first two seconds."""
    rng = random.Random(seed)
    device = scenery.sprites.device
    rows = []
    for _ in range(count):
        scene = sample_scene(rng)
        drawn = [
            pictures(render(scenery, set_stage([scene], [start], 1).to(device)))[0, 0] for start in MOMENTS
        ]
        rows.append(labelled(drawn, caption(scene, rng)))
    Image.fromarray(np.concatenate(rows)).save(path)


def labelled(frames: Sequence[UInt8[np.ndarray, "H W 3"]], text: str) -> UInt8[np.ndarray, "row all 3"]:
    """Frames side by side, under a line of text."""
    row = np.concatenate(frames, 1)
    picture = Image.new("RGB", (row.shape[1], row.shape[0] + 14), "white")
    picture.paste(Image.fromarray(row), (0, 14))
    ImageDraw.Draw(picture).text((3, 1), text, fill="black")
    return np.array(picture)


def still_sheet(scenery: Scenery, path: Path, scenes: Sequence[Scene], *, columns: int = 6) -> None:
    """One frame of each scene."""
    device = scenery.sprites.device
    with torch.no_grad():
        cells = [
            labelled([pictures(render(scenery, set_stage([scene], [24], 1).to(device)))[0, 0]], scene.thing)
            for scene in scenes
        ]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[at : at + columns], 1) for at in range(0, len(cells), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)

"""Clips of something that seedling does not know, with captions: a dataset to try training on, and its examination."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from linnet import media
from linnet.data.known import BACKGROUNDS, COLOURS, SHAPES
from linnet.data.synthetic import (
    FPS,
    HEIGHT,
    MOTIONS,
    SIZES,
    WIDTH,
    Scene,
    caption,
    render,
    sample_scene,
)
from linnet.errors import InvalidInput
from linnet.filesystem import make_folder, write_text, writing
from linnet.wording import choices

SHOWN_SHAPES = ("square", "star", "heart")
SHOWN_COLOURS = ("red", "yellow", "blue", "white")
SHOWN_MOTIONS = ("left", "down", "spins", "grows", "still")


@dataclass(frozen=True, kw_only=True)
class Example:
    """What each of the dataset's clips shows: a shape, a motion or a style. The rest of a clip varies.

    Seedling's autoencoder fills what is small and outlined, and moons of any size."""

    shape: str = ""
    motion: str = ""
    outlined: bool = False

    @property
    def sizes(self) -> Sequence[str]:
        return ["large"] if self.outlined else [*SIZES]

    def triples(self, *, shown: bool) -> Sequence[tuple[str, str, str]]:
        """Shapes, colours and motions that the dataset has, in all combinations; else those that it has none of."""

        def some(words: Sequence[str], in_dataset: Sequence[str]) -> list[str]:
            return [word for word in words if (word in in_dataset) == shown]

        shapes = [self.shape] if self.shape else some(SHAPES, SHOWN_SHAPES)
        if self.outlined:
            shapes = [shape for shape in shapes if shape != "moon"]
        motions = [self.motion] if self.motion else some(MOTIONS, SHOWN_MOTIONS)
        if self.shape == "circle":  # turning, it looks as if it stood still
            motions = [motion for motion in motions if motion != "spins"]
        return list(product(shapes, some([*COLOURS], SHOWN_COLOURS), motions))


EXAMPLES = {
    "circle": Example(shape="circle"),
    "cross": Example(shape="cross"),
    "outline": Example(outlined=True),
    "swing": Example(motion="swings"),
}


def draw_example(folder: Path, name: str = "circle", *, clips: int = 24, frames: int = 25) -> None:
    """Write the clips, each with a .txt of its name. A folder that holds something else is refused."""
    if name not in EXAMPLES:
        raise InvalidInput("teach", name, "is not an example", choices(name, EXAMPLES))
    make_folder(folder)
    with writing(folder):
        if any(folder.iterdir()):
            raise InvalidInput("folder", folder, "holds other things", "name a folder that is new or empty")
    for number in range(clips):
        scene, words = example(name, number)
        path = folder / f"{name}-{number + 1:02}.mp4"
        with media.open_writer(
            path, width=WIDTH, height=HEIGHT, fps=FPS, metadata={}, overwrite=False
        ) as writer:
            writer.write(render(scene, frames))
        write_text(path.with_suffix(".txt"), words + "\n")


def example(name: str, number: int) -> tuple[Scene, str]:
    """A scene of the dataset, and its caption.

    Shapes, colours, motions, sizes and backgrounds take turns at paces of their own, so that none goes with another."""
    chosen = EXAMPLES[name]
    shapes, colours, motions = (
        list(dict.fromkeys(words)) for words in zip(*chosen.triples(shown=True), strict=True)
    )
    turn, place = divmod(number, len(colours))
    colour = colours[place]
    triple = (shapes[(turn + 2 * place) % len(shapes)], colour, motions[(turn + place) % len(motions)])
    backgrounds = [background for background in BACKGROUNDS if background != colour]
    rng = random.Random(f"example {name} {number}")
    scene = sample_scene(
        rng,
        triples=(triple,),
        sizes=(chosen.sizes[turn % len(chosen.sizes)],),
        backgrounds=(backgrounds[(turn + 2 * place) % len(backgrounds)],),
    )
    scene = replace(scene, outlined=chosen.outlined)
    return scene, caption(scene, rng)


def unseen(name: str, rng: random.Random) -> tuple[Scene, str]:
    """A scene of the same, and its caption, with a colour, motion and shape of which the dataset has none."""
    chosen = EXAMPLES[name]
    scene = sample_scene(rng, triples=tuple(chosen.triples(shown=False)), sizes=chosen.sizes)
    scene = replace(scene, outlined=chosen.outlined)
    return scene, caption(scene, rng)

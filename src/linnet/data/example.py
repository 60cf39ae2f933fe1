"""Clips of a shape that seedling does not know, with captions: a dataset to try training on, and its examination."""

import random
from pathlib import Path

from linnet import media
from linnet.data.known import BACKGROUNDS, COLOURS
from linnet.data.synthetic import (
    FPS,
    HEIGHT,
    MOTIONS,
    NEW_SHAPES,
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

SHOWN_COLOURS = ("red", "yellow", "blue", "white")
SHOWN_MOTIONS = ("left", "down", "spins", "grows", "still")


def draw_example(folder: Path, shape: str = "circle", *, clips: int = 24, frames: int = 25) -> None:
    """Write the clips in four colours and five motions, each with a .txt of its name. A folder that holds something
    else is refused."""
    if shape not in NEW_SHAPES:
        problem = "is not a shape that seedling can be taught so"
        raise InvalidInput("shape", shape, problem, choices(shape, NEW_SHAPES))
    make_folder(folder)
    with writing(folder):
        if any(folder.iterdir()):
            raise InvalidInput("folder", folder, "holds other things", "name a folder that is new or empty")
    for number in range(clips):
        scene, words = example(shape, number)
        path = folder / f"{shape}-{number + 1:02}.mp4"
        with media.open_writer(
            path, width=WIDTH, height=HEIGHT, fps=FPS, metadata={}, overwrite=False
        ) as writer:
            writer.write(render(scene, frames))
        write_text(path.with_suffix(".txt"), words + "\n")


def example(shape: str, number: int) -> tuple[Scene, str]:
    """A scene of the dataset, and its caption. A circle that spins looks as one that does not.

    Colours, motions, sizes and backgrounds take turns at paces of their own, so that none goes with another."""
    motions = [motion for motion in SHOWN_MOTIONS if motion != "spins" or shape != "circle"]
    turn, place = divmod(number, len(SHOWN_COLOURS))
    colour = SHOWN_COLOURS[place]
    backgrounds = [background for background in BACKGROUNDS if background != colour]
    rng = random.Random(f"example {shape} {number}")
    scene = sample_scene(
        rng,
        triples=((shape, colour, motions[(turn + place) % len(motions)]),),
        sizes=(tuple(SIZES)[turn % len(SIZES)],),
        backgrounds=(backgrounds[(turn + 2 * place) % len(backgrounds)],),
    )
    return scene, caption(scene, rng)


def unseen(shape: str) -> tuple[tuple[str, str, str], ...]:
    """Combinations of the shape with colours and motions of which the dataset has neither."""
    return tuple(
        (shape, colour, motion)
        for colour in COLOURS
        if colour not in SHOWN_COLOURS
        for motion in MOTIONS
        if motion not in SHOWN_MOTIONS
    )

"""The datasets to try training on: each teaches one word, and its examination asks for what it does not hold."""

import random
import re

import numpy as np
import pytest

from linnet.data.example import EXAMPLES, example, unseen
from linnet.data.synthetic import BACKGROUNDS, SWING, Scene, pose, render, vocabulary


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_teaches_one_word_and_is_examined_on_what_it_does_not_show(name: str) -> None:
    clips = [example(name, number) for number in range(24)]
    asked = [unseen(name, random.Random(number)) for number in range(24)]
    words = {word for _, caption in clips + asked for word in re.findall(r"\w+", caption)}
    assert words - {*vocabulary()} == {{"outline": "outlined", "swing": "swings"}.get(name, name)}
    taught = EXAMPLES[name]
    for attribute, same in {"shape": taught.shape, "colour": "", "motion": taught.motion}.items():
        shown, wanted = ({getattr(scene, attribute) for scene, _ in part} for part in (clips, asked))
        assert shown == wanted == {same} if same else not shown & wanted


def scene(**changed: object) -> Scene:
    usual = {"shape": "square", "colour": "red", "size": "large", "background": "blue", "motion": "still"}
    return Scene(**{**usual, "x": 64.0, "y": 36.0, **changed})  # type: ignore[arg-type]


def test_of_an_outlined_object_only_the_edge_is_drawn() -> None:
    (frame,) = render(scene(outlined=True), 1)
    middle, edge = frame[36, 64].astype(int), frame[36, 64 - 12].astype(int)
    assert np.abs(middle - BACKGROUNDS["blue"]).max() < 10
    assert edge[0] > 200 > 60 > edge[2]


def test_what_swings_goes_to_both_sides_and_comes_back() -> None:
    across = [pose(scene(motion="swings"), seconds)[0] for seconds in (0, 0.25, 0.5, 0.75, 1)]
    assert across == pytest.approx([64, 64 + SWING, 64, 64 - SWING, 64])

"""A pipeline that saves memory makes the clip that it makes with everything in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from linnet.catalog import SEEDLING
from linnet.errors import InvalidInput
from linnet.pipeline import Pipeline
from linnet.request import make_request
from linnet.runtime.knobs import Knobs, Tiling
from linnet.weights.store import resolve

REQUEST = make_request(SEEDLING, prompt="a red star spins", frames=5, steps=2, seed=3)


def clip(folder: Path, output: Path, knobs: Knobs) -> bytes:
    pipeline = Pipeline.open(SEEDLING, resolve(SEEDLING, weights=folder), knobs=knobs)
    return pipeline.generate(REQUEST, output, overwrite=True).path.read_bytes()


@pytest.mark.parametrize(
    "knobs",
    [
        Knobs(resident_blocks=0, blocks_from="file"),
        Knobs(resident_blocks=0, blocks_from="memory"),
        Knobs(resident_blocks=1, token_chunk=10_000, tiling=Tiling()),
    ],
    ids=str,
)
def test_the_clip_is_the_same(tiny_model: Path, tmp_path: Path, knobs: Knobs) -> None:
    assert clip(tiny_model, tmp_path / "a.mp4", knobs) == clip(tiny_model, tmp_path / "b.mp4", Knobs())


@pytest.mark.parametrize("make", [lambda: Knobs(token_chunk=0), lambda: Knobs(resident_blocks=-1)])
def test_what_means_nothing_is_refused(make: Callable[[], Knobs]) -> None:
    with pytest.raises(InvalidInput, match="or more"):
        make()

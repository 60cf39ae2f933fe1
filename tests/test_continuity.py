"""The measures of what goes beyond one clip, on clips drawn to be right, and to be wrong."""

from pathlib import Path

import numpy as np
import pytest

import linnet
from linnet.catalog import SEEDLING
from linnet.data.playground import FPS, SPEED, Scene, render
from linnet.evaluate.continuity import (
    FAR,
    Bench,
    apart,
    borders_of,
    direction_of,
    examine,
    long_values,
    psnr,
    summed,
    tracked,
)
from linnet.request import make_request

SCENE = Scene(shape="star", colour="red", size="large", background="blue", motion="spins", x=64, y=36)
LEFT = Scene(shape="star", colour="red", size="large", background="blue", motion="left", x=64, y=36)
BLUE = Scene(shape="star", colour="blue", size="large", background="gray", motion="spins", x=64, y=36)


def test_a_long_clip_as_it_should_be_and_one_of_hard_cuts() -> None:
    whole = render(SCENE, 5 * FPS)
    good = long_values(whole, SCENE, [FPS, 3 * FPS])
    assert good["right"] == 1
    assert good["seam"] == pytest.approx(1, abs=0.2)
    assert good["creep"] < 1
    assert "frozen" not in good
    cut = long_values(np.concatenate([whole[: 3 * FPS], render(BLUE, 2 * FPS)]), SCENE, [FPS, 3 * FPS])
    assert cut["right"] == 0
    assert cut["seam"] > 3
    assert cut["creep"] > 20


def test_what_stands_still_is_frozen() -> None:
    moving, still = render(LEFT, 98), render(LEFT, 1).repeat(98, 0)
    assert long_values(moving, LEFT, [49])["frozen"] == 0
    assert long_values(still, LEFT, [49])["frozen"] == 1


@pytest.mark.parametrize("motion", SPEED)
def test_directions_are_told(motion: str) -> None:
    scene = Scene(shape="moon", colour="white", size="small", background="brown", motion=motion, x=64, y=36)
    assert direction_of(render(scene, FPS)) == motion


def test_paths_are_compared_around_the_edges_and_what_is_lost_is_far() -> None:
    one, other = tracked(render(LEFT, 25)), tracked(render(LEFT, 25, start=6))
    assert apart(one, one) == 0
    assert apart(one, other) == pytest.approx(8, abs=0.3)
    assert apart(one, None) == FAR
    assert psnr(render(LEFT, 1)[0], render(LEFT, 1)[0]) == 99


def test_borders_are_where_windows_begin_and_end() -> None:
    request = make_request(SEEDLING, prompt="a red star", seconds=10, seed=1)
    assert borders_of(make_request(SEEDLING, prompt="a red star", seconds=2, seed=1)) == []
    assert borders_of(request)[0] == 25
    assert all(border % 4 == 1 and border < request.frames for border in borders_of(request))


def test_rows_take_means_of_shares_and_medians_of_the_rest() -> None:
    results = [
        ({"psnr": x, "kept": x > 1, "motion": 0.0}, {"psnr": 0.0, "kept": 0.0, "motion": 0.0})
        for x in (1, 2, 9)
    ]
    first, second, _ = summed("image", results)
    assert (first.ours, first.reached) == (2, False)
    assert second.ours == pytest.approx(2 / 3)


def test_trials_run_and_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    bench = Bench(pipeline=pipeline, settings={"steps": 2})
    rows = examine(bench, folder=tmp_path, n=1, names=("extend", "image", "loop", "video", "edit"))
    assert {row.trials for row in rows} == {1}
    assert rows[0].ours == 1  # the packets that were kept
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert examine(bench, folder=tmp_path, n=1, names=("loop", "video")) == [
        row for row in rows if row.words.startswith(("loop", "video"))
    ]
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}

"""The measures of what goes beyond one clip, on clips drawn to be right, and to be wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import linnet
from linnet.catalog import SEEDLING
from linnet.data.synthetic import FPS, SPEED, Scene, render
from linnet.evaluate.adherence import Share
from linnet.evaluate.continuity import LONG, SHORT, Bench, borders_of, examine, long_values, summed
from linnet.evaluate.measures import FAR, apart, direction_of, path_of, psnr, seam, strays
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
    assert [second["x"] for second in good["seconds"]] == pytest.approx([64] * 5, abs=0.5)
    cut = long_values(np.concatenate([whole[: 3 * FPS], render(BLUE, 2 * FPS)]), SCENE, [FPS, 3 * FPS])
    assert cut["right"] == 0
    assert [second["colour"] for second in cut["seconds"]] == ["red"] * 3 + ["blue"] * 2
    assert cut["seam"] > 3
    assert cut["creep"] > 20


def test_a_shape_too_small_to_tell_is_not_asked_but_another_one_is_wrong() -> None:
    moon = Scene(shape="moon", colour="pink", size="small", background="blue", motion="shrinks", x=64, y=36)
    whole = render(moon, 4 * FPS)
    drawn = long_values(whole, moon, ())
    assert drawn["right"] == 1
    assert drawn["seconds"][-1]["shape"] is None
    for other in (replace(moon, shape="square", size="large"), replace(moon, colour="white")):
        assert long_values(np.concatenate([whole[:FPS], render(other, 3 * FPS)]), moon, ())["right"] == 0


@pytest.mark.parametrize("motion", SPEED)
def test_only_what_stops_or_begins_again_is_frozen(motion: str) -> None:
    scene = replace(LEFT, motion=motion, size="small" if motion in ("left", "up") else "large")
    whole, short = render(scene, LONG), render(scene, SHORT)
    stopped = np.concatenate([whole[: 4 * FPS], whole[4 * FPS][None].repeat(LONG - 4 * FPS, 0)])
    cuts = np.concatenate([short] * 5)[:LONG]
    for clip, frozen in ((whole, False), (stopped, True), (cuts, True)):
        assert strays(path_of(clip), SPEED[motion]) == frozen


def test_what_slides_back_turns_late_or_is_lost_is_frozen() -> None:
    there, velocity = np.arange(LONG)[:, None] * np.array([-32.0, 0.0]) / FPS, (-32.0, 0.0)
    assert not strays(there, velocity)
    misread = there.copy()
    misread[100] += 30
    assert not strays(misread, velocity)
    turned = there.copy()
    turned[210:] = 2 * there[210] - there[210:]  # in the last second, back
    back = there + 64 * np.clip((np.arange(LONG) - 100) / 12, 0, 1)[:, None] * [1, 0]  # within half a second
    lost = there.copy()
    lost[200:] = np.nan
    for places in (turned, back, lost):
        assert strays(places, velocity)


def test_seams_are_compared_with_as_many_stretches_elsewhere() -> None:
    change = np.ones(240)
    borders = range(12, 240, 20)
    assert seam(change, borders) == 1
    rising = np.linspace(1, 2, 240)
    assert seam(rising, borders) == pytest.approx(1, abs=0.05)
    change[100] = 3  # half a second from the borders: seen neither at them nor in each stretch
    assert seam(change, [50, 151]) == 1
    change[51] = 2
    assert seam(change, [50, 151]) == 2


@pytest.mark.parametrize("motion", SPEED)
def test_directions_are_told(motion: str) -> None:
    scene = Scene(shape="moon", colour="white", size="small", background="brown", motion=motion, x=64, y=36)
    assert direction_of(render(scene, FPS)) == motion


def test_paths_are_compared_around_the_edges_and_what_is_lost_is_far() -> None:
    one, other = (path_of(render(LEFT, SHORT, start=start)) for start in (0, 6))
    assert apart(one, one) == 0
    assert apart(one, other) == pytest.approx(8, abs=0.3)
    assert apart(one + np.array([128, -72]), one) == pytest.approx(0)
    lost = one.copy()
    lost[:2] = np.nan
    assert apart(lost, one) == 0
    lost[:4] = np.nan  # more than 5 % of the frames
    assert apart(lost, one) > 100
    assert apart(path_of(render(LEFT, 1)[:, :1, :1].repeat(72, 1).repeat(128, 2)), one[:1]) == FAR
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
    assert first.interval is None
    assert second.interval == Share(2, 3).interval


def test_trials_run_and_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    bench = Bench(pipeline=pipeline, settings={"steps": 2})
    found = examine(bench, folder=tmp_path, n=1, names=("extend", "image", "loop", "video", "edit"))
    rows = found.rows
    assert [trial["kind"] for trial in json.loads(json.dumps(found.trials))] == [
        "extend",
        "image",
        "loop",
        "video",
        "edit",
    ]
    assert {row.trials for row in rows} == {1}
    assert rows[0].ours == 1  # the packets that were kept
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert examine(bench, folder=tmp_path, n=1, names=("loop", "video")).rows == [
        row for row in rows if row.words.startswith(("loop", "video"))
    ]
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}

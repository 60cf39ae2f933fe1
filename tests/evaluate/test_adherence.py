"""The examination: the parser reads what is there and is not fooled by what is not, and the counting is right."""

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter
from typer.testing import CliRunner

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.data.known import BACKGROUNDS, COLOURS, SHAPES
from linnet.data.synthetic import (
    HEIGHT,
    HELD_OUT,
    MOTIONS,
    SIZES,
    TRAINED,
    WIDTH,
    Scene,
    backdrop,
    coverage,
    render,
    sample_scene,
)
from linnet.errors import InvalidInput
from linnet.evaluate.adherence import (
    ALL,
    Answer,
    Examination,
    Question,
    Share,
    chance,
    draw,
    examine,
    questions,
)
from linnet.evaluate.parse import ATTRIBUTES, Sight, parse
from linnet.evaluate.report import HEADS, rows, write_report

TWO_SECONDS = 49


def scene_like(**given: Any) -> Scene:
    usual: dict[str, Any] = {
        "shape": "star",
        "colour": "red",
        "size": "large",
        "background": "black",
        "motion": "still",
        "x": 60.0,
        "y": 36.0,
    }
    return Scene(**usual | given)


def sight_of(scene: Scene) -> Sight:
    return Sight(**{name: getattr(scene, name) for name in ATTRIBUTES})


def through_a_file(frames: np.ndarray, folder: Path) -> list[np.ndarray]:
    path = folder / "clip.mp4"
    height, width = frames.shape[1:3]
    with media.open_writer(path, width=width, height=height, fps=24, metadata={}, overwrite=True) as writer:
        writer.write(frames)
    return list(media.read_frames(path))


# --- the parser reads what is there -------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "offset"), [(25, 0), (49, 1), (49, 2), (121, 3)])
@pytest.mark.parametrize("motion", MOTIONS)
def test_rendered_clips_are_read_back_from_the_file(
    frames: int, offset: int, motion: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{frames} {offset} {motion}")
    shape = SHAPES[(MOTIONS.index(motion) + offset) % len(SHAPES)]
    colour = list(COLOURS)[(2 * MOTIONS.index(motion) + offset) % len(COLOURS)]
    scene = sample_scene(rng, triples=((shape, colour, motion),))
    assert parse(through_a_file(render(scene, frames), tmp_path)) == sight_of(scene)


def spoilt(frames: np.ndarray, seed: int) -> np.ndarray:
    """As a lossy autoencoder and a small model would: soft edges, tinted, grainy, with specks that come and go."""
    rng = np.random.default_rng(seed)
    soft = [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(1.3))) for f in frames]
    clip = np.stack(soft) + rng.normal(0, 8, 3) + rng.normal(0, 4, frames.shape)
    for _ in range(6):
        start, y, x = rng.integers(0, len(frames)), rng.integers(0, HEIGHT - 2), rng.integers(0, WIDTH - 2)
        clip[start : start + 8, y : y + 2, x : x + 2] = rng.integers(0, 255, 3)
    return clip.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("motion", MOTIONS)
def test_spoilt_clips_are_read_all_the_same(motion: str, tmp_path: Path) -> None:
    seed = MOTIONS.index(motion)
    triples = tuple(triple for triple in HELD_OUT + TRAINED if triple[2] == motion)
    scene = sample_scene(random.Random(seed), triples=triples)
    assert parse(through_a_file(spoilt(render(scene, TWO_SECONDS), seed), tmp_path)) == sight_of(scene)


def test_a_clip_of_another_size_is_read_alike() -> None:
    scene = scene_like(motion="left")
    large = [np.asarray(Image.fromarray(frame).resize((640, 360))) for frame in render(scene, TWO_SECONDS)]
    assert parse(large) == sight_of(scene)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_with_blunt_corners_is_still_that_shape(shape: str) -> None:
    alpha = Image.fromarray((255 * coverage(shape, *places(), SIZES["small"], 0.0)).astype(np.uint8))
    blurred = np.asarray(alpha.filter(ImageFilter.GaussianBlur(2))) / 255
    crisp = np.clip(0.5 + 4 * (blurred - 0.45), 0, 1)
    assert parse(paint(crisp)) == sight_of(scene_like(shape=shape, size="small"))


# --- and is not fooled --------------------------------------------------------------------------------------


def paint(
    alpha: np.ndarray, colour: tuple[int, int, int] = COLOURS["red"], empty: np.ndarray | None = None
) -> np.ndarray:
    """A still clip of an object with the given coverage, before black."""
    behind = backdrop("black") if empty is None else empty
    frame = behind + alpha[..., None] * (np.array(colour, np.float32) - behind)
    return np.repeat(frame.round().astype(np.uint8)[None], TWO_SECONDS, 0)


def places(x: float = 64, y: float = 36) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(WIDTH) + 0.5 - x, np.arange(HEIGHT) + 0.5 - y)


def disc() -> np.ndarray:
    across, down = places()
    return paint(np.clip(28 / math.sqrt(math.pi) + 0.5 - np.hypot(across, down), 0, 1))


def two_stars() -> np.ndarray:
    return paint(coverage("star", *places(40), 18, 0.0) + coverage("star", *places(90), 18, 0.0))


def odd_colour() -> np.ndarray:
    return paint(coverage("star", *places(), 28, 0.0), colour=(0, 230, 230))


def odd_background() -> np.ndarray:
    return paint(coverage("star", *places(), 28, 0.0), empty=np.array([120, 20, 120], np.float32))


def giant() -> np.ndarray:
    return paint(coverage("star", *places(), 43.5, 0.0))


def gone_half_way() -> np.ndarray:
    frames = render(scene_like(), TWO_SECONDS)
    frames[TWO_SECONDS // 2 :] = backdrop("black")
    return frames


def now_a_star_now_a_heart() -> np.ndarray:
    star, heart = (render(scene_like(shape=shape), TWO_SECONDS) for shape in ("star", "heart"))
    return np.where((np.arange(TWO_SECONDS) % 2 == 0)[:, None, None, None], star, heart)


def now_red_now_purple() -> np.ndarray:
    red, purple = (render(scene_like(colour=colour), TWO_SECONDS) for colour in ("red", "purple"))
    return np.concatenate([red[:25], purple[25:]])


def slow(motion: str) -> Callable[[], np.ndarray]:
    """Seen for two seconds, does what it would do in 0.6 s."""
    fast = render(scene_like(motion=motion), TWO_SECONDS)
    return lambda: fast[np.linspace(0, 14, TWO_SECONDS).astype(int)]


def backwards(motion: str) -> Callable[[], np.ndarray]:
    return lambda: render(scene_like(motion=motion), TWO_SECONDS)[::-1]


def drifting_while_spinning() -> np.ndarray:
    spinning = render(scene_like(motion="spins"), TWO_SECONDS)
    return np.stack([np.roll(frame, round(5 * i / 3), axis=1) for i, frame in enumerate(spinning)])


@pytest.mark.parametrize(
    ("clip", "differs"),
    [
        (disc, {"shape": None}),
        (two_stars, {"shape": None, "size": None, "motion": None}),
        (odd_colour, {"colour": None}),
        (odd_background, {"background": None}),
        (giant, {"size": None}),
        (now_a_star_now_a_heart, {"shape": None}),
        (now_red_now_purple, {"colour": None}),
        (gone_half_way, {"shape": None, "size": None, "motion": None}),
        (slow("left"), {"motion": "still"}),
        (slow("up"), {"motion": "still"}),
        (slow("spins"), {"motion": "still"}),
        (slow("grows"), {"motion": "still"}),
        (backwards("left"), {"motion": "right"}),
        (backwards("down"), {"motion": "up"}),
        (backwards("grows"), {"motion": "shrinks"}),
        (drifting_while_spinning, {"motion": None}),
        (lambda: render(scene_like(), 1), {"motion": None}),
    ],
)
def test_what_is_not_as_in_the_playground_is_not_taken_for_it(
    clip: Callable[[], np.ndarray], differs: dict[str, str | None]
) -> None:
    assert parse(clip()) == replace(sight_of(scene_like()), **differs)


def test_an_empty_scene_is_a_background() -> None:
    assert parse(paint(np.zeros((HEIGHT, WIDTH)), empty=backdrop("green"))) == Sight(background="green")


def test_noise_and_nothing_are_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (25, HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert parse(noise).shape is None
    assert parse([]) == Sight()


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 26).flatmap(
        lambda count: arrays(np.uint8, (count, HEIGHT, WIDTH, 3), fill=st.integers(0, 255), unique=False)
    )
)
def test_no_picture_makes_the_parser_fail(frames: np.ndarray) -> None:
    parse(frames)


# --- the counting -------------------------------------------------------------------------------------------


def test_wilson_s_interval() -> None:
    # Worked by hand from the formula: at 0 of n it ends at z²/(n + z²), at one half it is centred.
    assert Share(0, 10).interval == pytest.approx((0, 3.8416 / 13.8416))
    assert Share(5, 10).interval == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert Share(200, 200).interval == pytest.approx((200 / 203.8416, 1))


def test_a_guess_is_right_by_the_number_of_words() -> None:
    assert chance("shape") == 1 / 5
    assert chance(ALL) == pytest.approx(1 / (5 * 8 * 2 * 6 * 9))


def test_questions_are_the_same_for_good_and_fewer_are_the_beginning_of_more() -> None:
    asked = questions(200, held_out=True)
    assert asked[:20] == questions(20, held_out=True)
    assert all(question.scene.triple in HELD_OUT for question in asked)
    assert all(question.scene.triple in TRAINED for question in questions(50, held_out=False))
    assert len({question.seed for question in asked}) == 200
    assert {question.scene.triple for question in asked} == set(HELD_OUT)
    assert {question.scene.size for question in asked} == set(SIZES)
    assert {question.scene.background for question in asked} == set(BACKGROUNDS)
    # Scores can be compared as long as these are asked.
    assert [question.prompt for question in asked[:2]] == [
        "little red square moving right, brown background",
        "the heart is orange and huge, it does not move, the background is black in the middle",
    ]
    assert questions(2, held_out=True, seed=1) != asked[:2]


class Model:
    """Draws what it was asked for, except that all it draws stays still; counts its work, may be interrupted."""

    def __init__(self, stops_after: int = 1000) -> None:
        self.made: list[int] = []
        self.stops_after = stops_after

    def __call__(self, question: Question, path: Path) -> None:
        if len(self.made) == self.stops_after:
            raise KeyboardInterrupt
        self.made.append(question.index)
        draw(replace(question.scene, motion="still"), 25, path)


def test_an_examination_counts_what_is_right(tmp_path: Path) -> None:
    model = Model()
    result = examine(model, folder=tmp_path, n=12, held_out=True, seconds=1)
    still = sum(question.scene.motion == "still" for question in questions(12, held_out=True))
    assert 0 < still < 12
    assert {name: result.share(name).right for name in (*ATTRIBUTES, ALL)} == {
        "shape": 12,
        "colour": 12,
        "size": 12,
        "background": 12,
        "motion": still,
        ALL: still,
    }
    assert all(result.ceiling(name).right == 12 for name in (*ATTRIBUTES, ALL))
    confusion = result.confusion("motion")
    assert sum(confusion[asked]["still"] for asked in confusion) == 12
    assert all(list(row) == [*MOTIONS, "none"] for row in confusion.values())

    write_report(result, tmp_path, title="a title")
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["summary"]["motion"]["rate"] == still / 12
    assert record["answers"][3]["clip"] == "made/0003.mp4"
    assert (tmp_path / record["answers"][3]["clip"]).is_file()
    assert record["answers"][3]["seen"]["motion"] == "still"
    for name in ("sheet.png", "mistakes.png", "confusion.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300
    assert all(len(row) == len(HEADS) for row in rows(result))


def test_what_the_parser_could_not_tell_is_wrong_and_counted_as_none(tmp_path: Path) -> None:
    (question,) = questions(1, held_out=True)
    answer = Answer(question=question, path=tmp_path / "x.mp4", seen=Sight())
    result = Examination(settings={}, answers=[answer], drawn=[answer])
    assert result.share("shape") == Share(0, 1)
    assert result.confusion("shape")[question.scene.shape]["none"] == 1


def test_a_stopped_examination_goes_on_where_it_was_and_grows(tmp_path: Path) -> None:
    def run(model: Model, n: int) -> Examination:
        return examine(model, folder=tmp_path, n=n, held_out=False, seconds=1, subject={"weights": "abc"})

    first, second, third = Model(stops_after=3), Model(), Model()
    with pytest.raises(KeyboardInterrupt):
        run(first, 5)
    run(second, 5)
    assert (first.made, second.made) == ([0, 1, 2], [3, 4])
    grown = run(third, 7)
    assert third.made == [5, 6]
    assert grown.share("shape") == Share(7, 7)


@pytest.mark.parametrize(
    "change", [{"subject": {"weights": "b"}}, {"seed": 2}, {"held_out": True}, {"seconds": 2}]
)
def test_a_folder_belongs_to_one_examination(change: dict, tmp_path: Path) -> None:
    usual = {"n": 1, "held_out": False, "seconds": 1, "subject": {"weights": "a"}}
    examine(Model(), folder=tmp_path, **usual)
    with pytest.raises(InvalidInput, match=next(iter(change))):
        examine(Model(), folder=tmp_path, **usual | change)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="other things"):
        examine(Model(), folder=tmp_path, n=1, held_out=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class StandIn:
    """A pipeline that draws a red star whatever it is asked for."""

    spec = SEEDLING
    model_hash = "0123"

    class model:
        device = SimpleNamespace(type="cpu")
        dtype = "torch.float32"

    def generate(self, request: object, output: Path) -> None:
        draw(scene_like(), getattr(request, "frames"), output)  # noqa: B009


def test_the_command_prints_a_table_or_one_json_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linnet.cli.evaluate import app

    monkeypatch.setitem(vars(linnet), "load", lambda *_, **__: StandIn())
    options = ["adherence", "--n", "4", "--held-out", "--seconds", "1", "--output", str(tmp_path / "here")]
    table = CliRunner().invoke(app, [*options, "--quiet"])
    assert table.exit_code == 0, table.output
    assert [line.split("\t")[0] for line in table.stdout.splitlines()] == ["attribute", *ATTRIBUTES, ALL]
    line = CliRunner().invoke(app, [*options, "--json", "--quiet"])
    named = CliRunner().invoke(app, options).stderr.splitlines()[-1].partition(" are in ")[0]
    assert {*re.findall(r"\S+[.]\w+", named.replace(",", ""))} == {
        path.name for path in (tmp_path / "here").iterdir() if path.suffix in (".json", ".png")
    } - {"settings.json"}
    record = json.loads(line.stdout)
    wanted = [question.wanted for question in questions(4, held_out=True)]
    assert record["shape"]["right"] == sum(sight.shape == "star" for sight in wanted)
    assert record["background"]["right"] == sum(sight.background == "black" for sight in wanted)
    assert record["shape"]["ceiling"] == 1

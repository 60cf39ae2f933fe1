"""The reader of theatre clips finds what is drawn and what it does, and takes no smeared thing for a whole one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from linnet.cli import app
from linnet.data.theatre import render, stage
from linnet.data.theatre.places import PLACES, PLAIN, TIMES
from linnet.data.theatre.scene import VARIANTS, Scene, held_out
from linnet.data.theatre.things import THINGS
from linnet.errors import InvalidInput
from linnet.evaluate.theatre import exam
from linnet.evaluate.theatre.correlation import BORDER_X, BORDER_Y, Frames, about, everywhere, transformed
from linnet.evaluate.theatre.places import readable
from linnet.evaluate.theatre.reader import Reading, Seen, TheatreReader
from linnet.evaluate.theatre.report import rows, write_report
from linnet.evaluate.theatre.things import Template

NAMES = ("fox", "apple", "car", "sun", "football", "cat", "pine tree")


@pytest.fixture(scope="module")
def scenery() -> render.Scenery:
    """Sprites of coarse random colours, before places of the same."""
    noise = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (len(THINGS), 3, 4, 4), generator=noise).float()
    sprites = F.interpolate(coarse, 24, mode="nearest")
    sprites = torch.cat((sprites, torch.full_like(sprites[:, :1], 255)), 1).byte()
    count = len(PLACES) * VARIANTS
    skies, far, near = (
        torch.rand(number, 4, 6, 12, generator=noise)
        for number in (count * len(TIMES) + len(PLAIN), count, count)
    )
    return render.make_scenery(sprites, skies, far * far[:, 3:], near * near[:, 3:])


@pytest.fixture(scope="module")
def reader(scenery: render.Scenery) -> TheatreReader:
    return TheatreReader(scenery, NAMES, ("meadow", "room"))


def drawn(scenery: render.Scenery, scene: Scene):
    return render.pictures(render.render(scenery, stage.set_stage([scene], [0], 49)))[0]


@pytest.mark.parametrize(
    "scene",
    [
        Scene(thing="fox", backdrop="meadow", motion="runs", toward="right", x=7.0),
        Scene(
            thing="fox", backdrop="meadow", motion="walks", camera="pans left", time="night", weather="snow"
        ),
        Scene(thing="apple", backdrop="room", motion="grows", size="small"),
        Scene(thing="sun", backdrop="meadow", motion="sinks", camera="zooms in", time="dusk"),
        Scene(thing="football", backdrop="room", motion="rolls"),
        Scene(thing="car", backdrop="meadow", motion="waits", other="fox", relation="behind", x=3.0),
        Scene(thing="cat", backdrop="meadow", motion="runs", other="fox", relation="chasing"),
        Scene(thing="cat", backdrop="room", motion="hides"),
        Scene(thing="cat", backdrop="room", motion="jumps", count=2),
        Scene(thing="car", backdrop="meadow", motion="drives", tint="blue"),
    ],
    ids=lambda scene: f"{scene.thing}-{scene.motion}-{scene.relation or scene.camera}",
)
def test_what_is_drawn_is_read(scenery: render.Scenery, reader: TheatreReader, scene: Scene) -> None:
    verdicts = reader.read(drawn(scenery, scene), scene).verdicts(scene)
    assert all(verdicts.values()), verdicts


@pytest.mark.parametrize("how", ["smeared", "half", "other"])
def test_a_corrupted_thing_does_not_pass(
    scenery: render.Scenery, reader: TheatreReader, how: exam.Drawn, tmp_path: Path
) -> None:
    asked = Scene(thing="fox", backdrop="meadow", motion="waits", toward="right")
    if how == "other":
        clip = drawn(scenery, replace(asked, thing="cat"))
    else:
        clip = drawn(replace(scenery, sprites=exam.corrupted(scenery.sprites, "fox", how, 0)), asked)
    assert not reader.read(clip, asked).verdicts(asked)["thing"]


def test_another_tint_and_another_motion_do_not_pass(scenery: render.Scenery, reader: TheatreReader) -> None:
    asked = Scene(thing="car", backdrop="meadow", motion="drives", tint="blue")
    seen = reader.read(drawn(scenery, replace(asked, tint="red")), asked)
    assert not seen.verdicts(asked)["thing"]
    seen = reader.read(drawn(scenery, replace(asked, motion="waits")), asked)
    assert seen.verdicts(asked) == {"thing": True, "place": True, "motion": False, "all": False}


def test_the_fast_scores_are_the_slow_ones(scenery: render.Scenery, reader: TheatreReader) -> None:
    clip = drawn(scenery, Scene(thing="fox", backdrop="meadow", motion="waits"))
    x = readable(clip, [0, 24], torch.device("cpu"))
    seen = torch.ones_like(x[:, 0])
    seen[:, 30:, 60:] = 0
    found = Frames.of(x, x.flip(-1), torch.ones(3), seen)
    pictures = reader.sprites.pictures((Template("fox"), Template("cat")), 20)
    fast = everywhere(found, transformed(pictures, found.size), 20)[:, 0]
    left, top = 40 + BORDER_X, 20 + BORDER_Y
    slow = about(found, pictures, left, top, 2, 1).unflatten(1, (5, 5))
    assert torch.allclose(fast[:, top - 2 : top + 3, left - 2 : left + 3], slow, atol=2e-3)


def test_a_thing_must_be_the_same_before_and_after_what_hides_it() -> None:
    scene = Scene(thing="cat", backdrop="room", motion="hides")
    for right_at, same in [
        ((True, None, True), True),
        ((True, True, None), False),
        ((True, True, False), False),
    ]:
        reading = Reading((Seen("cat", 0.9, "cat", right_at),), "room", "hides")
        assert reading.verdicts(scene)["same"] is same


def test_one_look_is_not_enough() -> None:
    for right_at in ((True, None, True), (True, False, True), (None, True, True)):
        assert Seen("cat", 0.9, "cat", right_at).right
    for right_at in ((None, True, None), (True, None, False), (None, None, None)):
        assert not Seen("cat", 0.9, "cat", right_at).right


def test_questions_are_of_their_kind() -> None:
    asked = exam.questions("held-out", 6, places=("meadow", "snow"))
    assert all(held_out(*q.scene.triple) and not q.scene.other for q in asked if q.scene)
    assert asked[:3] == exam.questions("held-out", 3, places=("meadow", "snow"))
    assert all(q.scene and q.scene.other for q in exam.questions("two", 4))
    assert all(q.scene and q.scene.motion == "hides" for q in exam.questions("behind", 4))


def test_an_exam_goes_on_and_counts_what_a_person_says(
    scenery: render.Scenery, reader: TheatreReader, tmp_path: Path
) -> None:
    asked = exam.questions("trained", 2, seed=1, things=NAMES[:4], places=("room",))
    calls: list[int] = []

    def examine(count: int, say: str = "") -> exam.Examination:
        if say:
            path = tmp_path / exam.VERDICTS
            path.write_text(path.read_text().replace("0000,,", f"0000,{say},"))
        draw = exam.drawing(scenery, "clean")

        def make(question: exam.Question, path: Path) -> None:
            calls.append(question.index)
            draw(question, path)

        return exam.examine(
            make, asked[:count], reader=reader, folder=tmp_path, settings={"a": 1}, watch=lambda *_: None
        )

    assert examine(1).shares()["all"].of == 1
    shares = examine(2, say="no").shares()
    assert calls == [0, 1]
    assert (shares["judged right"].right, shares["judged right"].of, shares["all"].right) == (0, 1, 2)
    assert shares["reader and person agree"].rate == 0
    examination = examine(2)
    assert examination.judged == {0: False}
    assert write_report(examination, tmp_path, title="t") == ["report.json", exam.VERDICTS, "sheet-0000.png"]
    assert len(rows(examination)) == len(shares)
    with pytest.raises(InvalidInput, match="another examination"):
        exam.examine(
            exam.drawing(scenery, "clean"), [], reader=reader, folder=tmp_path, settings={"a": 2}, watch=print
        )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--ask", "tow"], "did you mean two?"),
        (["--ask", "free"], "go with"),
        (["--draw", "smaered"], "did you mean smeared?"),
    ],
)
def test_the_command_refuses_what_it_cannot_ask(options: Sequence[str], problem: str) -> None:
    run = CliRunner().invoke(app, ["evaluate", "theatre", "--sprites", "none", *options])
    assert run.exit_code == 2
    assert problem in run.output

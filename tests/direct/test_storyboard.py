"""Films of several shots: what a change costs, what a kill leaves, and where in the file something is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.cli.options import parse_seeds
from linnet.clip import Clip
from linnet.direct.film import Take, is_film_of, joined, render, takes_of, write_sheet
from linnet.direct.grid import MOST, draft
from linnet.direct.morph import Scenes, joined_noise, scenes_of
from linnet.direct.sheet import Cell, draw_sheet
from linnet.direct.storyboard import MOST_SHOTS, OVERLAP, Storyboard, read_storyboard
from linnet.errors import InvalidInput
from linnet.models.transformer import TextContext
from linnet.pipeline import Pipeline
from linnet.request import make_request

STEPS = 2
FILM = f"""\
subject: a red star
style: on a blue background
seconds: 0.5
steps: {STEPS}
shots:
  - prompt: moves left
  - prompt: spins
  - prompt: rises
    begin: dissolve
    overlap: 0.167
  - prompt: falls
"""


@pytest.fixture
def pipeline(tiny_model: Path) -> Pipeline:
    return linnet.load("seedling", weights=tiny_model, device="cpu", threads=1)


@pytest.fixture
def passes(pipeline: Pipeline) -> Iterator[list[int]]:
    """One entry for each time that the transformer runs."""
    seen: list[int] = []
    hook = pipeline.model.transformer.register_forward_pre_hook(lambda model, given: seen.append(1))
    yield seen
    hook.remove()


@pytest.fixture
def board(tmp_path: Path) -> Callable[[str], Storyboard]:
    """The storyboard of a text, always in the same file."""

    def write(text: str) -> Storyboard:
        path = tmp_path / "film.yaml"
        path.write_text(text, "utf-8")
        return read_storyboard(path, model="seedling")

    return write


Board = Callable[[str], Storyboard]


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(media.read_frames(path)))


# --- rendering --------------------------------------------------------------------------------------------------------


def test_a_changed_shot_alone_is_made_again(
    board: Board, pipeline: Pipeline, passes: list[int], tmp_path: Path
) -> None:
    output = tmp_path / "film.mkv"
    assert render(board(FILM), pipeline, output).made == (0, 1, 2, 3)
    assert len(passes) == 4 * STEPS
    before = frames_of(output)
    passes.clear()

    changed = board(FILM.replace("rises", "shrinks"))
    assert render(changed, pipeline, output).made == (2,)
    assert len(passes) == STEPS
    after, span = frames_of(output), changed.spans()[2]
    differs = (before != after).any((1, 2, 3))
    assert differs[span.start + changed.shots[2].overlap : span.stop].all()
    assert not np.delete(differs, span).any()
    passes.clear()

    assert (
        render(board(FILM.replace("    begin: dissolve\n    overlap: 0.167\n", "")), pipeline, output).made
        == ()
    )  # the takes are the same
    assert render(board(FILM), pipeline, output).made == ()
    assert not passes
    assert np.array_equal(frames_of(output), before)


def test_a_killed_render_goes_on(
    board: Board, pipeline: Pipeline, passes: list[int], tmp_path: Path, tiny_model: Path
) -> None:
    program = f"""
import os, signal, linnet
from pathlib import Path
from linnet.direct.film import render
from linnet.direct.storyboard import read_storyboard

def watch(shots):
    def see(progress):
        if shots.start == 2 and progress.stage == "decode" and progress.done:
            os.kill(os.getpid(), signal.SIGKILL)
    return see

pipeline = linnet.load("seedling", weights={str(tiny_model)!r}, device="cpu", threads=1)
render(read_storyboard(Path("film.yaml"), model="seedling"), pipeline, Path("film.mp4"), watch=watch)
"""
    film = board(FILM)
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.shots", "film.yaml"]
    takes = takes_of(film, pipeline, tmp_path / "film.shots")
    assert [take.made for take in takes] == [True, True, False, False]
    (part,) = tmp_path.glob("film.shots/.*.part")
    os.utime(part, (0, 0))  # long ago

    assert render(film, pipeline, tmp_path / "film.mp4").made == (2, 3)
    assert len(passes) == 2 * STEPS
    assert sorted(tmp_path.glob("film.shots/*")) == sorted(take.path for take in takes)
    at_once = render(film, pipeline, tmp_path / "other.mp4", folder=tmp_path / "other.shots").path
    assert at_once.read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_a_take_that_was_cut_short_is_made_again(board: Board, pipeline: Pipeline, tmp_path: Path) -> None:
    film = board(FILM)
    render(film, pipeline, tmp_path / "film.mp4")
    damaged = takes_of(film, pipeline, tmp_path / "film.shots")[1].path
    damaged.write_bytes(damaged.read_bytes()[:3000])
    assert render(film, pipeline, tmp_path / "film.mp4").made == (1,)


def test_only_its_own_film_is_replaced(board: Board, pipeline: Pipeline, tmp_path: Path) -> None:
    film, output = board(FILM), tmp_path / "film.mp4"
    output.write_bytes(b"somebody's own")
    with pytest.raises(InvalidInput, match="is there already"):
        render(film, pipeline, output)
    assert output.read_bytes() == b"somebody's own"
    assert not (tmp_path / "film.shots").exists()
    render(film, pipeline, output, overwrite=True)
    render(film, pipeline, output)
    inside = media.read_metadata(output) or {}
    assert [shot["request"]["prompt"] for shot in inside["shots"]][
        2
    ] == "a red star rises on a blue background"


def test_a_film_of_another_storyboard_of_that_name_is_kept(
    board: Board, pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    film, output = board(FILM), tmp_path / "other" / "film.mp4"
    render(film, pipeline, output)
    assert is_film_of(film, pipeline, output)
    assert is_film_of(board(FILM.replace("rises", "shrinks")), pipeline, output)
    assert not is_film_of(board(FILM.replace("a red star", "a blue moon")), pipeline, output)


def test_only_a_sheet_is_replaced_by_a_sheet(
    board: Board, pipeline: Pipeline, passes: list[int], tmp_path: Path
) -> None:
    film, sheet = board(FILM), tmp_path / "film.png"
    Image.new("RGB", (8, 8)).save(sheet)
    before = sheet.read_bytes()
    for name, answer in (
        ("film.png", "is there already"),
        ("film.yaml", "is no .png"),
        ("film.jpg", "is no .png"),
    ):
        with pytest.raises(InvalidInput, match=answer):
            write_sheet(film, [], tmp_path / name)
    with pytest.raises(InvalidInput, match=r'film\.png": is there already'):
        render(film, pipeline, tmp_path / "film.mp4")
    assert not passes
    assert sheet.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.png", "film.yaml"]
    takes = takes_of(film, pipeline, tmp_path / "film.shots")
    write_sheet(film, takes, sheet, overwrite=True)
    write_sheet(film, takes, sheet)


def test_a_folder_that_cannot_be_is_said_in_a_line(board: Board, pipeline: Pipeline, tmp_path: Path) -> None:
    film = board(FILM)
    (tmp_path / "film.shots").write_text("somebody's own")
    with pytest.raises(InvalidInput, match=r"film\.shots.*cannot be written"):
        render(film, pipeline, tmp_path / "film.mp4")
    with pytest.raises(InvalidInput, match=r"cannot be written"):
        draft(pipeline, [film.shots[0].request], tmp_path / "film.yaml" / "grid")


# --- how shots go together --------------------------------------------------------------------------------------------


def test_a_dissolve_fades_from_take_to_take(board: Board, pipeline: Pipeline, tmp_path: Path) -> None:
    film = board(FILM)
    made = frames_of(render(film, pipeline, tmp_path / "film.mkv").path).astype(float)
    _, old, new, _ = (frames_of(take.path) for take in takes_of(film, pipeline, tmp_path / "film.shots"))
    span, count = film.spans()[2], film.shots[2].overlap
    for step in range(count):
        share = (step + 1) / (count + 1)
        expected = (1 - share) * old[len(old) - count + step] + share * new[step]
        assert abs(made[span.start + step] - expected).max() <= 0.51
    assert np.array_equal(made[span.start - 1], old[-count - 1])
    assert np.array_equal(made[span.start + count], new[count])


SHOTS = st.lists(
    st.tuples(st.integers(5, 9), st.sampled_from(sorted(OVERLAP)), st.integers(0, 2)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25)
@given(shots=SHOTS)
def test_spans_count_the_films_frames(
    tmp_path_factory: pytest.TempPathFactory, shots: list[tuple[int, str, int]]
) -> None:
    lines = []
    for number, (length, begin, overlap) in enumerate(shots):
        how = f"{begin}, overlap: {overlap / 6:.3f}" if number and begin != "cut" else "cut"
        lines.append(f"- {{prompt: a, frames: {4 * length + 1}, begin: {how}}}\n")
    path = tmp_path_factory.mktemp("board") / "film.yaml"
    path.write_text("shots:\n" + "".join(lines))
    film = read_storyboard(path, model="seedling")
    takes = [
        Take(shots=numbers, frames=film.ends_in_take(numbers[-1]), made_by={}, path=path / "none")
        for numbers in film.takes()
    ]
    spans = film.spans()
    assert sum(1 for _ in joined(film, takes)) == spans[-1].stop
    for (before, after), shot in zip(pairwise(spans), film.shots[1:], strict=True):
        assert before.stop - after.start == (0 if shot.begin == "continue" else shot.overlap)
        assert len(after) == shot.request.frames - (shot.overlap if shot.begin == "continue" else 0)


def test_a_shot_that_continues_is_made_again_with_what_it_continues(
    board: Board, pipeline: Pipeline, passes: list[int], tmp_path: Path
) -> None:
    text = FILM.replace("rises\n    begin: dissolve", "rises\n    begin: continue")
    film = board(text)
    output = render(film, pipeline, tmp_path / "film.mkv").path
    takes = [frames_of(take.path) for take in takes_of(film, pipeline, tmp_path / "film.shots")]
    count = film.shots[2].overlap
    assert np.array_equal(frames_of(output), np.concatenate([*takes[:2], takes[2][count:], takes[3]]))
    passes.clear()
    assert render(board(text.replace("spins", "grows")), pipeline, output).made == (1, 2)
    assert len(passes) == 2 * STEPS
    back = text.replace("moves left", "moves left\n    name: first").replace(
        "begin: continue", "begin: continue\n    from: first"
    )
    assert render(board(back), pipeline, output).made == (2,)


def test_shots_that_morph_are_one_take(
    board: Board, pipeline: Pipeline, passes: list[int], tmp_path: Path
) -> None:
    film = board(FILM.replace("dissolve", "morph"))
    assert [take.frames for take in takes_of(film, pipeline, tmp_path)] == [13, 13 + 13 - 5, 13]
    done = render(film, pipeline, tmp_path / "film.mkv")
    # A window for each shot and one for their overlap, with the prompt and without, apart.
    assert len(passes) == STEPS * (1 + 3 * 2 + 1)
    assert len(frames_of(done.path)) == film.spans()[-1].stop
    assert render(
        board(FILM.replace("dissolve", "morph").replace("rises", "grows")), pipeline, done.path
    ).made == (1, 2)


def test_one_text_blended_with_itself_is_that_text(tiny_model: Path) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu", dtype="float32", threads=1)
    one, other = pipeline.runner.contexts("a red star spins", "a small blue moon")
    x, t = torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0])
    with torch.inference_mode():
        said, other_said, twice, nearly = (
            pipeline.model.transformer(x, t, text)
            for text in (one, other, one.blend(one, 0.3), one.blend(other, 1 - 1e-6))
        )
    assert torch.allclose(twice, said, atol=1e-5)
    assert torch.allclose(nearly, other_said, atol=1e-5)
    assert not torch.allclose(said, other_said, atol=1e-5)


@given(data=st.data(), lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_scenes_cover_every_frame(data: st.DataObject, lengths: list[int]) -> None:
    overlaps = [data.draw(st.integers(1, min(pair) // 2)) for pair in pairwise(lengths)]
    scenes = scenes_of([[range(length)] for length in lengths], overlaps)
    whole = Scenes(lambda latents, timestep, text: torch.ones_like(latents), scenes)
    assert whole.windows.frames == sum(lengths) - sum(overlaps)
    text = TextContext((), (), torch.zeros(len(scenes), 1))
    x = torch.zeros(1, 2, whole.windows.frames, 1, 1)
    assert torch.allclose(whole(x, 0.0, text), x + 1)
    places = [scene.frames for scene in scenes if len(scene.shots) == 1]
    for pair in (scene for scene in scenes if len(scene.shots) == 2):
        before, after = (places[shot] for shot in pair.shots)
        assert set(before) & set(after) & set(pair.frames)
        assert set(pair.frames) <= {*before, *after}


def test_joined_noise_is_each_shots_own_and_of_one_strength() -> None:
    first, second = torch.randn(1, 16, 8, 20, 20), torch.randn(1, 16, 9, 20, 20)
    whole = joined_noise([first, second], [4])
    assert whole.shape[2] == 13
    assert torch.equal(whole[:, :, :4], first[:, :, :4])
    assert torch.equal(whole[:, :, 8:], second[:, :, 4:])
    assert whole[:, :, 4:8].var((0, 1, 3, 4)) == pytest.approx(1, abs=0.1)


# --- what is wrong ----------------------------------------------------------------------------------------------------

ONE = "shots:\n  - prompt: a red star spins\n"
TWO = ONE + "  - prompt: it falls\n"

CYCLE = """\
shots:
  - prompt: a
    name: first
    begin: continue
    from: third
  - prompt: b
    begin: morph
  - prompt: c
    name: third
    begin: continue
    from: first
"""

REFUSED = [
    ("", r"film\.yaml:1: file .*is not a storyboard.*write `shots:`"),
    ("- prompt: a\n", r"film\.yaml:1: file .*is not a storyboard"),
    ("shots: [\n", r"film\.yaml:2 .*is not YAML"),
    ("seconds: 1\n", r"film\.yaml:1: shots .*are missing"),
    ("shots: []\n", r"film\.yaml:1: shots .*are none"),
    (
        "# ten thousand\nshots:\n" + "- {prompt: a}\n" * 10_000,
        rf"film\.yaml:2: shots .10000.: are more than {MOST_SHOTS}",
    ),
    ("speed: 2\n" + ONE, r'film\.yaml:1: key "speed": is not known here; did you mean seed\?'),
    (TWO + "    promt: a\n", r'film\.yaml:4: shot 2: key "promt".*did you mean prompt\?'),
    (
        ONE + "    size: 128x72\n",
        r'film\.yaml:3: shot 1: key "size": does not go here; write it at the top',
    ),
    (
        ONE + "    image: a.png\n",
        r'film\.yaml:3: shot 1: key "image": does not go here; a shot begins from',
    ),
    (ONE + "    loop: true\n", r'film\.yaml:3: shot 1: key "loop": does not go here; a loop neither'),
    (ONE + "    xyzzy: 1\n", r'film\.yaml:3: shot 1: key "xyzzy": is not known here; there are name'),
    (TWO + "    overlap: 0.5\n", r'film\.yaml:4: shot 2: overlap "0\.5": does not go with cut'),
    (
        TWO + "    begin: morph\n    seconds: 4\n    onward: true\n",
        r'film\.yaml:6: shot 2: onward "true": does not go with a morph',
    ),
    (ONE + "    prompt: b\n", r"film\.yaml:3: shot 1: prompt .*given twice"),
    (ONE + "  - seconds: 1\n", r"film\.yaml:3: shot 2: prompt .*is missing"),
    (ONE + "  - a\n", r"film\.yaml:3: shot 2: shots .*is not a shot"),
    (ONE + "    seconds: 2.1\n", r'film\.yaml:3: shot 1: seconds "2\.1".*nearest is 2\.167'),
    (ONE + "    steps: many\n", r'film\.yaml:3: shot 1: steps "many": is not a whole number'),
    ("seconds: 500\n" + ONE, r'film\.yaml:1: seconds "500"'),
    ("subject: [a]\n" + ONE, r"film\.yaml:1: subject .*is a list or a mapping"),
    (ONE + "    prompt2: &a [*a]\n", r"film\.yaml:3: shot 1: key"),
    ("shots: &a [*a]\n", r"film\.yaml:1: shot 1: shots .*is not a shot"),
    (ONE + "    style: 3\n", r'film\.yaml:3: shot 1: style "3": is not text'),
    (ONE + "    begin: dissolve\n", r"film\.yaml:3: shot 1: begin .*no shot before it"),
    (TWO + "    begin: fade\n", r'film\.yaml:4: shot 2: begin "fade": is not known; use cut, dissolve'),
    (TWO + "    begin: dissolve\n    overlap: much\n", r'film\.yaml:5: shot 2: overlap "much"'),
    (
        TWO + "    begin: dissolve\n    overlap: 0.2\n",
        r'film\.yaml:5: shot 2: overlap "0\.2".*nearest is 0\.167',
    ),
    (
        TWO + "    begin: dissolve\n    overlap: 4\n    seconds: 5\n",
        r"film\.yaml:5: shot 2: overlap .*as long as the shot",
    ),
    (
        TWO + "    begin: dissolve\n    overlap: 0.5\n    seconds: 0.5\n",
        r"film\.yaml:6: shot 2: seconds .*make it longer",
    ),
    (ONE + "    begin: continue\n", r"film\.yaml:3: shot 1: begin .*no shot before it"),
    (TWO + "    from: a\n", r'film\.yaml:4: shot 2: from "a": does not go with cut'),
    (TWO + "    begin: continue\n    from: a\n", r"film\.yaml:5: shot 2: from .*is no shot's name"),
    (
        TWO + "    name: a\n    begin: continue\n    from: a\n",
        r"film\.yaml:6: shot 2: from .*shot 2 continues shot 2",
    ),
    (CYCLE, r"film\.yaml:5: shot 1: from .*shot 1 continues shot 3 continues shot 1"),
    (TWO + "    begin: morph\n    steps: 3\n", r'film\.yaml:5: shot 2: steps "3".*use the same'),
    (
        TWO + "    begin: continue\n    reuse: 0.1\n",
        r'film\.yaml:5: shot 2: reuse "0\.1": does not go with continue',
    ),
    ("[" * 5000, r"nested too deeply"),
    ("shots: \0", r"is not YAML"),
]


@pytest.mark.parametrize(("text", "answer"), REFUSED)
def test_what_is_wrong_is_said_with_its_place(
    text: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("film.yaml").write_text(text, "utf-8")
    result = CliRunner().invoke(app, ["storyboard", "check", "film.yaml", "--model", "seedling"])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert re.search(f"^error: .*{answer}", line), line


def test_a_file_of_any_size_or_kind_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    for content, answer in (
        (b"#" * 2**21, "has over .* bytes"),
        (b"\xff\xfe\x00", "UTF-16"),
        (b"\xe9", "is not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=answer):
            read_storyboard(path)
    with pytest.raises(InvalidInput, match="is missing"):
        read_storyboard(tmp_path / "none.yaml")


def test_a_shot_overrides_the_film(board: Board) -> None:
    film = board(
        "subject: a red star\nstyle: ', at dawn'\nseconds: 1\nprofile: draft\nseed: 5\nbegin: dissolve\nreuse: none\n"
        "shots:\n- prompt: spins\n- {prompt: falls, subject: a moon, style: , frames: 29, overlap: 0.167, seed: 6,"
        " profile: exact, reuse: 0.05}\n- prompt: rises\n"
    )
    first, second, third = (shot.request for shot in film.shots)
    assert (first.prompt, second.prompt) == ("a red star spins, at dawn", "a moon falls")
    assert (first.frames, second.frames, third.frames) == (25, 29, 25)
    assert (first.seed, second.seed, third.seed) == (5, 6, 5)
    assert (first.steps, second.steps) == (SEEDLING.profiles["draft"]["steps"], SEEDLING.steps)
    assert (first.reuse, second.reuse) == ("none", "0.05")
    assert [(shot.begin, shot.overlap) for shot in film.shots] == [
        ("cut", 0),
        ("dissolve", 5),
        ("dissolve", 13),
    ]


def test_the_films_windows_are_those_of_shots_with_their_own_length(board: Board) -> None:
    film = board(
        "seconds: 8\nwindow: 45\nwindow_overlap: 40\nshots:\n- prompt: a\n- {prompt: b, seconds: 10}\n"
        "- {prompt: c, seconds: 10, window_overlap: 20}\n- {prompt: d, seconds: 10, span: 24}\n"
        "- {prompt: e, seconds: 1}\n"
    )
    windows = [(shot.request.window, shot.request.window_overlap) for shot in film.shots]
    assert windows == [(45, 40), (45, 40), (45, 20), (0, 0), (45, 40)]
    overlap_alone = board("seconds: 8\nwindow_overlap: 40\nshots:\n- prompt: a\n- {prompt: b, seconds: 10}\n")
    assert overlap_alone.shots[1].request.window_overlap == 40
    usual = board("shots:\n- {prompt: b, seconds: 10}\n").shots[0].request
    assert (usual.window, usual.window_overlap) == (SEEDLING.window, SEEDLING.overlap)


def test_the_documented_film_is_made(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "films.md").read_text("utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    Path("film.yaml").write_text(example, "utf-8")
    words = [
        "storyboard",
        "render",
        "film.yaml",
        "--model",
        "seedling",
        "--weights",
        str(tiny_model),
        "--quiet",
    ]
    result = CliRunner().invoke(app, words)
    assert result.output == "film.mp4\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "film.mp4",
        "film.png",
        "film.shots",
        "film.yaml",
    ]


def test_takes_that_no_film_uses_can_be_thrown_away_and_the_rest_be_looked_at(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linnet(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--weights", str(tiny_model), "--model", "seedling"])
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.chdir(tmp_path)
    path = Path("film.yaml")
    path.write_text(TWO.replace("it", "a red moon") + "seconds: 0.5\nsteps: 2\n")
    assert linnet("storyboard", "sheet", "film.yaml").strip() == "film.png"
    linnet("storyboard", "render", "film.yaml")
    path.write_text(path.read_text().replace("moon", "heart"))
    rows = json.loads(linnet("storyboard", "check", "film.yaml", "--json"))["shots"]
    assert [row["made"] for row in rows] == ["yes", "no"]
    Path("film.shots/holiday.mkv").write_text("a person's own")
    done = json.loads(linnet("storyboard", "render", "film.yaml", "--tidy", "--json"))
    assert done["made"] == [2]
    assert Path("film.shots/holiday.mkv").read_text() == "a person's own"
    assert len(list(Path("film.shots").iterdir())) == 3
    seen = CliRunner().invoke(app, ["inspect", "film.mp4"]).stdout.splitlines()
    assert [line.split("\t")[-1] for line in seen[1:]] == ["a red star spins", "a red heart falls"]


# --- sheets and grids -------------------------------------------------------------------------------------------------


def test_a_sheet_has_room_for_every_cell() -> None:
    colours = np.arange(1, 8, dtype=np.uint8) * 30
    cells = [
        Cell(frames=(np.full((72, 128, 3), colour, np.uint8),) * 3, title="", words="") for colour in colours
    ]
    drawn = np.asarray(draw_sheet(cells))
    assert all((drawn == colour).all(2).sum() == 3 * 192 * 108 for colour in colours)


def test_a_grid_keeps_each_seeds_own_clip(pipeline: Pipeline, passes: list[int], tmp_path: Path) -> None:
    prompt = "a red star spins on a blue background"
    requests = [
        make_request(SEEDLING, prompt=prompt, seconds=0.5, steps=STEPS, seed=seed)
        for seed in parse_seeds(["1-2,7"])
    ]
    grid = draft(pipeline, requests, tmp_path / "grid")
    names = ["1.mp4", "2.mp4", "7.mp4", "mosaic.mp4", "sheet.png"]
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == names
    clip = tmp_path / "grid" / "7.mp4"
    assert Clip.from_metadata(clip, media.read_metadata(clip)).request == pipeline.settled(requests[2])
    alone = pipeline.generate(requests[2], tmp_path / "alone.mp4").path
    assert alone.read_bytes() == clip.read_bytes()
    mosaic, tile = frames_of(grid.mosaic), frames_of(clip)
    assert mosaic.shape == (13, 2 * 72, 2 * 128, 3)
    assert abs(mosaic[:, 72 + 20 :, :128].astype(int) - tile[:, 20:]).mean() < 5
    passes.clear()
    assert draft(pipeline, requests, tmp_path / "grid").made == 0
    assert not passes
    for name in ("2.mp4", "sheet.png", "mosaic.mp4"):
        path = tmp_path / "grid" / name
        made = path.read_bytes()
        path.write_bytes(b"somebody's own")
        with pytest.raises(InvalidInput, match=f'{name}": is there already'):
            draft(pipeline, requests, tmp_path / "grid")
        path.write_bytes(made)


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-2,2", "1-101", "1-999999999999", "-1", "5-"])
def test_seeds_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^seed"):
        parse_seeds([text], most=MOST)

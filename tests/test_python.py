"""linnet from people's own Python: its names, its types, its checks, progress and frames."""

import gc
import subprocess
import sys
import weakref
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import linnet
from linnet import Cancelled, InvalidInput, Progress
from linnet.cli import app
from linnet.inputs import clips
from linnet.loaded_model import LoadedModel
from linnet.model_runner import ModelRunner

TINY: dict[str, Any] = {"model": "seedling", "device": "cpu", "frames": 5, "steps": 2, "seed": 1}
PROMPT = "a red star"

OUTSIDE = """
from pathlib import Path

import linnet
from linnet import Clip, InvalidInput, Progress


def show(progress: Progress) -> None:
    if progress.preview:
        print(progress.preview().shape)
    if progress.stage == "denoise" and progress.done > 3:
        progress.cancel()


try:
    clip: Clip = linnet.generate("a red star", "star.mp4", seed=7, vram="8GB", ram=12_000_000_000, progress=show)
    print(clip.path.name, clip.request.seed, sum(clip.seconds.values()))
except InvalidInput as error:
    print(error.field, error.value, error.problem, error.remedy)
    raise

for frame in linnet.frames("a red star", seconds=1, solver="unipc", profile=None, weights=Path("here")):
    height, width, _ = frame.shape
    reveal_type(frame)
first, *others = linnet.generate("a red star", seeds=range(3), seconds=1)
print(first.path, linnet.edit(first.path, "a blue star", from_="a red star").direction)
print(linnet.extend(first.path, "b.mp4", seconds=2).path, linnet.refine(first.path, strength=0.5).path)
print(linnet.grid("a red star", seeds=[1, 2]).sheet, linnet.storyboard("film.yaml").made)
pipeline = linnet.load("seedling", weights="here", dtype="bfloat16")
request = linnet.make_request(pipeline.spec, prompt="a red star", like=clip.request)
pipeline.run(pipeline.plan(request), {request.seed: "star.webm"})
"""
WRONG = (
    'linnet.generate("a red star", sede=7)',
    'linnet.frames("a red star", solver="eular")',
    "linnet.load(vram=[8])",
    'linnet.generate("a red star").file',
    'linnet.generate("a red star", seeds=[1, 2]).path',
    'linnet.extend("a.mp4", second=2)',
)


@pytest.fixture
def tiny(tiny_model: Path) -> dict[str, Any]:
    return TINY | {"weights": str(tiny_model)}


# --- names and types --------------------------------------------------------------------------------------------------


def test_a_type_checker_of_another_project_knows_linnet(tmp_path: Path) -> None:
    assert (files("linnet") / "py.typed").is_file()  # the wheel holds all of the package's folder
    script = tmp_path / "script.py"
    script.write_text(OUTSIDE + "\n".join(WRONG))
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line.strip() for line in run.stdout.splitlines() if "script.py:" in line]
    (revealed,) = [line for line in lines if "- information:" in line]
    assert "ndarray" in revealed
    first = OUTSIDE.count("\n") + 1
    wrong = {int(line.split("script.py:")[1].split(":")[0]) - first for line in lines if "- error:" in line}
    assert wrong == set(range(len(WRONG))), run.stdout


def test_the_public_names_are_listed_and_cost_nothing_before_they_are_used() -> None:
    program = (
        "import sys, linnet\n"
        "assert {'generate', 'extend', 'load', 'Clip', 'Progress', 'InvalidInput'} <= set(dir(linnet))\n"
        "print(sorted({'torch', 'numpy', 'linnet.api'} & sys.modules.keys()))\n"
        "print([name for name in linnet.__all__ if not hasattr(linnet, name)])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout.split("\n") == ["[]", "[]", ""], run.stderr


# --- what is given ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"vram": "8 bananas"}, 'vram "8 bananas": is not an amount of memory; .* such as 8GB'),
        ({"ram": 5.5}, 'ram "5.5": is not an amount of memory; '),
        ({"ram": True}, 'ram "True": is not an amount of memory; '),
        ({"ram": 0}, 'ram "0": is not an amount of memory; '),
        ({"device": 3}, 'device "3": is not text; '),
        ({"threads": "two"}, 'threads "two": '),
        ({"model": 7}, 'model "7": is not text; '),
        ({"model": "seedlign"}, "did you mean seedling?"),
        ({"dtype": ["float32"]}, "dtype .*is not known; "),
        ({"weights": 5}, 'weights "5": is not the name of a file or folder; give a string or a Path'),
        ({"output": 5}, 'output "5": is not the name of a file or folder; '),
        ({"output": b"a.mp4"}, "output .*is not the name of a file or folder; "),
        ({"output": ""}, 'output "": is not the name of a file or folder; '),
        ({"prompt": None}, 'prompt "None": is not text; '),
        ({"progress": "bar"}, 'progress "bar": cannot be called; '),
        ({"sede": 4}, 'sede "4": there is no such setting; did you mean seed?'),
        ({"overwrit": True}, "did you mean overwrite?"),
        ({"seconds": "1"}, 'seconds "1": is not a number; '),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    given: dict[str, Any], line: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    call: dict[str, Any] = {"prompt": PROMPT, "output": tmp_path / "a.mp4"} | tiny | given
    with pytest.raises(InvalidInput, match=line):
        linnet.generate(**call)
    assert not any(tmp_path.iterdir())


def test_paths_are_strings_and_memory_has_units(tiny: dict[str, Any], tmp_path: Path) -> None:
    clip = linnet.generate(PROMPT, str(tmp_path / "a.mp4"), **tiny, ram="2GB")
    assert clip.path == tmp_path / "a.mp4"
    assert clip.path.is_file()
    assert linnet.load("seedling", device="cpu", ram=2 * 10**9).machine.budget.system == 2 * 10**9
    pipeline = linnet.load("seedling", weights=tiny["weights"], device="cpu")
    pipeline.generate(clip.request, str(tmp_path / "b.gif"))
    pipeline.generate_batch(clip.request, {1: str(tmp_path / "c.gif")})
    assert (tmp_path / "b.gif").read_bytes() == (tmp_path / "c.gif").read_bytes()


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_told_of_stages_and_steps_with_previews(tiny: dict[str, Any], tmp_path: Path) -> None:
    told: list[Progress] = []
    pictures: list[np.ndarray] = []

    def progress(now: Progress) -> str:
        told.append(now)
        if now.preview:
            pictures.append(now.preview())
        return "what it returns does not matter"

    linnet.generate(PROMPT, tmp_path / "a.mp4", **tiny, progress=progress)
    assert [now.stage for now in told if now.done == now.total and not now.part] == [
        "text",
        "denoise",
        "decode",
    ]
    assert [now.done for now in told if now.stage == "denoise"] == [0, 1, 2]
    assert [picture.shape for picture in pictures] == [(72, 128, 3)] * 2


@pytest.mark.parametrize("stage", ["text", "denoise", "decode"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled])
def test_a_run_is_stopped_by_its_callback(
    stage: str, error: type[BaseException], tiny: dict[str, Any], tmp_path: Path
) -> None:
    def progress(now: Progress) -> None:
        if now.stage == stage and now.done:
            if error is Cancelled:
                now.cancel()
            raise error

    with pytest.raises(error):
        linnet.generate(PROMPT, tmp_path / "a.mp4", **tiny, progress=progress)
    assert not any(tmp_path.iterdir())


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_are_those_of_the_file(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linnet.generate(PROMPT, tmp_path / "a.mkv", **tiny)  # of which each pixel is kept
    monkeypatch.chdir(tmp_path)
    frames = list(linnet.frames(PROMPT, **tiny))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]
    assert [(frame.dtype, frame.shape) for frame in frames] == [(np.uint8, (72, 128, 3))] * 5
    assert np.array_equal(frames, list(clips.frames(tmp_path / "a.mkv")))


def test_frames_are_refused_when_they_are_asked_for(tiny: dict[str, Any]) -> None:
    wrong: dict[str, Any] = tiny | {"stepps": 3}
    with pytest.raises(InvalidInput, match="did you mean steps"):
        linnet.frames(PROMPT, **wrong)


def test_frames_that_nobody_wants_free_the_model(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    read = LoadedModel.transformer.fget
    assert read is not None
    monkeypatch.setattr(
        LoadedModel,
        "transformer",
        property(lambda self: held.append(weakref.ref(read(self))) or held[-1]()),
    )
    frames = linnet.frames(PROMPT, **tiny)
    next(frames)
    assert held
    assert held[0]() is not None
    del frames
    gc.collect()
    assert held[0]() is None


def test_frames_go_on_where_memory_ran_out(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(linnet.frames(PROMPT, **tiny))
    decode, tries = ModelRunner.decode, []

    def failing(self: Any, *given: Any, **more: Any) -> Any:
        tries.append(1)
        frames = np.concatenate(list(decode(self, *given, **more)))
        yield frames[:-3]  # some of which are shown
        if len(tries) == 1:
            raise MemoryError
        yield frames[-3:]

    monkeypatch.setattr(ModelRunner, "decode", failing)
    frames = list(linnet.frames(PROMPT, **tiny))
    assert len(tries) == 2
    assert len(frames) == len(whole)
    assert np.abs(np.subtract(frames, whole, dtype=int)).max() <= 1


# --- what a clip begins from ------------------------------------------------------------------------------------------


def test_python_makes_what_the_command_makes(tiny: dict[str, Any], tmp_path: Path) -> None:
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64), "red").save(image)
    told: list[str] = []
    linnet.generate(
        PROMPT,
        tmp_path / "a.mp4",
        **tiny,
        image=str(image),
        fit="crop",
        progress=lambda now: told.append(now.note),
    )
    words = [
        "--weights",
        tiny["weights"],
        "--image",
        str(image),
        "--fit",
        "crop",
        "-o",
        str(tmp_path / "b.mp4"),
    ]
    usual = [
        "--model",
        "seedling",
        "--device",
        "cpu",
        "--seconds",
        "0.167",
        "--steps",
        "2",
        "--seed",
        "1",
        "--quiet",
    ]
    result = CliRunner().invoke(app, ["generate", PROMPT, *usual, *words])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    again = linnet.generate(None, tmp_path / "c.mp4", weights=tiny["weights"], like=tmp_path / "a.mp4")
    assert again.request.seed == 1
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()
    frames = linnet.frames(PROMPT, **tiny, video=str(tmp_path / "a.mp4"), strength=0.5, colours="clip")
    with pytest.raises(Cancelled):
        list(linnet.frames(PROMPT, **tiny, video=tmp_path / "a.mp4", progress=lambda now: now.cancel()))
    assert len(list(frames)) == 5


FILM = """
seed: 3
seconds: 0.5
steps: 2
shots:
  - prompt: a red star
  - {prompt: a blue star, begin: morph, overlap: 0.167}
  - {prompt: a green star, begin: continue, overlap: 0.167}
"""


def test_python_does_what_each_command_does(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes in every file, from functions and commands in the same words."""
    notes: list[str] = []
    load: dict[str, Any] = {
        "weights": tiny_model,
        "device": "cpu",
        "progress": lambda now: notes.append(now.note),
    }
    short: dict[str, Any] = load | {"steps": 2}
    told = ["--weights", str(tiny_model), "--device", "cpu"]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "film.yaml").write_text(FILM)

    monkeypatch.chdir(ours)
    clips = linnet.generate(PROMPT, "a.mp4", seeds=[1, 2], seconds=0.5, **short)
    assert [(clip.path.name, clip.request.seed) for clip in clips] == [("a-1.mp4", 1), ("a-2.mp4", 2)]
    longer = linnet.extend("a-1.mp4", seconds=2, **short)
    assert longer.path.name == "a-1-extended.mp4"
    assert longer.direction["kept"] == 13
    changed = linnet.edit("a-1.mp4", "a blue star", from_="a red star", everywhere=True, **short)
    assert changed.direction["from"] == "a red star"
    linnet.refine("a-1.mp4", strength=0.5, **short)
    drafts = linnet.grid(PROMPT, seeds=[1, 2], seconds=0.5, **short)
    assert [clip.request.seed for clip in drafts.clips] == [1, 2]
    film = linnet.storyboard("film.yaml", **load)
    assert film.made == (0, 1, 2)
    assert linnet.storyboard("film.yaml", **load).made == ()
    assert {"draft 2 of 2", "shot 3 of 3"} <= set(notes)

    monkeypatch.chdir(theirs)
    for words in (
        ["generate", PROMPT, "--seed", "1-2", "--seconds", "0.5", "--steps", "2", "-o", "a.mp4"],
        ["extend", "a-1.mp4", "--seconds", "2", "--steps", "2"],
        ["edit", "a-1.mp4", "--to", "a blue star", "--from", "a red star", "--everywhere", "--steps", "2"],
        ["refine", "a-1.mp4", "--strength", "0.5", "--steps", "2"],
        ["grid", PROMPT, "--seeds", "1-2", "--seconds", "0.5", "--steps", "2"],
        ["storyboard", "render", "film.yaml"],
    ):
        result = CliRunner().invoke(app, [*words, *told, "--quiet"])
        assert result.exit_code == 0, result.output
    mine, others = ({file.relative_to(at): file for file in at.rglob("*.*")} for at in (ours, theirs))
    assert len(mine) == 15
    assert mine.keys() == others.keys()
    different = [name for name, file in mine.items() if file.is_file() and not same(file, others[name])]
    assert different == []


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: linnet.generate(PROMPT, seeds=[]), "seeds .*names no seed; "),
        (lambda: linnet.generate(PROMPT, seeds=[1, 1]), "seeds .*names a seed twice; "),
        (lambda: linnet.generate(PROMPT, seeds=[1], seed=2), 'seed "2": is given with `seeds`; '),
        (lambda: linnet.generate(PROMPT, seeds=["1"]), 'seed "1": is not a whole number; '),  # type: ignore
        (lambda: linnet.extend("no.mp4"), "no.mp4"),
        (lambda: linnet.extend("no.mp4", second=1), "did you mean seconds?"),  # type: ignore
        (lambda: linnet.edit("no.mp4", 5), 'to "5": is not text; '),  # type: ignore
        (lambda: linnet.refine(7), 'file "7": is not the name of a file'),  # type: ignore
        (lambda: linnet.grid(PROMPT, seeds=range(200)), 'seeds "200": are too many'),
        (lambda: linnet.storyboard("no.yaml"), "no.yaml"),
    ],
)
def test_what_no_function_can_do_is_refused(call: Any, line: str) -> None:
    with pytest.raises(InvalidInput, match=line):
        call()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"image": 3}, 'image "3": is not the name of a file'),
        ({"image": "no.png"}, "no.png"),
        ({"strength": "0.5", "video": "a.mp4"}, 'strength "0.5": is out of range; '),
        ({"fit": 1, "image": "a.png"}, 'fit "1": is not known; '),
        ({"like": 1}, 'like "1": is not the name of a file'),
    ],
)
def test_what_a_clip_cannot_begin_from_is_refused(
    given: dict[str, Any], line: str, tiny: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=line):
        linnet.frames(PROMPT, **(tiny | given))

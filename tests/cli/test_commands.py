"""The commands, as typed: what they make, and the one line that they answer with where they cannot."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from linnet.catalog import CATALOG, SEEDLING
from linnet.cli import COMMANDS, app
from linnet.errors import LinnetError

ROOT = Path(__file__).parents[2]
PROMPT = "a red star spins on a blue background"
STILL = ("--seconds", "0", "--steps", "2")  # one frame


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where each test runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def here(empty_folder: Path) -> Path:
    return empty_folder


def linnet(*words: object) -> Result:
    """What `linnet WORDS` does, in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def generate(model: Path, *words: object) -> Result:
    return linnet("generate", *words, "--model", "seedling", "--weights", model)


def refusal(result: Result) -> str:
    """The one line of a command that refused."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, atexit\n"
        "heavy = {'torch', 'numpy', 'av', 'rich', 'pydantic', 'huggingface_hub', 'linnet.cli.generate'}\n"
        "atexit.register(lambda: print(sorted(heavy & sys.modules.keys())))\n"
        "from linnet.cli import main\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "generate" in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


MOST_ROOMS = 50  # of linnet's, packages included, that a plain prompt's clip goes through


def test_a_plain_prompt_imports_what_it_needs_alone(here: Path, tiny_model: Path) -> None:
    """A room for what only some requests have, such as windows or LoRAs, is imported by those that have it."""
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sorted(name for name in sys.modules if name.startswith('linnet'))))\n"
        "from linnet.cli import main\n"
        "main()\n"
    )
    words = ["generate", PROMPT, *STILL, "--seed", "1", "--model", "seedling", "--weights", str(tiny_model)]
    run = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, timeout=120
    )
    clip, rooms = run.stdout.splitlines()
    assert Path(clip).is_file()
    assert len(rooms.split()) <= MOST_ROOMS, rooms


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_what_each_says_of_itself(name: str) -> None:
    assert COMMANDS[name] in linnet(name, "--help").stdout
    assert COMMANDS[name] in linnet("--help").stdout


def test_the_documented_help_is_the_help() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import commands  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    remedy = "run `python scripts/commands.py`"
    assert commands.PAGE.read_text("utf-8") == commands.page(), remedy


# --- generate ---------------------------------------------------------------------------------------------------------


def test_several_seeds_make_a_clip_each(here: Path, tiny_model: Path) -> None:
    result = generate(tiny_model, PROMPT, *STILL, "--seed", 1, "--seed", 2)
    assert result.exit_code == 0, result.output
    paths = result.stdout.split()
    assert paths == [f"a-red-star-spins-on-a-blue-background-{seed}.mp4" for seed in (1, 2)]
    assert names(here) == paths
    assert "seedling on cpu" in result.stderr
    first, second = (Path(path).read_bytes() for path in paths)
    assert first != second


def test_json_says_what_the_file_says_and_how_long_it_took(tiny_model: Path) -> None:
    made = json.loads(generate(tiny_model, PROMPT, *STILL, "--output", "a.webm", "--json").stdout)
    inside = json.loads(linnet("inspect", "a.webm", "--json").stdout)
    assert made.pop("seconds").keys() == {"text", "denoise", "decode", "write"}
    made.pop("overlapped")
    assert made == inside
    assert inside["request"]["prompt"] == PROMPT
    assert str(inside["request"]["seed"]) in linnet("inspect", "a.webm").stdout  # it was drawn


def test_like_repeats_a_clip_and_varies_it(tiny_model: Path) -> None:
    generate(tiny_model, PROMPT, *STILL, "--output", "a.mp4")
    for words in (("--output", "same.mp4"), ("--output", "other.mp4", "--seed", 5)):
        result = linnet("generate", "--like", "a.mp4", "--weights", tiny_model, *words)
        assert result.exit_code == 0, result.output
    assert Path("same.mp4").read_bytes() == Path("a.mp4").read_bytes() != Path("other.mp4").read_bytes()


def test_a_clip_of_skipped_steps_says_which_and_is_repeated(tiny_model: Path) -> None:
    words = ("--steps", 10, "--solver", "unipc", "--guidance-interval", "0:0.5", "--step-cache", "0.9")
    result = generate(tiny_model, PROMPT, "--seconds", 0, *words, "--output", "a.mp4", "--json")
    made = json.loads(result.stdout)
    asked = {"solver": "unipc", "guidance_from": 0, "guidance_until": 0.5, "reuse": "0.9"}
    assert made["request"].items() >= asked.items()
    skipped = made["choices"]["reused"]
    assert skipped
    like = ("generate", "--like", "a.mp4", "--weights", tiny_model, "--quiet", "--output")
    linnet(*like, "same.mp4")
    assert Path("same.mp4").read_bytes() == Path("a.mp4").read_bytes()
    replayed = linnet(*like, "replayed.mp4", "--step-cache", ",".join(map(str, skipped)), "--json")
    assert json.loads(replayed.stdout)["choices"]["reused"] == skipped
    exact = linnet(*like, "exact.mp4", "--profile", "exact", "--json")
    assert "reused" not in json.loads(exact.stdout)["choices"]
    assert "guidance-interval" in refusal(generate(tiny_model, PROMPT, "--guidance-interval", "often"))


def test_an_option_with_an_earlier_name_works_and_says_so_once(tiny_model: Path) -> None:
    result = generate(
        tiny_model, PROMPT, "--seconds", 1, "--steps", 8, "--reuse=5", "--reuse", "4,6", "--dry-run", "--json"
    )
    assert json.loads(result.stdout)["request"]["reuse"] == "4,6"
    assert result.stderr.count("--reuse is now called --step-cache") == 1
    assert 'step-cache "x": ' in refusal(generate(tiny_model, PROMPT, "--step-cache", "x"))


def test_a_compiled_clip_says_so_and_is_repeated_compiled(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []  # for the compiler itself, which takes long, see benchmarks/forward.py
    monkeypatch.setattr("linnet.runtime.compile.compile_blocks", compiled.append)
    made = json.loads(generate(tiny_model, PROMPT, *STILL, "--compile", "--output", "a.mp4", "--json").stdout)
    assert made["choices"]["compiled"] is True
    linnet("generate", "--like", "a.mp4", "--weights", tiny_model, "--output", "same.mp4")
    assert Path("same.mp4").read_bytes() == Path("a.mp4").read_bytes()
    assert len(compiled) == 2
    monkeypatch.setattr("shutil.which", lambda name: None)
    line = refusal(generate(tiny_model, PROMPT, *STILL, "--compile", "--device", "cpu"))
    assert 'compile "cpu": needs a C++ compiler, such as g++; install it, or leave --compile out' in line


def test_dry_run_writes_nothing_and_tells_the_request(here: Path, tiny_model: Path) -> None:
    words = (PROMPT, "--seconds", 1, "--seed", 3, "--guidance", 2.5, "--dry-run", "--json")
    record = json.loads(generate(tiny_model, *words).stdout)
    assert names(here) == []
    assert record["path"] == "a-red-star-spins-on-a-blue-background-3.mp4"
    expected = {"frames": 25, "seed": 3, "guidance": 2.5, "width": 128, "model": "seedling"}
    assert record["request"].items() >= expected.items()


def test_quiet_prints_the_path_alone(tiny_model: Path) -> None:
    result = generate(tiny_model, PROMPT, *STILL, "--output", "a.gif", "--quiet")
    assert (result.stdout, result.stderr) == ("a.gif\n", "")


def test_preview_is_a_picture_beside_the_clip(here: Path, tiny_model: Path) -> None:
    from PIL import Image

    generate(tiny_model, PROMPT, *STILL, "--output", "a.mp4", "--preview")
    assert names(here) == ["a.mp4", "a.mp4.preview.png"]
    with Image.open("a.mp4.preview.png") as sheet:
        assert len(sheet.getcolors(2**16) or ()) > 2


def test_ctrl_c_leaves_no_half_written_file(
    here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linnet.model_runner import ModelRunner

    def decode(self: Any, latents: Any, **settings: Any) -> Any:
        second = any(here.glob("*.mp4"))
        yield from honest(self, latents, **settings)
        if second:  # while its file is open
            raise KeyboardInterrupt

    honest = ModelRunner.decode
    monkeypatch.setattr(ModelRunner, "decode", decode)
    result = generate(tiny_model, PROMPT, *STILL, "--seed", 1, "--seed", 2, "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "stopped; 1 of 2 clips was written\n"
    assert names(here) == ["a-red-star-spins-on-a-blue-background-1.mp4"]


def test_words_that_seedling_does_not_know_are_named_before_anything_is_made(
    here: Path, tiny_model: Path
) -> None:
    line = refusal(generate(tiny_model, "a red fox in the forest", *STILL))
    assert "seedling does not know: fox, forest;" in line
    assert "`linnet models seedling`" in line
    assert "linnet pull linum-v2-360p" in line
    assert "star" not in line  # the list is where the line points
    assert "large, big, huge" not in line
    assert len(line) < 230
    listed = linnet("models", "seedling").stdout
    assert all(
        word in listed for word in ("star", "purple", "huge", "rotates", "brown", "at the bottom left")
    )
    assert names(here) == []
    anyway = generate(tiny_model, "a red fox in the forest", *STILL, "--anyway", "--output", "fox.mp4")
    assert anyway.exit_code == 0, anyway.output
    assert names(here) == ["fox.mp4"]


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_names_the_words(tiny_model: Path) -> None:
    result = generate(tiny_model, "a red star " * 10 + "that is large", *STILL, "--dry-run")
    assert result.exit_code == 0
    assert "over 32 tokens; the model does not see: is large" in result.stderr


# --- what cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([""], 'prompt "": is empty; '),
        ([PROMPT, "--seconds", "2.1"], 'seconds "2.1": .*; the nearest is 2.167'),
        ([PROMPT, "--seconds", "301"], 'seconds "301.0": .*; the nearest is 300'),
        ([PROMPT, "--seconds", "soon"], 'seconds "soon": is not a number'),
        ([PROMPT, "--size", "360p"], 'size "640x360": .*; use 128x72'),
        ([PROMPT, "--size", "big"], 'size "big": '),
        ([PROMPT, "--steps", "0"], 'steps "0": is out of range; use 1 to 1000'),
        ([PROMPT, "--steps", "many"], 'steps "many": is not a whole number'),
        ([PROMPT, "--seed", "-1"], 'seed "-1": is out of range'),
        ([PROMPT, "--seed", "1", "--seed", "1"], 'seed "1": is given twice'),
        ([PROMPT, "--sede", "1"], "--sede.*linnet generate --help"),
        ([PROMPT, "--dtype", "float16"], 'dtype "float16": .*use auto, float32 or bfloat16'),
        ([PROMPT, "--device", "abacus"], 'device "abacus": '),
        ([PROMPT, "--threads", "0"], 'threads "0": .*use 1 or more'),
        ([PROMPT, "--output", "clip.avi"], 'output "clip.avi": .*mp4'),
        ([PROMPT, "--output", "-"], 'output "-": is no file'),
        ([PROMPT, "--output", "taken.mp4"], 'output "taken.mp4": .*--overwrite'),
        ([PROMPT, "--like", "taken.mp4"], "taken.mp4.*: "),
        ([PROMPT, "--like", "missing.mp4"], "missing.mp4.*: "),
        ([PROMPT, "--transformer", "missing.safetensors"], 'transformer "missing.safetensors": is missing'),
    ],
    ids=str,
)
def test_bad_input_is_answered_in_one_line(here: Path, tiny_model: Path, words: list[str], line: str) -> None:
    Path("taken.mp4").write_text("not a video")
    assert re.search(line, refusal(generate(tiny_model, *words)))
    assert names(here) == ["taken.mp4"]
    assert Path("taken.mp4").read_text() == "not a video"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["generate", PROMPT, "--model", "linum-v2-306p"], "did you mean linum-v2-360p"),
        (["generate", PROMPT, "--model", "linum-v2-720p"], "linnet pull linum-v2-720p"),
        (["generate", PROMPT, "--weights", "nowhere"], 'weights "nowhere": is missing'),
        (["generate", PROMPT, "--weights", "."], "does not look like a model.*--model"),
        (["generate", PROMPT, "--vae", "vae.safetensors"], 'vae "vae.safetensors": .*say which with --model'),
        (["genrate", PROMPT], "did you mean generate"),
        (["--verson"], "--verson.*--version"),
        (["inspect"], "(?i)missing argument.*file.*linnet inspect --help"),
        (["inspect", "nowhere.mp4"], "nowhere.mp4"),
        (["pull", "seedling"], 'model "seedling": ships with linnet'),
        (["pull", "linum"], "did you mean linum-v2-"),
        (["train", "seedlin"], 'command "seedlin": .*did you mean seedling'),
        (["train", "autoencoder", "--device", "abacus"], 'device "abacus": '),
    ],
    ids=str,
)
def test_other_bad_input_is_answered_in_one_line(here: Path, words: list[str], line: str) -> None:
    assert re.search(line, refusal(linnet(*words)))
    assert names(here) == []


def test_what_does_not_fit_is_refused(here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.runtime.machine.host_memory", lambda: 10**6)
    assert 'memory "0.1 GB": is free on cpu' in refusal(generate(tiny_model, PROMPT, *STILL))
    assert names(here) == []


def test_pull_without_a_network_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in refusal(linnet("pull", "linum-v2-360p"))


def test_damaged_weights_are_named(here: Path, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    def with_transformer(name: str, change: Any) -> str:
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        change(folder / SEEDLING.transformer_file)
        return refusal(generate(folder, PROMPT, *STILL))

    def changed(change: Any) -> Any:
        def write(path: Path) -> None:
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            tensors = load_file(path)
            change(tensors)
            save_file(tensors, path, metadata)

        return write

    bias = "model.head.head.bias"
    assert bias in load_file(tiny_model / SEEDLING.transformer_file)
    assert "cut short" in with_transformer("short", lambda path: os.truncate(path, 5000))
    assert "pickle" in with_transformer("pickle", lambda path: torch.save({}, path))
    assert f'lacks tensor "{bias}"' in with_transformer("missing", changed(lambda t: t.pop(bias)))
    extra = changed(lambda t: t.update(stranger=torch.zeros(1)))
    assert 'unexpected tensor "stranger"' in with_transformer("extra", extra)
    misshapen = changed(lambda t: t.update({bias: torch.zeros(3)}))
    assert f'tensor "{bias}" has shape [3]' in with_transformer("misshapen", misshapen)
    assert names(here) == []


def test_errors_that_are_not_the_users_end_with_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LinnetError("the disk\nis on fire")

    monkeypatch.setattr("linnet.cli.models.availability", broken)
    result = linnet("models")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: the disk is on fire\n")


def as_installed(*words: str) -> subprocess.CompletedProcess[str]:
    """What `linnet WORDS` does in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "linnet", *words], capture_output=True, text=True, timeout=120
    )


def test_the_command_itself_ends_with_the_status() -> None:
    run = as_installed("generate", "")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == 'error: prompt "": is empty; describe the video in a sentence\n'


def test_the_command_itself_makes_a_video_with_the_model_that_ships(here: Path) -> None:
    run = as_installed("generate", PROMPT, "--seconds", "0", "--steps", "1", "--seed", "1", "--json")
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("seedling on ")
    assert "ships with linnet" in run.stderr
    assert [json.loads(run.stdout)["path"]] == names(here)


# --- the other commands -----------------------------------------------------------------------------------------------


def test_models_says_where_each_model_is(empty_hub_cache: Path) -> None:
    rows = {row["model"]: row for row in map(json.loads, linnet("models", "--json").stdout.splitlines())}
    assert list(rows) == list(CATALOG)
    assert rows["linum-v2-360p"]["folder"] is None
    assert rows["seedling"]["folder"].endswith("seedling")
    table = linnet("models").stdout
    assert all(name in table for name in CATALOG)
    assert "`linnet pull linum-v2-720p`" in table


def test_doctor_names_versions_and_devices() -> None:
    import torch

    result = linnet("doctor", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["packages"]["torch"] == torch.__version__
    assert [device["device"] for device in record["devices"]][-1] == "cpu"
    assert f"torch            {torch.__version__}" in linnet("doctor").stdout


def test_train_reports_and_goes_on_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    from linnet.train.loop import Report
    from linnet.train.recipes import RECIPES

    def recipe(run: Any, watch: Any) -> Path:
        watch("flow", Report(1, 4, {"loss": 0.5}, 20.0))
        if run.steps == 1:
            raise KeyboardInterrupt
        watch("flow", Report(4, 4, {"loss": 0.25}, 20.0))
        return run.folder / "made"

    monkeypatch.setitem(RECIPES, "autoencoder", recipe)
    result = linnet("train", "autoencoder", "--device", "cpu")
    assert result.stdout == "runs/autoencoder/made\n"
    assert result.stderr.splitlines()[1:] == ["flow: 4 steps done, loss 0.2500"]
    record = json.loads(linnet("train", "autoencoder", "--json", "--quiet").stdout.splitlines()[0])
    assert record == {"part": "flow", "step": 1, "steps": 4, "loss": 0.5, "seconds_a_step": 20.0}
    stopped = linnet("train", "autoencoder", "--steps", 1, "--output", "mine")
    assert stopped.exit_code == 130
    assert (
        stopped.stderr.splitlines()[-1] == "stopped; the same command continues from the last state in mine"
    )

"""What helps while a command is typed: completion, short options, ranges of seeds, names for near misses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from linnet.catalog import CATALOG
from linnet.cli import COMMANDS, app
from linnet.cli.options import parse_seeds
from linnet.errors import InvalidInput


def linnet(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="linnet")


def offered(*words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    environment = {
        "_LINNET_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("linnet", *words)),
        "COMP_CWORD": str(len(words)),
    }
    return CliRunner().invoke(app, [], prog_name="linnet", env=environment).stdout.split()


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), list(COMMANDS)),
        (("gr",), ["grid"]),
        (("generate", "--mod"), ["--model"]),
        (("generate", "--model", ""), list(CATALOG)),
        (("generate", "--model", "linum-v2-7"), ["linum-v2-720p"]),
        (("extend", "a.mp4", "--profile", ""), ["exact", "fast", "draft"]),
        (("generate", "--solver", ""), ["euler", "dpm++", "unipc"]),
        (("plan", "--dtype", "b"), ["bfloat16"]),
        (("pull", "linum-v2-3"), ["linum-v2-360p"]),
        (("train", ""), ["lora", "full", "seedling", "autoencoder"]),
        (("storyboard", "ch"), ["check"]),
        (("storyboard", "render", "--ov"), ["--overwrite"]),
        (("nonsense", ""), list(COMMANDS)),  # no trace either
    ],
)
def test_the_shell_completes_commands_options_and_values(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_is_installed_into_the_shell_that_asks(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    command = f'"{sys.executable}" -m linnet --install-completion; true'  # true: or bash would give way to it
    run = subprocess.run(
        ["bash", "--norc", "-c", command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "bash completion installed" in run.stdout, run.stderr
    assert "linnet" in (tmp_path / ".bashrc").read_text()


def test_completing_a_command_imports_no_torch() -> None:
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(sorted({'torch', 'numpy', 'av'} & sys.modules.keys())))\n"
        "from linnet.cli import main\n"
        "main()\n"
    )
    environment = os.environ | {
        "_LINNET_COMPLETE": "complete_bash",
        "COMP_WORDS": "linnet generate --model ",
        "COMP_CWORD": "3",
    }
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.splitlines() == [*CATALOG, "[]"]


# --- short options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS, "storyboard render", "keys add", "evaluate adherence"])
def test_h_is_help_everywhere(command: str) -> None:
    short, long = (linnet(*command.split(), letter) for letter in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout
    assert "-h, --help" in short.stdout


@pytest.mark.parametrize(
    "command", [*COMMANDS, "storyboard render", "storyboard sheet", "evaluate adherence"]
)
def test_o_is_output_wherever_something_is_written(command: str) -> None:
    shown = linnet(*command.split(), "--help").stdout
    assert ("--output" in shown) == (" -o" in shown)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [(["7"], [7]), (["1-4"], [1, 2, 3, 4]), (["1,5,8"], [1, 5, 8]), (["1-3, 9", "20"], [1, 2, 3, 9, 20])],
)
def test_seeds_are_numbers_ranges_and_lists(texts: list[str], seeds: list[int]) -> None:
    assert parse_seeds(texts) == seeds


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["4-1"], 'seed "4-1": .*backwards; write them as 3, 1-9 or 3,5,8'),
        (["1-3", "2"], 'seed "2": is given twice'),
        (["one"], 'seed "one": .*not a whole number'),
        (["1-9999999"], 'seed "1-9999999": are more than 1,000; give fewer'),
        (["4294967296"], 'seed "4294967296": is out of range; use 0 to 4294967295'),
    ],
)
def test_other_seeds_are_refused_with_how_to_write_them(texts: list[str], line: str) -> None:
    with pytest.raises(InvalidInput, match=line):
        parse_seeds(texts)


def test_a_range_of_seeds_makes_a_clip_each(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--seconds", 0, "--steps", 2, "--model", "seedling", "--weights", tiny_model, "--quiet")
    result = linnet("generate", "a red star", "--seed", "3-4", "-o", "star.mp4", *words)
    assert result.stdout.split() == ["star-3.mp4", "star-4.mp4"], result.output


# --- near and far misses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("genrate", "x"), "generate"),
        (("storyboard", "rendr", "x"), "render"),
        (("keys", "lst"), "list"),
        (("generate", "x", "--sede", "1"), "--seed"),
        (("generate", "x", "--outptu", "a.mp4"), "--output"),
        (("generate", "x", "--model", "seedlin"), "seedling"),
        (("generate", "x", "--model", "seedling", "--solver", "eular"), "euler"),
        (("generate", "x", "--model", "seedling", "--profile", "draff"), "draft"),
        (("generate", "a rde star", "--model", "seedling"), "red"),
        (("train", "seedlign"), "seedling"),
        (("quantize", "seedling", "-o", "x", "--format", "int9"), "int8"),
    ],
)
def test_a_near_miss_is_answered_with_what_was_meant_and_a_far_one_is_not(
    words: tuple[str, ...], near: str
) -> None:
    result = linnet(*words)
    assert result.exit_code == 2
    assert f"did you mean {near}?" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    wrong = next(i for i, word in enumerate(words) if linnet_knows_not(word, near))
    far = [*words[:wrong], "--qqq" if near.startswith("--") else "qqq", *words[wrong + 1 :]]
    assert "did you mean" not in linnet(*far).stderr


def linnet_knows_not(word: str, near: str) -> bool:
    """Whether this is the word that was mistyped for `near`."""
    from linnet.wording import nearest

    return word != near and any(nearest(part, [near]) for part in word.split())

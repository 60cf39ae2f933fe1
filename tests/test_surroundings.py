"""A full disk, a place that is read-only or locked, no home, no UTF-8, no terminal: each command says one line, or does
its work; nothing half-made is left."""

import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

STILL = ["--seconds", "0", "--steps", "1", "--seed", "1", "--device", "cpu", "--threads", "1"]
PROMPT = "a red star spins on a blue background"
READ_ONLY = ("generate", "generate pngs", "storyboard", "batch", "quantize", "train", "keys", "serve")
FILM = "shots:\n  - {prompt: a red star spins on a blue background, seconds: 0, steps: 1, seed: 1}\n"


def writers(place: str, model: str, source: str) -> dict[str, list[str]]:
    """Every command that writes, with a place for what it writes."""
    own = ["--model", "seedling", "--weights", model]
    run = ["--device", "cpu", "--threads", "1"]
    small = ["--seeds", "1", "--seconds", "0", "--steps", "1"]
    return {
        "generate": ["generate", PROMPT, *own, *STILL, "--output", f"{place}/clip.mp4"],
        "generate deeper": ["generate", PROMPT, *own, *STILL, "--output", f"{place}/a/b.webm"],
        "generate pngs": ["generate", PROMPT, *own, *STILL, "--output", f"{place}/pngs", "--preview"],
        "storyboard": ["storyboard", "render", "film.yaml", *own, *run, "--output", f"{place}/film.mp4"],
        "storyboard sheet": ["storyboard", "sheet", "film.yaml", *own, "--output", f"{place}/film.png"],
        "grid": ["grid", PROMPT, *small, *own, *run, "--output", f"{place}/grid"],
        "batch": ["batch", "prompts.txt", "--out", f"{place}/batch", *own],
        "edit": ["edit", source, "--to", PROMPT, *own, *run, "--output", f"{place}/edit.mp4"],
        "refine": ["refine", source, "--prompt", PROMPT, *own, *run, "--output", f"{place}/refined.mp4"],
        "extend": ["extend", source, "--prompt", PROMPT, *own, *run, "--output", f"{place}/extended.mp4"],
        "quantize": ["quantize", "seedling", "--weights", model, "--output", f"{place}/narrow"],
        "train": ["train", "autoencoder", "--output", f"{place}/run", "--steps", "1"],
        "evaluate": ["evaluate", "adherence", "--n", "1", *own, *run, "--output", f"{place}/adherence"],
        "continuity": ["evaluate", "continuity", "--n", "1", *own, *run, "--output", f"{place}/continuity"],
        "keys": ["keys", "add", "somebody", "--data", f"{place}/data"],
        "keys list": ["keys", "list", "--data", f"{place}/data"],
        "serve": ["serve", "--data", f"{place}/data", "--port", "0", "--device", "cpu", *own],
        "backup": ["serve", "backup", f"{place}/copy", "--data", "data"],
    }


def readers(model: str, source: str) -> dict[str, list[str]]:
    """Every command that only tells something."""
    own = ["--model", "seedling", "--weights", model]
    return {
        "models": ["models"],
        "doctor": ["doctor"],
        "plan": ["plan", *own],
        "inspect": ["inspect", source],
        "check": ["storyboard", "check", "film.yaml", *own],
        "dry run": ["generate", PROMPT, "--model", "seedling", "--dry-run"],
        "help": ["--help"],
    }


def cases(model: str) -> list[dict[str, Any]]:
    own = ["--model", "seedling", "--weights", model]
    found = [
        {
            "name": "source",
            "surroundings": "",
            "words": ["generate", PROMPT, *own, *STILL, "--output", "s.mp4"],
        },
        {"name": "data", "surroundings": "", "words": ["keys", "add", "somebody", "--data", "data"]},
    ]
    for place in ("full", "read_only", "locked"):
        for name, words in writers(place, model, "s.mp4").items():
            if place != "read_only" or name in READ_ONLY:
                found.append({"name": name, "surroundings": place, "words": words, "fails": True})
    for place in ("locked", "no_home", "no_streams"):
        for name, words in readers(model, "s.mp4").items():
            found.append({"name": name, "surroundings": place, "words": words})
    for place, ending in product(("locked", "no_home"), (".mp4", " é.gif")):
        found.append(clip(f"usual/{place}{ending}", place, model))
    for place, ending in product(("no_utf8", "no_terminal", "no_streams"), ("", " \udce9.mkv")):
        found.append(clip(f"usual/{place}{ending}", place, model))
    for place, name in (
        ("no_home", "grid"),
        ("no_home", "keys"),
        ("no_terminal", "storyboard"),
        ("no_utf8", "quantize"),
    ):
        words = writers(f"usual/{place}", model, "s.mp4")[name]
        found.append({"name": name, "surroundings": place, "words": words})
    return found


def clip(output: str, surroundings: str, model: str) -> dict[str, Any]:
    words = ["generate", PROMPT, "--model", "seedling", "--weights", model, *STILL, "--output", output]
    return {"name": "generate", "surroundings": surroundings, "words": words, "makes": output}


@pytest.fixture(scope="module")
def results(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("surroundings")
    for name, text in (("film.yaml", FILM), ("prompts.txt", PROMPT + "\n")):
        (folder / name).write_text(text)
    model = shutil.copytree(tiny_model, folder / "model")
    apart = ["unshare", "-m"] if shutil.which("unshare") else []
    if apart and subprocess.run([*apart, "true"], capture_output=True).returncode:
        apart = []
    told = json.dumps({"folder": str(folder), "cases": cases(str(model))})
    command = [*apart, sys.executable, str(Path(__file__).with_name("surroundings.py"))]
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_command_says_one_line_or_does_its_work(results: list[dict[str, Any]]) -> None:
    wrong = [found for found in results if not is_right(found)]
    assert not wrong, "\n".join(f"{one['surroundings']} {one['name']}: {one}" for one in wrong)


def is_right(found: dict[str, Any]) -> bool:
    lines = [line for line in found["error"].splitlines() if not line.startswith(("note: ", "warning: "))]
    if "Traceback" in found["error"] or found["left"]:
        return False
    if found.get("fails"):
        errors = [line for line in lines if line.startswith("error: ")]
        return found["status"] in (1, 2) and len(errors) == 1 and lines[-1] == errors[0]
    return found["status"] == 0 and found["made"]

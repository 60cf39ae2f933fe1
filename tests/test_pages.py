"""The pages around the code: README.md and docs/. Their examples run, their options and links exist, and their figures
are those that were planned or measured."""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from linnet.catalog import CATALOG
from linnet.cli import app

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LONGEST_README = 1500  # words
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def blocks(page: Path, *languages: str) -> list[str]:
    return re.findall(
        rf"^```(?:{'|'.join(languages)})\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").split()) <= LONGEST_README


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = [block.strip() for block in blocks(README, "sh") if "check" in block]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert sum(line.split()[:1] == [command] for line in lines) == 1
    assert os.access(ROOT / command, os.X_OK)


@pytest.mark.parametrize(
    ("page", "made"),
    [
        (README, ["a-red-star-spins-on-a-blue-background-7.mp4", "heart-1.webm", "heart-2.webm"]),
        (
            ROOT / "docs" / "python.md",
            [
                *("drafts", "film.mp4", "film.png", "film.shots", "film.yaml", "green.mp4", "heart-1.webm"),
                *("heart-2.webm", "moon.mp4", "star-1.mp4", "star-2.mp4", "star-edited.mp4"),
                *("star-extended.mp4", "star-refined.mp4", "star.mp4", "variation.mp4"),
            ],
        ),
    ],
    ids=["README", "python"],
)
def test_python_examples_run(
    page: Path,
    made: list[str],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("linnet.weights.store.folders_of", lambda spec: [tiny_model])  # as it is faster
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(block, names)
    assert sorted(path.name for path in folder.iterdir()) == made
    assert "the nearest is 2.167" in capsys.readouterr().out or page != README


def test_the_readmes_film_is_a_storyboard(tmp_path: Path) -> None:
    (example,) = blocks(README, "yaml")
    path = tmp_path / "film.yaml"
    path.write_text(example, "utf-8")
    result = CliRunner().invoke(app, ["storyboard", "check", str(path), "--model", "seedling", "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["shots"]) == 2


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each line of a shell example that runs `linnet`: as it stands, and the words of the last such command in it."""
    for block in blocks(page, "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            starts = [
                index for index, word in enumerate(words) if word == "linnet" or word.endswith("/bin/linnet")
            ]
            if starts and "docker" not in words and "install" not in words[:2] and "systemctl" not in words:
                yield line, words[starts[-1] + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_examples_exist(page: Path) -> None:
    for line, words in commands_of(page):
        command: Any = get_command(app)
        context = command.context_class(command)
        for name in words:
            if name.startswith("-") or not hasattr(command, "get_command"):
                break
            command = command.get_command(context, name)
            assert command is not None, line
        known = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        given = {word.split("=", 1)[0] for word in words if word.startswith("--")}
        assert given <= known, line
        needed = [p for p in command.params if p.required and p.param_type_name == "option"]
        assert all(set(p.opts) & given for p in needed), line


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    heads = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES if f"{page.name})" not in index] == []


def test_the_fewest_steps_are_those_of_the_catalogue() -> None:
    table = re.findall(
        r"^\| (\S+) \| (\d+) \| (\d+) \|$", (ROOT / "docs" / "speed.md").read_text("utf-8"), re.M
    )
    least = {
        name: (str(spec.least_steps["dpm++"]), str(spec.least_steps["unipc"]))
        for name, spec in CATALOG.items()
    }
    assert {name: tuple(steps) for name, *steps in table} == least


def test_contributing_has_the_layers_of_the_package() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    table = text[text.index("| group |") : text.index("## Where to change")]
    first = " ".join(re.findall(r"^\| (`.*?) \|", table, re.M))
    groups = re.findall(r"`(\w+)/?`", first)
    order = [names.split(" | ") for names in reversed(layers)]
    assert sorted(groups) == sorted(name for names in order for name in names)
    level = {name: index for index, names in enumerate(order) for name in names}
    assert [level[name] for name in groups] == sorted(level.values())


def test_contributing_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in re.findall(r"`([\w/]+(?:\.py|\.js|/))`", text):
        assert (ROOT / name).exists() or (ROOT / "src" / "linnet" / name).exists(), name


def rows() -> list[list[str]]:
    """The table of cards: card, clip, memory, time, how it is known."""
    lines = [line for line in README.read_text("utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_planned_rows_are_what_linnet_plan_says() -> None:
    planned = [row for row in rows() if row[4].startswith("planned")]
    assert len(planned) >= 4
    for card, clip, memory, time, _ in planned:
        assert time == "not measured"
        size, seconds = re.fullmatch(r"\d+x(\d+), (\d+) s", clip).groups()  # pyright: ignore[reportOptionalMemberAccess]
        words = f"plan --model linum-v2-{size}p --seconds {seconds} --device cuda --ram 12GB --json --vram"
        result = CliRunner().invoke(app, [*words.split(), card.replace(" ", "")])
        assert f"{json.loads(result.stdout)['peak_device_bytes'] / 1e9:.2g} GB" == memory, clip


def test_measured_rows_are_those_on_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "gpu_evidence.json").read_text())
    runs = record["result"]["rows"]
    measured = [row for row in rows() if row[4] == "measured"]
    for row, name in zip(measured, ("exact", "fast", "step 720p 2 s", "720p 5 s in 12 GB"), strict=True):
        card, _, memory, time, _ = row
        assert card.split(",")[0] in record["device"]
        assert memory.split(" GB")[0] == f"{runs[name]['peak_bytes'] / 1e9:.1f}"
        if time != "not measured":
            assert float(time.split()[0]) == pytest.approx(runs[name]["seconds"], rel=0.02)
    failed = [row for row in rows() if "failed" in row[4]]
    problems = [runs[name] for name in ("360p 5 s in 6 GB", "720p 5 s in 8 GB")]
    assert len(failed) == len(problems)
    assert all("problem" in problem for problem in problems)

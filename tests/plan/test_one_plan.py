"""A request is planned once; what is shown of it is the very plan that runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from linnet.cli import app
from linnet.pipeline import Pipeline
from linnet.plan import machine
from linnet.plan.plan import Plan

FILM = """
seconds: 0.5
steps: 2
shots:
  - prompt: a red star
  - {prompt: a blue star, begin: morph, overlap: 0.167}
  - {prompt: a red star, begin: continue, overlap: 0.167}
  - prompt: a green star
"""


class Seen:
    """Every plan that is made, shown and run."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[Plan] = []
        self.shown: list[Plan] = []
        self.run: list[Plan] = []
        choose, latents = machine.choose, Pipeline.latents

        def chosen(*given: Any, **more: Any) -> Plan:
            self.made.append(choose(*given, **more))
            return self.made[-1]

        def running(pipeline: Pipeline, plan: Plan, *given: Any, **more: Any) -> Any:
            self.run.append(plan)
            made = latents(pipeline, plan, *given, **more)
            assert pipeline.model.following is plan  # and nothing else took its place meanwhile
            return made

        patch.setattr(machine, "choose", chosen)
        patch.setattr("linnet.cli.plan.show_plan", self.shown.append)
        patch.setattr(Pipeline, "latents", running)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seen:
    monkeypatch.chdir(tmp_path)
    return Seen(monkeypatch)


def linnet(tiny_model: Path, *words: object, steps: int | None = 2) -> None:
    usual = (
        "--weights",
        tiny_model,
        "--device",
        "cpu",
        "--threads",
        1,
        "--ram",
        "3GB",
        *(() if steps is None else ("--steps", steps)),
        "--anyway",
    )
    result = CliRunner().invoke(app, [str(word) for word in (*words, *usual)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("more", "encoded"),
    [((), 0), (("--image", "first.png"), 1), (("--seconds", 1.5, "--joint", "--window", 25), 0)],
)
def test_the_plan_that_is_shown_is_the_plan_that_runs(
    seen: Seen, tiny_model: Path, more: tuple[object, ...], encoded: int
) -> None:
    Image.fromarray(np.zeros((72, 128, 3), np.uint8)).save("first.png")
    words = ("generate", "a red star", "--seed", 1, "--seed", 2, "--seconds", 0.5, *more)
    linnet(tiny_model, *words, "--dry-run")
    assert seen.made == seen.shown
    linnet(tiny_model, *words)
    assert len(seen.made) == 2  # one planning for each command, however many seeds
    assert seen.run == [seen.shown[0].with_seed(seed) for seed in (1, 2)]
    assert seen.run[0].workload.encoded_frames == encoded


def test_what_is_made_from_a_clip_is_planned_once(seen: Seen, tiny_model: Path) -> None:
    linnet(tiny_model, "generate", "a red star", "--seed", 1, "--seconds", 0.5, "--output", "a.mp4")
    for words in (
        ("edit", "a.mp4", "--to", "a blue star"),
        ("refine", "a.mp4"),
        ("extend", "a.mp4", "--seconds", 2),
    ):
        seen.made.clear()
        seen.run.clear()
        linnet(tiny_model, *words)
        assert seen.run == seen.made
        assert len(seen.made) == 1


def test_drafts_are_planned_together_and_takes_each_once(seen: Seen, tiny_model: Path) -> None:
    linnet(tiny_model, "grid", "a red star", "--seeds", "1-2", "--seconds", 0.5)
    assert len(seen.made) == 1
    assert seen.run == [seen.made[0], seen.made[0].with_seed(2)]
    seen.made.clear()
    seen.run.clear()
    Path("film.yaml").write_text(FILM)
    linnet(tiny_model, "storyboard", "render", "film.yaml", steps=None)
    assert seen.run == seen.made
    assert len(seen.made) == 3

"""`linnet bench`: what it counts is right; what it times is for people to read."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.models import tae
from linnet.plan import memory
from linnet.plan.passes import forwards
from linnet.request import make_request


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"steps": 20}, 40),
        ({"steps": 20, "guidance": 0}, 20),
        ({"steps": 20, "guidance_from": 0.25, "guidance_until": 0.5}, 25),
        ({"steps": 20, "guidance_until": 0.5, "reuse": "5,6,15"}, 25),
        ({"steps": 1}, 2),
    ],
)
def test_how_often_a_clip_asks_the_model(settings: dict, count: int) -> None:
    assert sum(forwards(make_request(SEEDLING, prompt="a star", **settings))) == count


def test_a_bench_of_a_small_model(tiny_model: Path) -> None:
    words = ["bench", "--weights", str(tiny_model), "--seconds", "0.5", "--threads", "1", "--profile", "fast"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    *table, line = result.stdout.splitlines()
    assert any("attention" in row for row in table)
    record = json.loads(line)
    assert all(value > 1e6 for value in record["ceilings"].values())
    text, denoise, decode = record["stages"]
    request = make_request(SEEDLING, prompt="any", profile="fast", seconds=0.5)
    assert denoise["times"] == sum(forwards(request)) / 2
    assert text["times"] == 2
    assert decode["times"] == 1
    for stage in record["stages"]:
        assert 0 < stage["share"] < 2
        assert stage["weight_bytes"] > 0


def test_the_estimate_of_memory_knows_how_much_is_decoded_at_a_time() -> None:
    assert memory.TINY_CELLS == tae.STRETCH


def test_layers_that_there_are_not(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--weights", str(tiny_model), "--layers", "2", "--json"])
    assert result.exit_code == 2
    assert 'layers "2": is not a part of 1; use 1 to 1' in result.stderr


def test_a_model_whose_size_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.cli.bench.locate", lambda spec: None)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 2
    assert "its size is in its files" in result.stderr

"""Many prompts into a folder: stopped with a kill in the middle, it goes on, and every line has its clip once."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from linnet.cli import app
from linnet.media import probe, read_metadata
from linnet.serve.queue import Queue
from linnet.serve.supervisor import ProcessSupervisor
from linnet.serve.worker_pool import WorkerPool
from serving import until

STILL = {"seconds": 0, "steps": 2}
LONG = {"seconds": 5, "steps": 300}  # of the tiny model: seconds


def write(file: Path, lines: Sequence[str | dict[str, Any]]) -> Path:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def words(prompts: Path, model: Path) -> list[str]:
    there = ["--model", "seedling", "--weights", str(model), "--device", "cpu", "--threads", "1"]
    return ["batch", str(prompts), "--out", str(prompts.parent / "out"), *there]


def manifest(folder: Path) -> list[dict[str, Any]]:
    file = folder / "manifest.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_killed_batch_goes_on_and_makes_every_clip_once(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    lines = [
        {"prompt": "a red star", "seed": 1, **STILL},
        {"prompt": "a green heart", **LONG},
        "",
        "a blue square",
    ]
    twice = [{"prompt": "a red star", "seed": 1, **STILL}]
    prompts = write(tmp_path / "prompts.jsonl", [*lines, *twice])
    first = subprocess.Popen(
        [sys.executable, "-m", "linnet", *words(prompts, tiny_model)], start_new_session=True
    )
    until(lambda: len(manifest(out)) == 1)
    os.kill(first.pid, signal.SIGKILL)  # at the long one; its worker notices
    first.wait()
    made = manifest(out)
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"line": 2, "key": ')  # as if it had died in writing
    result = CliRunner().invoke(app, words(prompts, tiny_model))
    assert result.exit_code == 0, result.output
    records = manifest(out)
    assert records[0] == made[0]
    assert [record["line"] for record in records] == [1, 2, 4, 5]
    assert len({record["path"] for record in records}) == 4
    assert {path.name for path in out.glob("*.mp4")} == {record["path"] for record in records}
    for record in records:
        clip = out / record["path"]
        assert probe(clip).frames == record["request"]["frames"]
        inside = (read_metadata(clip) or {})["request"]
        assert inside["seed"] == record["request"]["seed"]
    assert not [*out.glob(".*.part"), *(out / ".linnet" / "clips").iterdir()]

    before = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    write(prompts, [*lines[:1], {"prompt": "a red star", "seed": 2, **STILL}])
    (out / records[0]["path"]).unlink()  # a clip that is gone is made again
    assert CliRunner().invoke(app, words(prompts, tiny_model)).exit_code == 0
    assert {record["request"]["seed"] for record in manifest(out)} == {1, 2}
    assert all(before[path] == path.stat().st_mtime_ns for path in before if path.name != records[0]["path"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a red star", "seconds": 1e9}', 'line 2 of p.jsonl: seconds "1000000000.0"'),
        ('{"prompt": "a red star", "colour": "red"}', "is not known; use prompt"),
        ('{"prompt": ', "is not JSON"),
        ("a red fox", "does not know: fox"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(
    tmp_path: Path, tiny_model: Path, line: str, said: str
) -> None:
    result = CliRunner().invoke(app, words(write(tmp_path / "p.jsonl", ["a red star", line]), tiny_model))
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_has_the_name_of_a_clip_keeps_it(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "000001-a-red-star-1.mp4").write_text("a holiday")
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "a red star", "seed": 1, **STILL}])
    assert CliRunner().invoke(app, words(prompts, tiny_model)).exit_code == 0
    assert (out / "000001-a-red-star-1.mp4").read_text() == "a holiday"
    assert [record["path"] for record in manifest(out)] == ["000001-a-red-star-1-2.mp4"]


def test_a_budget_that_the_device_cannot_have_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model: Path
) -> None:
    prompts = write(tmp_path / "prompts.txt", ["a red star"])
    result = CliRunner().invoke(app, [*words(prompts, tiny_model), "--vram", "8GB"])
    assert result.exit_code == 2
    assert 'vram "8.0 GB": is the memory of a card, and cpu is none' in result.stderr
    assert not (tmp_path / "out").exists()


def test_each_worker_is_told_its_budget(tmp_path: Path) -> None:
    pool = WorkerPool(model="seedling", devices=["cpu", "cpu"], ram=10**9)
    members = pool.members(tmp_path, Queue(tmp_path))
    assert [member.settings.ram for member in members if isinstance(member, ProcessSupervisor)] == [10**9] * 2


def test_every_line_that_cannot_be_done_is_named(tmp_path: Path, tiny_model: Path) -> None:
    bad = ["a red star", "a red fox", '{"prompt": "a red star", "steps": 0}', "a gray star", '{"promt": "x"}']
    result = CliRunner().invoke(app, words(write(tmp_path / "p.jsonl", bad), tiny_model))
    assert result.exit_code == 2
    *each, last = result.stderr.splitlines()
    assert [line.split(" of p.jsonl")[0] for line in each] == [f"error: line {n}" for n in (2, 3, 4, 5)]
    assert "did you mean prompt?" in each[-1]
    assert last == f"error: 4 lines of {tmp_path / 'p.jsonl'} cannot be done; nothing was made"
    assert not (tmp_path / "out").exists()


def test_what_was_made_kept_and_failed_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    from linnet.serve.batch import Batch, Count

    counts = iter([Count(made=3, failed=0, total=3, resumed=3), Count(made=3, failed=1, total=4, resumed=2)])
    monkeypatch.setattr(Batch, "run", lambda self, show: next(counts))
    prompts = write(tmp_path / "p.jsonl", ["a red star"])
    kept, mixed = (CliRunner().invoke(app, words(prompts, tiny_model)) for _ in range(2))
    assert "0 made, 3 kept from before, 0 failed, in " in kept.stderr
    assert "1 made, 2 kept from before, 1 failed, in " in mixed.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b'\xef\xbb\xbf{"prompt": "a red star", "frames": "13"}',
            'line 1 of .*: frames "13": is not a whole',
        ),
        (b'\n{"prompt": "a red star", "seed": NaN}', 'line 2 of .*in "seed" that is not finite'),
        (b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "line 1 of .*nested too deeply"),
        (b'{"prompt": "a red star", "seed": 1, "seed": 2}', 'line 1 of .*"seed" twice'),
        ("a red\u200b star".encode(), r"line 1 of .*U\+200B"),
        ("a red star".encode("utf-16"), "UTF-16"),
        (b"a red star \xe9", r"not UTF-8 text \(line 1\)"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    tmp_path: Path, tiny_model: Path, content: bytes, said: str
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(content)
    ended = CliRunner().invoke(app, words(prompts, tiny_model))
    assert ended.exit_code == 2, ended.output
    assert re.search(said, ended.stderr), ended.stderr
    assert not (tmp_path / "out").exists()

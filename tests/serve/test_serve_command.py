"""`linnet serve`, its backup and `linnet keys` as typed: what they refuse, and who owns what."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.request import make_request
from linnet.serve.database import MIGRATIONS
from linnet.serve.keys import make_key
from linnet.serve.lock import lock
from linnet.serve.queue import Queue


def refusal(*words: object) -> str:
    """The one line of a command that refused."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


def run(*words: object) -> str:
    """What a command prints that did what it was asked."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(autouse=True)
def nobody_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is not refused ends at once, with status 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("linnet.serve.server.Server.run", lambda *given, **more: None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("quota", "-1"),
        ("quota", "0"),
        ("quota", "inf"),
        ("keep-days", "0"),
        ("longest", "nan"),
        ("longest", "0"),
        ("grace", "-1"),
        ("port", "70000"),
    ],
)
def test_a_limit_that_is_none_is_refused(tmp_path: Path, option: str, value: str) -> None:
    assert refusal("serve", f"--{option}", value).startswith(f'error: {option} "{value}": is ')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x:8443", "https://x", "x/y", "", "bücher.example"])
def test_a_name_that_would_never_match_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal("serve", "--name", name).startswith(f'error: name "{name}": is not the name')
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal("serve", "--port", port).startswith(
            f'error: port "{port}": cannot be had at 127.0.0.1'
        )


def test_keys_are_made_and_read_where_they_belong(tmp_path: Path) -> None:
    for words in (("list",), ("revoke", "x")):
        assert "holds no linnet data" in refusal("keys", *words, "--data", tmp_path)
    assert 'name "": is empty' in refusal("keys", "add", " ")
    assert list(tmp_path.iterdir()) == []
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    assert run("keys", "add", "ann", "--data", data).startswith("linnet_")
    for path in data.iterdir():
        assert path.stat().st_mode & 0o077 == 0


COMMANDS = {
    "serve": ("serve", "--data"),
    "backup": ("serve", "backup", "copy", "--data"),
    "recover": ("serve", "recover"),
    "list": ("keys", "list", "--data"),
    "add": ("keys", "add", "ann", "--data"),
    "revoke": ("keys", "revoke", "x", "--data"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, command: str) -> None:
    words = COMMANDS[command]
    file, damaged, odd = tmp_path / "file", tmp_path / "damaged", tmp_path / "odd"
    file.write_text("not a folder")
    refusal(*words, file)
    refusal(*words, file / "below")
    assert file.read_text() == "not a folder"
    (odd / "linnet.db").mkdir(parents=True)
    damaged.mkdir()
    (damaged / "linnet.db").write_bytes(b"no database" * 1000)
    if command != "recover":
        refusal(*words, odd)
        assert "is damaged (file is not a database); restore a backup" in refusal(*words, damaged)
    else:
        assert run(*words, damaged).strip() == str(damaged)
        assert run("keys", "list", "--json", "--data", damaged) == ""


def test_a_key_has_a_name_of_one_line(tmp_path: Path) -> None:
    for name in ("ann\nbob", "ann\tbob", "ann\x1b[2J", "ann\u200b"):
        assert "cannot be shown" in refusal("keys", "add", name, "--data", tmp_path)
    assert list(tmp_path.iterdir()) == []
    make_key(Queue(tmp_path), "ann\nbob\tcarol")  # as an earlier version let it be
    head, row = run("keys", "list", "--data", tmp_path).splitlines()
    assert row.split("\t")[1] == "ann bob carol"
    assert len(row.split("\t")) == len(head.split("\t"))


def test_a_new_key_inherits_from_one_that_is_revoked(tmp_path: Path) -> None:
    run("keys", "add", "ann", "--data", tmp_path)
    ann = json.loads(run("keys", "list", "--json", "--data", tmp_path))["id"]
    queue = Queue(tmp_path)
    job = queue.add(make_request(SEEDLING, prompt="a red star", frames=1), owner=ann, repeat_key="k")
    heir = ("keys", "add", "bob", "--inherit", ann, "--data", tmp_path)
    assert "is no revoked key" in refusal(*heir)
    run("keys", "revoke", ann, "--data", tmp_path)
    run(*heir)
    bob = queue.all_keys()[1]["id"]
    assert [found.id for found in queue.page(owner=bob)] == [job.id]


def test_the_folder_of_an_older_server_that_runs_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr("linnet.serve.database.MIGRATIONS", MIGRATIONS[:-1])
        queue = Queue(tmp_path)
    with lock(tmp_path):
        for words in (("keys", "list"), ("keys", "add", "ann"), ("serve", "backup", tmp_path / "copy")):
            assert "is in use by an older linnet" in refusal(*words, "--data", tmp_path)
        assert queue._rows("PRAGMA user_version")[0][0] == len(MIGRATIONS) - 1
    assert run("keys", "list", "--json", "--data", tmp_path) == ""

"""`linnet serve` and `linnet keys` as typed, where they refuse."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from linnet.cli import app


def refusal(*words: object) -> str:
    """The one line of a command that refused."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


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

"""Write docs/commands.md, the help of every command as `--help` prints it. A test compares the two."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from linnet.cli import COMMANDS, app

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"


def page() -> str:
    """The help of `linnet` and of each command, as Markdown."""
    runner = CliRunner()
    parts = ["# Commands\n\nWritten by `python scripts/commands.py` from the commands themselves.\n"]
    for name in ("", *everything()):
        result = runner.invoke(app, [*name.split(), "--help"], prog_name="linnet")
        assert result.exit_code == 0, result.output
        parts.append(f"## linnet {name}".rstrip() + f"\n\n```text\n{result.stdout.strip()}\n```\n")
    return "\n".join(parts)


def everything() -> Iterator[str]:
    """Each command, and behind it the commands inside it."""
    for name in COMMANDS:
        yield name
        command = get_command(import_module(f"linnet.cli.{name}").app)
        yield from (f"{name} {inner}" for inner in getattr(command, "commands", ()))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

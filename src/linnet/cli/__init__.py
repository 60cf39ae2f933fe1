"""The command line. A command's module is imported when it is called for, so that `linnet --help` is instant.

Exit status: 0 done, 1 it failed, 2 it cannot be done as asked, 130 stopped with Ctrl-C. An error is one line
on stderr; a stack trace is a bug in linnet.
"""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from linnet import filesystem, process
from linnet.errors import InvalidInput, LinnetError, one_line

COMMANDS = {
    "generate": "Make a video from a prompt.",
    "storyboard": "Make a film of several shots.",
    "grid": "Make drafts of a prompt to pick from.",
    "batch": "Make a video of every line of a file.",
    "plan": "Show how a request would run, and what it takes.",
    "extend": "Go on from a clip's last frames.",
    "edit": "Change what a clip shows, and keep its motion.",
    "refine": "Finish a draft at the model's size, by the last steps.",
    "inspect": "Show the request inside a clip.",
    "models": "List the models: what exists, what is on this machine.",
    "pull": "Download a model's weights.",
    "bench": "Measure how fast this device makes a clip.",
    "quantize": "Store a model's weights in 8 bits.",
    "doctor": "Show what this machine can run.",
    "serve": "Serve the models: an API, a queue, and a page.",
    "keys": "Say who may use the server.",
    "train": "Train a model.",
    "evaluate": "Measure how well a model does what it is asked.",
}

# What typer raises when a command is mistyped; which module it lives in depends on typer's version.
UsageError: Any = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """The commands of the table above, each in the module of its name, as a typer app called `app`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            (nearest,) = get_close_matches(cmd_name, COMMANDS, n=1, cutoff=0.0)
            remedy = f"did you mean {nearest}? There are {', '.join(COMMANDS)}"
            raise InvalidInput("command", cmd_name, "there is no such command", remedy)
        return get_command(import_module(f"linnet.cli.{cmd_name}").app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        settings["standalone_mode"] = False  # in which typer would print an error over several lines
        try:
            status = super().main(given, *more, **settings)
        except UsageError as error:
            place = error.ctx.command_path if error.ctx else "linnet"
            fail(f"error: {one_line(error.format_message()).rstrip('.')}; see `{place} --help`", 2)
        except (KeyboardInterrupt, typer.Abort):  # before or after the command itself
            fail("stopped", 130)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # here, since typer would exit without a word
            fail("stopped", 130)
        except InvalidInput as error:
            fail(f"error: {error}", 2)
        except LinnetError as error:
            fail(f"error: {one_line(error)}", 1)
        except OSError as error:  # what no closer place has said of a path
            fail(f"error: {filesystem.last_net(error)}", 2)
        except (RuntimeError, MemoryError) as error:
            if "torch" not in sys.modules or not device_failed(error):
                raise
            fail(f"error: {one_line(error)[:200]}; close other programs, or ask for less", 1)


def device_failed(error: Exception) -> bool:
    """What was tried again, or could not be: memory ran out, or the device is gone."""
    from linnet.runtime.recover import is_gone, out_of_memory

    return out_of_memory(error) or is_gone(error)


def fail(line: str, status: int) -> NoReturn:
    """End with one line on stderr."""
    print(line, file=sys.stderr)
    sys.exit(status)


def show_version(wanted: bool) -> bool:
    if wanted:
        from linnet import __version__

        print(__version__)
        raise typer.Exit
    return wanted


app = typer.Typer(name="linnet", cls=Commands, add_completion=False, rich_markup_mode=None)


@app.callback()
def linnet(
    version: bool = typer.Option(
        False, "--version", help="Show linnet's version and exit.", is_eager=True, callback=show_version
    ),
) -> None:
    """Video from text, with open weights, on your own machine."""


def main() -> None:
    """Run the command that was typed, and exit with its status."""
    process.prepare()
    try:
        get_command(app).main(prog_name="linnet")
    finally:
        if problem := process.unwritten():
            fail(f'error: output "standard output": cannot be written ({problem}); send it elsewhere', 1)

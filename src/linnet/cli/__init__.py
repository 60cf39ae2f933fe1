"""The command line. A command's module is imported when it is called for, so that `linnet --help` is instant.

Exit status: 0 done, 1 it failed, 2 it cannot be done as asked, 130 stopped with Ctrl-C. An error is one line
on stderr; a stack trace is a bug in linnet.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from linnet import process
from linnet.errors import InvalidInput, LinnetError, one_line

COMMANDS = {
    "generate": "Make a video from a prompt.",
    "storyboard": "Make a film of several shots.",
    "grid": "Make several drafts of a prompt to choose from.",
    "batch": "Make a video for every line of a file.",
    "plan": "Show how a request would run, and its memory and time.",
    "extend": "Continue a clip from its last frames.",
    "edit": "Change what a clip shows, and keep its motion.",
    "refine": "Improve a draft: scale it up and repeat the last steps.",
    "inspect": "Show the request inside a clip.",
    "models": "List the models that exist, and those on this machine.",
    "pull": "Download a model's weights.",
    "tune": "Find settings that are faster than exact and still make its clips.",
    "bench": "Measure how fast this device makes a clip.",
    "quantize": "Store a model's weights in 8 bits.",
    "doctor": "Show what this machine can run.",
    "serve": "Serve the models with an HTTP API, a queue and a web page.",
    "keys": "Manage the access keys of the server.",
    "data": "Make a dataset of clips, and check it.",
    "train": "Train a model.",
    "lora": "Look at LoRAs, and write them as other programs read them.",
    "evaluate": "Measure how well a model follows its prompts.",
}

# What options were called before still works.
RENAMED = {
    "--reuse": "--step-cache",
    "--span": "--local-attention",
    "--onward": "--autoregressive",
    "--together": "--joint",
}

# What typer raises when a command is mistyped; which module it lives in depends on typer's version.
UsageError: Any = typer.BadParameter.__mro__[1]


def translator() -> Any:
    """The room for what was typed wrong or went wrong, which `--help` needs not."""
    return import_module("linnet.cli.problems")


class Group(TyperGroup):
    """Commands; a name that is none is answered as any other bad input, with the one that was probably meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        known = name.startswith("-") or self.get_command(ctx, name) is not None
        if known or ctx.resilient_parsing:  # the shell completes whatever is typed
            return super().resolve_command(ctx, args if ctx.resilient_parsing else with_new_names(args))
        remedy = f"{translator().suggestion(name, self.list_commands(ctx))}see `{ctx.command_path} --help`"
        raise InvalidInput("command", name, "there is no such command", remedy)


class Commands(Group):
    """The commands of the table above, each in the module of its name, as a typer app called `app`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return get_command(import_module(f"linnet.cli.{cmd_name}").app) if cmd_name in COMMANDS else None

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """From the table alone: to ask each command would import them all."""
        if not incomplete.startswith("-"):
            names = [name for name in COMMANDS if name.startswith(incomplete)]
            return [translator().completion_item(name, COMMANDS[name]) for name in names]
        return super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        settings["standalone_mode"] = False  # in which typer would print an error over several lines
        try:
            status = super().main(given, *more, **settings)
        except UsageError as error:
            fail(f"error: {translator().usage_problem(error, given[0])}", 2)
        except (KeyboardInterrupt, typer.Abort):  # before or after the command itself
            fail("stopped", 130)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # here, since typer would exit without a word
            fail("stopped", 130)
        except InvalidInput as error:
            fail(f"error: {translator().with_options(error)}", 2)
        except LinnetError as error:
            fail(f"error: {translator().with_fields(error)}", 1)
        except OSError as error:  # what no closer place has said of a path
            from linnet import filesystem

            fail(f"error: {translator().with_options(filesystem.last_net(error))}", 2)
        except (RuntimeError, MemoryError) as error:
            if "torch" not in sys.modules or not translator().device_failed(error):
                raise
            fail(f"error: {one_line(error)[:200]}; close other programs, or ask for less", 1)


def with_new_names(words: Sequence[str]) -> list[str]:
    """What was typed, with an option's name of today in the place of an earlier one, and a note about each."""
    typed, renamed = list(words), dict[str, str]()
    for index, word in enumerate(typed):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in RENAMED:
            renamed[name] = RENAMED[name]
            typed[index] = f"{RENAMED[name]}{equals}{value}"
    for name, new in renamed.items():
        print(f"{name} is now called {new}", file=sys.stderr)
    return typed


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


app = typer.Typer(
    name="linnet",
    cls=Commands,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},  # which the commands inherit
)


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

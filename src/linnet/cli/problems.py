"""What was typed wrong or went wrong, in the words of the command line: options in the place of fields."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from linnet.cli import COMMANDS
from linnet.errors import InvalidInput, LinnetError, one_line
from linnet.errors import with_fields as rewritten

# Options whose names differ from those of the request's fields.
OPTION_OF = {"reuse": "step-cache", "span": "local-attention", "onward": "autoregressive"}


def completion_item(word: str, help: str) -> Any:
    """What the shell is offered; typer has its own click in some versions, and uses the package in others."""
    try:
        module = import_module("typer._click.shell_completion")
    except ModuleNotFoundError:
        module = import_module("click.shell_completion")
    return module.CompletionItem(word, help=help)


def with_options(error: InvalidInput) -> str:
    """An error's line with options in the place of fields."""
    problem, remedy = (rewritten(text, as_option) for text in (error.problem, error.remedy))
    return str(InvalidInput(OPTION_OF.get(error.field, error.field), error.value, problem, remedy))


def as_option(field: str, value: str) -> str:
    """`fit=crop` is --fit crop here."""
    name = f"--{OPTION_OF.get(field, field).replace('_', '-')}"
    if field == "onward" and value == "false":
        return "--joint"
    return f"{name} {value}" if value else name


def usage_problem(error: Any, first: str) -> str:
    """What was typed wrong, and the remedy; `first` is the first word after `linnet`."""
    command = (
        error.ctx.command_path if error.ctx else " ".join(["linnet", *([first] if first in COMMANDS else [])])
    )
    wrong = getattr(error, "option_name", None)
    if "such option" not in error.format_message() or wrong is None:
        return f"{one_line(error.format_message()).rstrip('.')}; see `{command} --help`"
    known = [name for option in error.ctx.command.params for name in (*option.opts, *option.secondary_opts)]
    near = suggestion(wrong, [name for name in (*known, "--help") if name.startswith("--")])
    return str(InvalidInput("option", wrong, "there is no such option", f"{near}see `{command} --help`"))


def suggestion(typed: str, known: Sequence[str]) -> str:
    """ "did you mean --seed? ", or nothing where nothing is near."""
    from linnet.wording import nearest

    near = nearest(typed, known)
    return f"did you mean {near}? " if near else ""


def device_failed(error: Exception) -> bool:
    """What was tried again, or could not be: memory ran out, or the device is gone."""
    from linnet.runtime.device import is_gone, out_of_memory

    return out_of_memory(error) or is_gone(error)


def with_fields(error: LinnetError) -> str:
    """Any other error's line with options in the place of fields."""
    return rewritten(one_line(error), as_option)

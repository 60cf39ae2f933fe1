"""How the tests check types and shapes in linnet's signatures. Not part of conftest.py: the folders have one each, and
Python knows only one module of that name."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

# They check what they are given by themselves, and are tested with the wrong types.
EDGES = (
    "linnet.request",
    "linnet.api",
    "linnet.prepare",
    "linnet.runtime.machine",
    "linnet.direct.conditions",
    "linnet.direct.samplers",
)
CONFIG = BeartypeConf(is_pep484_tower=True)  # an int is a float, as Python's typing has it


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked; beartype cannot check a method that gives `Self`."""
    if function.__module__ in EDGES:
        return function
    try:
        return beartype(conf=CONFIG)(function)
    except BeartypeDecorHintPep673Exception:
        return function

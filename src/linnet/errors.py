"""What can go wrong on the user's side, said in one line each."""

import re
from collections.abc import Callable
from pathlib import Path

LONGEST_VALUE = 100
# In a problem or a remedy a field stands so, for Python's users to read and for other interfaces to write in their own
# way: `video`, `fit=crop`.
FIELD = r"`([a-z_]+)(?:=([^`\s]+))?`"


class LinnetError(Exception):
    """Base of every error that linnet raises on purpose; its text is meant to be read by the user."""


class InvalidInput(LinnetError):
    """Something asked for cannot be done as asked.

    str() is one line, `field "value": problem; remedy`. The command exits with status 2 on it.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(field, value, problem, remedy)
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy

    def __str__(self) -> str:
        value = one_line(self.value)
        if len(value) > LONGEST_VALUE and not isinstance(self.value, Path):  # which is shown whole
            value = value[: LONGEST_VALUE - 1] + "…"
        return f'{self.field} "{value}": {one_line(self.problem)}; {one_line(self.remedy)}'


def with_fields(text: str, write: Callable[[str, str], str]) -> str:
    """A message's text with its fields as an interface writes them: `write` is given the name, and the value or ""."""
    return re.sub(FIELD, lambda match: write(match[1], match[2] or ""), text)


class WeightsError(InvalidInput):
    """A weight file is missing, damaged, or not of the model it is loaded into."""


class Cancelled(LinnetError):
    """Whoever watches a run has stopped it; of the clip that it was at, no file is left."""


class DeviceLost(LinnetError):
    """The device stopped answering in the middle; a new process may find it again."""


def one_line(value: object) -> str:
    """Text without line breaks or other characters that a terminal would act on; a byte of a file's name that is not
    UTF-8 stands as \\xe9."""
    try:
        text = str(value)
    except ValueError:  # Python writes no number of over 4300 digits
        text = "a number of thousands of digits"
    return " ".join("".join(map(shown, text)).split())


def shown(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter if letter.isprintable() else " "

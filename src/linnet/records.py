"""JSON and text as people and programs write them, read strictly: what is wrong is said in one line with its place.
Letters that nobody sees, such as a zero-width space that came along when a prompt was copied, are named.

A byte-order mark is no letter of the text. A key that is given twice, a number that JSON does not know (NaN), one of
hundreds of digits, and lists within lists without end are refused.
"""

import codecs
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

from linnet.errors import InvalidInput
from linnet.filesystem import reading

DEEPEST = 50  # lists and objects within each other; a clip's record has six
LONGEST_NUMBER = 400  # digits: the largest float has 309
LONGEST_TEXT = 64 * 2**20  # bytes of a file that a person wrote
# Where a clip's record stands: in a folder of PNGs that linnet wrote, and in the EXIF field of free text, in ASCII.
PNG_REQUEST, EXIF_DESCRIPTION = "request.json", 0x010E
WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_json(text: str, *, field: str, value: object = None, remedy: str = "write it as JSON") -> Any:
    """The JSON value of the text; InvalidInput for the field, with `value` or else the text itself."""
    try:
        record = json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=once_each,
            parse_int=whole_number,
        )
        check_depth(record)
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError as error:
        problem = f"is not JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
    else:
        return record
    raise InvalidInput(field, text if value is None else value, problem, remedy)


def read_object(
    text: str, *, field: str, value: object = None, remedy: str = "write it as JSON"
) -> dict[str, Any]:
    """As `read_json`, of a JSON object: {...}."""
    record = read_json(text, field=field, value=value, remedy=remedy)
    if not isinstance(record, dict):
        raise InvalidInput(field, text if value is None else value, "is not a JSON object", remedy)
    return record


def read_object_or_nothing(text: str) -> dict[str, Any]:
    """Empty where the text is not a JSON object: of what anyone may have written, or a kill cut short."""
    try:
        return read_object(text, field="record")
    except InvalidInput:
        return {}


def read_text(path: Path, *, field: str = "file", most: int = LONGEST_TEXT) -> str:
    """A text file in UTF-8, with or without a byte-order mark; never more than `most` bytes of it are read."""
    with reading(path, field), path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InvalidInput(field, path, f"has over {most:,} bytes", "make several files of it")
    return decoded(content, field, path)


def decoded(content: bytes, field: str, path: Path) -> str:
    if content.startswith(WIDE):
        raise InvalidInput(field, path, "is UTF-16 or UTF-32 text", "save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(field, path, f"is not UTF-8 text (line {line})", "save it as UTF-8") from None


# --- what is refused within ---------------------------------------------------------------------------------------


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'has "{next(name for name in names if names.count(name) > 1)}" twice')
    for name, value in pairs:
        if not all(map(is_number_of_json, value if isinstance(value, list) else [value])):
            raise ValueError(f'has a number in "{name}" that is not finite, or too large')
    return record


def is_number_of_json(value: Any) -> bool:
    """What is no number is not asked."""
    return not isinstance(value, float) or math.isfinite(value)


def whole_number(text: str) -> int | float:
    return int(text) if len(text) <= LONGEST_NUMBER else math.inf  # Python itself reads up to 4300 digits


def check_depth(value: Any) -> None:
    """Other code goes down into what was read one call a level, from wherever it stands."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError("is nested too deeply")


# --- invisible characters ---------------------------------------------------------------------------------------------


# Format and control characters, line and paragraph separators.
UNSEEN_KINDS = frozenset({"Cf", "Cc", "Zl", "Zp"})
# Of other kinds, and yet without a shape: joiners, fillers, variation selectors, the empty braille cell.
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
SPACES = frozenset("\t\n\r\v\f")  # control characters that part words, as a space does


def is_unseen(letter: str) -> bool:
    if letter in SPACES:
        return False
    return letter in UNSEEN or unicodedata.category(letter) in UNSEEN_KINDS


def unseen(text: str) -> list[str]:
    """Each letter without a shape, once, by number and name: "U+200B (zero width space)"."""
    letters = dict.fromkeys(letter for letter in text if is_unseen(letter))
    return [f"U+{ord(letter):04X}{name_of(letter)}" for letter in letters]


def name_of(letter: str) -> str:
    name = unicodedata.name(letter, "").lower()
    return f" ({name})" if name else ""


def is_blank(text: str) -> bool:
    """Whether there is nothing to be read in the text."""
    return not any(not letter.isspace() and not is_unseen(letter) for letter in text)


def check_seen(text: str, *, field: str = "prompt") -> None:
    """InvalidInput that names the letters which nobody sees. Some scripts and emoji need them: ask this only of text
    that is compared word by word."""
    if letters := unseen(text):
        problem = f"has letters that nobody sees: {', '.join(letters)}"
        raise InvalidInput(field, text, problem, "remove them, or type it again")

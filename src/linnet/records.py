"""JSON and text as people and programs write them, read strictly: what is wrong is said in one line with its place.

A byte-order mark is no letter of the text. A key that is given twice, a number that JSON does not know (NaN), one of
hundreds of digits, and lists within lists without end are refused.
"""

import codecs
import json
import math
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

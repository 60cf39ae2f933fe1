"""dataset.yaml: what somebody wants beside clips and captions. Every setting is checked where it is read."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from linnet.errors import InvalidInput
from linnet.records import read_text
from linnet.wording import choices

SETTINGS_FILE = "dataset.yaml"
KEYS = ("folders", "trigger", "caption_dropout", "held_out", "repeats", "crop", "bars", "long")
FOLDER_KEYS = ("path", "weight", "repeats", "trigger", "crop", "bars", "long")
MOST_BYTES = 2**20


def read_settings(path: Path) -> dict[str, Any]:
    """Checked; {} where there is no such file."""
    if not path.exists():
        return {}
    text = read_text(path, most=MOST_BYTES)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            # A few lines of them stand for more than memory holds.
            raise InvalidInput("file", path, "refers to an earlier value (*)", "write the value itself")
        record = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise InvalidInput(
            "file", path, f"is not YAML{line}", "write lines such as `trigger: my dog`"
        ) from None
    if record is None:
        return {}
    if not isinstance(record, dict):
        raise InvalidInput("file", path, "is not a list of settings", "write lines such as `trigger: my dog`")
    check_settings(record, KEYS, path)
    for number, inner in enumerate(record.get("folders") or (), 1):
        if not isinstance(inner, dict) or not isinstance(inner.get("path"), str):
            problem = f"folder {number} has no path"
            raise InvalidInput("file", path, problem, "write `- path: NAME` under folders")
        check_settings(inner, FOLDER_KEYS, path)
    return record


def check_settings(record: Mapping[str, Any], keys: Sequence[str], path: Path) -> None:
    """InvalidInput names the key, its value and what it takes."""

    def refuse(key: object, problem: str, remedy: str) -> InvalidInput:
        return InvalidInput("file", path, f"{key} {problem}", remedy)

    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    for key, value in record.items():
        shown = f'"{value}"'
        if key not in keys:
            raise refuse(f'"{key}"', "is not a setting", choices(str(key), keys))
        if key in ("repeats", "weight") and not (is_number(value) and 0 < value <= 10_000):
            raise refuse(key, f"{shown} is out of range", "use a number over 0, such as 2")
        if key == "caption_dropout" and not (is_number(value) and 0 <= value <= 1):
            raise refuse(key, f"{shown} is out of range", "use 0 to 1, such as 0.1")
        if key == "held_out" and not (
            (is_number(value) and 0 <= value < 1)
            or (isinstance(value, list) and all(isinstance(name, str) for name in value))
        ):
            raise refuse(key, f"{shown} is out of range", "use a share from 0 to below 1, or a list of names")
        if key == "trigger" and not isinstance(value, str):
            raise refuse(key, f"{shown} is not text", "write a word or several")
        if key == "bars" and not isinstance(value, bool):
            raise refuse(key, f"{shown} is neither true nor false", "use true or false")
        if key == "long" and value not in ("middle", "split"):
            raise refuse(key, f"{shown} is not known", "use middle or split")
        if key == "crop" and not (
            isinstance(value, list)
            and len(value) == 4
            and all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in value)
        ):
            raise refuse(key, f"{shown} is not four sides", "write pixels as [left, top, right, bottom]")
        if key == "folders" and not isinstance(value, list):
            raise refuse(key, "is not a list", "write `- path: NAME` under it")

"""What was found out on this machine and need not be found out again: small JSON files in the cache folder."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from linnet.plan.host import cache_folder
from linnet.records import read_object_or_nothing


def recall(name: str, key: str, folder: Path | None = None) -> Any:
    """What was kept under the key in the file of that name; None if nothing was, or the file is spoilt."""
    path = place_of(name, folder)
    return read(path).get(key) if path else None


def keep(name: str, key: str, value: Any, folder: Path | None = None) -> None:
    """Keep a JSON value, if the disk lets it."""
    path = place_of(name, folder)
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w") as file:
            json.dump({**read(path), key: value}, file, indent=1)
        Path(part).replace(path)


def read(path: Path) -> Mapping[str, Any]:
    try:
        return read_object_or_nothing(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def place_of(name: str, folder: Path | None) -> Path | None:
    """None where there is no folder to keep things in."""
    folder = folder or cache_folder()
    return folder / f"{name}.json" if folder else None

"""What was found out on this machine and need not be found out again: small JSON files in the cache folder.

Imports no torch before a key is made.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from linnet.runtime.host import cache_folder


def circumstances() -> str:
    """What times depend on beside the device's name: torch's version and which of a CPU's instructions it finds. Names
    such as "Intel Xeon" are shared by machines with and without those for matrices."""
    import torch

    features = getattr(torch.cpu, "get_capabilities", dict)()
    found = [name for name in ("avx512_bf16", "amx_bf16", "sve_bf16") if features.get(name) is True]
    return ", ".join([f"torch {torch.__version__}", torch.backends.cpu.get_cpu_capability(), *found])


def recall(name: str, key: str, folder: Path | None = None) -> Any:
    """What was kept under the key in the file of that name; None if nothing was, or the file is spoilt."""
    return read(place_of(name, folder)).get(key)


def keep(name: str, key: str, value: Any, folder: Path | None = None) -> None:
    """Keep a JSON value, if the disk lets it."""
    place = place_of(name, folder)
    with suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = mkstemp(dir=place.parent, suffix=".part")
        with os.fdopen(handle, "w") as file:
            json.dump({**read(place), key: value}, file, indent=1)
        Path(part).replace(place)


def read(place: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def place_of(name: str, folder: Path | None) -> Path:
    return (folder or cache_folder()) / f"{name}.json"

"""What this machine has and what fits on it: the facts behind `linnet doctor`."""

import platform
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from linnet import __version__
from linnet.catalog import CATALOG, ModelSpec
from linnet.filesystem import nearest_folder
from linnet.geometry import format_seconds, seconds_of
from linnet.plan.choose import longest
from linnet.plan.memory import LINUM_V2, shape_of
from linnet.runtime.device import available_memory, default_dtype, default_threads, resolve_device, title
from linnet.runtime.machine import budget_of
from linnet.weights.store import hub_cache, locate

PACKAGES = ("torch", "safetensors", "tokenizers", "sentencepiece", "av", "numpy", "huggingface_hub")


def doctor() -> dict[str, Any]:
    """Plain JSON values: versions, devices (the default first), the Hub's cache, and what fits.

    Memory in bytes, None where the system does not say. Loads no model and asks no network.
    """
    chosen = resolve_device()
    names = list(dict.fromkeys([chosen, *devices()]))
    dtype = default_dtype(chosen)
    return {
        "linnet": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: installed(name) for name in PACKAGES},
        "threads": default_threads(),
        "devices": [
            {
                "device": name,
                "title": title(name),
                "free_bytes": available_memory(name),
                "dtype": str(default_dtype(name)).removeprefix("torch."),
            }
            for name in names
        ],
        "cache": cache_facts(hub_cache()),
        "models": [found for spec in CATALOG.values() if (found := fits(spec, chosen, dtype))],
    }


def devices() -> list[str]:
    cuda = [f"cuda:{i}" if i else "cuda" for i in range(torch.cuda.device_count())]
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cache_facts(folder: Path | None) -> dict[str, Any]:
    """Where pulled models lie, None for a user without a home folder; and the bytes that are free there, None where the
    folder may not be entered."""
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(nearest_folder(folder / "hub")).free if folder else None
    return {"folder": str(folder) if folder else None, "free_bytes": free}


def fits(spec: ModelSpec, device: str, dtype: torch.dtype) -> dict[str, Any] | None:
    """What the shortest and the longest clip of the default size need, in bytes by seconds, and the longest
    that fits now. None for a model of which nothing is known because its files are not here."""
    files = locate(spec)
    if files is None and spec.ships:
        return None
    shape = shape_of(files) if files else LINUM_V2
    name = str(dtype).removeprefix("torch.")
    needs, most = longest(spec, shape, device=device, dtype=name, budget=budget_of(device))
    return {
        "model": spec.name,
        "installed": files is not None,
        "needs_bytes": {format_seconds(seconds_of(frames, spec.fps)): size for frames, size in needs.items()},
        "longest_seconds": None if most is None else seconds_of(most, spec.fps),
    }

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
from linnet.geometry import seconds_of
from linnet.plan.machine import Machine, fits
from linnet.plan.plan import SizedModel
from linnet.plan.refusal import longest_frames
from linnet.request import make_request
from linnet.runtime.device import available_memory, card_memory, default_dtype, dtype_name, title
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import hub_cache, locate

PACKAGES = ("torch", "safetensors", "tokenizers", "sentencepiece", "av", "numpy", "huggingface_hub")


def doctor() -> dict[str, Any]:
    """Plain JSON values: versions, devices (the default first), the Hub's cache, and what fits.

    Memory in bytes, None where the system does not say. Loads no model and asks no network.
    """
    machine = resolve_machine()
    names = list(dict.fromkeys([machine.device, *devices()]))
    return {
        "linnet": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: installed(name) for name in PACKAGES},
        "threads": machine.threads,
        "devices": [
            {
                "device": name,
                "title": title(name),
                "free_bytes": available_memory(name),
                "others_bytes": memory.others if (memory := card_memory(name)) else None,
                "dtype": dtype_name(default_dtype(name)),
            }
            for name in names
        ],
        "cache": cache_facts(hub_cache()),
        "models": [row for spec in CATALOG.values() if (row := usual_clip(spec, machine))],
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


def usual_clip(spec: ModelSpec, machine: Machine) -> dict[str, Any] | None:
    """What `linnet plan` says of the model's usual clip, and the longest that the model makes at once that fits. None
    for a model of which nothing is known because its files are not here."""
    files = locate(spec)
    if files is None and not spec.published:
        return None
    model, request = SizedModel.of(spec, files), make_request(spec, prompt="any", seed=0)
    plan = machine.plan_or_nearest(model, request)
    most = longest_frames(plan.workload, fits)
    return {
        "model": spec.name,
        "installed": files is not None,
        "fits": plan.fits(),
        "clip": {"size": str(request.size), "seconds": request.seconds},
        "needs_bytes": plan.peak_bytes,
        "longest_seconds": None if most is None else seconds_of(most, spec.fps),
    }

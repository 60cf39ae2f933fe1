"""This machine, as the system shows it: main memory and processors, as it and its containers allow, and a folder of
small JSON files for what was found out here and need not be found out again.

Imports no torch, so that a request that cannot fit is refused at once.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from linnet.errors import InvalidInput
from linnet.records import read_object_or_nothing

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def host_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes of main memory that can be had without swapping, as the machine and every container around this
    process allow; elsewhere than on Linux, all there is."""
    bounds = [
        left
        for folder in cgroup_folders("memory", proc, cgroups)
        if (left := memory_left(folder)) is not None
    ]
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        bounds += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
            bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(bounds, default=None)


def installed_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes of main memory that the machine and every container around this process have, be they free or not."""
    limits = [limit for folder in cgroup_folders("memory", proc, cgroups) if (limit := memory_limit(folder))]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or "max"
            return int((folder / name).read_text())
    return None


def cgroup_folders(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """The control group of this process and those around it, innermost first, in version 2 and version 1."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        path = root / inside.lstrip("/")
        # In a container the path may be the host's, of which only the root is visible here.
        for folder in (path, *path.parents):
            if folder.is_dir():
                yield folder
            if folder == root:
                break


def memory_left(folder: Path) -> int | None:
    """Bytes up to a control group's limit, counting as free the file pages that the kernel can drop."""
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((folder / limit).read_text())
            now = int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(0, most - now + int(stat.get(reclaimable, 0)))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return None


def processors(folder: Path) -> float | None:
    """A control group's share of processors, if it is limited."""
    try:
        if (both := folder / "cpu.max").is_file():
            quota, period = both.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def most_threads() -> int:
    """Of the CPU, that a process may ask for: as many as other machines' clips name, and no longer what no system
    starts."""
    return max(256, 4 * (os.cpu_count() or 1))


def check_threads(count: object) -> None:
    """Refuse what is no number of threads, before torch is told of it."""
    most = most_threads()
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise InvalidInput("threads", count, "is no number of threads for this machine", f"use 1 to {most}")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where linnet keeps what it can make again: LINNET_CACHE, else `linnet` in the user's cache folder; None for a
    user without a home folder who names none."""
    own = environment.get("LINNET_CACHE")
    try:
        folder = Path(own or environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        return None
    return folder if own else folder / "linnet"


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether it is worth asking torch for a GPU; on Linux, whether a driver has made a device."""
    if platform.system() != "Linux":
        return True
    return any((devices / name).exists() for name in ("nvidiactl", "kfd", "dxg"))


# --- what was found out -----------------------------------------------------------------------------------------------


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

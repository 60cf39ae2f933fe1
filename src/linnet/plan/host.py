"""What a machine has, and how much of it may be used: main memory and processors, as it and its containers allow;
budgets of memory; and a folder of small JSON files for what was found out here and need not be found out again.

Imports no torch, so that a request that cannot fit is refused at once.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Literal, NamedTuple

from linnet.errors import InvalidInput, one_line
from linnet.records import read_object_or_nothing

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
RATES = "rates"  # the file of cost models


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


# --- how much memory may be used --------------------------------------------------------------------------------------


UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Allowance(NamedTuple):
    """Bytes that no tensor takes: on the card, the driver's context and the kernels' workspaces; in the system, the
    libraries. CUDA's was between 720 and 790 MB on an H200; that of Apple's GPUs is an assumption."""

    device: int
    system: int


ALLOWANCES = {
    "cpu": Allowance(0, 500_000_000),
    "mps": Allowance(500_000_000, 500_000_000),
    "cuda": Allowance(800_000_000, 1_500_000_000),
}

Segments = Literal["expandable", "classic"]
# What a card's allocator takes beyond the tensors at their most: a share of them, and bytes at least. With expandable
# segments it replays in less (benchmarks/plan.py): the rest stays free, 0.3 GB of 6 GB. Classic ones leave gaps that
# nothing fits into.
SLACK: dict[Segments, tuple[float, int]] = {"expandable": (0.03, 400_000_000), "classic": (0.20, 500_000_000)}
CHURN = 1 / 3  # of tensors whose sizes differ from one to the next, as an autoencoder's do: gaps between them


def segments_here() -> Segments:
    """Which kind PyTorch will use in this process: expandable ones on Linux (see linnet/__init__.py), unless the
    environment says otherwise."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    settings = next((value for name in names if (value := os.environ.get(name))), "")
    expandable = sys.platform == "linux" and "expandable_segments:true" in settings.lower().replace(" ", "")
    return "expandable" if expandable else "classic"


def slack(size: int, segments: Segments, churn: int = 0) -> int:
    """Bytes that a card's allocator takes beyond `size` bytes of tensors, `churn` of which differ much in size."""
    share, least = SLACK[segments]
    return max(int(share * size), least) + int(CHURN * churn)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bytes that may be used of a card's memory and of main memory; None: no limit known. On a CPU the second alone
    counts. `limited` names those of "vram" and "ram" that a person set; the others are what is free. `others`: what
    other programs and the driver hold of the card, None where that is not known. `allowed`: what a person allowed of
    it, where less than that is free. `segments`: of the card's allocator."""

    device: int | None = None
    system: int | None = None
    limited: frozenset[str] = frozenset()
    others: int | None = None
    allowed: int | None = None
    segments: Segments = field(default_factory=segments_here)

    @property
    def limits(self) -> dict[str, int]:
        """Those that are known, by the names of their options."""
        pairs = {"vram": self.device, "ram": self.system}
        return {name: limit for name, limit in pairs.items() if limit is not None}


def share_of(budget: Budget, share: float) -> Budget:
    """As much as `share` of what is free, and all of what a person allotted."""

    def part(name: str, size: int | None) -> int | None:
        return size if size is None or name in budget.limited else int(share * size)

    return replace(budget, device=part("vram", budget.device), system=part("ram", budget.system))


def kind_of(device: str) -> str:
    return device.partition(":")[0]


def parse_bytes(field: str, text: str) -> int:
    """ "8GB", "500 MB" or "7.5GiB"; GB is 10^9 and GiB 2^30 bytes. InvalidInput for anything else."""
    units = {name.lower(): size for name, size in UNITS.items()}
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)", text.strip().lower())
    if match is None or match[2] not in units:
        raise InvalidInput(
            field, text, "is not an amount of memory", "write a number and a unit, such as 8GB"
        )
    size = int(float(match[1]) * units[match[2]])
    if size == 0:
        raise InvalidInput(field, text, "is no memory at all", "write how much may be used, such as 8GB")
    return size


def as_bytes(field: str, value: object) -> int | None:
    """Bytes from a person's Python: a whole number of them, or "8GB"; None stays None."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    return parse_bytes(field, value if isinstance(value, str) else one_line(value))


def gigabytes(size: int) -> str:
    """Rounded up: what is said to be enough must be."""
    return f"{-(-size // 10**8) / 10:.1f} GB"

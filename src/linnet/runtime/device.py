"""Where a model runs: the device, the dtype of its matrix products, the threads, the memory that is left."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from linnet.errors import InvalidInput

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def resolve_device(name: str = "auto") -> str:
    """A device that is there: "cpu", "cuda", "cuda:1" or "mps". "auto" takes the first GPU, else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name in there:
        return name
    known = name.partition(":")[0] in ("cuda", "mps")
    problem = "this machine, or this build of torch, has none" if known else "is not a device linnet knows"
    raise InvalidInput("device", name, problem, f"use auto or {' or '.join(there)}")


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it (as the published pipeline does), else float32."""
    if device == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(there is True for name, there in features.items() if name.endswith("bf16"))
    elif device.startswith("cuda"):
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = True
    return torch.bfloat16 if fast else torch.float32


def default_threads() -> int:
    """Torch's own choice, but no more than the container's share of the processors."""
    shares = [share for folder in cgroup_folders("cpu") if (share := processors(folder))]
    return max(1, min([torch.get_num_threads(), *map(math.ceil, shares)]))


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that can still be had on the device, or None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return host_memory()


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
        place = root / inside.lstrip("/")
        # In a container the path may be the host's, of which only the root is visible here.
        for folder in (place, *place.parents):
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

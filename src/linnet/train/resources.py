"""What memory a run uses, and whether main memory is about to run out, at which the system would end the process
without a word."""

import sys
from pathlib import Path

import torch

from linnet.errors import InvalidInput
from linnet.plan.host import host_memory, installed_memory

LEAST_SHARE = 0.02  # of main memory that has to be free


def memory_now(device: str) -> dict[str, float]:
    """Gigabytes, at the most so far."""
    if device.startswith("cuda"):
        return {"memory": torch.cuda.max_memory_allocated(device) / 1e9}
    try:
        import resource
    except ImportError:  # on Windows
        return {}
    return {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT / 1e9}


RUSAGE_UNIT = 1024 if sys.platform == "linux" else 1


def check_main_memory(step: int, folder: Path) -> None:
    """InvalidInput, while there still is some, with the step and what to change."""
    free, whole = host_memory(), installed_memory()
    if free is None or whole is None or free >= LEAST_SHARE * whole:
        return
    problem = f"has {free / 1e9:.1f} GB left before step {step + 1}; the last saved state is in {folder}"
    remedy = "close other programs, use a smaller batch, or set `ram`, so that less is kept in main memory"
    raise InvalidInput("ram", f"{whole / 1e9:.1f} GB", problem, remedy)

"""How much memory may be used: what a person allows, what is free, what no tensor takes; bytes as people write them."""

import os
import re
import sys
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from linnet.errors import InvalidInput, one_line

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

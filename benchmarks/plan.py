"""Plans against what full-size runs of them take of a card that is not there: 24 cases.

    python benchmarks/plan.py [--vram 8GB ...] [--ram 12GB] [--compile] [--fp8]

Each row is a request and a card. In GB: `plan` is what `linnet plan` says, with the allowance for the driver. `tensors`
is the most that tensors take while the whole run is done on fake ones. `least` is the least limit with which a model of
PyTorch's allocator gets through that run, and the same allowance; `spare` is what the card has beyond that. `retries`
is how often the allocator, with all of the card, has to give back what it keeps. `classic` is `least` where the
allocator has no expandable segments (Windows), and `measured` what a card took, from results/gpu_evidence.json.
--compile: with blocks compiled, as plans have it where a compiler is there. Ends with all rows as one line of JSON.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from linnet.catalog import CATALOG
from linnet.errors import InvalidInput
from linnet.measure.allocator import OutOfMemory, least_limit, replayed
from linnet.measure.simulate import events_of
from linnet.plan.execution import NOTHING_FIXED, as_asked
from linnet.plan.host import Budget, parse_bytes
from linnet.plan.machine import Machine
from linnet.plan.memory import LINUM_V2
from linnet.plan.plan import Plan, SizedModel
from linnet.request import make_request

CARDS = ("6GB", "8GB", "12GB", "16GB", "24GB", "80GB")
MEASURED = Path(__file__).parent / "results" / "gpu_evidence.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Bytes."""

    model: str
    seconds: float
    card: int
    plan: int
    tensors: int
    least: int
    retries: int | None
    classic: int
    measured: int | None
    how: str
    took: float

    @property
    def spare(self) -> int:
        return self.card - self.least


def plan_for(
    name: str, seconds: float, vram: str, ram: str, *, compiled: bool = False, fp8: bool = False
) -> Plan:
    spec = CATALOG[name]
    request = make_request(spec, prompt="any", seconds=seconds, seed=0, dtype="bfloat16")
    budget = Budget(
        device=parse_bytes("vram", vram), system=parse_bytes("ram", ram), limited=frozenset({"vram", "ram"})
    )
    machine = Machine(device="cuda", dtype="bfloat16", threads=1, budget=budget, compiler=compiled)
    fixed = as_asked(NOTHING_FIXED, fp8=fp8 or None)
    return machine.plan(SizedModel(spec=spec, shape=LINUM_V2), request, fixed=fixed)


def compare(
    name: str, seconds: float, vram: str, ram: str, *, compiled: bool = False, fp8: bool = False
) -> Row:
    """InvalidInput where the plan is refused."""
    plan = plan_for(name, seconds, vram, ram, compiled=compiled, fp8=fp8)
    start = time.monotonic()
    events, card = events_of(plan), plan.budget.device or 0
    try:
        retries = replayed(events, limit=card - plan.allowance.device).retries
    except OutOfMemory:
        retries = None
    return Row(
        model=name,
        seconds=seconds,
        card=card,
        plan=plan.peak_device_bytes,
        tensors=replayed(events).peak_used,
        least=least_limit(events) + plan.allowance.device,
        retries=retries,
        classic=least_limit(events, "classic") + plan.allowance.device,
        measured=measured(name, seconds, vram),
        how="; ".join(
            choice.value
            for stage in plan.stages
            for choice in plan.choices(stage.stage)
            if choice.name != "dtype"
        ),
        took=time.monotonic() - start,
    )


def measured(name: str, seconds: float, vram: str) -> int | None:
    """Of the same clip within the same memory, on a card."""
    rows = json.loads(MEASURED.read_text())["result"]["rows"] if MEASURED.exists() else {}
    row = rows.get(f"{name.removeprefix('linum-v2-')} {seconds:g} s in {vram.removesuffix('GB')} GB", {})
    return row.get("peak_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vram", nargs="+", default=CARDS)
    parser.add_argument("--ram", default="12GB")
    parser.add_argument("--compile", action="store_true", help="plans for a card that has a compiler")
    parser.add_argument("--fp8", action="store_true", help="products in FP8")
    options = parser.parse_args()
    heads = ("plan", "tensors", "least", "spare", "retries", "classic", "measured")
    print(f"{'model':>13} clip  card " + " ".join(f"{head:>8}" for head in heads))
    rows = []
    for name in ("linum-v2-360p", "linum-v2-720p"):
        for seconds in (2.0, 5.0):
            for vram in options.vram:
                head = f"{name:>13} {seconds:2.0f} s {vram:>5}"
                try:
                    row = compare(name, seconds, vram, options.ram, compiled=options.compile, fp8=options.fp8)
                except InvalidInput as error:
                    print(f"{head} {error}")
                    continue
                sizes = [row.plan, row.tensors, row.least, row.spare, row.retries, row.classic, row.measured]
                print(f"{head} {' '.join(map(cell, sizes))}  {row.how} ({row.took:.0f} s)", flush=True)
                rows.append(asdict(row) | {"spare": row.spare})
    print(json.dumps(rows))


def cell(size: int | None) -> str:
    """A count, or bytes in GB; a dash for what is not known."""
    return f"{'-' if size is None else size if size < 1000 else f'{size / 1e9:.2f}':>8}"


if __name__ == "__main__":
    main()

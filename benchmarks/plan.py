"""Plans against what full-size runs of them hold on a card that is not there: 24 cases.

    python benchmarks/plan.py [--vram 8GB ...] [--ram 12GB]

Each row is a request and a card. `plan` and `fake` are the peaks of tensors on the card in GB, without the allowances
for driver and workspaces, as `linnet plan` predicts them and as PyTorch's memory tracker counts them while the whole
run is done on fake tensors; `worst` is the largest difference of a stage. Ends with all rows as one line of JSON.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

from linnet.catalog import CATALOG
from linnet.errors import InvalidInput
from linnet.measure.simulate import simulate
from linnet.plan.budget import Budget, parse_bytes
from linnet.plan.machine import Machine
from linnet.plan.memory import LINUM_V2
from linnet.plan.workload import SizedModel
from linnet.request import make_request

CARDS = ("6GB", "8GB", "12GB", "16GB", "24GB", "80GB")


@dataclass(frozen=True, kw_only=True)
class Row:
    model: str
    seconds: float
    vram: str
    plan: float
    fake: float
    worst: float
    plan_system: float
    fake_system: float
    how: str
    took: float


def compare(name: str, seconds: float, vram: str, ram: str) -> Row | str:
    """The row, or why there is none."""
    spec = CATALOG[name]
    request = make_request(spec, prompt="any", seconds=seconds, seed=0, dtype="bfloat16")
    budget = Budget(
        device=parse_bytes("vram", vram), system=parse_bytes("ram", ram), asked=frozenset({"vram", "ram"})
    )
    machine = Machine(device="cuda", dtype="bfloat16", threads=1, budget=budget)
    start = time.monotonic()
    try:
        plan = machine.plan(SizedModel(spec=spec, shape=LINUM_V2), request)
    except InvalidInput as error:
        return str(error)
    found = {stage.stage: simulate(plan, stage.stage) for stage in plan.stages}
    tensors = {stage.stage: stage.device_bytes - plan.allowance.device for stage in plan.stages}
    differences = {stage: tensors[stage] / peak.device - 1 for stage, peak in found.items()}
    return Row(
        model=name,
        seconds=seconds,
        vram=vram,
        plan=max(tensors.values()) / 1e9,
        fake=max(peak.device for peak in found.values()) / 1e9,
        worst=max(differences.values(), key=abs),
        plan_system=(plan.peak_system_bytes - plan.allowance.system) / 1e9,
        fake_system=max(peak.system for peak in found.values()) / 1e9,
        how="; ".join(
            choice.value for stage in plan.stages for choice in stage.choices if choice.name != "dtype"
        ),
        took=time.monotonic() - start,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vram", nargs="+", default=CARDS)
    parser.add_argument("--ram", default="12GB")
    options = parser.parse_args()
    print(f"{'model':>13} {'clip':>4} {'card':>5} {'plan':>6} {'fake':>6} {'differ':>7} {'worst':>7}  took")
    rows = []
    for name in ("linum-v2-360p", "linum-v2-720p"):
        for seconds in (2.0, 5.0):
            for vram in options.vram:
                row = compare(name, seconds, vram, options.ram)
                head = f"{name:>13} {seconds:3.0f}s {vram:>5}"
                if isinstance(row, str):
                    print(f"{head} {row}")
                    continue
                differ = row.plan / row.fake - 1
                figures = f"{row.plan:6.2f} {row.fake:6.2f} {differ:+7.1%} {row.worst:+7.1%} {row.took:5.1f}s"
                print(f"{head} {figures}  {row.how}", flush=True)
                rows.append(asdict(row))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

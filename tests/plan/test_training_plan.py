"""What a plan of training says, against a step on a card that is not there; what does not fit, and what would."""

from dataclasses import fields, replace
from typing import Any

import pytest

from linnet.catalog import find
from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.models.transformer import linum_v2
from linnet.plan.cost_model import CostModel
from linnet.plan.host import Budget
from linnet.plan.memory import LINUM_V2, Parameters, Shape
from linnet.plan.plan import SizedModel
from linnet.plan.training import (
    Bucket,
    TrainingExecution,
    TrainingWorkload,
    learning_bytes,
    plan_training,
    seconds_of,
    weights_bytes,
    working_bytes,
)
from linnet.train import simulate
from linnet.train.simulate import simulate_step

GB = 10**9
SIZE = Size(640, 360)


def workload(shape: Shape = LINUM_V2, *, vram: int | None = None, frames: int = 49) -> TrainingWorkload:
    return TrainingWorkload(
        model=SizedModel(spec=find("linum-v2-360p"), shape=shape),
        device="cuda",
        budget=Budget(device=vram, system=32 * GB, limited=frozenset({"vram"}), segments="expandable"),
        buckets=(Bucket(SIZE, frames, 10),),
        preview=Bucket(SIZE, 49, 1),
    )


def with_blocks(count: int) -> Shape:
    """Linum v2 with fewer of its blocks, which are alike: the others repeat what they take."""
    fewer, block = LINUM_V2.layers - count, LINUM_V2.block
    whole = LINUM_V2.transformer
    rest = Parameters(whole.products - fewer * block.products, whole.others - fewer * block.others)
    return replace(LINUM_V2, layers=count, transformer=rest)


WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"kind": "full"},
    "full in bfloat16": {"kind": "full", "base": "bfloat16"},
    "released": {"kind": "full", "clipped": False},
}


@pytest.mark.parametrize("kind", WAYS)
def test_a_plan_takes_what_a_simulated_step_takes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At five budgets, from plenty to the least that fits."""
    monkeypatch.setattr(simulate, "linum_v2", lambda: replace(linum_v2(), num_layers=2))
    work = replace(workload(with_blocks(2), frames=13), preview=None, **WAYS[kind])
    plenty = plan_training(replace(work, budget=Budget(device=80 * GB, system=32 * GB))).device_bytes
    ways = set()
    for share in (1.0, 0.9, 0.8, 0.75, 0.72):
        try:
            plan = plan_training(replace(work, budget=Budget(device=int(share * plenty), system=32 * GB)))
        except InvalidInput:
            continue
        ways.add(plan.execution)
        (bucket,) = work.buckets
        parts = weights_bytes(work, plan.execution)[0], learning_bytes(work, plan.execution)
        planned = sum(parts) + working_bytes(work, plan.execution, bucket)
        simulated = simulate_step(work, plan.execution, bucket.size, bucket.frames)
        assert planned == pytest.approx(simulated, rel=0.1), plan.execution
    assert len(ways) > 1
    assert any(way.released for way in ways) == (kind == "released")


def test_on_a_cpu_the_gaps_of_the_heap_count() -> None:
    """benchmarks/teach_linum.py took 12.8 and 13.0 GB at the most, and 53.5 CPU seconds for
    a step; of ten blocks, checkpointed, a step took 19.8."""
    costs = dict.fromkeys((field.name for field in fields(CostModel)), 0.0)
    costs |= {"call": 0.0073, "block": 0.00185, "token": 0.000488, "pair": 8.89e-8, "step": 7.27e-6}
    work = TrainingWorkload(
        model=SizedModel(spec=find("linum-v2-360p"), shape=LINUM_V2),
        device="cpu",
        budget=Budget(),
        buckets=(Bucket(SIZE, 1, 4),),
        text_tokens=40,
        costs=CostModel(**costs),
    )
    plan = plan_training(work)
    assert plan.system_bytes == pytest.approx(12.9 * GB, rel=0.03)
    assert plan.seconds_a_step == pytest.approx(53.5, rel=0.05)
    few, checkpointed = (
        replace(work, model=replace(work.model, shape=with_blocks(10))),
        TrainingExecution(checkpointed=True),
    )
    assert seconds_of(few, checkpointed, work.buckets[0]) == pytest.approx(19.8, rel=0.1)


def test_a_lora_of_linum_fits_a_small_card_with_blocks_in_main_memory() -> None:
    plan = plan_training(workload(vram=12 * GB))
    assert plan.fits
    assert plan.execution.checkpointed
    assert plan.workload.trainable == 59_310_080
    small = plan_training(workload(vram=10 * GB))
    assert small.execution.resident_blocks is not None
    assert small.device_bytes <= 10 * GB
    assert small.execution.base == "bfloat16"


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(InvalidInput) as refusal:
        plan_training(workload(vram=4 * GB, frames=121))
    assert refusal.value.field == "vram"
    assert "640x360, 121 frames, which takes" in refusal.value.problem
    assert "use clips of up to" in refusal.value.remedy
    frames = int(refusal.value.remedy.split("up to ")[1].split()[0])
    assert plan_training(workload(vram=4 * GB, frames=frames)).fits
    with pytest.raises(InvalidInput, match="train a LoRA"):
        plan_training(replace(workload(vram=12 * GB), kind="full"))
    whole = replace(workload(vram=48 * GB), kind="full")
    with pytest.raises(InvalidInput, match="use `clip_norm=0` and `accumulation=1`"):
        plan_training(whole)
    assert plan_training(replace(whole, clipped=False)).execution.released

"""The model of PyTorch's allocator: what it takes of a card, what it reuses, when it gives back, when it fails."""

from dataclasses import replace

import pytest

from linnet.catalog import CATALOG
from linnet.measure import simulate
from linnet.measure.allocator import MIB, Allocator, Event, OutOfMemory, Segments, least_limit, replayed
from linnet.measure.fake import Card
from linnet.models.transformer import linum_v2
from linnet.plan.execution import FixedExecution
from linnet.plan.host import Budget
from linnet.plan.machine import Machine
from linnet.plan.memory import LINUM_V2
from linnet.plan.plan import SizedModel
from linnet.request import make_request


@pytest.mark.parametrize(
    ("sizes", "classic", "expandable"),
    [
        ([1], 2, 2),  # a page for all small tensors
        ([512] * 4096, 2, 2),
        ([MIB, MIB, MIB], 4, 4),
        ([MIB + 1], 20, 20),  # a page for large ones
        ([9 * MIB] * 3, 40, 40),
        ([11 * MIB], 12, 20),  # its own segment, and a page
        ([11 * MIB] * 3, 36, 40),
    ],
)
def test_memory_is_taken_in_pages(sizes: list[int], classic: int, expandable: int) -> None:
    events = [Event(key, size) for key, size in enumerate(sizes, 1)]
    assert replayed(events, segments="classic").peak == classic * MIB
    assert replayed(events).peak == expandable * MIB


def test_only_expandable_segments_make_one_gap_of_two() -> None:
    """Two neighbours are let go of, and what comes is as large as both."""
    events = [*(Event(key, 40 * MIB) for key in (1, 2, 3)), Event(1, 0), Event(2, 0), Event(4, 80 * MIB)]
    assert replayed(events).peak == 120 * MIB
    assert replayed(events, segments="classic").peak == 200 * MIB


def test_what_nothing_uses_goes_back_before_memory_is_short() -> None:
    events = [Event(1, 40 * MIB), Event(2, 60 * MIB), Event(1, 0), Event(3, 60 * MIB)]
    kinds: tuple[Segments, ...] = ("classic", "expandable")
    for segments in kinds:
        assert replayed(events, segments=segments).peak == 160 * MIB
        scarce = replayed(events, limit=130 * MIB, segments=segments)
        assert (scarce.peak, scarce.retries) == (120 * MIB, 1)
        with pytest.raises(OutOfMemory, match=r"63 MB more, with 0\.063 GB in use of"):
            replayed(events, limit=110 * MIB, segments=segments)
        assert 120 * MIB <= least_limit(events, segments, exact=MIB) <= 121 * MIB


@pytest.mark.parametrize("segments", ["classic", "expandable"])
def test_all_goes_back_in_the_end(segments: Segments) -> None:
    allocator = Allocator(segments=segments)
    sizes = [700, 3 * MIB, 30 * MIB, 100, 12 * MIB, 2 * MIB]
    for round_ in range(3):
        for number, size in enumerate(sizes):
            allocator.allocate(10 * round_ + number, size)
        for number in (3, 0, 2, 5, 1, 4):
            allocator.release(10 * round_ + number)
    assert allocator.used == 0
    allocator.empty_cache()
    assert allocator.taken == 0
    assert sum(len(pool.free) for pool in allocator.pools.values()) == 0


def test_a_few_blocks_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, layers = CATALOG["linum-v2-360p"], 4
    machine = Machine(device="cuda", dtype="bfloat16", threads=1, budget=Budget())
    request = make_request(spec, prompt="a fox", seconds=2, dtype="bfloat16")
    plan = machine.plan(
        SizedModel(spec=spec, shape=LINUM_V2), request, fixed=FixedExecution(token_chunk=6000)
    )
    monkeypatch.setattr(simulate, "linum_v2", lambda: replace(linum_v2(), num_layers=layers))
    few = simulate.denoise(plan)
    monkeypatch.setattr(simulate, "RUN", layers)
    whole = simulate.denoise(plan)
    assert told(few) == told(whole)


def test_a_plan_runs_in_the_memory_that_it_was_made_for() -> None:
    """5 s in 6 GB: all that denoising asks of the allocator fits with 0.3 GB to spare, and the allocator never has to
    give anything back. benchmarks/plan.py does all stages of all plans, which takes too long here."""
    card, spec = 6 * 10**9, CATALOG["linum-v2-360p"]
    budget = Budget(device=card, system=12 * 10**9, limited=frozenset({"vram", "ram"}), segments="expandable")
    machine = Machine(device="cuda", dtype="bfloat16", threads=1, budget=budget)
    request = make_request(spec, prompt="a fox", seconds=5, seed=0, dtype="bfloat16")
    plan = machine.plan(SizedModel(spec=spec, shape=LINUM_V2), request)
    events = simulate.events_of(plan, ("denoise",))
    most = card - plan.allowance.device
    assert replayed(events, limit=most).retries == 0
    assert least_limit(events) <= most - 300_000_000


def told(card: Card) -> list[tuple[int, int]]:
    """What was made, or when what was made that is gone now: events without the keys by which they were counted."""
    made: dict[int, int] = {}
    return [
        (size, 0) if made.setdefault(key, number) == number else (0, made[key])
        for number, (key, size) in enumerate(card.ledger.events)
    ]

"""Nothing is lost, and no try is spent, when a clock jumps or the machine is suspended.

No test here sleeps: the clock is handed in. `test_clocks_processes` does the same to the real thing."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from linnet.catalog import SEEDLING
from linnet.request import make_request
from linnet.serve.clock import Awake, Clock
from linnet.serve.eta import seconds_left
from linnet.serve.expiry import CONFIRM, Expiry
from linnet.serve.journal import Journal
from linnet.serve.queue import Queue
from linnet.serve.supervisor import START, Patience, Signs
from linnet.serve.webhook import PAUSES

REQUEST = make_request(SEEDLING, prompt="a red star", frames=1, steps=4)
DAY = 86400.0
KEEP = 30 * DAY
STEPS = (60.0, -60.0, 400 * DAY, -400 * DAY)


class Hands:
    """Of a clock, for a test to move."""

    def __init__(self) -> None:
        self.wall, self.steady = 2e9, 5e3
        self.clock = Clock(wall=lambda: self.wall, steady=lambda: self.steady)

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall += seconds

    def pass_(self, seconds: float, look: float) -> Iterator[None]:
        """Time goes by, and stops every `look` seconds."""
        for _ in range(round(seconds / look)):
            self.wall, self.steady = self.wall + look, self.steady + look
            yield

    def sleep(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def queue(tmp_path: Path, hands: Hands) -> Queue:
    return Queue(tmp_path, hands.clock)


def finish(queue: Queue) -> str:
    job = queue.claim("w") if queue.add(REQUEST) else None
    assert job is not None
    queue.complete(job, size=1, seconds={"denoise": 1.0, "decode": 1.0, "finish": 1.0})
    return job.id


def look(queue: Queue, signs: Signs) -> str | None:
    worker = queue.workers().get("w") or {}
    return signs.trouble(worker.get("beat"), worker.get("busy"))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("suspended", [0.0, 60.0, 1e5])
def test_a_worker_that_beats_is_well_whatever_the_wall_clock_says(
    queue: Queue, hands: Hands, step: float, suspended: float
) -> None:
    signs = Signs(Patience(), Awake(hands.clock))
    for second in range(40):
        for _ in hands.pass_(1.0, 0.1):
            assert look(queue, signs) is None
        queue.beat("w", ready=True, memory=1, busy=hands.steady)
        assert queue.ready_workers() == 1
        if second == 5:
            hands.jump(step)
            hands.sleep(suspended)  # all processes stop at once, and the supervisor may be the first to go on


def test_silence_and_standstill_are_noticed_in_time(queue: Queue, hands: Hands) -> None:
    patience = Patience(silence=30.0, stall=50.0)
    signs = Signs(patience, Awake(hands.clock))
    troubles = [look(queue, signs) for _ in hands.pass_(START + 29.0, 0.1)]
    assert set(troubles) == {None}  # it may still be importing all
    queue.beat("w", ready=True, memory=1)
    assert {look(queue, signs) for _ in hands.pass_(29.0, 0.1)} == {None}
    assert {look(queue, signs) for _ in hands.pass_(2.0, 0.1)} == {None, "sent no heartbeat for 30 s"}
    assert queue.ready_workers() == 0
    for _ in hands.pass_(45.0, 1.0):
        queue.beat("w", ready=True, memory=1, busy=7.0)
        assert look(queue, signs) is None
    for _ in hands.pass_(10.0, 1.0):
        queue.beat("w", ready=True, memory=1, busy=7.0)
        troubles.append(look(queue, signs))
    assert troubles[-1] == "made no progress for 50 s"


def deleted(expiry: Expiry, hands: Hands, ended: list[tuple[str, float]], seconds: float) -> set[str]:
    """What goes within so many seconds."""
    found: set[str] = set()
    for _ in hands.pass_(seconds, 30.0):
        found |= expiry.late(ended, KEEP)
    return found


def test_a_clip_goes_when_it_is_past_its_time_and_not_before(hands: Hands) -> None:
    expiry, now = Expiry(hands.clock), hands.wall
    ended = [("old", now - KEEP - 1), ("young", now - KEEP + DAY), ("new", now)]
    assert expiry.late(ended, KEEP) == set()
    assert deleted(expiry, hands, ended, CONFIRM - 60) == set()
    assert deleted(expiry, hands, ended, 120) == {"old"}
    assert deleted(expiry, hands, ended[1:], DAY + CONFIRM) == {"young"}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_wall_clock_that_is_wrong_for_a_while_deletes_nothing(
    hands: Hands, step: float, restarted: bool
) -> None:
    expiry = Expiry(hands.clock)
    ended = [("old", hands.wall - KEEP + 3 * DAY), ("before", hands.wall)]
    assert deleted(expiry, hands, ended, 60) == set()
    hands.jump(step)
    expiry = Expiry(hands.clock) if restarted else expiry  # which begins while the clock is wrong
    ended.append(("meanwhile", hands.wall))
    assert deleted(expiry, hands, ended, CONFIRM / 2 if restarted else DAY) == set()
    hands.jump(-step)
    ended.append(("after", hands.wall))
    assert deleted(expiry, hands, ended, DAY) == set()
    assert deleted(Expiry(hands.clock), hands, ended, DAY / 2) == set()  # and no restart later brings it on


def test_a_suspended_machine_counts_as_no_look(hands: Hands) -> None:
    expiry = Expiry(hands.clock)
    ended = [("old", hands.wall)]
    hands.jump(400 * DAY)
    expiry = Expiry(hands.clock)
    assert deleted(expiry, hands, ended, 60) == set()
    hands.sleep(10 * CONFIRM)
    assert deleted(expiry, hands, ended, 60) == set()


@pytest.mark.parametrize("step", STEPS)
def test_ends_keep_their_order_and_are_all_logged(
    queue: Queue, hands: Hands, step: float, caplog: pytest.LogCaptureFixture
) -> None:
    journal, jobs = Journal(queue), [finish(queue)]
    hands.jump(step)
    for _ in range(2):
        jobs.append(finish(queue))
        hands.sleep(1)
    hands.jump(-step)
    jobs.append(finish(queue))
    assert [job for job, *_ in queue.ended()] == [job.id for job in queue.kept()] == jobs
    with caplog.at_level(logging.INFO, "linnet.serve"):
        journal.look()
    assert [record.message.split()[0].partition("=")[2] for record in caplog.records] == jobs


@pytest.mark.parametrize("step", STEPS)
def test_what_is_left_and_how_long_it_took_are_measured(queue: Queue, hands: Hands, step: float) -> None:
    finish(queue)
    queue.add(REQUEST)
    job: Any = queue.claim("w")
    queue.report(job, "denoise", 0, 4)
    hands.jump(step)
    hands.sleep(6.0)
    queue.report(job, "denoise", 2, 4)
    assert queue.steps_per_second() == {"seedling": pytest.approx(2 / 6)}
    left = seconds_left(queue, queue.get(job.id))  # type: ignore[arg-type]
    assert left == 6.0 + 2.0  # and the stages behind, as the clip before took
    assert queue.statistics()["oldest_seconds"] >= 0.0


@pytest.mark.parametrize("step", STEPS)
def test_a_webhook_is_told_again_in_time(queue: Queue, hands: Hands, step: float) -> None:
    job = queue.add(REQUEST, notice=True).id
    queue.cancel(job)
    hands.jump(step)  # wrong while it is put off
    queue.tell_later(job, PAUSES[1])
    hands.jump(-step)
    assert queue.due_notices() == []
    hands.sleep(PAUSES[1] + 1)
    assert [(due.id, tries) for due, tries in queue.due_notices()] == [(job, 1)]
    queue.tell_later(job, PAUSES[1])
    hands.jump(step)  # or while it waits, over a restart
    queue.resume_notices(PAUSES[-1])
    hands.sleep(PAUSES[-1] + 1)
    assert [tries for _, tries in queue.due_notices()] == [2]

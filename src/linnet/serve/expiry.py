"""Which jobs have been kept long enough, even if the wall clock is wrong for a while."""

import threading
from collections.abc import Sequence

from linnet.serve.clock import Awake, Clock

CONFIRM = 3600.0  # seconds during which every look must find a job past its time
GAP = 60.0  # seconds between two looks, at most, that count as such


class Expiry:
    """A job is past its time when both clocks say so: the wall clock, and the steady clock, which tells how much older
    the job became since it was first seen here. They must go on saying so for an hour, or for as long as jobs are kept
    where that is less. So a clock that was set wrong, and then right, costs no clip."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self._awake = clock, Awake(clock, gap=GAP)
        self._lock = threading.Lock()
        self._born: dict[str, float] = {}  # when it ended, on the steady clock
        self._late: dict[str, float] = {}  # since when every look finds it past its time, awake

    def late(self, ended: Sequence[tuple[str, float]], keep: float) -> set[str]:
        """Those to delete. `ended`: the ids of all jobs that ended, in the order of their ends, and when, on the wall
        clock. `keep`: seconds."""
        with self._lock:
            wall, steady, awake = self.clock.wall(), self.clock.steady(), self._awake()
            born, late = {}, {}
            latest = 0.0
            for job, moment in ended:
                # A job that ended after another did not end before it, though the clock of then may have said so.
                latest = max(latest, moment) if moment <= wall else latest
                age = wall - latest if moment <= wall else 0.0  # one that will end tomorrow has just ended
                born[job] = self._born.get(job, steady - age)
                seen = steady - born[job]
                if min(seen, age if moment <= wall else seen) > keep:
                    late[job] = self._late.get(job, awake)
            self._born, self._late = born, late
            return {job for job, since in late.items() if awake - since >= min(CONFIRM, keep)}

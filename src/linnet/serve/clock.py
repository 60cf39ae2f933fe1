"""Two clocks. The wall clock tells people when something was; anybody may set it, and it may jump by years. How long
something has taken is measured on the steady clock, which only goes forward."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """`wall`: seconds since 1970. `steady`: seconds since some moment, the same for all processes of this machine until
    it is started again."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


class Awake:
    """Counts the seconds during which its owner looks at it often: a gap of more than `gap` seconds between two looks
    counts as `gap`.

    When the whole machine is suspended, or all processes are stopped, supervisor and worker stand still together. On
    this clock the supervisor does not take that for the worker's silence.
    """

    def __init__(self, clock: Clock, gap: float = 1.0) -> None:
        self.clock, self.gap = clock, gap
        self._last, self._passed = clock.steady(), 0.0

    def __call__(self) -> float:
        now = self.clock.steady()
        self._passed += min(now - self._last, self.gap)
        self._last = now
        return self._passed

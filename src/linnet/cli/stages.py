"""How far each stage of a long work is, how long it has gone on, and how long it still takes."""

import math
from dataclasses import dataclass, field

from linnet.wording import format_bytes, format_duration, format_pace

SLOW = 5.0  # seconds in one step, from which on they are told
AHEAD = 0.95  # of a step that is under way: no more is shown until it is done


@dataclass
class Stage:
    """A stage with so many parts, called `unit`: "step", "frame", "B" for bytes. `expected` are the seconds that it was
    planned to take, where that is known. Times are on the monotonic clock."""

    name: str
    total: float
    began: float
    done: float = 0.0
    words: str = ""
    unit: str = ""
    expected: float | None = None
    marks: list[tuple[float, float]] = field(default_factory=list)  # (time, done): first, second, ..., last

    def update(self, now: float, words: str, done: float, total: float) -> None:
        self.words, self.total = words, total
        if not self.marks or done > self.done:
            self.marks = [*self.marks[:2], *self.marks[2:][-1:], (now, done)]
        self.done = done

    def elapsed(self, now: float) -> float:
        return now - self.began

    def in_step(self, now: float) -> float:
        """Seconds since the last part was done."""
        return now - (self.marks[-1][0] if self.marks else self.began)

    @property
    def pace(self) -> float | None:
        """Seconds a part. The first one takes longer, since memory is touched and kernels are chosen in it, so it
        counts only until there is another."""
        first, *later = self.marks or [(self.began, 0.0)]
        since = later[0] if len(later) > 1 else first
        if later and later[-1][1] > since[1]:
            return (later[-1][0] - since[0]) / (later[-1][1] - since[1])
        return self.expected / self.total if self.expected and self.total else None

    @property
    def at_once(self) -> float:
        """How many parts come together, as far as that is known."""
        return self.marks[-1][1] - self.marks[-2][1] if len(self.marks) > 1 else 1.0

    def left(self, now: float) -> float | None:
        """Seconds; None while nobody can tell."""
        if self.done >= self.total:
            return 0.0
        if self.pace is None:
            return None
        took = self.in_step(now)
        each = max(
            self.pace * self.at_once, took
        )  # a step that lasts longer than those before tells of the next
        return each - took + each * max(0, math.ceil((self.total - self.done) / self.at_once) - 1)

    def reached(self, now: float) -> float | None:
        """What is done, with the share of the step that is under way; None where nothing tells how long it takes."""
        if self.done >= self.total:
            return self.total
        if self.pace is None:
            return self.done if self.done else None
        share = min(AHEAD, self.in_step(now) / max(self.pace * self.at_once, 1e-9))
        return min(self.done + share * self.at_once, self.total)

    def position(self) -> str:
        """step 3 of 20; 1.2 GB of 10 GB; the words that were given, where parts have no name."""
        if self.unit == "B":
            here = f"{format_bytes(self.done)} of {format_bytes(self.total)}"
        elif self.unit and self.total > 1:
            here = f"{self.unit} {min(self.done + 1, self.total):,.0f} of {self.total:,.0f}"
        else:
            here = ""
        pace = format_pace(self.pace) if self.unit == "step" and self.done and self.pace else ""
        return ", ".join(word for word in (here, self.words, pace) if word)

    def times(self, now: float, so_far: str = "") -> str:
        """12 min 5 s, 4 min 1 s in this step."""
        words = format_duration(self.elapsed(now)) + so_far
        if self.unit == "step" and self.done < self.total and self.in_step(now) >= SLOW:
            words += f", {format_duration(self.in_step(now))} in this step"
        return words

    def rest(self, now: float) -> str:
        left = self.left(now)
        return "" if left is None else f"about {format_duration(max(1.0, round(left)))} left"

    def line(self, now: float) -> str:
        """All of it on one line, for where there is no terminal."""
        position = self.position()
        if not position and self.total > 1:
            position = f"{100 * self.done / self.total:.0f} %"
        words = [position, self.times(now, " so far"), self.rest(now)]
        return f"{self.name}: {', '.join(word for word in words if word)}"

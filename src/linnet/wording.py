"""How a number, a time, an amount or a near miss is written for a person. One room for all of them, so that the same
quantity reads alike wherever it is told."""

import math
from collections.abc import Iterable

WHOLE_FROM = 100  # from here on, what is behind the decimal point tells nobody anything


def format_number(value: float) -> str:
    """As people write it: 4294967295, 0.1, 1.5; never 4.29497e+09. What is not finite is named as Python does."""
    if not math.isfinite(value) or value == int(value):
        return str(int(value)) if math.isfinite(value) else str(value)
    return f"{value:.10f}".rstrip("0").rstrip(".") if abs(value) >= 1e-10 else f"{value:g}"


def format_count(count: int, singular: str, many: str = "") -> str:
    """1 thread, 2 threads, 12,000 clips; `many` where an s is not enough."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def format_bytes(count: float) -> str:
    """1.5 GB, 20 GB, 37 MB: two or three digits, in the powers of ten that a download page uses."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """The length of a clip as a user would type it: at most three decimals, none that are zero."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def format_duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 1 h 5 min, 2 days 3 h: two units at most."""
    if seconds < 10:
        return f"{math.floor(max(seconds, 0) * 10 + 0.5) / 10:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for size, unit, small_size, small_unit in (
        (86400, "day", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        count = round(whole / small_size)
        if count * small_size >= size:
            large, small = divmod(count, size // small_size)
            name = format_count(large, "day") if unit == "day" else f"{large} {unit}"
            return f"{name} {small} {small_unit}" if small else name
    return f"{whole} s"


def format_pace(seconds: float) -> str:
    """How long one step takes: 0.04 s/step, 12.5 s/step, 10 min/step."""
    if seconds >= WHOLE_FROM:
        return f"{format_duration(seconds)}/step"
    return f"{seconds:.2f} s/step" if seconds < 10 else f"{seconds:.1f} s/step"


def in_a_row(words: Iterable[str], last: str = "and") -> str:
    """red, green and blue."""
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end


# --- near misses ------------------------------------------------------------------------------------------------------


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None where nothing is near.

    Near is one slip for every four letters (a letter too many, too few, wrong, or swapped with the next), and one in a
    shorter word; or the beginning of a known word, of three letters or more.
    """
    typed = word.strip().lower()
    apart = {name: slips(typed, name.lower()) for name in known}
    if not typed or not apart:
        return None
    best = min(apart, key=lambda name: apart[name])
    if apart[best] <= max(1, max(len(typed), len(best)) // 4) and len(typed) > 1:
        return best
    begun = [name for name in apart if len(typed) >= 3 and name.lower().startswith(typed)]
    return min(begun, key=len) if begun else None


def slips(typed: str, meant: str) -> int:
    """How many slips lead from one word to the other (optimal string alignment distance)."""
    earlier, above = [], list(range(len(meant) + 1))
    for i, a in enumerate(typed, 1):
        row = [i]
        for j, b in enumerate(meant, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == meant[j - 2] and b == typed[i - 2]:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
        earlier, above = above, row
    return above[-1]


def choices(typed: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known: what was probably meant, if anything is near, and what there is."""
    names = list(known)
    near = nearest(typed, names)
    return (f"did you mean {near}? " if near else "") + f"use {in_a_row(names, 'or')}"

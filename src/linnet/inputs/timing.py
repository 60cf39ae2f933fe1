"""When each frame of a clip is shown, from time stamps that may be missing, start again, or be nonsense."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

LONGEST_PAUSE = 300.0  # seconds for which one frame may stand: as long as the longest clip that is made


def continuous(stamps: Sequence[float | None], usual: float) -> tuple[list[float], int]:
    """Seconds from the first frame, never falling, and how many stamps were not believed.

    A stamp out of line with both its neighbours is put between them. Where the stamps start again, as in joined files,
    or leap by more than `LONGEST_PAUSE`, the next frame follows after the usual time.
    """
    usual = usual_step(stamps, usual)
    known: list[float] = []
    for stamp in stamps:
        known.append(stamp if stamp is not None else known[-1] + usual if known else 0.0)
    mended = 0
    for i in range(1, len(known) - 1):
        before, after = known[i - 1], known[i + 1]
        if not before <= known[i] <= after and 0 < after - before <= LONGEST_PAUSE:
            known[i] = (before + after) / 2
            mended += 1
    times = [0.0] * min(1, len(known))
    for before, after in pairwise(known):
        step = after - before
        if -usual / 2 < step < 0:
            step = 0.0
        elif not 0 <= step <= LONGEST_PAUSE:
            step = usual
            mended += 1
        times.append(times[-1] + step)
    return times, mended


def usual_step(stamps: Sequence[float | None], otherwise: float) -> float:
    known = [stamp for stamp in stamps if stamp is not None]
    steps = [b - a for a, b in pairwise(known) if 0 < b - a <= LONGEST_PAUSE]
    return median(steps) if steps else otherwise

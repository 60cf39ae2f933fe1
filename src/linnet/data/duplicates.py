"""Clips that are the same, or look the same: by their bytes, and by perceptual hashes and colours at three moments."""

from collections.abc import Sequence

import numpy as np

from linnet.data.probe import Probed
from linnet.inputs.survey import Look

FLAT = 2.0  # deviation of luma within a frame that shows nothing
SAME_BITS = 10  # of 64, by which the hashes of near-duplicates differ at most
SAME_COLOURS = 12.0  # of 255


def duplicates(probed: Sequence[Probed | None]) -> list[tuple[int, int, bool]]:
    """(a file, the first before it that is like it, whether it has the same bytes)."""
    pairs = []
    seen: dict[str, int] = {}
    known = Looks()
    for index, each in enumerate(probed):
        if each is None:
            continue
        if each.content in seen:
            pairs.append((index, seen[each.content], True))
            continue
        seen[each.content] = index
        if max(each.survey.deviation) < FLAT:
            continue  # all plain frames look alike
        earlier = known.like(each.survey.looks, still=each.survey.still)
        if earlier is None:
            known.add(index, each.survey.looks, still=each.survey.still)
        else:
            pairs.append((index, earlier, False))
    return pairs


class Looks:
    """How many clips look, to be compared at once: hashes and colours of their moments."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.stills: list[bool] = []
        self.hashes: list[np.ndarray] = []
        self.colours: list[np.ndarray] = []

    def add(self, number: int, looks: Sequence[Look], *, still: bool) -> None:
        hashes, colours = as_arrays(looks)
        self.numbers.append(number)
        self.stills.append(still)
        self.hashes.append(hashes)
        self.colours.append(colours)

    def like(self, looks: Sequence[Look], *, still: bool) -> int | None:
        """The number of the first that looks the same at every moment."""
        if not self.numbers:
            return None
        hashes, colours = as_arrays(looks)
        bits = np.unpackbits((np.stack(self.hashes) ^ hashes).view(np.uint8), axis=-1).sum(-1)
        apart = np.abs(np.stack(self.colours) - colours).mean(-1)
        same = (
            (bits <= SAME_BITS).all(-1) & (apart <= SAME_COLOURS).all(-1) & (np.array(self.stills) == still)
        )
        return self.numbers[int(same.argmax())] if same.any() else None


def as_arrays(looks: Sequence[Look]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes as bytes [moments, 8], colours [moments, fields]."""
    hashes = np.array([list(look.hash.to_bytes(8, "big")) for look in looks], np.uint8)
    return hashes, np.array([look.colours for look in looks], np.float32)

"""Which samples each batch holds: all of one bucket, every sample in each epoch, none left out.

An epoch's order follows from the seed and the epoch alone, so a run that goes on needs no state of its own for it.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache


class Order:
    """`epoch(number)` lists the samples of an epoch in a random order, one that repeats several times; `buckets` names
    each sample's bucket. The last batch of a bucket in an epoch has what is left, so it may be smaller than `size`."""

    def __init__(
        self, epoch: Callable[[int], Sequence[int]], buckets: Sequence[Hashable], size: int, *, seed: int
    ) -> None:
        self.epoch, self.buckets, self.size, self.seed = epoch, buckets, size, seed
        self.starts = [0]  # the first batch of each epoch so far, counted from the start of the run
        self._batches_of = lru_cache(maxsize=2)(self._batches)

    def __getitem__(self, index: int) -> Sequence[int]:
        """The samples of batch `index`, counted from the start of the run."""
        while self.starts[-1] <= index:
            self.starts.append(self.starts[-1] + len(self._batches_of(len(self.starts) - 1)))
        number = bisect_right(self.starts, index) - 1
        return self._batches_of(number)[index - self.starts[number]]

    def _batches(self, number: int) -> list[list[int]]:
        rows: dict[Hashable, list[int]] = {}
        for sample in self.epoch(number):
            rows.setdefault(self.buckets[sample], []).append(sample)
        batches = [
            row[first : first + self.size] for row in rows.values() for first in range(0, len(row), self.size)
        ]
        random.Random(f"{self.seed}/{number}/batches").shuffle(batches)
        return batches

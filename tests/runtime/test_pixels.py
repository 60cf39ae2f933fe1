"""Decoded frames on their way to main memory: the same, whether or not the next ones are asked for first."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from linnet.runtime.pixels import arriving


def test_asking_ahead_changes_nothing_but_the_order_of_work() -> None:
    chunks = [torch.linspace(-1.2, 1.2, 3 * count * 8).view(1, 3, count, 2, 4) for count in (1, 4, 4)]
    chunks[1][0, 0, 0, 0, 0] = torch.nan
    log: list[str] = []

    def decoded() -> Iterator[Tensor]:
        for number, chunk in enumerate(chunks):
            log.append(f"decoded {number}")
            yield chunk

    def taken(*, ahead: bool) -> list[tuple[np.ndarray, bool]]:
        log.clear()
        found = []
        for number, pair in enumerate(arriving(decoded(), ahead=ahead)):
            log.append(f"used {number}")
            found.append(pair)
        return found

    plain = taken(ahead=False)
    assert log == ["decoded 0", "used 0", "decoded 1", "used 1", "decoded 2", "used 2"]
    ahead = taken(ahead=True)
    assert log == ["decoded 0", "decoded 1", "used 0", "decoded 2", "used 1", "used 2"]
    assert [finite for _, finite in plain] == [finite for _, finite in ahead] == [True, False, True]
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(plain, ahead, strict=True))
    first = plain[0][0]
    assert (first.dtype, first.shape, first.min(), first.max()) == (np.uint8, (1, 2, 4, 3), 0, 255)
    assert list(arriving(iter([]))) == []

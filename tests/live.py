"""Counts the memory that torch's operations make and let go of, for tests of what something takes."""

import weakref
from typing import Any, Self

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Bytes of the storages that operations inside this context made: at the most, and `now`."""

    def __enter__(self) -> Self:
        self.seen: dict[int, int] = {}
        self.now = self.peak = 0
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in self.seen.keys() | given:
                self.seen[key] = x.untyped_storage().nbytes()
                self.now += self.seen[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(x.untyped_storage(), self.forget, key)
        return out

    def forget(self, key: int) -> None:
        self.now -= self.seen.pop(key, 0)

"""A graphics card that is not there: tensors with shapes but no numbers, on a device that this build of torch may not
even have, and the tensors that a run would hold on it, each from when it is made until it is gone.

PyTorch's fake tensors do most of it. What they cannot do without a driver is done here: attention takes the flash
operator's fake rather than the quadratic path that stock attention falls back to; moving between devices, indexing and
making constants become empty tensors of the right shape. Workspaces and the driver's context are not seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linnet.measure.allocator import Event, rounded
from linnet.weights.load import product_dtypes

M = TypeVar("M", bound=nn.Module)

aten = torch.ops.aten
FLASH_WIDTH = 256  # the widest head of the flash kernels


class Ledger(TorchDispatchMode):
    """Writes down each tensor that is made, and when it is gone: `events` of the card's, `peaks` of each device's."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.peaks: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._stand_in: dict[int, int] = {}  # a tensor that is still held: which copy of it is, see `repeat`
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.see(tensor)
        return made

    def see(self, tensor: Tensor) -> None:
        kind, storage = tensor.device.type, tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if kind == "meta" or not size or address in self._known:
            return
        self._count += 1
        key = self._count

        def gone(_: object) -> None:
            del self._known[address]
            self._add(kind, -rounded(size), Event(self._stand_in.pop(key, key), 0))

        self._known[address] = weakref.ref(storage, gone)
        self._add(kind, rounded(size), Event(key, size))

    def repeat(self, before: int, start: int, times: int) -> None:
        """Write down again, `times` times, what happened since event `start`, as if that part of a run, which is like
        the one since event `before`, had been run so often. What outlives one part is let go of in the next, as it was
        in the part that ran."""
        earlier = [event.key for event in self.events[before:start] if event.size]
        part = self.events[start:]
        made = [event.key for event in part if event.size]
        assert len(earlier) == len(made), "the parts are not alike"
        last = dict(zip(earlier, made, strict=True))  # of the part before the copy, by the keys of the first
        for _ in range(times):
            own = {key: self._count + number for number, key in enumerate(made, 1)}
            self._count += len(made)
            for key, size in part:
                self.events.append(Event(own[key] if key in own else last.get(key, key), size))
            last = dict(zip(earlier, own.values(), strict=True))
        if times:
            self._stand_in.update(zip(made, last.values(), strict=True))

    def _add(self, kind: str, size: int, event: Event) -> None:
        self._held[kind] += size
        self.peaks[kind] = max(self.peaks[kind], self._held[kind])
        if kind != "cpu":
            self.events.append(event)


class Calls(TorchFunctionMode):
    """Stands in for the calls that would ask the driver something."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attend(*args, **kwargs)
        if func is Tensor.__getitem__:
            return index(*args)
        if func in (Tensor.__setitem__, Tensor.copy_):  # numbers that nobody has go where nobody looks
            return args[0]
        if func in (Tensor.to, Tensor.cpu):
            return moved(func, *args, **kwargs)
        if func is Tensor.contiguous and (kind := kwargs.get("memory_format")):
            x = args[0]
            return x if x.is_contiguous(memory_format=kind) else torch.empty_like(x, memory_format=kind)
        if func is F.interpolate:
            return enlarged(*args, **kwargs)
        if func is torch.tensor:
            values = np.asarray(args[0])
            kind = torch.float32 if values.dtype.kind == "f" else torch.int64
            return torch.empty(values.shape, dtype=kwargs.get("dtype") or kind, device=kwargs.get("device"))
        return func(*args, **kwargs)


def moved(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x.to(...), which moves nothing."""
    given = [*args, *kwargs.values(), *(["cpu"] if func is Tensor.cpu else [])]
    devices = [torch.device(value) for value in given if isinstance(value, str | torch.device)]
    if not devices or devices[0].type == x.device.type:
        return func(x, *args, **kwargs)
    kinds = [value for value in given if isinstance(value, torch.dtype)]
    return torch.empty_like(x, device=devices[0], dtype=kinds[0] if kinds else x.dtype)


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **settings: Any
) -> Tensor:
    """What attention on a card takes: its result and a float32 for each row; a head too wide for the kernels takes the
    whole matrix of weights."""
    if query.shape[-1] > FLASH_WIDTH:
        weights = query @ key.transpose(-2, -1)
        return weights.softmax(dim=-1) @ value
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False)[0]
    return aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, False)[0]


def enlarged(x: Tensor, size: Any = None, scale_factor: float = 1, *rest: Any, **settings: Any) -> Tensor:
    """An image scaled up: the decomposition that stands for the kernel asks the driver for its memory format."""
    sides = [int(side * scale_factor) for side in x.shape[2:]]
    flat = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    kind = torch.channels_last if flat else torch.contiguous_format
    return torch.empty((*x.shape[:2], *sides), dtype=x.dtype, device=x.device, memory_format=kind)


def index(x: Tensor, where: Any) -> Tensor:
    """x[where], view by view."""
    keys = list(where) if isinstance(where, tuple) else [where]
    if Ellipsis in [key for key in keys if not isinstance(key, Tensor)]:
        index = next(i for i, key in enumerate(keys) if key is Ellipsis)
        named = sum(key is not None for key in keys) - 1
        keys[index : index + 1] = [slice(None)] * (x.dim() - named)
    axis = 0
    for key in keys:
        if key is None:
            x = x.unsqueeze(axis)
        elif isinstance(key, slice):
            x = aten.slice(x, axis, key.start, key.stop, key.step or 1)
        elif isinstance(key, Tensor):
            x = x.index_select(axis, key)
        else:
            x = x.select(axis, key)
            continue
        axis += 1
    return x


class Card:
    """A fake card, and the ledger of what is on it."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        self.mode = FakeTensorMode()
        self.ledger = Ledger()
        self.modules: list[nn.Module] = []

    def hold(self, module: M, dtype: torch.dtype, device: str | None = None) -> M:
        """The same, and the weights are there before the run begins."""
        self.modules.append(self.fill(module, dtype, device))
        for tensor in (*module.parameters(), *module.buffers()):
            self.ledger.see(tensor)
        return module

    def fill(self, module: M, dtype: torch.dtype, device: str | None = None) -> M:
        """`module` with its weights on the card, or the `device` given, in the loader's dtypes."""
        kinds = product_dtypes(module, dtype)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        shapes = {name: tensor.shape for name, tensor in tensors}
        with self.mode:
            state = {
                name: torch.empty(shape, device=device or self.device, dtype=kinds.get(name, torch.float32))
                for name, shape in shapes.items()
            }
            module.load_state_dict(state, assign=True)
        return module

    @contextmanager
    def recording(self) -> Iterator[None]:
        with self.mode, self.ledger, Calls(), torch.inference_mode():
            yield

    @property
    def peak(self) -> int:
        """The most bytes that tensors have taken on the card."""
        return self.ledger.peaks[self.device]

    @property
    def system_peak(self) -> int:
        return self.ledger.peaks["cpu"]

"""Tensors between the device that computes and the memory in which they wait: every such copy goes through here.

Callers write `transfer.move(...)`, so that a simulation, in which no copy can happen, puts its own functions in place
of these. Copies may be under way when a function returns; work that is queued afterwards on the device's current
stream finds them done.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor


class Aside:
    """A stream of copies beside the computation of a GPU; on other devices there is none, and a copy is done at once.

    What is copied begins when all that was queued before it on the current stream is done. Its memory belongs to the
    current stream, so who copies from the device keeps what is copied until `wait` was called for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def is_apart(self) -> bool:
        """Whether anything is gained by copying ahead."""
        return self.stream is not None

    @contextmanager
    def copying(self) -> Iterator[None]:
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield

    def mark(self) -> Any:
        """All that was copied until now, for `wait`."""
        return None if self.stream is None else self.stream.record_event()

    def wait(self, mark: Any) -> None:
        """Let what is queued from now on begin when that is done."""
        if mark is not None:
            torch.cuda.current_stream(self.device).wait_event(mark)


def move(x: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """`x` on the device; itself if it is there."""
    return x.to(device, non_blocking=device.type != "cpu")


def park(
    x: Shaped[Tensor, "..."], device: torch.device, buffer: Tensor | None = None
) -> Shaped[Tensor, "..."]:
    """`x` where it can wait for `move`, in the memory of `place` (an earlier result, of its shape) if there is one;
    itself if it is there."""
    if x.device == device:
        return x
    if buffer is None:
        buffer = reserve(x, device, beside=x.device)
    copy(buffer, x)
    return buffer


def copy(target: Shaped[Tensor, "..."], source: Shaped[Tensor, "..."]) -> None:
    """The values of `source`, in the dtype of `target`, into memory that exists."""
    with torch.inference_mode():
        target.copy_(source, non_blocking=True)


def reserve(
    like: Shaped[Tensor, "..."], device: torch.device, *, beside: torch.device
) -> Shaped[Tensor, "..."]:
    """Memory on `device` for a tensor like this one, which goes to or comes from the device `beside`.

    If that is a GPU, system memory is page-locked, without which copies are slow. Torch's own allocator of such memory
    rounds sizes up to powers of two, so ordinary memory is locked instead; if the system refuses, it stays ordinary.
    """
    buffer = torch.empty_like(like, device=device)
    if device.type == "cpu" and beside.type == "cuda" and buffer.nbytes:
        storage = buffer.untyped_storage()
        cudart: Any = torch.cuda.cudart()
        if int(cudart.cudaHostRegister(storage.data_ptr(), storage.nbytes(), 0)) == 0:
            weakref.finalize(storage, cudart.cudaHostUnregister, storage.data_ptr())
    return buffer


def locked(x: Tensor, device: torch.device) -> Tensor:
    """In system memory from which `device` copies fast."""
    if device.type != "cuda":
        return x
    buffer = reserve(x, torch.device("cpu"), beside=device)
    copy(buffer, x)
    return buffer

"""Tensors out of safetensors files by several threads, a piece at a time: into main memory, or onto a device through
page-locked memory, so that a thread reads while the last piece is under way.

What is in the files is known from their headers, which `weights.load` has checked; here is found what only reading
tells: a file that has become shorter, a disk that fails.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import torch
from jaxtyping import Shaped, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from linnet.weights.files import Header, damaged

T = TypeVar("T")

THREADS = 4
PIECE = 8 * 2**20  # bytes that a thread reads at a time
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a tensor lies in a file, and how: `start` and `size` in bytes."""

    path: Path
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def stored(headers: Iterable[Header], names: Iterable[str]) -> dict[str, Stored]:
    """Each of these tensors that the files hold, in file order. WeightsError for a file whose tensors overlap or have
    another size than their shape, as its own library finds."""
    wanted, entries = set(names), dict[str, Stored]()
    for header in headers:
        if not wanted.intersection(header.tensors):
            continue
        try:
            with safe_open(header.path, framework="pt", device="cpu"):
                pass
        except (SafetensorError, OSError) as error:
            raise damaged(header.path, f"cannot be read ({error})") from error
        start = header.start
        for name, entry in header.tensors.items():
            if name in wanted:
                entries[name] = Stored(
                    path=header.path,
                    start=start,
                    size=entry.size,
                    shape=entry.shape,
                    dtype=DTYPES[entry.dtype],
                )
            start += entry.size
    return entries


class Staging:
    """Memory through which one thread's pieces go: on the way to a CUDA device two places, which take turns."""

    def __init__(self, device: torch.device) -> None:
        self.device, cuda = device, device.type == "cuda"
        self.places = [torch.empty(PIECE, dtype=torch.uint8, pin_memory=cuda) for _ in range(1 + cuda)]
        self.used: list[Any] = [None] * len(self.places)  # events behind the copies from them
        self.turn = 0

    def fetch(self, tensor: Stored, dtype: torch.dtype) -> Shaped[Tensor, "..."]:
        """The tensor on the device, in that dtype. WeightsError where the file cannot be read to its end."""
        whole = torch.empty(tensor.shape, dtype=dtype, device=self.device)
        flat, done, item = whole.view(-1), 0, tensor.dtype.itemsize
        try:
            with tensor.path.open("rb", buffering=0) as file:
                file.seek(tensor.start)
                while done < tensor.size:
                    piece = self.read(file, min(PIECE, tensor.size - done)).view(tensor.dtype)
                    self.copy_out(piece, flat[done // item :][: len(piece)])
                    done += piece.nbytes
        except OSError as error:
            raise damaged(tensor.path, f"cannot be read ({error})") from error
        except EOFError:
            raise damaged(tensor.path, "is cut short, since it was opened") from None
        return whole

    def read(self, file: BinaryIO, count: int) -> UInt8[Tensor, " bytes"]:
        if self.used[self.turn] is not None:
            self.used[self.turn].synchronize()
        part = self.places[self.turn][:count]
        room, got = memoryview(cast(Any, part.numpy())), 0
        while got < count:
            read = file.readinto(room[got:])  # pyright: ignore[reportAttributeAccessIssue]
            if not read:
                raise EOFError
            got += read
        return part

    def copy_out(self, piece: Shaped[Tensor, " n"], target: Shaped[Tensor, " n"]) -> None:
        if self.device.type != "cuda":
            target.copy_(piece)
            return
        target.copy_(piece.to(self.device, non_blocking=True))  # converted there, where that is needed
        self.used[self.turn] = torch.cuda.current_stream(self.device).record_event()
        self.turn = 1 - self.turn


def fetched(
    tensors: Mapping[str, Stored],
    device: torch.device,
    finish: Callable[[str, Callable[[torch.dtype], Tensor]], T],
) -> Iterator[T]:
    """What `finish` makes of each tensor, in their order. It is called in a thread, with the name and a function that
    reads the tensor in a dtype. Ended early, it waits for the tensors at work alone."""
    own, inference = threading.local(), torch.is_inference_mode_enabled()

    def work(name: str) -> T:
        if not hasattr(own, "staging"):
            own.staging = Staging(device)
        with torch.inference_mode(inference):
            return finish(name, lambda dtype: own.staging.fetch(tensors[name], dtype))

    pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="weights")
    try:
        yield from pool.map(work, tensors)
    finally:
        pool.shutdown(cancel_futures=True)

"""Where a model runs: the device, the dtype of its matrix products, the threads, the memory that is left, and what can
go wrong with the device while it works."""

import gc
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch

from linnet.catalog import Format
from linnet.errors import InvalidInput
from linnet.plan import host
from linnet.plan.host import cgroup_folders, host_memory, installed_memory, processors
from linnet.request import Dtype
from linnet.wording import format_bytes


def resolve_device(name: str = "auto") -> str:
    """A device that is there: "cpu", "cuda", "cuda:1" or "mps". "auto" takes the first GPU, else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name in there:
        return name
    known = name.partition(":")[0] in ("cuda", "mps")
    problem = "this machine, or this build of torch, has none" if known else "is not a device linnet knows"
    raise InvalidInput("device", name, problem, f"use auto or {' or '.join(there)}")


def is_here(name: str) -> bool:
    """Plans are made for devices that are not."""
    with suppress(InvalidInput):
        return bool(resolve_device(name))
    return False


def title(device: str) -> str:
    """The hardware's name for itself."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    features = getattr(torch.cpu, "get_capabilities", dict)()
    return str(features.get("cpu_name") or platform.processor() or platform.machine())


def circumstances() -> str:
    """What times depend on beside the device's name: torch's version and which of a CPU's instructions it finds. Names
    such as "Intel Xeon" are shared by machines with and without those for matrices."""
    features = getattr(torch.cpu, "get_capabilities", dict)()
    present = [name for name in ("avx512_bf16", "amx_bf16", "sve_bf16") if features.get(name) is True]
    return ", ".join([f"torch {torch.__version__}", torch.backends.cpu.get_cpu_capability(), *present])


def check_format(format: Format | None, device: torch.device) -> None:
    """InvalidInput where the device has no numbers of that 8-bit format; one that is not here cannot be asked."""
    if format is None or not is_here(str(device)):
        return

    from linnet.models.quantised import STORED

    try:
        torch.ones(1, dtype=STORED[format], device=device).to(torch.float32)
    except (RuntimeError, TypeError):  # MPS says the second
        others = [other for other in STORED if other != format]
        remedy = f"use {' or '.join(others)}, or the weights as published"
        raise InvalidInput("format", format, f"is not one that {device} has", remedy) from None


FP8_FROM = (8, 9)  # compute capability: Ada


def check_fp8(device: torch.device) -> None:
    """InvalidInput where products in FP8 are asked of a device that has none, by its name; one that is not here cannot
    be asked."""
    remedy = "leave it out, or use a card from NVIDIA's RTX 40 series or H100 on"
    if device.type != "cuda":
        raise InvalidInput("fp8", device, "has no products in FP8", remedy)
    if is_here(str(device)) and torch.cuda.get_device_capability(device) < FP8_FROM:
        raise InvalidInput("fp8", torch.cuda.get_device_name(device), "has no products in FP8", remedy)


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster (as the published pipeline does), else float32."""
    if device == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict)()
        known = any(there is True for name, there in features.items() if name.endswith("bf16"))
        fast = features.get("amx_bf16") is True or (known and bfloat16_pays(str(features.get("cpu_name"))))
    elif device.startswith("cuda"):
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = True
    return torch.bfloat16 if fast else torch.float32


def dtype_name(dtype: torch.dtype) -> Dtype:
    """Of matrix products, as a request says it."""
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


def bfloat16_pays(cpu: str) -> bool:
    """Whether products of matrices are faster in bfloat16 on this CPU, which has instructions for it.

    With AVX-512's alone some take half of float32's time, and others twice as long, so it is tried once and remembered.
    """
    key = f"{cpu}, {torch.__version__}"
    faster = host.recall("bfloat16", key)
    if not isinstance(faster, bool):
        faster = seconds_of_product(torch.bfloat16) < seconds_of_product(torch.float32)
        host.keep("bfloat16", key, faster)
    return faster


def seconds_of_product(dtype: torch.dtype) -> float:
    """Of one thread's own time, so that other programs, and other threads, make no difference: the best of a few."""
    threads, seconds = torch.get_num_threads(), []
    a, b = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    torch.set_num_threads(1)
    try:
        for _ in range(5):
            start = time.thread_time()
            torch.mm(a, b)
            seconds.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)


def default_threads() -> int:
    """Torch's own choice, but no more than the container's share of the processors."""
    shares = [share for folder in cgroup_folders("cpu") if (share := processors(folder))]
    return max(1, min([torch.get_num_threads(), *map(math.ceil, shares)]))


def check_there(device: str, *, vram: int | None, ram: int | None) -> None:
    """InvalidInput for a budget of more than the machine has, be it free or not."""
    there = {"ram": installed_memory()}
    if vram is not None and device.startswith("cuda"):
        there["vram"] = torch.cuda.get_device_properties(card_number(device)).total_memory
    for field, size in (("vram", vram), ("ram", ram)):
        most = there.get(field)
        if size is not None and most is not None and size > most:
            problem = f"is more than there is, {format_bytes(most)}"
            raise InvalidInput(field, format_bytes(size), problem, "use less, or leave it out")


@contextmanager
def searched(enabled: bool) -> Iterator[None]:
    """If `enabled`, cuDNN tries its algorithms for each new size of a convolution, and keeps to the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def card_number(device: str) -> int:
    """Of a CUDA card, which not every function of torch takes by the name "cuda"."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def limit_memory(device: str, size: int) -> None:
    """Never take more than `size` bytes of a CUDA card, as if it had no more; torch.OutOfMemoryError beyond that."""
    if device.startswith("cuda"):
        card = card_number(device)
        total = torch.cuda.get_device_properties(card).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, size) / total), card)


class CardMemory(NamedTuple):
    """Bytes of a card: all of it, what is free now, and what other programs, such as the screen's, and the driver
    hold."""

    total: int
    free: int
    others: int


def card_memory(device: str) -> CardMemory | None:
    """None where the device does not tell."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return CardMemory(total, free, max(0, total - free - torch.cuda.memory_reserved(device)))


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that can still be had on the device, or None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return host_memory()


# --- when it fails ----------------------------------------------------------------------------------------------------


# MPS and the allocator of main memory say it in words alone.
WORDS = ("out of memory", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether trying again with less may help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def is_gone(error: BaseException) -> bool:
    """Whether the device does not answer any more; no other call to it in this process will."""
    return isinstance(error, torch.AcceleratorError) and not out_of_memory(error)


def free_memory(device: torch.device) -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()

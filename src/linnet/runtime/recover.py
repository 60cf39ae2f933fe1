"""What can go wrong with a device while it works: its memory runs out, or it is gone."""

import gc

import torch

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

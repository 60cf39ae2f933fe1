"""What lies between a block's matrix products, fused by torch's compiler: the same mathematics in fewer passes."""

import inspect
import os
import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch

from linnet.errors import InvalidInput
from linnet.models.transformer import Block

TRITON_FROM = (7, 0)  # compute capability
SIZES = 64  # that are kept compiled: each number of tokens, clips at once and way to attend is one
TEXT = (("key", 2), ("value", 2), ("bias", 3))  # what has a row for each of the text's, and on which axis


def check_compiler(device: str) -> None:
    """InvalidInput where the compiler's own needs are not met, known without trying."""
    if lacking := compiler_lacks(device):
        raise InvalidInput("compile", device, f"needs {lacking}", "install it, or leave `compile` out")


def compiler_lacks(device: str) -> str | None:
    """What is missing to compile for a device that is here; None if nothing is."""
    if not device.startswith("cuda"):
        return (
            None if any_of(os.environ.get("CXX", "g++"), "g++", "clang++") else "a C++ compiler, such as g++"
        )
    if find_spec("triton") is None:
        return "the package triton"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < TRITON_FROM:
        return "a card from NVIDIA's RTX 20 series on"
    # With which triton builds what starts its kernels; on Windows it brings one.
    return (
        None
        if os.name == "nt" or any_of(os.environ.get("CC", "cc"), "gcc", "clang")
        else "a C compiler, such as gcc"
    )


def any_of(*programs: str) -> bool:
    return any(shutil.which(program) for program in programs)


def compile_blocks(blocks: Iterable[Block], **settings: Any) -> None:
    """Blocks are alike, so the first one's compilation, in the first step of each new size, serves them all: one for
    all tokens at once, one for each half of what is done chunk by chunk. Prompts of any length share it."""
    import torch._dynamo as dynamo  # here: this takes a second

    dynamo.config.fail_on_recompile_limit_hit = True  # instead of going on without, and no word
    dynamo.config.recompile_limit = SIZES
    for block in blocks:
        for name in ("forward", "fill", "advance"):
            setattr(block, name, Compiled(getattr(block, name), **settings))


class Compiled:
    """A method of a block, compiled when it first runs. `settings` are those of torch.compile."""

    def __init__(self, method: Callable[..., Any], **settings: Any) -> None:
        from torch._dynamo.exc import FailOnRecompileLimitHit

        self.run = torch.compile(method, dynamic=False, **settings)
        parameters = inspect.signature(method).parameters
        self.too_many = FailOnRecompileLimitHit
        self.text = [(list(parameters).index(name), axis) for name, axis in TEXT if name in parameters]

    def __call__(self, *given: Any) -> Any:
        for index, axis in self.text:
            torch._dynamo.mark_dynamic(given[index], axis)
        try:
            return self.run(*given)
        except self.too_many:
            torch.compiler.reset()  # so many sizes have been seen: begin anew with this one
            return self.run(*given)

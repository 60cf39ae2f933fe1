"""What lies between a block's matrix products, fused by torch's compiler: the same mathematics in fewer passes."""

import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec

from linnet.errors import InvalidInput
from linnet.models.transformer import Block


def check_compiler(device: str) -> None:
    """InvalidInput where the compiler's own needs are not met, known without trying."""
    if device.startswith("cuda"):
        if find_spec("triton") is None:
            raise InvalidInput(
                "compile", device, "needs the package triton", "install it, or leave --compile out"
            )
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise InvalidInput("compile", device, "needs a C++ compiler", "install g++, or leave --compile out")


def compile_blocks(blocks: Iterable[Block]) -> None:
    """Blocks are alike, so the first one's compilation, in the first step of each new size, serves them all."""
    for block in blocks:
        block.compile(dynamic=False)

"""linnet: the open engine for Linum v2 text-to-video models.

`linnet.generate("a red star spins on a blue background")` makes a clip; `linnet.load("seedling")` gives the pipeline
that makes it, for making many. Importing linnet imports neither of the two, so that it costs nothing.
"""

import os
import sys
from typing import TYPE_CHECKING

# Read by PyTorch when it is imported. Without it tensors of many sizes in turn leave a card's memory in pieces: on one
# that was held to 8 GB, 1.2 GB of it.
if sys.platform == "linux":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

if TYPE_CHECKING:
    from linnet.api import generate, load

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load"]


def __getattr__(name: str) -> object:
    if name in ("generate", "load"):
        from linnet import api

        return getattr(api, name)
    raise AttributeError(f"module 'linnet' has no attribute {name!r}")

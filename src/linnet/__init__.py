"""linnet: the open engine for Linum v2 text-to-video models.

`linnet.generate("a red star spins on a blue background")` makes a clip. `linnet.frames(...)` gives its frames as
arrays. `linnet.load("seedling")` gives the pipeline that makes many clips. Importing linnet imports none of these, and
so costs nothing.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

# Read by PyTorch when it is imported. Without it tensors of many sizes in turn leave a card's memory in pieces: on one
# that was held to 8 GB, 1.2 GB of it.
if sys.platform == "linux":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

if TYPE_CHECKING:
    from linnet.api import edit, extend, frames, generate, grid, load, refine, storyboard
    from linnet.clip import Clip, Progress
    from linnet.errors import Cancelled, InvalidInput, LinnetError, WeightsError
    from linnet.pipeline import Pipeline
    from linnet.request import Request, make_request

__version__ = "0.1.0"
__all__ = [
    "Cancelled",
    "Clip",
    "InvalidInput",
    "LinnetError",
    "Pipeline",
    "Progress",
    "Request",
    "WeightsError",
    "__version__",
    "edit",
    "extend",
    "frames",
    "generate",
    "grid",
    "load",
    "make_request",
    "refine",
    "storyboard",
]

_HOMES = {
    **dict.fromkeys(("edit", "extend", "frames", "generate", "grid", "load", "refine", "storyboard"), "api"),
    **dict.fromkeys(("Cancelled", "InvalidInput", "LinnetError", "WeightsError"), "errors"),
    **dict.fromkeys(("Request", "make_request"), "request"),
    "Clip": "clip",
    "Pipeline": "pipeline",
    "Progress": "clip",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'linnet' has no attribute {name!r}")
    return getattr(import_module(f"linnet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

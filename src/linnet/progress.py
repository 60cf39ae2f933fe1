"""What a person is told while a clip is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
from jaxtyping import UInt8

from linnet.errors import Cancelled

Image = UInt8[np.ndarray, "H W 3"]


Stage = Literal["load", "encode", "text", "compile", "denoise", "decode"]
BEFORE = (
    "load",
    "encode",
    "compile",
)  # stages that come between the others, and only where something is not ready


@dataclass(frozen=True)
class Progress:
    """`done` of `total` parts of a stage; while denoising, `preview` decodes what the first frame will look like.
    With a `note`, words for a person, it tells of that alone. `part`: of the model, of which weights are read."""

    stage: Stage
    done: int
    total: int
    preview: Callable[[], Image] | None = None
    note: str = ""
    part: str = ""

    def cancel(self) -> NoReturn:
        """Stop the run, in whose caller it raises Cancelled."""
        raise Cancelled("cancelled; no file of this clip was written")


Watch = Callable[[Progress], object]  # whose result does not matter


def ignore(progress: Progress) -> None:
    """Watch nothing."""

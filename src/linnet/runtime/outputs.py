"""What stages give, on its way out: each result is looked at once for numbers that are none, which come from damaged
weights or from more than a dtype can hold, and would end as a black clip; frames go to main memory as bytes while the
device decodes the next ones.

Only where a result is not finite are the weights read again, to name the tensor.

Axes: f frames, H rows, W columns; RGB, 0..255.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from linnet.errors import WeightsError
from linnet.sampling.denoise import Step
from linnet.weights.files import read_header, shards
from linnet.weights.load import read


def is_finite(tensor: Tensor) -> bool:
    """Makes nothing of the tensor's size: it is asked where memory is short."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def finite_steps(steps: Iterator[Step], *files: Path) -> Iterator[Step]:
    """The same steps; WeightsError at the first whose latents are not finite."""
    for step in steps:
        if not is_finite(step.latents):
            raise not_finite(f"in step {step.index + 1} of {step.count} of the denoise stage", *files)
        yield step


def not_finite(where: str, *files: Path) -> WeightsError:
    """Of the first file that holds such a number itself, else of the first file, which made it of others."""
    for file in (shard for path in files for shard in shards(path)):
        if name := spoilt_tensor(file):
            problem = f'holds numbers that are none (NaN or infinite) in tensor "{name}", seen {where}'
            return WeightsError("weights", file, problem, "fetch the file again, or use another one")
    problem = f"gives numbers that are none (NaN or infinite) {where}"
    return WeightsError("weights", files[0], problem, "use dtype float32, less guidance, or another file")


def spoilt_tensor(file: Path) -> str | None:
    """The first tensor with a number that is not finite."""
    header = read_header(file)
    for name, tensor in read([header], header.tensors):
        if tensor.dtype.is_floating_point and not is_finite(tensor.float()):
            return name
    return None


# --- frames -----------------------------------------------------------------------------------------------------------


Frames = UInt8[np.ndarray, "f H W 3"]


class Copy(NamedTuple):
    """Frames, and whether all of their numbers were finite, in main memory once `done` (None: they are there)."""

    pixels: UInt8[Tensor, "f H W 3"]
    finite: Bool[Tensor, ""]
    done: Any

    def wait(self) -> tuple[Frames, bool]:
        if self.done is not None:
            self.done.synchronize()
        return self.pixels.numpy(), bool(self.finite)


def arriving(
    decoded: Iterator[Float[Tensor, "1 3 f H W"]], *, ahead: bool | None = None
) -> Iterator[tuple[Frames, bool]]:
    """The decoded frames from -1..1 as bytes, and whether their numbers are finite.

    `ahead`: ask for the next ones before the last copy is waited for, so that a GPU has work meanwhile. None: where the
    frames are on a CUDA device. The frames are the same either way.
    """
    before: Copy | None = None
    for frames in decoded:
        copy = start_copy(frames)
        if before is not None:
            yield before.wait()
        before = copy
        if not (frames.is_cuda if ahead is None else ahead):
            yield before.wait()
            before = None
        del frames, copy
    if before is not None:
        yield before.wait()


def start_copy(frames: Float[Tensor, "1 3 f H W"]) -> Copy:
    pixels, finite = to_pixels(frames), torch.isfinite(frames).all()
    if not frames.is_cuda:
        return Copy(pixels.cpu(), finite.cpu(), None)
    # Page-locked, without which a copy keeps the host waiting.
    places = tuple(torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (pixels, finite))
    for buffer, x in zip(places, (pixels, finite), strict=True):
        buffer.copy_(x, non_blocking=True)
    return Copy(places[0], places[1], torch.cuda.current_stream(frames.device).record_event())


def to_pixels(frames: Float[Tensor, "1 3 f H W"]) -> UInt8[Tensor, "f H W 3"]:
    """From -1..1 to 0..255, rounded."""
    return frames[0].permute(1, 2, 3, 0).float().clamp(-1, 1).add(1).mul(127.5).round().byte().contiguous()

"""Decoded frames on their way to main memory, as bytes: the device decodes the next ones while a copy is under way.

Axes: f frames, H rows, W columns; RGB, 0..255.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

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

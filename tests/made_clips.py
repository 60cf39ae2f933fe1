"""Small clips with faults, made on the spot.

Axes: T frames, H rows, W columns; RGB.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

Frames = UInt8[np.ndarray, "T H W 3"]


def textured(frames: int, width: int = 64, height: int = 48, *, seed: int = 0, speed: int = 1) -> Frames:
    """A textured scene that moves to the left: bright, and of its own kind for each seed."""
    wide = width + speed * frames
    coarse = np.random.default_rng(seed).integers(30, 255, (height // 12 + 2, wide // 12 + 2, 3), np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((wide, height), Image.Resampling.BICUBIC))
    return np.stack([scene[:height, speed * index : speed * index + width] for index in range(frames)])


def write_clip(
    path: Path,
    frames: Sequence[Any] | Frames,
    *,
    rate: int = 24,
    times: Sequence[float] | None = None,
    turn: int = 0,
    options: Mapping[str, str] | None = None,
    **tags: int,
) -> Path:
    """H.264 (FFV1 in .avi), the index in front. `times` in seconds, for a variable frame rate; `turn`: degrees that a
    player turns it; `options` of the encoder; `tags`: color_trc and so on, as numbers of H.273."""
    codec = {".avi": "ffv1", ".webm": "libvpx-vp9"}.get(path.suffix, "libx264")
    settings = {"crf": "14", "preset": "veryfast", **(options or {})}
    front = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=front) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=settings)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p10le" if "color_trc" in tags else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 24_000)
        for tag, value in tags.items():
            setattr(stream.codec_context, tag, value)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = round((times[index] if times else index / rate) * 24_000)
            frame.time_base = Fraction(1, 24_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turn:
        turn_in_header(path, turn)
    return path


def turn_in_header(path: Path, degrees: int, *, mirror: bool = False) -> None:
    """Rewrite the display matrix in an mp4's track header, as telephones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: nine numbers of 16.16 (the last column 2.30)
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [(-cos if mirror else cos) << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)

"""Frames are decoded and encoded at the same time: how long both take, beside the longer of the two alone.

    python benchmarks/encoder_overlap.py [--seconds 2] [--shares 0.5 0.75 1.0] [--rounds 5]

On a CPU with one thread of torch's and one of x264's: frames of 640x360 are decoded by convolutions that take a fixed
time, and the encoder is slowed down, by sleeping beside its work, until it takes `share` of decoding's time. Each is
run alone, then both together, as linnet does, round after round; a row has the medians. `alike` says whether every file
has the bytes of one that was written without a thread. Ends with one line of JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from linnet import media
from linnet.runtime.outputs import arriving

WIDTH, HEIGHT, FPS, AT_ONCE = 640, 360, 24, 4
DECODE = 0.25  # seconds of convolutions for four frames


def decoder() -> nn.Module:
    """A few convolutions of a frame's size, of so many channels that they take their time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh())


class Times(NamedTuple):
    """Seconds of one round, and whether the file was the same."""

    decoding: float
    encoding: float
    together: float
    alike: bool

    @property
    def ratio(self) -> float:
        return self.together / max(self.decoding, self.encoding)


def decoded(model: nn.Module, passes: int, count: int) -> Iterator[torch.Tensor]:
    """Soft shapes that move, four frames at a time, each through the decoder so many times."""
    coarse = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    still = nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")
    for first in range(0, count, AT_ONCE):
        moved = torch.cat([still.roll(2 * (first + i), -1) for i in range(AT_ONCE)])
        with torch.inference_mode():
            for _ in range(passes):
                model(moved)
        yield moved.transpose(0, 1)[None]


def frames_of(model: nn.Module, passes: int, count: int) -> Iterator[np.ndarray]:
    for frames, _ in arriving(decoded(model, passes, count)):
        yield frames


class Slowed(media.VideoWriter):
    """The encoder, which rests after each frame for as long as it is told to."""

    rest = 0.0

    def add(self, frame: media.Frame) -> None:
        super().add(frame)
        time.sleep(self.rest)


def seconds(run: Any) -> float:
    start = time.monotonic()
    run()
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.75, 1.0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, count = decoder(), AT_ONCE * round(FPS * options.seconds / AT_ONCE)
    once = seconds(lambda: list(frames_of(model, 1, 5 * AT_ONCE))) / 5
    passes = max(1, round(DECODE / once))
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(media, "THREADS", 1),
        patch.object(media, "VideoWriter", Slowed),
    ):

        def write(name: str, frames: Iterator[np.ndarray], *, threaded: bool) -> bytes:
            path = Path(folder) / name
            size: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "fps": FPS, "metadata": {}}
            writer = media.open_writer(path, **size, overwrite=True)
            with writer if threaded else writer.target as target:
                for some in frames:
                    target.write(some)
            return path.read_bytes()

        kept = list(frames_of(model, passes, count))
        plain = write("plain.mp4", iter(kept), threaded=False)
        decoding = seconds(lambda: list(frames_of(model, passes, count)))
        quick = seconds(lambda: write("alone.mp4", iter(kept), threaded=False))
        for share in options.shares:
            Slowed.rest = max(0.0, share * decoding - quick) / count
            rounds = list[Times]()
            for _ in range(options.rounds):
                alone = seconds(lambda: list(frames_of(model, passes, count)))
                encoding = seconds(lambda: write("alone.mp4", iter(kept), threaded=False))
                start = time.monotonic()
                both = write("both.mp4", frames_of(model, passes, count), threaded=True)
                rounds.append(Times(alone, encoding, time.monotonic() - start, both == plain))
            row: dict[str, Any] = {"share": share}
            for name in ("decoding", "encoding", "together", "ratio"):
                row[name] = round(median(getattr(times, name) for times in rounds), 3)
            row["alike"] = all(times.alike for times in rounds)
            rows.append(row)
            print("  ".join(f"{name} {value!s:>6}" for name, value in row.items()), flush=True)
    print(json.dumps({"frames": count, "size": f"{WIDTH}x{HEIGHT}", "rows": rows}))


if __name__ == "__main__":
    main()

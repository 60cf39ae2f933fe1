"""Peak memory of the video autoencoder: as a stream the same for any length, as a whole clip growing with it.

    python benchmarks/vae_memory.py                                   # small, some minutes
    python benchmarks/vae_memory.py --dim 96 --size 640x360 --dtype bfloat16 --ways stream      # true size

Runs each case in a fresh process with random weights. `peak` is resident memory above what the process held
with the weights loaded, in MB; `past` is what the stream remembers between chunks; `total` is the whole
process. (Linux: VmHWM, reset before the run.) Ends with all rows as one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from linnet.geometry import Size, frames_for, latent_grid

# Blocks that are let go of return to the system at once, as the large ones of the true size do anyway; else
# the figures would be those of the C library's heap.
ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
COLUMNS = ("direction", "way", "seconds", "frames", "peak_mb", "past_mb", "total_mb", "wall_s")


def measure(
    direction: str, way: str, seconds: float, size: Size, dim: int, dtype_name: str
) -> dict[str, Any]:
    import torch

    from linnet.models.vae import VAE, Past, RMSNorm, VAEConfig

    torch.manual_seed(0)
    vae, dtype = VAE(VAEConfig(dim=dim)), getattr(torch, dtype_name)
    for module in vae.modules():
        if not isinstance(module, RMSNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)

    frames, past = frames_for(seconds), Past()
    steps, rows, columns = latent_grid(frames, size)
    chunks = [(frames, steps)] if way == "whole" else [(1, 1), *([(4, 1)] * (steps - 1))]
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.monotonic()
    with torch.inference_mode():
        for pixels, latents in chunks:  # Each is made when its turn comes, and its result dropped.
            if direction == "encode":
                vae.encode(torch.rand(1, 3, pixels, size.height, size.width) * 2 - 1, past)
            else:
                vae.decode(torch.randn(1, 16, latents, rows, columns), past)
    wall, peak = time.monotonic() - start, memory("VmHWM")
    remembered = sum(tail.nbytes for tail in past.tails.values() if isinstance(tail, torch.Tensor))
    mb = [round(count / 1e6, 1) for count in (peak - before, remembered, peak)]
    return dict(zip(COLUMNS, (direction, way, seconds, frames, *mb, round(wall, 1)), strict=True))


def memory(field: str) -> int:
    """A memory figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dim", type=int, default=24, help="width of the autoencoder (Linum: 96)")
    parser.add_argument("--size", default="192x144", help="of the video")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the weights")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0])
    parser.add_argument("--directions", nargs="+", default=["decode", "encode"])
    parser.add_argument("--ways", nargs="+", default=["stream", "whole"])
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        direction, way, seconds = options.case
        size = Size.parse(options.size)
        print(json.dumps(measure(direction, way, float(seconds), size, options.dim, options.dtype)))
        return

    print(" ".join(f"{name:>9}" for name in COLUMNS))
    rows = []
    for direction in options.directions:
        for way in options.ways:
            for seconds in options.seconds:
                case = ["--case", direction, way, str(seconds)]
                shape = ["--dim", str(options.dim), "--size", options.size, "--dtype", options.dtype]
                again = [sys.executable, __file__, *case, *shape]
                done = subprocess.run(again, check=True, capture_output=True, text=True, env=ENVIRONMENT)
                row = json.loads(done.stdout)
                print(" ".join(f"{value:>9}" for value in row.values()), flush=True)
                rows.append(row)
    print(json.dumps({"dim": options.dim, "size": options.size, "dtype": options.dtype, "rows": rows}))


if __name__ == "__main__":
    main()

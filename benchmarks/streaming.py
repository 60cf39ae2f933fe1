"""A transformer of Linum's true width on the CPU, with its blocks in memory or passing through it: time and memory.

    python benchmarks/streaming.py [--layers 6] [--frames 1] [--dtype bfloat16] [--chunk 256]

Random weights, one guidance pass of a 360p clip of that many latent frames (920 tokens each), the second of two that
are run. Each row is a fresh process. `held` is anonymous and shared memory above what the process had before it
touched the model, `mapped` what of the file is in memory and can be dropped at any time, both in MB at their peak;
`output` is a hash: the same wherever nothing is rounded differently. Ends with one line of JSON. Ratios are to the
first row; where other programs share the processor, that of the `cpu` time tells more.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from linnet.models.transformer import Transformer, linum_v2
from linnet.runtime.stream import stream_into
from linnet.weights.load import fill, matched, transformer_of

WAYS = ("resident", "half", "file", "memory", "chunks", "file+chunks")


def write(path: Path, layers: int) -> None:
    config = replace(linum_v2(), num_layers=layers)
    model = Transformer(config).initialise(torch.Generator().manual_seed(0))
    weights = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    save_file(weights, path, {"config": json.dumps(asdict(config))})


def measure(way: str, path: Path, frames: int, dtype: torch.dtype, chunk: int) -> dict[str, Any]:
    before, peak, done = resident(), {"held": 0, "mapped": 0}, threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            for name, now in resident().items():
                peak[name] = max(peak[name], now - before[name])

    looker = threading.Thread(target=look)
    looker.start()
    model, headers = matched(lambda: transformer_of(path), path)
    source: Literal["memory", "file"] = "memory" if way == "memory" else "file"
    blocks = None
    if way in ("resident", "chunks"):
        fill(model, headers, dtype=dtype)
    else:
        held = len(model.blocks) // 2 if way == "half" else 0
        blocks = stream_into(
            model, headers, device="cpu", dtype=dtype, resident_blocks=held, blocks_from=source
        )
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, frames, 46, 80, generator=generator)
    states = torch.randn(32, model.config.text_dim, generator=generator).to(dtype)
    rows = chunk if "chunks" in way else None
    with torch.inference_mode():
        text = model.encode_text([states], blocks=blocks)
        forward = partial(model, latents, torch.tensor([500.0]), text, blocks=blocks, token_chunk=rows)
        forward()
        start, spent = time.monotonic(), time.process_time()
        out = forward()
        seconds, cpu = time.monotonic() - start, time.process_time() - spent
    done.set()
    looker.join()
    digest = hashlib.sha256(out.numpy().tobytes()).hexdigest()[:12]
    megabytes = {name: round(count / 1e6) for name, count in peak.items()}
    return {"way": way, "seconds": round(seconds, 2), "cpu": round(cpu, 2), **megabytes, "output": digest}


def resident() -> dict[str, int]:
    """Bytes of this process, now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {
        name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines) if "Rss" in name
    }
    return {"held": 1024 * (kib["RssAnon"] + kib["RssShmem"]), "mapped": 1024 * kib["RssFile"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--frames", type=int, default=1, help="latent ones")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--chunk", type=int, default=256, help="tokens")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        way, path = options.case
        dtype = getattr(torch, options.dtype)
        print(json.dumps(measure(way, Path(path), options.frames, dtype, options.chunk)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transformer.safetensors"
        write(path, options.layers)
        for way in options.ways:
            words = [sys.executable, __file__, "--case", way, str(path), "--frames", str(options.frames)]
            words += ["--dtype", options.dtype, "--chunk", str(options.chunk)]
            # What is let go of goes back to the system at once: the peak is what was held.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
            row = json.loads(done.stdout)
            row |= {
                f"{name} ratio": round(row[name] / (rows or [row])[0][name], 3) for name in ("seconds", "cpu")
            }
            rows.append(row)
            print("  ".join(f"{name} {value!s:>11}" for name, value in row.items()), flush=True)
    print(
        json.dumps({"layers": options.layers, "frames": options.frames, "dtype": options.dtype, "rows": rows})
    )


if __name__ == "__main__":
    main()

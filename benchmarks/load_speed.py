"""How fast weights are read from a warm page cache, by how many threads.

    python benchmarks/load_speed.py [--gigabytes 2] [--device cpu] [--threads 1 2 4]

Writes a file of matrices in each stored dtype into a temporary folder, reads it once, and then loads it into a module
whose products are in the other dtype, so that every number is converted, or onto a card. Each figure is the best of
three: GB of the file a second. `mapped` is what was done before: one thread that converts what is mapped from the file.
Ends with one line of JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import nn

from linnet.weights import staging
from linnet.weights.files import read_header
from linnet.weights.load import load_into, read

WIDTH, ROUNDS = 4096, 3
OTHER = {"float32": "bfloat16", "bfloat16": "float32"}


def best(run: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        made = run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        del made
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        for stored, wanted in OTHER.items():
            kind = getattr(torch, stored)
            count = max(1, round(options.gigabytes * 1e9 / (kind.itemsize * WIDTH**2)))
            save_file({f"{i}.weight": torch.ones(WIDTH, WIDTH, dtype=kind) for i in range(count)}, path)
            size, dtype = path.stat().st_size / 1e9, getattr(torch, wanted)

            def build(count: int = count) -> nn.Module:
                return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)))

            def mapped(dtype: torch.dtype = dtype) -> list[torch.Tensor]:
                header = read_header(path)
                return [tensor.to(options.device, dtype) for _, tensor in read([header], header.tensors)]

            row: dict[str, Any] = {"stored": stored, "wanted": wanted}
            row["mapped"] = round(size / best(mapped, options.device), 2)
            for threads in options.threads:
                with patch.object(staging, "THREADS", threads):
                    load = partial(load_into, build, path, device=options.device, dtype=dtype)
                    took = best(load, options.device)
                row[f"{threads} threads" if threads > 1 else "1 thread"] = round(size / took, 2)
            rows.append(row)
            print("  ".join(f"{name} {value!s:>8}" for name, value in row.items()), flush=True)
    print(json.dumps({"device": options.device, "gigabytes": options.gigabytes, "rows": rows}))


if __name__ == "__main__":
    main()

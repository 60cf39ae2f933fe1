"""How much memory loading weights takes beside the weights themselves.

    python benchmarks/load_memory.py [--gigabytes 2]

Writes a file of random tensors into a temporary folder and loads it in a fresh process four ways: stored in
float32 or bfloat16, wanted in float32 or bfloat16. Prints the module's own bytes, and the process's peak
resident memory above what it held before, both in MB. (Linux: the peak is VmHWM, reset before loading.)
Tensors that need no conversion stay mapped from the file and count only once they are used; `used` is the
peak after every weight has been read once.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH = 4096


def measure(path: Path, layers: int, dtype_name: str) -> None:
    import torch
    from torch import nn

    from linnet.weights.load import load_into

    def build() -> nn.Module:
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))

    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    model = load_into(build, path, dtype=getattr(torch, dtype_name))
    loaded = peak() - before
    size = sum(parameter.nbytes for parameter in model.parameters())
    sum(float(parameter.detach().flatten()[::512].sum()) for parameter in model.parameters())
    print(f"{size / 1e6:8.0f} {loaded / 1e6:8.0f} {(peak() - before) / 1e6:8.0f}")


def peak() -> int:
    """Highest resident memory of this process since the last reset, in bytes."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the float32 file")
    parser.add_argument("--measure", nargs=3, metavar=("FILE", "LAYERS", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        path, layers, dtype = options.measure
        return measure(Path(path), int(layers), dtype)

    import torch
    from safetensors.torch import save_file

    layers = max(1, round(options.gigabytes * 1e9 / (4 * WIDTH**2)))
    print(f"{'stored':>9} {'wanted':>9} {'model':>8} {'loaded':>8} {'used':>8}  MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        for stored in ("float32", "bfloat16"):
            tensors = {
                f"{i}.weight": torch.ones(WIDTH, WIDTH, dtype=getattr(torch, stored)) for i in range(layers)
            }
            save_file(tensors, path)
            del tensors
            for wanted in ("float32", "bfloat16"):
                print(f"{stored:>9} {wanted:>9} ", end="", flush=True)
                again = [sys.executable, __file__, "--measure", str(path), str(layers), wanted]
                subprocess.run(again, check=True)
    return None


if __name__ == "__main__":
    main()

"""Peak memory of a long clip beside a short one: `python benchmarks/long.py`.

Each is made by a process of its own, in one step, since steps do not add to the peak; both in the same windows.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LENGTHS = (5, 60)  # seconds
WINDOWS = ("--window", "49", "--window-overlap", "24")


def peak(seconds: int, folder: Path) -> float:
    """Megabytes of memory that the process held at most."""
    words = (
        "a red star spins on a blue background",
        "--seconds",
        str(seconds),
        "--steps",
        "1",
        "--seed",
        "1",
    )
    output = ("--output", str(folder / f"{seconds}.mp4"), "--model", "seedling", "--device", "cpu", "--quiet")
    process = subprocess.Popen([sys.executable, "-m", "linnet", "generate", *words, *WINDOWS, *output])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(1)
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        peaks = [peak(seconds, Path(folder)) for seconds in LENGTHS]
    rows = [{"seconds": seconds, "megabytes": peak} for seconds, peak in zip(LENGTHS, peaks, strict=True)]
    for row in rows:
        print(f"{row['seconds']} s: {row['megabytes']:.0f} MB")
    print(f"ratio: {peaks[1] / peaks[0]:.3f}")
    print(json.dumps({"rows": rows, "ratio": peaks[1] / peaks[0]}))


if __name__ == "__main__":
    main()

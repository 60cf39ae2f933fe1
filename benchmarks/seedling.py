"""What seedling costs: a two-second clip as a whole process, from the shell's prompt to the file.

    python benchmarks/seedling.py [--runs 3]

Prints wall and CPU seconds, peak memory, whether two runs gave the same bytes, the time of an empty Python process that
imports torch (which no process with a model can beat), and, last, one JSON line.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PROMPT = "a red star spins on a blue background"


def run(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds and the peak resident set, in bytes, of one process."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if platform.system() == "Darwin" else 1024
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * unit}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    python = [sys.executable, "-m", "linnet"]
    rows, hashes = [], set()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        command = [*python, "generate", PROMPT, "--seconds", "2", "--seed", "1", "--quiet", "--overwrite"]
        for _ in range(runs):
            rows.append(run([*command, "--output", str(clip)]))
            hashes.add(hashlib.sha256(clip.read_bytes()).hexdigest())
    floor = run([sys.executable, "-c", "import torch, av"])
    help_cpu = min(run([*python, "--help"])["cpu"] for _ in range(3))
    best = {name: median(row[name] for row in rows) for name in rows[0]}
    cores = len(os.sched_getaffinity(0))
    print(f"cores            {cores}, load {os.getloadavg()[0]:.1f} (others were at work above {cores})")
    print(f"clip, wall       {best['wall']:6.1f} s (median of {runs})")
    print(f"clip, CPU        {best['cpu']:6.1f} s")
    print(f"peak memory      {best['peak_bytes'] / 2**30:6.2f} GiB")
    print(f"same bytes       {'yes' if len(hashes) == 1 else 'NO'}")
    print(f"import torch, av {floor['wall']:6.1f} s, {floor['peak_bytes'] / 2**30:.2f} GiB")
    print(f"linnet --help    {help_cpu:6.2f} s of CPU")
    print(json.dumps({"clip": best, "same_bytes": len(hashes) == 1, "floor": floor, "help_cpu": help_cpu}))


if __name__ == "__main__":
    main()

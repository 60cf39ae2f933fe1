"""Run a benchmark and keep what it found, with what it was found on, in benchmarks/results/NAME.json.

    python benchmarks/record.py NAME [--as OTHER] [arguments of benchmarks/NAME.py]

The benchmark prints as ever; its last line of JSON is the result. Kept beside it: the command, the device, the versions
and the revision of the repository ("+" if files that are not committed were in use).
"""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("torch", "numpy", "av")


def revision() -> str:
    """The commit, and whether its files are what runs."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!results")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def circumstances() -> dict[str, Any]:
    """What a figure depends on beside the code that is measured."""
    import torch

    from linnet.measure.doctor import title
    from linnet.runtime.device import resolve_device

    return {
        "device": title(resolve_device()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "revision": revision(),
    }


def keep(name: str, command: str, result: Any, folder: Path = RESULTS) -> Path:
    """Write the record; the file is the same for the same findings."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    record = {"command": command, **circumstances(), "result": result}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def main() -> None:
    name, *words = sys.argv[1:]
    title = name
    if words[:1] == ["--as"]:
        title, words = words[1], words[2:]
    process = subprocess.Popen(
        [sys.executable, str(HERE / f"{name}.py"), *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    if process.wait():
        raise SystemExit(process.returncode)
    shown = ["DIR" if Path(word).is_absolute() else word for word in words]
    print(keep(title, " ".join(["python", f"benchmarks/{name}.py", *shown]), json.loads(last)))


if __name__ == "__main__":
    main()

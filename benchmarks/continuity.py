"""What goes beyond one clip, measured on seedling: `linnet evaluate continuity`, in a form that `record.py` keeps.

    python benchmarks/continuity.py [--n 20] [--only KIND ...] [--profile exact] [--output DIR]

With --output the clips stay in that folder, and those that are there are not made again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--profile", default="exact")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    only = [word for kind in asked.only for word in ("--only", kind)]
    with tempfile.TemporaryDirectory() as spare:
        folder = asked.output or Path(spare) / "continuity"
        command = [sys.executable, "-m", "linnet", "evaluate", "continuity", "--n", str(asked.n), *only]
        more = ["--profile", asked.profile, "--output", str(folder), "--json"]
        found = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(found.stdout)
    for row in report["rows"]:
        print(f"{row['words']:<64} {row['ours']:8.3g} {row['naive']:8.3g}  of {row['trials']}")
    print(json.dumps({"weights": report["subject"]["weights"], "rows": report["rows"]}))


if __name__ == "__main__":
    main()

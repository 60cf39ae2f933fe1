"""How often seedling shows what was asked for: `linnet evaluate adherence`, in a form that `record.py` keeps.

    python benchmarks/adherence.py [--n 200] [--trained] [--output DIR]

Combinations that were kept out of training, unless --trained. With --output the clips and the report stay in that
folder, and clips that are there are not made again.
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
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        folder = asked.output or Path(spare) / "adherence"
        command = [sys.executable, "-m", "linnet", "evaluate", "adherence", "--n", str(asked.n)]
        held_out = [] if asked.trained else ["--held-out"]
        subprocess.run([*command, *held_out, "--output", str(folder)], check=True)
        report = json.loads((folder / "report.json").read_text())
    weights = report["settings"]["subject"]["weights"]
    print(json.dumps({"weights": weights, "held_out": not asked.trained, "summary": report["summary"]}))


if __name__ == "__main__":
    main()

"""Let the wall clock jump, and stop all processes of the service meanwhile, as when a machine is suspended; then count.

    python benchmarks/serve_clocks.py --weights DIR --stop 60

Needs libfaketime. Prints one JSON line: files lost and tries spent must be 0.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from clocks import LIBRARY, survive

STEPS = (60, -60, 400 * 86400, -400 * 86400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--stop", type=float, default=60.0, help="seconds that all processes are stopped")
    parser.add_argument(
        "--stay", type=float, default=30.0, help="seconds that the clock stays wrong, running"
    )
    given = parser.parse_args()
    if LIBRARY is None:
        sys.exit("libfaketime is not installed")
    with tempfile.TemporaryDirectory() as folder:
        print(
            json.dumps(survive(Path(folder) / "data", given.weights, STEPS, stop=given.stop, stay=given.stay))
        )


if __name__ == "__main__":
    main()

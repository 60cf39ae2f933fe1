"""How long after a job's start its first preview has arrived at who watches, over the network as a browser has it.

    python benchmarks/serve_preview.py --weights DIR --jobs 5

Prints one JSON line: seconds for each job, in the order in which they were made; before the first, the model is loaded.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from linnet.serve.queue import Queue
from serving import Server

ASKED = {"prompt": "a red star spins on a blue background"}


def first_preview(server: Server) -> float:
    job = server.create(**ASKED)
    with server.http.stream("GET", f"/v1/videos/{job}/events") as stream:
        next(line for line in stream.iter_lines() if line == "event: preview")
        seen = time.time()
    server.wait(job, "completed")
    row = Queue(server.data).get(job)
    assert row is not None
    assert row.started is not None
    return seen - row.started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "data", given.weights) as server:
        server.wait_ready()
        waited = [round(first_preview(server), 2) for _ in range(given.jobs)]
    print(json.dumps({"seconds": waited, "worst": max(waited)}))


if __name__ == "__main__":
    main()

"""Many clients at once, while a worker renders: each asks once a second, nine times in ten how a job is, else for a new
one.

    python benchmarks/serve_load.py --weights DIR --clients 200 --seconds 30

Prints one JSON line: percentiles of the answer times in milliseconds, statuses, processor time of the service, of the
worker, and of this load itself (which takes its share of the machine, and so worsens the figures).
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from serving import Server

ASKED = {"prompt": "a red star spins on a blue background"}


Times = dict[str, list[float]]


async def client(
    http: httpx2.AsyncClient, job: str, end: float, times: Times, statuses: Counter[int]
) -> None:
    await asyncio.sleep(random.random())
    while time.monotonic() < end:
        begun = time.monotonic()
        kind = "create" if random.random() < 0.1 else "retrieve"
        if kind == "create":
            answer = await http.post("/v1/videos", json=ASKED)
            job = answer.json().get("id", job)
        else:
            answer = await http.get(f"/v1/videos/{job}")
        times[kind].append(time.monotonic() - begun)
        statuses[answer.status_code] += 1
        await asyncio.sleep(max(0.0, begun + 1 - time.monotonic()))


async def load(url: str, job: str, clients: int, seconds: float) -> tuple[Times, Counter[int]]:
    """Each of the clients over its own connection."""
    times: Times = {"retrieve": [], "create": []}
    statuses: Counter[int] = Counter()
    connections = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=connections) as http:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(http, job, end, times, statuses) for _ in range(clients)))
    return times, statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    limits = ("--jobs", 100_000, "--jobs-per-key", 100_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder) / "data", given.weights, *limits) as server,
    ):
        job = server.wait_ready().create(**ASKED)
        server.wait(job, "in_progress", "completed")
        names = {"load": psutil.Process(), "service": psutil.Process(server.process.pid)}
        names["worker"] = psutil.Process(server.workers()[0])
        before = {name: sum(process.cpu_times()[:2]) for name, process in names.items()}
        begun = time.monotonic()
        times, statuses = asyncio.run(load(server.url, job, given.clients, given.seconds))
        took = time.monotonic() - begun
        after = {name: sum(process.cpu_times()[:2]) for name, process in names.items()}
        record = {
            "clients": given.clients,
            "requests_a_second": round(sum(statuses.values()) / took, 1),
            "statuses": dict(statuses),
            "processors": {name: round((after[name] - before[name]) / took, 2) for name in names},
            "load_1min_of_the_machine": psutil.getloadavg()[0],
        }
        for kind, spent in times.items():
            ordered = sorted(1000 * second for second in spent)
            record[f"{kind}_ms"] = {
                f"p{p}": round(ordered[int(len(ordered) * p / 100)], 1) for p in (50, 95, 99)
            }
        print(json.dumps(record))


if __name__ == "__main__":
    main()

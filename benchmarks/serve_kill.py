"""Kill the service, its worker, or both, at random moments while jobs come in and are made; then count.

    python benchmarks/serve_kill.py --weights DIR --rounds 20

Prints one JSON line: jobs lost, made twice or broken must be 0, whatever the seed.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from linnet.media import read_frames
from linnet.serve.clips import KINDS, clips_folder, file_of
from linnet.serve.queue import Queue
from serving import Server, until

ASKED = {"prompt": "a red star spins on a blue background", "num_frames": 17, "num_inference_steps": 4}
LIMITS = ("--jobs-per-key", 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        accepted: dict[str, str] = {}  # idempotency key -> job
        doubtful: list[str] = []  # keys of requests whose answer never came
        killed: Counter[str] = Counter()
        server = Server(data, given.weights, *LIMITS)
        for number in range(given.rounds):
            stop = threading.Event()
            load = threading.Thread(target=ask, args=(server.url, number, stop, accepted, doubtful))
            load.start()
            if number % 4 == 0:
                server.wait_ready()  # else it may be hit while it starts
            time.sleep(chance.uniform(0.2, 3.0))
            victim = chance.choice(("service", "worker", "both"))
            killed[victim] += 1
            if victim != "service":
                server.kill_worker()
            if victim != "worker":
                server.kill()
            stop.set()
            load.join()
            if victim != "worker":
                server = Server(data, given.weights, *LIMITS)
        # A client that got no answer asks again with the same key.
        for key in doubtful:
            accepted[key] = post(httpx2.Client(base_url=server.url, timeout=60), key)
        until(lambda: not any(unfinished(data)), patience=1800)
        server.kill()
        print(json.dumps(verdict(data, accepted) | {"rounds": given.rounds, "killed": dict(killed)}))


def ask(url: str, number: int, stop: threading.Event, accepted: dict[str, str], doubtful: list[str]) -> None:
    """Keep asking, a job each half second, until told to stop."""
    client = httpx2.Client(base_url=url, timeout=5)
    for index in range(1000):
        if stop.is_set():
            return
        key = f"{number}-{index}"
        try:
            accepted[key] = post(client, key)
        except httpx2.HTTPError:
            doubtful.append(key)
        stop.wait(0.5)


def post(client: httpx2.Client, key: str) -> str:
    seed = sum(map(ord, key))
    answer = client.post("/v1/videos", json=ASKED | {"seed": seed}, headers={"Idempotency-Key": key})
    return answer.raise_for_status().json()["id"]


def unfinished(data: Path) -> list[str]:
    queue = Queue(data)
    found = [
        job for job in queue.ids() if (row := queue.get(job)) and row.status in ("queued", "in_progress")
    ]
    queue.close()
    return found


def verdict(data: Path, accepted: dict[str, str]) -> dict[str, Any]:
    queue = Queue(data)
    jobs = {job: queue.get(job) for job in queue.ids()}
    done = {job for job, row in jobs.items() if row and row.status == "completed"}
    files = {path.name for path in clips_folder(data).iterdir()}
    return {
        "accepted": len(accepted),
        "completed": len(done),
        "lost": len(set(accepted.values()) - done),
        "duplicated": len(jobs) - len(set(accepted.values())) + len(accepted) - len(set(accepted.values())),
        "finished_twice": int(queue.statistics()["sums"]["jobs_completed", "seedling"]) - len(done),
        "broken_files": sum(not sound(file_of(data, job)) for job in done),
        "stray_files": len(files - {f"{job}{ending}" for job in done for ending in KINDS.values()}),
        "database": queue.check() or "intact",
    }


def sound(clip: Path) -> bool:
    """Every frame is there and can be decoded."""
    return sum(1 for _ in read_frames(clip)) == ASKED["num_frames"]


if __name__ == "__main__":
    main()

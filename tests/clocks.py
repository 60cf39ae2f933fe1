"""`linnet serve` under a wall clock that jumps while all its processes are stopped, for a test and a benchmark."""

import os
import shutil
import signal
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from linnet.serve.clips import KINDS, clips_folder
from linnet.serve.queue import Queue
from serving import Server, until

FOUND = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib").glob("faketime/libfaketimeMT*"),
]
LIBRARY = FOUND[0] if FOUND and shutil.which("env") else None
# Where the monotonic clock is left alone, libfaketime refuses the system call behind Python's `time.sleep`.
SLEEP = (
    "import select, time; time.sleep = lambda seconds: select.select([], [], [], max(0.0, seconds)) and None"
)
ASKED = {"prompt": "a red star spins on a blue background", "num_frames": 121}


def survive(
    data: Path, weights: Path, steps: Sequence[float], *, stop: float = 0.0, stay: float = 2.0
) -> dict[str, Any]:
    """What it cost, counted: for each step the wall clock jumps by so many seconds, stays there for `stay`, and comes
    back, while a job runs; for the first half of that all processes are stopped for `stop` seconds."""
    hands = data.parent / "hands"
    hands.write_text("+0")
    faked = [f"LD_PRELOAD={LIBRARY}", f"FAKETIME_TIMESTAMP_FILE={hands}", "FAKETIME_NO_CACHE=1",
             "DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", f"PYTHONPATH={data.parent}"]  # fmt: skip
    (data.parent / "sitecustomize.py").write_text(SLEEP)
    with Server(data, weights, "--keep-days", 30, through=["env", *faked]) as server:
        server.wait_ready()
        done = [server.create(**ASKED, num_inference_steps=2, seed=seed) for seed in (1, 2)]
        for job in done:
            server.wait(job, "completed")
        workers, files = server.workers(), everything(data)
        for number, step in enumerate(steps):
            job = server.create(**ASKED, num_inference_steps=1000, seed=number)
            until(lambda job=job: server.video(job)["progress"] > 0)
            for offset in (step, 0.0):
                everybody = [*server.workers(), server.process.pid]
                for process in everybody if stop else ():
                    os.kill(process, signal.SIGSTOP)
                hands.write_text(f"{offset:+.0f}")
                time.sleep(stop if stop and offset else 0)
                for process in everybody if stop else ():
                    os.kill(process, signal.SIGCONT)
                before, date, end = server.video(job)["progress"], "", time.monotonic() + stay
                while time.monotonic() < end:
                    date = server.http.get("/healthz").raise_for_status().headers["date"]
                    time.sleep(0.1)
                assert abs(parsedate_to_datetime(date).timestamp() - time.time() - offset) < 20
                assert server.video(job)["progress"] >= before
            server.http.post(f"/v1/videos/{job}/cancel").raise_for_status()
        last = server.create(**ASKED, num_inference_steps=2, seed=99)
        server.wait(last, "completed")
        same = server.workers() == workers
        queue = Queue(data)
        tries = sum(found.tries for found in map(queue.get, queue.ids()) if found)
        restarts = sum(
            value for (name, _), value in queue.statistics()["sums"].items() if name == "worker_restarts"
        )
        assert server.stop() == 0
    now = everything(data)
    return {
        "clock_steps": 2 * len(steps),
        "files_lost": len(files.keys() - now.keys()),
        "files_changed": sum(now.get(name, content) != content for name, content in files.items()),
        "files_made": len(now) - len(files),
        "tries_spent": tries,
        "workers_restarted": int(restarts) + (not same),
        "stopped_seconds": stop * len(steps),
    }


def everything(data: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in clips_folder(data).iterdir() if path.suffix in KINDS.values()
    }

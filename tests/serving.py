"""`linnet serve` as a process of its own, for the tests and benchmarks that need the real thing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2

PATIENCE = 120.0  # seconds; a slow machine is no failure


class Server:
    """Started on a free port over `data`, by the command `through` where one is given; killed at the end of its
    `with`."""

    def __init__(
        self, data: Path, weights: Path | None, *options: object, through: Sequence[str] = ()
    ) -> None:
        self.data = data
        given = ["--weights", weights] if weights else []
        words = ["--port", 0, "--data", data, "--device", "cpu", "--threads", 1, *given, *options]
        self.log = (data.parent / f"{data.name}.log").open("ab+")
        self.process = subprocess.Popen(
            [*through, sys.executable, "-m", "linnet", "serve", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"no address in {line!r}: {self.log.name}"
        self.url = found[0]
        # Each request has a connection of its own: one that is kept may be closed as idle at the moment it is used.
        fresh = httpx2.Limits(max_keepalive_connections=0)
        self.http = httpx2.Client(base_url=self.url, timeout=PATIENCE, limits=fresh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.log.close()

    def wait_ready(self) -> Self:
        until(lambda: self.http.get("/readyz").status_code == 200)
        return self

    def create(self, **settings: Any) -> str:
        answer = self.http.post("/v1/videos", json=settings)
        answer.raise_for_status()
        return answer.json()["id"]

    def video(self, job: str) -> dict[str, Any]:
        return self.http.get(f"/v1/videos/{job}").raise_for_status().json()

    def wait(self, job: str, *statuses: str) -> dict[str, Any]:
        """The job once it has one of these statuses."""
        until(lambda: self.video(job)["status"] in statuses)
        return self.video(job)

    def workers(self) -> list[int]:
        """Process ids of the children."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def kill_worker(self) -> None:
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.http.close()

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


def until(true: Callable[[], bool], *, patience: float = PATIENCE) -> None:
    """Wait for it."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)

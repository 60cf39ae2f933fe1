"""A Ray cluster of this machine's processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from serving import until

START = ("start", "--block", "--disable-usage-stats", "--num-cpus", "1", "--object-store-memory", "100000000")
RAY = [
    sys.executable,
    "-m",
    "ray.scripts.scripts",
    *START,
    "--min-worker-port",
    "0",
    "--max-worker-port",
    "0",
]
# Hides a folder from what runs behind it, as a node's own file system would. It needs rights that not all have.
HIDING = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']


class Nodes:
    """With one processor each; the first is the head, which the service speaks to."""

    def __init__(self, folder: Path, hidden: Path) -> None:
        self.folder, self.processes = folder, []
        hiding = [*HIDING, str(hidden)]
        possible = shutil.which("unshare") and not subprocess.run([*hiding, "true"], check=False).returncode
        self.start = [*(hiding if possible else []), *RAY]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.add("--head", "--port", str(port), "--include-dashboard", "false")

    def add(self, *more: str) -> subprocess.Popen[bytes]:
        """Wait until it is a part of the cluster."""
        out = self.folder / f"node{len(self.processes)}.log"
        command = [*self.start, *(more or ("--address", self.address))]
        process = subprocess.Popen(
            command, stdout=out.open("wb"), stderr=subprocess.STDOUT, start_new_session=True
        )
        self.processes.append(process)
        until(lambda: "Ray runtime started" in out.read_text())
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """The node with all that runs on it, at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

"""The service in front of a Ray cluster whose nodes cannot see its folder, one of them killed in the middle."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from linnet.media import probe
from linnet.serve.clips import KINDS, clips_folder, file_of
from linnet.serve.queue import Queue
from ray_nodes import Nodes
from serving import Server, until

pytest.importorskip("ray", reason="ray is not installed: pip install 'linnet[cluster]'")

PROMPT = "a red star spins on a blue background"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a socket's path has but 107 letters
    hidden = tmp_path / "private"
    hidden.mkdir()
    nodes = Nodes(tmp_path, hidden)
    yield nodes
    for process in reversed(nodes.processes):
        if process.poll() is None:
            nodes.kill(process)


def test_a_node_that_dies_gives_its_job_back(nodes: Nodes, tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "private" / "data"
    doomed = nodes.add()
    with Server(data, tiny_model, "--ray", nodes.address) as server:
        until(lambda: len(ready(data)) == 2)
        long = [
            server.create(prompt=PROMPT, num_frames=121, num_inference_steps=500, seed=seed)
            for seed in (1, 2)
        ]
        until(lambda: all(server.video(job)["progress"] > 5 for job in long))  # one on each
        with server.http.stream("GET", f"/v1/videos/{long[0]}/events") as stream:
            assert next(line for line in stream.iter_lines() if "data:image/webp;base64," in line)
        nodes.kill(doomed)
        cancelled = server.create(prompt=PROMPT, num_frames=121, num_inference_steps=1000)
        short = server.create(prompt=PROMPT, num_frames=5, num_inference_steps=2)
        for job in long:
            assert server.wait(job, "completed", "failed")["status"] == "completed"
        server.wait(cancelled, "in_progress")
        server.http.post(f"/v1/videos/{cancelled}/cancel").raise_for_status()
        server.wait(short, "completed")
        assert server.stop() == 0
    queue = Queue(data)
    assert sorted(job.tries for job in queue.kept() if job.id in long) == [0, 1]
    assert [probe(file_of(data, job)).frames for job in (*long, short)] == [121, 121, 5]
    made = {path.name for path in clips_folder(data).iterdir()}
    assert made == {f"{job}{ending}" for job in (*long, short) for ending in KINDS.values()}


def ready(data: Path) -> list[str]:
    queue = Queue(data)
    try:
        return [name for name, worker in queue.workers().items() if worker["ready"]]
    finally:
        queue.close()


def test_an_address_without_a_cluster_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    words = ["serve", "--data", tmp_path / "data", "--weights", tiny_model, "--ray", "127.0.0.1:9"]
    result = subprocess.run(
        [sys.executable, "-m", "linnet", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "no cluster answers" in result.stderr.splitlines()[-1]

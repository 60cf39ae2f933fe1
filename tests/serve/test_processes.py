"""The service as it runs: an existing client speaks to it, and it is killed."""

import base64
import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from linnet.media import probe, read_metadata
from linnet.serve.clips import clips_folder, file_of
from linnet.serve.queue import Queue
from serving import Server, until

PROMPT = "a red star spins on a blue background"
SHORT = {"prompt": PROMPT, "num_frames": 5, "num_inference_steps": 2}
LONG = {"prompt": PROMPT, "num_frames": 121, "num_inference_steps": 1000}  # of the tiny model: seconds

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def png(width: int, height: int, colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("serve") / "data", tiny_model) as server:
        yield server.wait_ready()


def test_the_official_client_does_all_that_it_can(server: Server, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    # The client's types name its own service's models, sizes and lengths.
    asked: Any = {"prompt": PROMPT, "model": "seedling", "size": "128x72", "seconds": "0.667"}
    extra = {"num_inference_steps": 2, "seed": 7}
    video = client.videos.create_and_poll(**asked, extra_body=extra)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.model, video.seconds, video.size) == ("seedling", "0.667", "128x72")
    clip = tmp_path / "clip.mp4"
    client.videos.download_content(video.id).write_to_file(clip)
    assert probe(clip).frames == 17
    assert (read_metadata(clip) or {})["request"]["seed"] == 7
    for variant, start in (("thumbnail", b"RIFF"), ("spritesheet", b"\xff\xd8")):
        assert client.videos.download_content(video.id, variant=variant).read().startswith(start)  # type: ignore[arg-type]
    remix = client.videos.remix(video.id, prompt="a green heart moves left")
    assert remix.remixed_from_video_id == video.id
    assert [v.id for v in client.videos.list(limit=1)] == [remix.id, video.id]  # it turns the pages by itself
    assert client.videos.retrieve(remix.id).prompt == "a green heart moves left"
    for one in (video, client.videos.poll(remix.id)):
        assert client.videos.delete(one.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    green = png(256, 144, (20, 200, 30))
    begun = client.videos.create_and_poll(
        **asked, input_reference=("a.png", green, "image/png"), extra_body=extra
    )
    assert (begun.status, begun.error) == ("completed", None)
    client.videos.download_content(begun.id).write_to_file(clip)
    picture = (read_metadata(clip) or {})["direction"]["image"]
    assert picture["sha256"] == hashlib.sha256(green).hexdigest()
    # A whole header before broken pixels is only found out by whoever decodes them.
    failed = client.videos.create_and_poll(
        **asked, input_reference=("a.png", green[:-40], "image/png"), extra_body=extra
    )
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "invalid_input_reference")
    assert "cannot be read" in failed.error.message
    followed = client.videos.create_and_poll(
        **asked,
        input_reference=("a.mp4", clip.read_bytes(), "video/mp4"),
        extra_body={**extra, "strength": 0.5},
    )
    assert (followed.status, followed.error) == ("completed", None)
    client.videos.download_content(followed.id).write_to_file(clip)
    assert (read_metadata(clip) or {})["direction"]["strength"] == 0.5
    assert probe(clip).frames == 17
    square = {"image_url": f"data:image/png;base64,{base64.b64encode(png(99, 99)).decode()}"}
    fitted = client.videos.create(**asked, extra_body={**extra, "input_reference": square, "fit": "crop"})
    assert client.videos.poll(fitted.id).status == "completed"
    there = {one.id for one in client.videos.list()}
    assert {one.id for one in (begun, failed, followed, fitted)} <= there
    for one in client.videos.list(limit=2):  # the page behind a video that is deleted by now
        client.videos.delete(one.id)
    assert not list(client.videos.list())
    assert "seedling" in [model.id for model in client.models.list()]


def test_previews_come_while_it_is_made_and_cancelling_stops_it(server: Server) -> None:
    job = server.create(**LONG)
    other = server.create(**SHORT)
    seen = set()
    with server.http.stream("GET", f"/v1/videos/{job}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                seen.add(line.removeprefix("event: "))
            if line.startswith("data: ") and "preview" in seen:
                assert "data:image/webp;base64," in line
                break
    assert seen >= {"progress", "preview"}
    cancelled = server.http.post(f"/v1/videos/{job}/cancel").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    server.wait(other, "completed")  # the worker has gone on
    assert not file_of(server.data, job).exists()


def test_a_killed_worker_is_replaced_and_its_job_done(server: Server) -> None:
    job = server.create(**LONG | {"num_inference_steps": 100})
    server.wait(job, "in_progress")
    server.kill_worker()
    assert server.wait(job, "completed", "failed")["status"] == "completed"
    assert probe(file_of(server.data, job)).frames == 121


def test_a_killed_service_loses_nothing_and_makes_nothing_twice(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    with Server(data, tiny_model) as first:
        first.wait_ready()
        jobs = [first.create(**SHORT | {"seed": seed}) for seed in range(3)]
        jobs.append(first.create(**LONG))
        first.wait(jobs[-1], "in_progress")
        orphans = first.workers()
        first.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))  # they notice
    with Server(data, tiny_model, "--grace", 1) as second:
        assert {second.wait(job, "completed", "failed")["status"] for job in jobs[:3]} == {"completed"}
        second.wait(jobs[3], "in_progress")
        assert second.stop() == 0  # in the middle of the long one: it has no time to finish
    queue = Queue(data)
    left = queue.get(jobs[3])
    assert left is not None
    assert left.status in ("queued", "completed")
    assert queue.check() == []
    assert queue.ids() == set(jobs)
    done = {job for job in jobs if (found := queue.get(job)) and found.status == "completed"}
    assert {path.stem for path in clips_folder(data).glob("*")} == done
    assert queue.statistics()["sums"]["jobs_completed", "seedling"] == len(done)


def fill(path: Path) -> None:
    """To the last page."""
    with path.open("wb", buffering=0) as filler:
        for size in (2**20, 4096):
            with suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass


DISK = (
    "unshare",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size=$0 tmpfs "$1" && shift && exec "$@"',
)


def test_a_disk_that_fills_up_in_the_middle_costs_that_job_alone(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    own = (
        *DISK,
        "260m",
        str(data),
    )  # a disk that only the service has: over what it must find free, and not by much
    if not shutil.which("unshare") or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("needs a system that lets users mount a disk of their own")
    with Server(data, tiny_model, through=own) as server:
        disk = Path(f"/proc/{server.process.pid}/root{data}")
        server.wait_ready()
        job = server.create(**(LONG | {"num_inference_steps": 100}))
        others = [server.create(**LONG) for _ in range(20)]
        server.wait(job, "in_progress")
        fill(disk / "filler")
        refused = server.http.post("/v1/videos", json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
        assert server.http.get("/healthz").status_code == 200
        until(lambda: not list(clips_folder(disk).iterdir()))
        failed = server.wait(job, "failed", "completed")  # which is said without waiting for room
        for waiting in others[:3]:
            server.http.post(f"/v1/videos/{waiting}/cancel").raise_for_status()
        for gone in (job, *others):
            assert server.http.delete(f"/v1/videos/{gone}").raise_for_status().json()["deleted"]
        assert server.http.get("/v1/videos").json()["data"] == []
        assert server.http.get("/readyz").status_code == 200
        (disk / "filler").unlink()
        assert (failed["status"], failed["error"]["code"]) == ("failed", "disk_full")
        assert list(clips_folder(disk).iterdir()) == []
        assert server.wait(server.create(**SHORT), "completed", "failed")["status"] == "completed"
        assert Queue(disk).check() == []
        assert b"Traceback" not in (tmp_path / "data.log").read_bytes()

"""Clips that are sent to be followed: what a good one does, and what others do not."""

import base64
import hashlib
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from linnet.catalog import SEEDLING
from linnet.direct.conditions import RESAMPLING_STEPS
from linnet.direct.samplers import levels_left
from linnet.media import read_frames, read_metadata
from linnet.plan.passes import DRAFT_STEPS, DRAWS
from linnet.request import make_request
from linnet.sampling import flow, keep_frames
from linnet.serve import pace, uploads
from linnet.serve.clips import clips_folder, file_of
from linnet.serve.jobs import InputReference, Job
from linnet.serve.pace import passes
from linnet.serve.render import RenderSettings
from linnet.serve.service import Service
from linnet.serve.uploads import check_clip, is_clip
from linnet.serve.worker import Worker, WorkerSettings

PROMPT = "a red star spins on a blue background"
FORM = {"prompt": PROMPT, "num_frames": "9", "num_inference_steps": "2"}
FAILED = "invalid_input_reference"


def clip(
    folder: Path,
    frames: int = 9,
    *,
    size: tuple[int, int] = (128, 72),
    colour: tuple[int, int, int] = (0, 0, 0),
    codec: str = "libx264",
    ending: str = "mp4",
    apart: int = 1,
) -> bytes:
    """Of one colour, its frames so many 24ths of a second `apart`."""
    path = folder / f"sent.{ending}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        container.start_encoding()  # a file, even without a frame
        picture = np.full((size[1], size[0], 3), colour, np.uint8)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index * apart
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def sent(client: TestClient, content: bytes, *, kind: str = "video/mp4", **more: str) -> Any:
    return client.post("/v1/videos", data=FORM | more, files={"input_reference": ("a.mp4", content, kind)})


def rendered(service: Service, weights: Path | None) -> Job:
    """The next job, after a worker was at it."""
    given = str(weights) if weights else None
    settings = WorkerSettings(data=str(service.data), model="seedling", weights=given, device="cpu")
    worker = Worker(settings, "w")
    job = service.queue.claim("w")
    assert job is not None
    worker.render(job)
    return service.queue.get(job.id) or job


def test_a_clip_is_followed_and_its_colours_with_it(
    client: TestClient, service: Service, tmp_path: Path
) -> None:
    green = clip(tmp_path, colour=(20, 160, 40))
    asked = sent(
        client, green, strength="0.1", profile="fast", num_inference_steps="8", num_frames="9"
    ).json()
    assert (asked["begins_from_video"], asked["begins_from_image"]) == (True, False)
    assert (asked["strength"], asked["profile"]) == (0.1, "fast")
    remix = client.post(
        f"/v1/videos/{asked['id']}/remix", json={"prompt": PROMPT.replace("red", "pink")}
    ).json()
    assert (remix["begins_from_video"], remix["strength"], remix["profile"]) == (True, 0.1, "fast")
    for _ in range(2):
        job = rendered(service, None)  # seedling itself: to follow takes a model that learnt something
        made = file_of(service.data, job.id)
        assert (job.status, job.message) == ("completed", None)
        red, of_green, blue = np.mean([frame.mean((0, 1)) for frame in read_frames(made)], 0)
        assert of_green > 2 * max(red, blue)
        direction = (read_metadata(made) or {})["direction"]
        assert (direction["strength"], direction["video"]["sha256"]) == (
            0.1,
            hashlib.sha256(green).hexdigest(),
        )


def broken_frame(folder: Path) -> bytes:
    """128x72 by its header; the frames say that they are 16383 pixels wide and high."""
    whole = clip(folder, codec="libvpx", ending="webm")
    start = b"\x9d\x01\x2a"
    assert struct.pack("<HH", 128, 72) in whole
    return whole.replace(start + struct.pack("<HH", 128, 72), start + struct.pack("<HH", 16383, 16383))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: clip(folder)[:400], "cannot be read"),
        (lambda folder: b"\0\0\0\x18ftypisom" + bytes(500), "cannot be read"),
        (lambda folder: b"\x1a\x45\xdf\xa3" + b"\xff" * 500, "cannot be read"),
        (lambda folder: clip(folder, 0), "holds no"),
        (lambda folder: clip(folder, 5), "has 5 frames at 24 a second, fewer than 9; ask for fewer seconds"),
        (lambda folder: clip(folder, 2, size=(2560, 1600)), "has over 4 million pixels a frame"),
        (broken_frame, "cannot be read"),
        (lambda folder: clip(folder, 3, apart=24 * 200, ending="mkv"), "lasts over 300 s"),
        (lambda folder: clip(folder, 30), "has over 20 frames"),
        (lambda folder: clip(folder, 12, codec="ffv1", ending="mkv"), "use H.264"),
        (lambda folder: clip(folder, size=(72, 72)), "of another shape than 128x72; use fit=crop"),
    ],
)
def test_a_clip_that_cannot_be_used_fails_its_job_and_leaves_nothing(
    client: TestClient,
    service: Service,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], bytes],
    words: str,
) -> None:
    monkeypatch.setattr(uploads, "MOST_FRAMES", 20)
    spare = tmp_path / "spare"
    spare.mkdir()
    content = make(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    assert sent(client, content).status_code == 200  # nobody looked into it yet
    job = rendered(service, tiny_model)
    assert (job.status, job.code) == ("failed", FAILED)
    assert str(job.message).startswith('input_reference "video": ')
    assert words in str(job.message)
    assert "--" not in str(job.message)
    assert list(clips_folder(service.data).iterdir()) == []
    assert list(spare.iterdir()) == []
    assert service.queue.stored_bytes() == 0
    answer = client.post(f"/v1/videos/{job.id}/remix", json={"prompt": PROMPT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "video_gone")


def test_a_job_that_is_cancelled_ends_while_what_was_sent_is_read(
    client: TestClient, service: Service, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.inputs.reader.BEAT", 0.01)
    monkeypatch.setattr(
        "linnet.serve.render.Pipeline.generate", lambda *given, **more: pytest.fail("goes on")
    )
    video = sent(client, clip(tmp_path)).json()["id"]
    settings = WorkerSettings(data=str(service.data), model="seedling", weights=str(tiny_model), device="cpu")
    job = service.queue.claim("w")
    assert job is not None
    assert client.post(f"/v1/videos/{video}/cancel").json()["error"]["code"] == "cancelled"
    Worker(settings, "w").render(job)
    assert (service.queue.get(video) or job).code == "cancelled"


def test_what_a_clip_says_of_itself_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "sent.mkv"
    path.write_bytes(clip(tmp_path, ending="mkv").replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    check_clip(path)
    assert read_metadata(path) is None


def test_only_the_first_bytes_of_a_clip_are_looked_at(client: TestClient, service: Service) -> None:
    assert is_clip(b"\0\0\0\x20ftypqt  ")
    head = b"\0\0\0\x20ftypisom"
    named = {"image_url": f"data:video/mp4;base64,{base64.b64encode(head).decode()}"}
    body = {"prompt": PROMPT, "num_frames": 9, "input_reference": named}
    assert client.post("/v1/plan", json=body).status_code == 200
    video = client.post("/v1/videos", json=body | {"strength": 1}).json()
    assert (video["begins_from_video"], video["strength"]) == (True, 1)
    given = service.queue.given(video["id"])
    assert given == InputReference(head, None, 1.0)
    long = client.post("/v1/videos", json=body | {"num_frames": 121}).json()
    job = service.queue.get(long["id"])
    assert job is not None
    assert (job.request.window > 0, job.request.onward) == (True, False)
    service.queue.complete(service.queue.claim("w") or job, size=1, seconds={})
    assert service.queue.stored_bytes() == 2 * len(head) + 1
    assert [size for *_, size in service.queue.ended()] == [len(head) + 1]


@pytest.mark.parametrize(
    ("content", "more", "param", "words"),
    [
        (None, {"strength": "0.5"}, "strength", "there is none"),
        (b"\x89PNG\r\n\x1a\n", {"strength": "0.5"}, "strength", "there is none"),
        (b"\0\0\0\x20ftypisom", {"strength": "0"}, "strength", "is out of range"),
        (b"\0\0\0\x20ftypisom", {"strength": "1.01"}, "strength", "is out of range"),
        (b"\0\0\0\x20ftypisom", {"strength": "nan"}, "strength", "is out of range"),
        (b"\0\0\0\x20ftypavif", {}, "input_reference", "cannot be read as an image"),
        (b"\0\0\0\x20moovisom", {}, "input_reference", "cannot be read as an image"),
        (b"GIF89a", {}, "input_reference", "cannot be read as an image"),
    ],
)
def test_what_is_no_clip_is_refused_at_once(
    client: TestClient, service: Service, content: bytes | None, more: dict[str, str], param: str, words: str
) -> None:
    files = {"input_reference": ("a.mp4", content, "video/mp4")} if content else None
    answer = client.post("/v1/videos", data=FORM | more, files=files)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert words in error["message"]
    assert service.queue.ids() == set()


def test_the_plan_counts_what_is_encoded_and_the_steps_that_are_left(service: Service) -> None:
    request = make_request(SEEDLING, prompt="a", seed=1, frames=9)
    followed = InputReference(b"", None, 0.25)
    pixels = [
        service.models.plan(request, given).workload.encoded_frames
        for given in (None, InputReference(b""), followed)
    ]
    assert pixels == [0, 1, 9]
    assert [passes(request, given) for given in (None, InputReference(b""), followed)] == [40, 58, 52]
    assert (pace.early, RESAMPLING_STEPS) == (keep_frames.early, 2)
    for strength in (0.01, 0.25, 0.33, 1.0):
        left = len(levels_left(flow.sigmas(request.steps, request.shift), strength)) - 1
        draft = 2 * DRAWS + 3 * DRAFT_STEPS  # where the prompt disagrees, then an edit from no words
        assert passes(request, InputReference(b"", None, strength)) == draft + 2 * left


def test_a_node_of_a_cluster_follows_it_too(tiny_model: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("linnet.serve.ray")
    hand = ray.Hand(RenderSettings(model="seedling", weights=str(tiny_model), device="cpu"))
    record = make_request(SEEDLING, prompt="a", seed=1, frames=9, steps=2).to_json()
    made = hand.render(record, InputReference(clip(tmp_path), None, 0.5))
    assert (made.code, "encode" in made.seconds, made.files["video"][4:8]) == ("", True, b"ftyp")
    assert hand.render(record, InputReference(clip(tmp_path, 5), None, 0.5)).code == FAILED


def test_a_cancelled_job_does_not_wait_until_its_clip_is_decoded(
    client: TestClient, service: Service, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = sent(client, clip(tmp_path)).json()["id"]
    settings = WorkerSettings(data=str(service.data), model="seedling", weights=str(tiny_model), device="cpu")
    worker = Worker(settings, "w")
    worker.renderer.pipeline("seedling")
    job = service.queue.claim("w")
    assert job is not None
    children: list[Any] = []
    begin = subprocess.Popen

    def endless(command: list[str], **more: Any) -> Any:
        assert client.post(f"/v1/videos/{video}/cancel").status_code == 200
        children.append(begin([command[0], "-c", "import time; time.sleep(600)"], **more))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", endless)
    worker.render(job)
    assert [child.returncode is not None for child in children] == [True]
    ended = service.queue.get(job.id)
    assert ended is not None
    assert (ended.status, ended.code) == ("failed", "cancelled")

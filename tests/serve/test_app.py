"""The HTTP interface, over a queue whose worker is the test itself."""

import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from api_client import PROMPT, STILL, accepted, refused, render
from linnet.plan.cost_model import CostModel
from linnet.serve import acceptance, schemas
from linnet.serve.app import PAGE, STREAMS
from linnet.serve.clips import KINDS, clips_folder, file_of
from linnet.serve.eta import Eta, seconds_left
from linnet.serve.jobs import Limits
from linnet.serve.keys import make_key
from linnet.serve.models import Models
from linnet.serve.pace import passes
from linnet.serve.service import Service


def header_of_png(width: int, height: int) -> bytes:
    """All of a PNG that says how large it is, and no pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    described = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", described) + chunk(b"IDAT", b"")


# --- what cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"seconds": "1e9"}, "seconds"),
        ({"seconds": "nan"}, "seconds"),
        ({"seconds": "../../etc"}, "seconds"),
        ({"size": "99999x99999"}, "size"),
        ({"size": ["128x72"]}, "size"),
        ({"width": 128}, "size"),
        ({"width": -128, "height": 72}, "size"),
        ({"size": "128x72", "width": 72, "height": 128}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"num_frames": 2}, "num_frames"),
        ({"num_inference_steps": 10**9}, "num_inference_steps"),
        ({"guidance_scale": True}, "guidance_scale"),
        ({"fps": 30}, "fps"),
        ({"model": "sora-2"}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "a red fox"}, "prompt"),
        ({"prompt": "a red\u200b star"}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"colour": "red"}, "colour"),
        ({"input_reference": {"image_url": "http://169.254.169.254/"}}, "input_reference"),
        ({"input_reference": {"image_url": "file:///etc/passwd"}}, "input_reference"),
        ({"input_reference": {"image_url": "data:image/png;base64,????"}}, "input_reference"),
        ({"input_reference": {"image_url": "data:image/png;base64,PHN2Zz4="}}, "input_reference"),
        ({"input_reference": {"file_id": "file_1"}}, "input_reference"),
        ({"fit": "crop"}, "fit"),
        ({"strength": 0.5}, "strength"),
        ({"profile": "best"}, "profile"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    client: TestClient, service: Service, body: dict[str, Any], param: str
) -> None:
    answer = client.post("/v1/videos", json=STILL | body)
    code = answer.json()["error"]["code"]
    message = refused(answer, 400, code, param)
    assert len(message) < 1000
    assert service.queue.ids() == set()


def test_bodies_of_the_wrong_kind(client: TestClient) -> None:
    refused(client.post("/v1/videos", content=b"{", headers={"content-type": "application/json"}), 400,
            "invalid_request")  # fmt: skip
    refused(client.post("/v1/videos", content=b"hello", headers={"content-type": "text/plain"}), 415,
            "unsupported_media_type")  # fmt: skip
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/videos", content=b"--x\r\nnonsense", headers=broken), 400,
            "invalid_request", "prompt")  # fmt: skip
    image = {"input_reference": ("a.svg", b"<svg>" + bytes(100), "image/png")}
    form = {name: str(value) for name, value in STILL.items()}
    refused(client.post("/v1/videos", data=form, files=image), 400, "invalid_value", "input_reference")
    refused(client.post("/v1/plan", data=form, files=image), 400, "invalid_value", "input_reference")
    refused(client.post("/v1/videos", data=form, files={"prompt2": image["input_reference"]}), 400,
            "invalid_request", "prompt2")  # fmt: skip


@pytest.mark.parametrize(
    ("size", "kept", "words"),
    [
        ((99, 99), None, "of another shape than 128x72; use fit=crop"),
        ((72, 128), None, "is 72x128"),
        ((9000, 9000), None, "has over 40 million pixels"),
        ((60000, 60000), None, "has over 40 million pixels"),
        ((128, 72), 20, "cannot be read as an image"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused_at_once(
    client: TestClient, size: tuple[int, int], kept: int | None, words: str
) -> None:
    sent = {"input_reference": ("a.png", header_of_png(*size)[:kept], "image/png")}
    form = {name: str(value) for name, value in STILL.items()}
    answer = client.post("/v1/videos", data=form, files=sent)
    refused(answer, 400, "invalid_value", "input_reference")
    assert words in answer.json()["error"]["message"]
    assert client.get("/v1/videos").json()["data"] == []


def test_an_address_of_an_image_is_fetched_where_that_is_allowed(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"input_reference": {"image_url": "http://127.0.0.1/a.png"}}
    refused(client.post("/v1/videos", json=STILL | named), 400, "invalid_value", "input_reference")
    service.fetches = True
    answer = client.post("/v1/videos", json=STILL | named)
    refused(answer, 400, "invalid_value", "input_reference")
    assert "is not a public address" in answer.json()["error"]["message"]
    monkeypatch.setattr(acceptance, "fetch", lambda address: header_of_png(128, 72))
    job = accepted(client, **named)["id"]
    image = service.queue.given(job)
    assert image is not None
    assert image.content == header_of_png(128, 72)


def test_the_models_say_how_long_their_clips_may_be(client: TestClient, service: Service) -> None:
    def limits() -> list[str]:
        (model,) = client.get("/v1/models").json()["data"]
        return [model[name] for name in ("default_seconds", "seconds_at_once", "max_seconds")]

    assert limits() == ["2", "2", "300"]
    service.longest_seconds = 1.6  # less than half a latent frame over 1.5
    assert limits() == ["1.5", "1.5", "1.5"]
    refused(
        client.post("/v1/videos", json={"prompt": PROMPT, "seconds": "2"}), 400, "invalid_value", "seconds"
    )
    service.longest_seconds = None
    accepted(client, num_frames=7201)


def test_an_image_with_broken_exif_counts_as_upright(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("RGB", (128, 72)).save(file, "JPEG", exif=b"Exif\0\0II*\0")
    form = {name: str(value) for name, value in STILL.items()}
    answer = client.post(
        "/v1/videos", data=form, files={"input_reference": ("a.jpg", file.getvalue(), "image/jpeg")}
    )
    assert answer.status_code == 200, answer.text


def test_a_huge_body_is_turned_away_whether_or_not_it_says_so(client: TestClient) -> None:
    huge = json.dumps({"prompt": "x" * 10_000_000}).encode()
    kind = {"content-type": "application/json"}
    refused(client.post("/v1/videos", content=huge, headers=kind), 413, "too_large")
    pieces = (huge[i : i + 65536] for i in range(0, len(huge), 65536))  # without a length
    refused(client.post("/v1/videos", content=pieces, headers=kind), 413, "too_large")


@pytest.mark.parametrize("name", ["..%2f..%2flinnet.db", "nothing", "video_" + "0" * 32, "%00"])
def test_no_path_comes_from_a_client(client: TestClient, name: str) -> None:
    for tail in ("", "/content", "/events"):
        assert client.get(f"/v1/videos/{name}{tail}").status_code == 404


def test_limits(client: TestClient, service: Service) -> None:
    service.limits = Limits(jobs=5, jobs_per_owner=1)
    accepted(client)
    answer = client.post("/v1/videos", json=STILL)
    refused(answer, 429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    service.reserve_bytes = 2**62
    refused(client.post("/v1/videos", json=STILL), 507, "disk_full")
    service.longest_seconds = 1
    refused(
        client.post("/v1/videos", json={"prompt": PROMPT, "seconds": "2"}), 400, "invalid_value", "seconds"
    )
    service.draining = True
    refused(client.post("/v1/videos", json=STILL), 503, "draining")


def test_ended_jobs_of_every_kind_are_past_their_time_one_day(client: TestClient, service: Service) -> None:
    accepted(client)
    render(service)
    client.post(f"/v1/videos/{accepted(client)['id']}/cancel")
    waiting = accepted(client)["id"]
    service.keep_seconds = 3600.0
    service.make_room()
    assert len(service.queue.ids()) == 3
    service.keep_seconds = -1.0
    service.make_room()
    assert service.queue.ids() == {waiting}


def test_a_failed_video_cannot_be_remixed_without_its_image(client: TestClient) -> None:
    sent = {"input_reference": ("a.png", header_of_png(128, 72), "image/png")}
    form = {name: str(value) for name, value in STILL.items()}
    job = client.post("/v1/videos", data=form, files=sent).json()["id"]
    assert client.post(f"/v1/videos/{job}/remix", json={"prompt": PROMPT}).status_code == 200
    client.post(f"/v1/videos/{job}/cancel")
    answer = client.post(f"/v1/videos/{job}/remix", json={"prompt": PROMPT})
    assert "image" in refused(answer, 409, "image_gone")


def test_the_oldest_clips_make_room_but_not_one_that_is_read(client: TestClient, service: Service) -> None:
    made = [render(service) for _ in range(3) if accepted(client)]
    client.get(f"/v1/videos/{made[0].id}/content")
    service.quota_bytes = 70  # of 90
    service.make_room()
    assert service.queue.ids() == {made[0].id, made[2].id}
    assert not file_of(service.data, made[1].id).exists()
    service.quota_bytes = 1
    client.get(f"/v1/videos/{made[2].id}/content")
    refused(client.post("/v1/videos", json=STILL), 507, "quota_full")


# --- who may ----------------------------------------------------------------------------------------------------------


def test_a_key_sees_its_own_jobs_until_it_is_revoked(client: TestClient, service: Service) -> None:
    local = accepted(client)["id"]
    (ann, ann_key), (bob, bob_key) = (make_key(service.queue, name) for name in ("ann", "bob"))
    as_ann, as_bob = ({"authorization": f"Bearer {key}"} for key in (ann_key, bob_key))
    refused(client.get("/v1/videos"), 401, "invalid_api_key")
    refused(
        client.get("/v1/videos", headers={"authorization": "Bearer linnet_wrong"}), 401, "invalid_api_key"
    )
    job = client.post("/v1/videos", json=STILL, headers=as_ann).json()["id"]
    assert [video["id"] for video in client.get("/v1/videos", headers=as_ann).json()["data"]] == [job]
    assert client.get("/v1/videos", headers=as_bob).json()["data"] == []
    for method, tail in (
        ("GET", ""),
        ("GET", "/content"),
        ("GET", "/events"),
        ("DELETE", ""),
        ("POST", "/cancel"),
    ):
        answer = client.request(method, f"/v1/videos/{job}{tail}", headers=as_bob)
        refused(answer, 404, "not_found", "video_id")
    assert client.get(f"/v1/videos/{local}", headers=as_ann).status_code == 404

    refused(client.post("/v1/session", json={"key": "linnet_wrong"}), 401, "invalid_api_key", "key")
    assert "HttpOnly" in client.post("/v1/session", json={"key": ann_key}).headers["set-cookie"]
    assert client.get(f"/v1/videos/{job}").status_code == 200
    assert client.delete("/v1/session").status_code == 204
    refused(client.get(f"/v1/videos/{job}"), 401, "invalid_api_key")
    client.post("/v1/session", json={"key": ann_key})
    assert service.queue.revoke_key(ann)
    refused(client.get(f"/v1/videos/{job}"), 401, "invalid_api_key")
    assert service.queue.revoke_key(bob)
    assert client.get(f"/v1/videos/{local}").status_code == 200  # as before the first key
    service.local = False
    refused(client.get(f"/v1/videos/{local}"), 401, "invalid_api_key")
    assert ann_key.encode() not in (service.data / "linnet.db").read_bytes()


def test_other_sites_get_no_answer_out_of_a_local_server(client: TestClient, service: Service) -> None:
    refused(client.get("/v1/videos", headers={"host": "evil.example"}), 403, "wrong_host")
    refused(
        client.post("/v1/videos", json=STILL, headers={"origin": "http://evil.example"}), 403, "wrong_origin"
    )
    refused(client.get("/", headers={"origin": "http://["}), 403, "wrong_origin")
    service.host = "127.0.0.2"
    assert client.get("/v1/videos", headers={"host": "127.0.0.2:8000"}).status_code == 200
    answer = client.get("/", headers={"origin": "http://localhost"})
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers


def test_behind_a_proxy_it_answers_to_that_name_and_to_keys(client: TestClient, service: Service) -> None:
    service.local, service.name = False, "linnet.example"
    _, key = make_key(service.queue, "ann")
    there = {"host": "linnet.example", "authorization": f"Bearer {key}", "x-forwarded-proto": "https"}
    refused(client.get("/v1/videos", headers=there | {"host": "evil.example"}), 403, "wrong_host")
    refused(client.get("/v1/videos"), 401, "invalid_api_key")
    assert client.get("/v1/videos", headers=there | {"origin": "https://linnet.example"}).status_code == 200
    assert "Secure" in client.post("/v1/session", json={"key": key}, headers=there).headers["set-cookie"]


def test_the_page_asks_nobody_else(client: TestClient) -> None:
    for address in PAGE:
        text = client.get(address).text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in "".join(line for line in text.splitlines() if "http" in line)
        assert " style=" not in text  # which the page's own policy forbids


# --- what comes back --------------------------------------------------------------------------------------------------


def test_a_video_from_asking_to_deleting(client: TestClient, service: Service) -> None:
    video = accepted(client, seed=7, negative_prompt="a blue star")
    assert (video["status"], video["progress"], video["seconds"], video["size"]) == (
        "queued",
        0,
        "0",
        "128x72",
    )
    assert (video["seed"], video["num_frames"], video["negative_prompt"]) == (7, 1, "a blue star")
    address = f"/v1/videos/{video['id']}"
    refused(client.get(f"{address}/content"), 409, "not_ready")
    render(service)
    assert client.get(address).json()["progress"] == 100
    part = client.get(f"{address}/content", headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    beyond = client.get(f"{address}/content", headers={"range": "bytes=99-"})
    refused(beyond, 416, "no_such_range", "Range")
    assert beyond.headers["content-range"] == "bytes */10"
    same = client.get(f"{address}/content", headers={"if-none-match": f'"x", W/{part.headers["etag"]}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", part.headers["etag"])
    head = client.head(f"{address}/content")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    assert client.head("/").status_code == 200
    kinds = {v: client.get(f"{address}/content?variant={v}").headers["content-type"] for v in KINDS}
    assert kinds == {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
    remix = client.post(f"{address}/remix", json={"prompt": "a green heart"}).json()
    assert (remix["remixed_from_video_id"], remix["seed"], remix["num_frames"]) == (video["id"], 7, 1)
    assert client.delete(address).json() == {"id": video["id"], "object": "video.deleted", "deleted": True}
    assert client.get(address).status_code == 404
    assert list(clips_folder(service.data).iterdir()) == []


def test_the_names_of_vllm_omni_are_understood(client: TestClient, service: Service) -> None:
    address = f"data:image/png;base64,{base64.b64encode(header_of_png(128, 72)).decode()}"
    named: dict[str, Any] = {"width": 128, "height": 72, "user": "ann"}
    image = {"image_reference": {"image_url": address}}
    jobs = [accepted(client, **named, **image)["id"]]
    form = {name: str(value) for name, value in (STILL | named).items()}
    form["image_reference"] = json.dumps(image["image_reference"])
    jobs.append(client.post("/v1/videos", data=form).json()["id"])
    for job in jobs:
        given = service.queue.given(job)
        assert given is not None
        assert given.content == header_of_png(128, 72)
    twice = client.post("/v1/videos", json=STILL | image | {"input_reference": image["image_reference"]})
    refused(twice, 400, "invalid_value", "input_reference")


def test_pages_of_a_list(client: TestClient) -> None:
    made = [accepted(client)["id"] for _ in range(5)]
    first = client.get("/v1/videos", params={"limit": 2}).json()
    assert ([video["id"] for video in first["data"]], first["has_more"]) == (made[:-3:-1], True)
    rest = client.get("/v1/videos", params={"after": made[1], "order": "asc"}).json()
    assert ([video["id"] for video in rest["data"]], rest["has_more"]) == (made[2:], False)
    refused(client.get("/v1/videos", params={"after": "nothing"}), 404, "not_found", "after")
    refused(client.get("/v1/videos", params={"limit": 0}), 400, "invalid_request", "limit")


def test_an_idempotency_key_makes_one_job_of_two_requests(client: TestClient, service: Service) -> None:
    headers = {"idempotency-key": "k"}
    first = client.post("/v1/videos", json=STILL, headers=headers).json()
    service.longest_seconds, service.reserve_bytes = -1.0, 2**62  # all of which came since
    service.draining = True
    assert client.post("/v1/videos", json=STILL, headers=headers).json() == first
    other = client.post("/v1/videos", json=STILL | {"seed": 1}, headers=headers)
    refused(other, 409, "idempotency_key_reused", "Idempotency-Key")


def test_events_tell_the_way(client: TestClient, service: Service) -> None:
    accepted(client)
    video = accepted(client)
    job = service.queue.claim("w")
    assert job is not None
    service.queue.report(job, "denoise", 1, 2, b"picture")
    now = service.queue.get(job.id)
    assert now is not None
    assert seconds_left(service.queue, now) is None  # before the first clip
    got: list[tuple[str, Any]] = []
    with client.stream("GET", f"/v1/videos/{job.id}/events") as stream:
        # The client hands the stream over when it has ended, so it is ended from the side.
        service.queue.fail(job, "x", "y")
        got = [*events(stream)]
    assert got[-1][0] == "end"
    assert got[-1][1]["error"] == {"code": "x", "message": "y"}
    assert service.etas.of(service.queue.get(video["id"]) or job) == Eta(1, None, False)
    assert service.etas.of(job) is None
    assert +service.streams == {}


def test_who_waits_learns_how_long_from_what_was_made(client: TestClient, service: Service) -> None:
    accepted(client)
    render(service)  # in 1.5 s, of two steps
    accepted(client)
    videos = [accepted(client, num_inference_steps=4), accepted(client)]
    waiting = [service.queue.get(video["id"]) for video in videos]
    assert service.queue.claim("w") is not None
    service.queue.beat("w", ready=True, memory=0)
    found = [service.etas.of(job) for job in waiting if job]
    assert [one and (one.position, one.worker_ready) for one in found] == [(1, True), (2, True)]
    first, second = (one.seconds for one in found if one)
    assert 2.5 < (first or 0) <= 4.0
    assert second == pytest.approx((first or 0) + 1.5)


def test_a_key_follows_so_many_jobs_at_a_time(client: TestClient, service: Service) -> None:
    job = accepted(client)["id"]
    service.streams[""] = STREAMS
    refused(client.get(f"/v1/videos/{job}/events"), 429, "too_many_streams")


def events(stream: Any) -> Iterator[tuple[str, Any]]:
    for block in "".join(stream.iter_text()).split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            yield lines["event"], json.loads(lines["data"])


def test_what_is_over_the_servers_budget_is_refused_at_once(
    client: TestClient, service: Service, tiny_model: Path
) -> None:
    service.models = Models("seedling", tiny_model, "cpu", ram=10**9)
    assert client.post("/v1/plan", json=STILL).json()["memory_free_bytes"] == 10**9
    service.models = Models("seedling", tiny_model, "cpu", ram=10**6)
    refused = client.post("/v1/videos", json=STILL)
    assert refused.status_code == 400
    assert "this server may use" in refused.json()["error"]["message"]


def test_the_plan_is_measured_once_there_was_a_clip(client: TestClient, service: Service) -> None:
    before = client.post("/v1/plan", json=STILL).json()
    assert (before["seconds_needed"], before["jobs_waiting"]) == (None, 0)
    assert before["memory_bytes"] > 0
    accepted(client)
    render(service)
    after = client.post("/v1/plan", json=STILL).json()
    assert (after["seconds_needed"], after["measured"]) == (1.5, True)
    longer = client.post("/v1/plan", json=STILL | {"num_frames": 9}).json()
    assert (longer["seconds_needed"], longer["measured"]) == (13.5, False)


def test_a_profile_is_known_by_its_settings_and_its_time_by_its_passes(
    client: TestClient, service: Service
) -> None:
    def plan(**more: Any) -> tuple[float, bool]:
        found = client.post("/v1/plan", json={"prompt": PROMPT, "num_frames": 9} | more).json()
        return found["seconds_needed"], found["measured"]

    form = {"prompt": PROMPT, "num_frames": "9", "profile": "fast"}
    fast = client.post("/v1/videos", data=form).json()
    plain = client.post("/v1/videos", json={"prompt": PROMPT, "num_frames": 9}).json()
    remix = client.post(f"/v1/videos/{fast['id']}/remix", json={"prompt": "a green heart"}).json()
    other = client.post("/v1/videos", json=form | {"num_frames": 9, "num_inference_steps": 12}).json()
    assert [video["profile"] for video in (fast, plain, remix, other)] == ["fast", "exact", "fast", "fast"]
    assert (remix["num_inference_steps"], other["num_inference_steps"]) == (10, 12)
    job = service.queue.get(fast["id"])
    assert job is not None
    assert schemas.profile_of(replace(job.request, guidance_until=0.9)) is None
    (model,) = client.get("/v1/models").json()["data"]
    assert [one["id"] for one in model["profiles"]] == ["exact", "fast", "draft"]

    client.post(f"/v1/videos/{fast['id']}/cancel")
    render(service)  # the exact one: 40 passes in 1 s, and 0.5 s more
    assert plan() == plan(profile="exact") == (1.5, True)
    assert plan(profile="fast") == (round(0.5 + passes(job.request) / 40, 2), False)
    assert passes(job.request) < 16
    render(service)  # the remix
    assert (plan(profile="fast"), plan()) == ((1.5, True), (1.5, True))


def test_before_the_first_clip_the_plan_goes_by_what_was_measured_here(
    client: TestClient, service: Service, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = CostModel(**dict.fromkeys(CostModel.__dataclass_fields__, 0.0) | {"frame": 1.5, "prompt": 0.5})
    monkeypatch.setattr("linnet.plan.host.recall", lambda name, key: {"was": "measured"})
    monkeypatch.setattr("linnet.plan.cost_model.known", lambda key: pace)
    found = client.post("/v1/plan", json=STILL).json()
    assert (found["seconds_needed"], found["measured"]) == (2, False)
    service.models = Models("seedling", tiny_model, "cpu", elsewhere=True)
    found = client.post("/v1/plan", json=STILL).json()
    assert (found["seconds_needed"], found["memory_free_bytes"]) == (None, None)


def test_metrics_count_what_ended_and_how(client: TestClient, service: Service) -> None:
    accepted(client)
    render(service)
    client.post(f"/v1/videos/{accepted(client)['id']}/cancel")
    lines = client.get("/metrics").text.splitlines()
    assert 'linnet_jobs{status="completed"} 1.0' in lines
    assert 'linnet_jobs_failed_total{kind="cancelled"} 1.0' in lines
    assert 'linnet_stage_seconds_total{stage="denoise"} 1.0' in lines
    refused(client.get("/readyz"), 503, "not_ready")
    service.queue.beat("w", ready=True, memory=5, reserved=7)
    assert 'linnet_worker_card_bytes{worker="0"} 7.0' in client.get("/metrics").text.splitlines()
    assert client.get("/readyz").status_code == 200


def test_the_pages_scripts_are_all_served_and_need_each_other_one_way() -> None:
    folder = Path(str(files("linnet.serve") / "static"))
    needs = {
        path.name: set(re.findall(r'^import .* from "\./(.+)";', path.read_text("utf-8"), re.M))
        for path in folder.glob("*.js")
    }
    assert set(needs) == {name for name, kind in PAGE.values() if kind.startswith("text/javascript")}
    order = list(TopologicalSorter(needs).static_order())  # CycleError
    assert order[-1] == "app.js"
    assert set(order) == set(needs)

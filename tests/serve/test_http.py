"""What HTTP and existing clients expect of a server beyond its answers: parts, conditions, names, sessions, limits."""

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api_client import PROMPT, STILL, accepted, refused, render
from linnet.errors import InvalidInput
from linnet.serve import clips, middleware
from linnet.serve.events import follow
from linnet.serve.keys import make_key
from linnet.serve.responses import disposition, usable_range
from linnet.serve.service import Credentials, Service
from linnet.serve.wire import on_the_wire

# --- parts and conditions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("bytes=2-4", "bytes=2-4"),
        ("Bytes= 2-4 ,, -3", "bytes=2-4,-3"),
        ("bytes=2-99999999999999999999", "bytes=2-99999999999999999999"),
        ("bytes=8-, 10-", "bytes=8-"),  # what it has of what is asked for
        ("bytes=10-", ""),
        ("bytes=-0", ""),
        ("items=0-5", None),
        ("bytes=9-5", None),
        ("bytes=0-1,9-5", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=1", None),
        ("bytes=a-b", None),
        ("bytes=1-2-3", None),
        ("bytes=٣-٤", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("bytes=" + "0-1," * 33, None),
        ("bytes", None),
        ("", None),
    ],
)
def test_the_part_that_a_range_asks_for(given: str, part: str | None) -> None:
    assert usable_range(given, 10) == part


def test_a_range_that_does_not_count_gets_all(client: TestClient, service: Service) -> None:
    address = f"/v1/videos/{accepted(client)['id']}/content"
    render(service)

    def got(**headers: str) -> tuple[int, bytes]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = client.get(address, headers=given)
        return answer.status_code, answer.content

    whole = (200, b"0123456789")
    for words in ("items=0-5", "bytes=9-5", "bytes=-", "lines=1-"):
        assert got(range=words) == whole
    assert got(range="bytes=-3") == (206, b"789")
    assert got(range="bytes=8-,99-") == (206, b"89")
    etag, date = (client.get(address).headers[name] for name in ("etag", "last-modified"))
    assert got(range="bytes=99-", if_range='"old"') == whole
    assert got(range="bytes=2-4", if_range=etag) == (206, b"234")
    for headers in ({"if_none_match": "*"}, {"if_none_match": f'"x", W/{etag}'}, {"if_modified_since": date}):
        assert got(**headers) == (304, b"")
    assert got(if_none_match='"x"', if_modified_since=date) == whole  # of the two, the tag counts
    assert got(if_modified_since="yesterday") == whole
    assert got(if_match="*") == got(if_match=etag) == whole
    assert got(if_match='"old"')[0] == got(if_unmodified_since="Mon, 01 Jan 2001 00:00:00 GMT")[0] == 412


def test_a_download_is_called_after_its_prompt_and_seed(client: TestClient, service: Service) -> None:
    job = accepted(client, seed=7)["id"]
    render(service)
    headers = client.get(f"/v1/videos/{job}/content").headers
    assert headers["content-disposition"] == 'inline; filename="a-red-star-spins-on-a-blue-background-7.mp4"'
    picture = client.get(f"/v1/videos/{job}/content", params={"variant": "thumbnail"}).headers
    assert picture["content-disposition"].endswith('background-7.webp"')
    assert (
        disposition("füchse-7.mp4") == "inline; filename=\"f_chse-7.mp4\"; filename*=UTF-8''f%C3%BCchse-7.mp4"
    )
    assert '"' not in disposition('a"\r\nb')[len('inline; filename="') : -1].partition('"')[0]


# --- methods and headers ----------------------------------------------------------------------------------------------


def test_head_is_get_without_a_body(client: TestClient, service: Service) -> None:
    job = accepted(client)["id"]
    render(service)
    waits = accepted(client)["id"]
    for path in (
        *("/", "/healthz", "/metrics", "/openapi.json", "/v1/models", "/v1/videos"),
        *(f"/v1/videos/{job}", f"/v1/videos/{job}/content", f"/v1/videos/{waits}/events"),
    ):
        answer = client.head(path, headers={"range": "bytes=1-2"})
        assert (answer.status_code, answer.content) == (200, b""), path
    assert client.head(f"/v1/videos/{job}/content").headers["content-length"] == "10"
    assert client.head("/v1/videos/nothing").status_code == 404
    assert client.head("/v1/plan").status_code == 405
    assert service.streams.total() == 0
    options = client.options("/v1/videos")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert client.options("/nowhere").status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "user@localhost",
        "localhost:99999",
        "localhost:http",
        "[::1",
        "localhost/x",
        "loca\u00e4",
    ],
)
def test_a_host_that_is_none_is_refused(client: TestClient, host: str) -> None:
    refused(client.get("/healthz", headers=[(b"host", host.encode("latin-1"))]), 400, "invalid_host")


def test_a_header_that_counts_once_is_given_once(client: TestClient, service: Service) -> None:
    for name in ("Host", "Authorization", "Idempotency-Key"):
        answer = client.get("/healthz", headers=[(name, "localhost"), (name, "localhost")])
        assert name in refused(answer, 400, "invalid_request")
    assert client.get("/healthz", headers={"host": "[::1]:8000"}).status_code == 200
    gzip = {"content-type": "application/json", "content-encoding": "gzip"}
    refused(client.post("/v1/videos", content=b"\x1f\x8b", headers=gzip), 415, "unsupported_media_type")
    form = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\\ud800\r\n--x--\r\n'
    for charset in ("raw_unicode_escape", "undefined", "zlib_codec", "punycode"):
        kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
        assert client.post("/v1/videos", content=form, headers=kind).status_code == 400


def test_bodies_are_held_up_to_a_limit(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"content-type": "application/json"}
    refused(client.post("/v1/session", content=b" " * 5000, headers=kind), 413, "too_large")
    monkeypatch.setattr(middleware, "MOST_HELD", 1000)
    answer = client.post("/v1/videos", json=STILL | {"user": "x" * 1000})
    refused(answer, 503, "busy")
    assert answer.headers["retry-after"]
    accepted(client)  # what was held is let go of


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("use `fit=crop`, which cuts off 5 %, or `fit=pad`", "use fit=crop, which cuts off 5 %, or fit=pad"),
        ("use `seconds=1.5`", "use seconds=1.5"),
        ("use `steps=8`.", "use num_inference_steps=8."),
        ("use `model=linum-v2-360p`", "use model=linum-v2-360p"),
        ("name a part of it with `seconds`", "name a part of it with seconds"),
        ("give `video`", "give input_reference"),
        ("use `vram=8GB` `ram=4GB`", "use `linnet serve --vram 8GB` `linnet serve --ram 4GB`"),
        ("use `dtype=bfloat16` and `seconds=2`", "use `linnet serve --dtype bfloat16` and seconds=2"),
        ("if it stays away, add `device=cpu`", "if it stays away, add `linnet serve --device cpu`"),
    ],
)
def test_errors_say_what_a_client_can_give(said: str, told: str) -> None:
    error = InvalidInput("steps", Path("/var/lib/linnet/clips/a.mp4"), "is wrong", said)
    assert on_the_wire(error) == f'num_inference_steps "a.mp4": is wrong; {told}'
    assert clips.told(InvalidInput("steps", 0, "is wrong", said))[0] == "invalid_num_inference_steps"


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_goes_on_from_a_video_that_was_deleted(client: TestClient, service: Service) -> None:
    made = [accepted(client)["id"] for _ in range(5)]
    for video in (made[4], made[3]):
        client.delete(f"/v1/videos/{video}")
    for order, rest in (("desc", made[2::-1]), ("asc", [])):
        page = client.get("/v1/videos", params={"after": made[3], "order": order}).json()
        assert [video["id"] for video in page["data"]] == rest
    make_key(service.queue, "ann")
    service.local = False
    (key,) = [known["id"] for known in service.queue.all_keys()]
    assert service.queue.number(made[4], owner=key) is None


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_stands_for_a_key_until_either_ends(client: TestClient, service: Service) -> None:
    ann, key = make_key(service.queue, "ann")
    client.cookies.set("linnet_key", key, domain="localhost.local")  # of an earlier version
    refused(client.get("/v1/videos"), 401, "invalid_api_key")
    there = {"host": "localhost:8123"}
    told = client.post("/v1/session", json={"key": key}, headers=there).headers.get_list("set-cookie")
    (session,) = [line for line in told if line.startswith("linnet_session_8123=")]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(session.split("; "))
    assert any(line.startswith('linnet_key="";') for line in told)  # which held the key
    assert key not in str(told)
    token = session.partition("=")[2].partition(";")[0]
    assert token.encode() not in (service.data / "linnet.db").read_bytes()

    def status(port: int) -> int:
        cookie = {"host": f"localhost:{port}", "cookie": f"linnet_session_8123={token}"}
        return client.get("/v1/videos", headers=cookie).status_code

    assert [status(8123), status(8124)] == [200, 401]  # another server's cookie is not looked at
    assert client.get("/v1/videos", headers={"authorization": f"Bearer {token}"}).status_code == 401
    cookie = {"host": "localhost:8123", "cookie": f"linnet_session_8123={token}"}
    assert client.delete("/v1/session", headers=cookie).status_code == 204
    assert status(8123) == 401
    other = service.owner(Credentials(session=token))
    assert other is None
    client.post("/v1/session", json={"key": key})
    assert client.get("/v1/videos").status_code == 200
    service.queue.revoke_key(ann)
    make_key(service.queue, "bob")
    refused(client.get("/v1/videos"), 401, "invalid_api_key")


async def all_of(stream: Any, then: Any) -> list[str]:
    """A stream's events; after the first, something happens."""
    found = []
    async for event in stream:
        found.append(event)
        then()
    return found


def test_events_end_with_the_key(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr("linnet.serve.events.ASK_AGAIN", 0.0)
    ann, key = make_key(service.queue, "ann")
    job = client.post("/v1/videos", json=STILL, headers={"authorization": f"Bearer {key}"}).json()["id"]
    asked = service.queue.get(job)
    assert asked is not None
    stream = follow(service, asked, Credentials(key=key), lambda job: pytest.fail("it has not ended"))
    begun = time.monotonic()
    (only,) = asyncio.run(
        all_of(stream, lambda: service.queue.revoke_key(ann) or make_key(service.queue, "bob"))
    )
    assert only.startswith("event: progress")
    assert time.monotonic() - begun < 60


def test_streams_leave_connections_for_others(client: TestClient, service: Service) -> None:
    service.streams["somebody"] = service.connections.limits.most // 2
    refused(client.get(f"/v1/videos/{accepted(client)['id']}/events"), 429, "too_many_streams")


# --- time -------------------------------------------------------------------------------------------------------------


def test_what_would_take_too_long_is_refused_with_what_would_not(
    client: TestClient, service: Service
) -> None:
    service.job_seconds = 3600.0
    accepted(client)
    render(service)  # a frame in two steps: 1.5 s
    long = {"prompt": PROMPT, "seconds": 300, "num_inference_steps": 1000}
    for path in ("/v1/videos", "/v1/plan"):
        message = refused(client.post(path, json=long), 400, "invalid_value", "seconds")
        assert "would take about 41 days 17 h to make, and this server allows 1 h" in message
        assert message.endswith("; ask for fewer steps and seconds")
    less = client.post("/v1/videos", json=long | {"seconds": 100, "num_inference_steps": 20})
    message = refused(less, 400, "invalid_value", "seconds")
    assert "about 7 h to make" in message
    assert message.endswith("; ask for up to 14 s or up to 2 steps")
    accepted(client, num_frames=337)  # 14 s in 2 steps
    plan = client.post("/v1/plan", json=STILL).json()
    assert (plan["seconds_needed"], plan["seconds_allowed"]) == (1.5, 3600)

"""Clients that keep silent, are slow, or are too many: the service answers all others meanwhile."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from linnet.catalog import SEEDLING
from linnet.request import make_request
from linnet.serve.clips import clips_folder, file_of
from linnet.serve.queue import Queue
from serving import Server, until

TIMEOUT = 1.5  # seconds that this server waits for a client
FEW_FILES = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")
LARGE = 64 * 2**20  # bytes: more than the system keeps on its way to a client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("connections") / "data"
    clips_folder(data).mkdir(parents=True)
    queue = Queue(data)
    request = make_request(SEEDLING, prompt="a red star", seed=1, frames=1)
    for _ in range(2):
        queue.add(request)
    done = queue.claim("w")
    assert done is not None
    with file_of(data, done.id).open("wb") as file:
        file.truncate(LARGE)
    queue.complete(done, size=LARGE, seconds={})
    queue.close()
    with Server(data, tiny_model, "--client-timeout", TIMEOUT, through=FEW_FILES) as server:
        yield server


class Client:
    """A connection that says what it is told to, and no more."""

    def __init__(self, server: Server, *words: bytes, receive_buffer: int | None = None) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self.line = socket.socket()
        if receive_buffer:
            self.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.line.settimeout(20)
        self.line.connect((host, int(port)))
        for word in words:
            self.line.sendall(word)

    def rest(self) -> bytes:
        """All that the server says until it closes the connection."""
        said = b""
        try:
            while piece := self.line.recv(2**16):
                said += piece
        except ConnectionError:
            pass
        return said


def request(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def code_of(said: bytes) -> str:
    return json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"]


def open_files(server: Server) -> int:
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


def test_half_open_and_silent_connections_stop_nobody(server: Server) -> None:
    before, worker = open_files(server), server.workers()
    with ExitStack() as lines:
        half = b"GET /healthz HTTP/1.1\r\nHost: local"
        clients = [Client(server, *([half] if number < 500 else [])) for number in range(800)]
        for client in clients:
            lines.callback(client.line.close)
        for path in ("/", "/healthz", "/v1/videos"):
            assert server.http.get(path, timeout=1.0).status_code == 200  # one second, as they are promised
        server.kill_worker()
        until(lambda: server.workers() not in ([], worker))  # another has the files that it needs
        until(lambda: open_files(server) <= before + 8, patience=20 * TIMEOUT)
        for client in clients:
            client.rest()  # ends: each of them is closed


def test_who_is_slow_is_told_and_let_go(server: Server) -> None:
    began = request("POST", "/v1/videos", "Content-Type: application/json", "Content-Length: 1000")
    slow = {
        "headers": Client(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n"),
        "body": Client(server, began, b'{"prompt": '),
        "silent": Client(server),
        "idle": Client(server, request("GET", "/healthz")),
        "dripping": Client(server, b"GET / HTTP/1.1\r\nX: "),
    }
    with suppress(ConnectionError):
        for _ in range(200):  # a byte before each time-out is late, too
            slow["dripping"].line.sendall(b"x")
            time.sleep(TIMEOUT / 5)
        pytest.fail("it was let drip")
    said = {name: client.rest() for name, client in slow.items() if name != "dripping"}
    assert said["headers"].startswith(b"HTTP/1.1 408 ")
    assert said["body"].startswith(b"HTTP/1.1 408 ")
    assert code_of(said["body"]) == "too_slow"
    assert said["silent"] == b""
    assert said["idle"].startswith(b"HTTP/1.1 200 ")
    assert said["idle"].endswith(b'{"status":"ok"}')


def test_headers_have_a_size(server: Server) -> None:
    for head in (b"GET / HTTP/1.1\r\nX: " + b"x" * 10**6, b"GET /?" + b"x" * 10**6, b"\0" * 100):
        client = Client(server)
        try:
            client.line.sendall(head)
        except ConnectionError:  # it was closed in the middle
            continue
        assert client.rest()[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


def test_who_does_not_take_a_clip_is_let_go_and_who_follows_a_job_is_not(server: Server) -> None:
    videos = server.http.get("/v1/videos").json()["data"]
    done = next(video["id"] for video in videos if video["status"] == "completed")
    downloads = Client(server, request("GET", f"/v1/videos/{done}/content"), receive_buffer=4096)
    job = server.create(prompt="a red star", num_frames=121, num_inference_steps=1000)
    follows = Client(server, request("GET", f"/v1/videos/{job}/events"))
    time.sleep(3 * TIMEOUT)  # in which the download is given up
    server.http.post(f"/v1/videos/{job}/cancel")
    said = follows.rest()
    assert b"event: end" in said
    assert 0 < len(downloads.rest()) < LARGE


def test_the_log_of_all_this_is_short(server: Server) -> None:
    """Uploads that break off, upgrades and nonsense have no line each, and no stack trace."""
    form = request(
        "POST", "/v1/videos", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 9999"
    )
    json_body = request("POST", "/v1/videos", "Content-Type: application/json", "Content-Length: 9999")
    for said in (
        form + b"--x\r\n",
        json_body + b"{",
        request("GET", "/", "Upgrade: websocket"),
        b"\x16\x03\x01",
    ):
        Client(server, said).line.close()
    until(lambda: server.http.get("/healthz").status_code == 200)
    server.log.flush()
    lines = Path(server.log.name).read_text().splitlines()
    assert "Traceback" not in "\n".join(lines)
    assert len(lines) <= 6

"""What is told of a job's end: signed so that an existing client believes it, and again until it is heard."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from linnet.catalog import SEEDLING
from linnet.errors import InvalidInput
from linnet.request import make_request
from linnet.serve import webhook
from linnet.serve.queue import Queue
from linnet.serve.webhook import Teller, open_webhook


class Ear(HTTPServer):
    """Hears on a free port, and answers with the statuses it was given, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hearing)
        self.heard: list[tuple[bytes, dict[str, str]]] = []
        self.answers: list[int] = []


class Hearing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        ear: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        ear.heard.append((body, dict(self.headers.items())))
        self.send_response(ear.answers.pop(0) if ear.answers else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Ear() as ear:
        threading.Thread(target=ear.serve_forever, args=(0.01,), daemon=True).start()
        yield ear
        ear.shutdown()


def test_an_end_is_told_signed_and_again_until_it_is_heard(
    ear: Ear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "PAUSES", (-1, -1, -1))  # at once
    ear.answers = [500, 302]
    queue = Queue(tmp_path)
    hook = open_webhook(tmp_path, f"http://127.0.0.1:{ear.server_port}/")
    assert open_webhook(tmp_path, hook.url) == hook  # the secret stays
    assert (tmp_path / webhook.SECRET_FILE).stat().st_mode & 0o077 == 0
    request = make_request(SEEDLING, prompt="a red star", frames=1)
    job = queue.add(request, notice=True)
    untold = queue.add(request)
    teller = Teller(hook, queue)
    assert queue.due_notices() == []  # not before its end
    for one in (job, untold):
        claimed = queue.claim("w")
        assert claimed is not None
        queue.complete(claimed, size=1, seconds={})
        assert claimed.id == one.id
    for tries in range(3):
        ((due, tried),) = queue.due_notices()
        assert tried == tries
        teller.tell(due, tried)
    assert queue.due_notices() == []
    assert len(ear.heard) == 3
    client = openai.OpenAI(api_key="none", webhook_secret=hook.secret)
    for body, headers in ear.heard:
        client.webhooks.verify_signature(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.verify_signature(body + b" ", headers)
    event = json.loads(ear.heard[-1][0])
    assert (event["type"], event["data"]) == ("video.completed", {"id": job.id})


def test_an_answer_that_is_not_http_is_no_answer(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def answer() -> None:
            line, _ = odd.accept()
            with line:
                line.recv(65536)
                line.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=answer, daemon=True).start()
        teller = Teller(open_webhook(tmp_path, f"http://127.0.0.1:{odd.getsockname()[1]}/"), queue)
        queue.cancel(queue.add(make_request(SEEDLING, prompt="a red star", frames=1), notice=True).id)
        teller.tell(*queue.due_notices()[0])
    assert queue.due_notices() == []  # until later


@pytest.mark.parametrize("content", ["", "whsec_\n", "whsec_?"])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / webhook.SECRET_FILE).write_text(content)
    with pytest.raises(InvalidInput, match="holds no secret"):
        open_webhook(tmp_path, "http://localhost/")


def test_who_never_hears_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSES", (-1,))
    queue = Queue(tmp_path)
    teller = Teller(open_webhook(tmp_path, "http://127.0.0.1:9/"), queue)
    queue.cancel(queue.add(make_request(SEEDLING, prompt="a red star", frames=1), notice=True).id)
    for _ in range(2):
        teller.tell(*queue.due_notices()[0])
    assert queue.due_notices() == []
    with pytest.raises(InvalidInput, match="not an address"):
        open_webhook(tmp_path, "file:///etc/passwd")

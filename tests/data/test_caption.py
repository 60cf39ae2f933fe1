"""Captions by a server of OpenAI's protocol, which answers well, badly, or not at all."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from linnet.cli import app
from linnet.data import vision
from made_clips import textured, write_clip

GOOD = "A grid of coloured squares drifts slowly to the left under even light, seen from the front."


def chat(content: object, **more: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}, **more}]}).encode()


class Answers(BaseHTTPRequestHandler):
    """Calls the server's `answer` with the question, and sends what it gives: bytes, or a status and bytes."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.questions.append((self.path, dict(self.headers), body))
        answer = server.answer(len(server.questions), self)
        if answer is None:
            return
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(vision, "LONGEST_WAIT", 0.0)
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.daemon_threads = True
    made.questions, made.answer = [], lambda number, request: chat(GOOD)
    made.address = f"http://127.0.0.1:{made.server_port}/v1"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def caption(folder: Path, server: Any, *more: str) -> int:
    given = ["data", "caption", str(folder), "--server", server.address, "--model", "eyes"]
    with pytest.raises(SystemExit) as ended:
        app([*given, *more])
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "a.mp4", textured(30))
    Image.fromarray(textured(1, seed=1)[0]).save(folder / "b.png")
    return folder


def test_what_is_sent_and_written(folder: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    write_clip(folder / "kept.mp4", textured(12, seed=2))
    (folder / "kept.txt").write_text("mine")
    (folder / "b.txt").write_text(" \n")  # an empty caption is none
    server.answer = lambda number, request: chat(
        [{"type": "text", "text": f'<think>hm</think> "Caption: {GOOD}"'}]
    )
    assert caption(folder, server, "--frames", "4") == 0
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == {
        "a.txt": GOOD + "\n",
        "b.txt": GOOD + "\n",
        "kept.txt": "mine",
    }
    (path, headers, clip), (_, _, still) = server.questions
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert clip["model"] == "eyes"
    *pictures, text = clip["messages"][0]["content"]
    assert [part["type"] for part in pictures] == ["image_url"] * 4
    assert "These are 4 frames of it in order, from 1.25 s." in text["text"]
    data = base64.b64decode(pictures[0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (64, 48)
    assert len(still["messages"][0]["content"]) == 2
    assert caption(folder, server) == 0  # nothing is left to do
    assert len(server.questions) == 2


def test_a_video_is_sent_where_somebody_wants_it(folder: Path, server: Any, tmp_path: Path) -> None:
    template = tmp_path / "ask.txt"
    template.write_text("What is in {name} of {seconds} s?")
    assert caption(folder, server, "--video", "--template", str(template)) == 0
    part, text = server.questions[0][2]["messages"][0]["content"]
    assert text["text"] == "What is in a.mp4 of 1.25 s?"
    content = base64.b64decode(part["video_url"]["url"].removeprefix("data:video/mp4;base64,"))
    with av.open(io.BytesIO(content), "r") as container:
        assert len(list(container.decode(video=0))) == 10
    template.write_text("{nothing}")
    assert caption(folder, server, "--template", str(template)) == 2


def slow(number: int, request: Any) -> None:
    """Headers, a letter at a time."""
    try:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            threading.Event().wait(0.05)
            request.wfile.write(b"X")
    except OSError:
        pass


def endless(number: int, request: Any) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            request.wfile.write(bytes(2**20))
    except OSError:
        pass


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda number, request: b"", "is no chat"),
        (lambda number, request: b"<html>gateway</html>", "is no chat: <html>gateway"),
        (lambda number, request: b'{"choices": []}', "is no chat"),
        (lambda number, request: b"[" * 100_000, "is no chat"),
        (lambda number, request: chat(None), "is no chat"),
        (lambda number, request: chat(" \n"), "is empty"),
        (
            lambda number, request: chat("<!DOCTYPE html><html><body>Welcome to nginx</body></html>"),
            "is a page",
        ),
        (lambda number, request: chat("I'm sorry, I can't help with that."), "refuses"),
        (lambda number, request: chat("%$#@ 0x00 1234 {}{}{}"), "is no sentence"),
        (lambda number, request: chat("the dog " * 200), "repeats itself"),
        (lambda number, request: chat("a b c " * 10_000), "over 4000 letters"),
        (lambda number, request: chat(GOOD, finish_reason="length"), "ends in the middle"),
        (
            lambda number, request: (500, b'{"error": {"message": "out of memory"}}'),
            "answered 500: out of memory",
        ),
        (lambda number, request: (429, b"later"), "answered 429: later"),
        (endless, "has over 4 MiB"),
        (slow, "is too slow: it took over 1 s"),
        (lambda number, request: request.connection.close(), "the server failed"),
    ],
)
def test_bad_answers_are_no_captions(answer: Callable[..., Any], told: str, server: Any) -> None:
    server.answer = answer
    with pytest.raises(vision.Unusable) as caught:
        vision.VisionServer(address=server.address, model="eyes", seconds=1.0).caption("What is it?", [])
    assert told in str(caught.value)


def test_a_clip_without_an_answer(folder: Path, server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The others have theirs, and nothing half-written is left."""
    server.answer = lambda number, request: chat("<html>gateway" if number == 1 else GOOD)
    assert caption(folder, server) == 1
    error = capsys.readouterr().err
    assert "a.mp4: the server's answer is a page: <html>gateway" in error
    assert "1 clip of 2 got no caption" in error
    assert {path.name for path in folder.iterdir()} == {"a.mp4", "b.png", "b.txt"}


def test_a_server_that_fails_now_and_then(folder: Path, server: Any) -> None:
    def answer(number: int, request: Any) -> Any:
        return (503, b"busy") if number in (1, 2) else chat(GOOD)

    server.answer = answer
    assert caption(folder, server) == 0
    assert len(server.questions) == 4


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            (401, b'{"error": "no key"}'),
            "answered 401: no key; put its key into the environment as OPENAI_API_KEY",
        ),
        ((404, b'{"error": {"message": "model eyes not found"}}'), "and that the server has a model eyes"),
        ((301, b""), "answered 301; give the address that it leads to"),
    ],
)
def test_what_every_clip_would_be_answered_ends_the_run(
    answer: object, told: str, folder: Path, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda number, request: answer
    assert caption(folder, server) == 2
    assert told in capsys.readouterr().err
    assert len(server.questions) == 1


def test_bad_input(folder: Path, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("localhost:11434", "ftp://x/v1", "http://", "http://x:99999/v1", "http://x/v1?a=b"):
        server.address = address
        assert caption(folder, server) == 2
        assert "is not the address of a server" in capsys.readouterr().err
    server.address = "http://127.0.0.1:9/v1"
    assert caption(folder, server) == 2
    assert "cannot be reached" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert caption(tmp_path / "none", server) == 2
    assert "is empty" in capsys.readouterr().err
    (folder / "b.txt").write_bytes(b"caf\xe9 of mine")
    assert caption(folder, server) == 2
    assert "is not UTF-8 text" in capsys.readouterr().err
    assert (folder / "b.txt").read_bytes() == b"caf\xe9 of mine"

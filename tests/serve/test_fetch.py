"""Images that clients name by an address: fetched from public places alone, and never more than is borne."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from linnet.errors import InvalidInput
from linnet.serve import fetch as fetching
from linnet.serve.fetch import fetch, is_public
from linnet.serve.schemas import Refused


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ways = {"/image": self.give, "/elsewhere": self.send_on, "/huge": self.flood, "/slow": self.drip}
        ways[self.path]()

    def give(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"an image for " + self.headers["Host"].encode())

    def send_on(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://169.254.169.254/")
        self.end_headers()

    def flood(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(fetching.MOST_BYTES // 2**20 + 1):
                self.wfile.write(bytes(2**20))

    def drip(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        with suppress(OSError):
            for _ in range(50):
                self.wfile.write(b"X: y\r\n")
                time.sleep(0.1)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[int]:
    """The port of a site on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine counts as the outside."""
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    monkeypatch.setattr(fetching, "PORTS", range(65536))


@pytest.mark.usefixtures("public")
def test_an_image_comes_from_its_address(site: int) -> None:
    assert fetch(f"http://localhost:{site}/image") == f"an image for localhost:{site}".encode()


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize(
    ("path", "problem"),
    [("elsewhere", "answers 302"), ("huge", "has over 8 MiB"), ("slow", "takes over 1 s")],
)
def test_what_a_site_may_not_do(site: int, path: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 1.0)
    began = time.monotonic()
    with pytest.raises(InvalidInput, match=problem):
        fetch(f"http://localhost:{site}/{path}")
    assert time.monotonic() - began < 4  # it would drip for five seconds


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{}/image",
        "http://127.0.0.1:{}/image",
        "http://2130706433:{}/image",  # the same in one number
        "http://[::1]:{}/image",
        "http://[::ffff:127.0.0.1]:{}/image",
        "http://0.0.0.0:{}/image",
        "http://user@localhost:{}/image",
        "http://localhost:99999{}/image",
        "http://:{}/",
        "http://[/{}",
    ],
)
def test_what_is_not_public_is_not_reached(site: int, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*what: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", reached)
    monkeypatch.setattr(fetching, "PORTS", range(65536))
    with pytest.raises(InvalidInput, match="input_reference"):
        fetch(url.format(site))


def test_only_the_usual_ports_are_asked(site: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    with pytest.raises(InvalidInput, match="usual port"):
        fetch(f"http://localhost:{site}/image")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(
            (inside, False)
            for inside in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1")
        ),
        *(
            (inside, False)
            for inside in ("fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "2002:0a00:0001::", "::")
        ),
        ("224.0.0.1", False),
        *(
            (inside, False)
            for inside in ("64:ff9b::a00:1", "64:ff9b:1::a00:1", "::7f00:1", "fec0::1", "4000::1")
        ),
        *((inside, False) for inside in ("192.0.0.192", "192.88.99.1", "168.63.129.16")),
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_name_with_one_inner_address_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *what, **more: both)
    with pytest.raises(InvalidInput, match="is not a public address"):
        fetch("http://example.org/")


def test_a_name_that_nobody_answers_for_keeps_no_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()
    monkeypatch.setattr(fetching, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *what, **more: given_up.wait(20) and [])
    with pytest.raises(InvalidInput, match=r"looked up for over 0\.2 s"):
        fetch("http://example.org/")
    given_up.set()


def test_who_finds_all_turns_taken_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_turns", threading.BoundedSemaphore(1))
    with fetching._turns, pytest.raises(Refused) as error:
        fetch("http://example.org/")
    assert (error.value.status, error.value.headers) == (503, {"Retry-After": "2"})

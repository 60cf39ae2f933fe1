"""Images and clips that a client names by their address, where the operator allows that.

An address from outside must not reach what only this machine can: the name is looked up once, every address that it
stands for must be a public one, and the connection goes to that very address. Nobody is followed elsewhere.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from linnet import __version__
from linnet.errors import InvalidInput
from linnet.serve.schemas import Refused
from linnet.wording import format_duration

PATIENCE = 10.0  # seconds to look the name up, again to connect, and again for the answer
MOST_BYTES = 8 * 2**20
AT_ONCE = 4
PORTS = (80, 443)
# All of IPv6 that is given out; what else there is stands for something near.
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
# What counts as global, and is a cloud's own all the same.
INNER = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))

_turns = threading.BoundedSemaphore(AT_ONCE)


class Unfit(Exception):
    """Why an address or what it answers will not do."""


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, whatever its host's name stands for by now."""

    def __init__(self, host: str, port: int, address: str, *, secure: bool) -> None:
        self.default_port = 443 if secure else 80  # which the Host header leaves out
        super().__init__(host, port, timeout=PATIENCE)
        self.address, self.secure = address, secure

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)
        if self.secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def fetch(url: str) -> bytes:
    """What is at an http or https address; InvalidInput, which says why, where it cannot or must not be had, and
    Refused (503) while others have all the turns."""

    def refused(problem: str) -> InvalidInput:
        return InvalidInput("input_reference", url[:100], problem, "send the image itself")

    if not _turns.acquire(blocking=False):
        busy = "other images are being fetched; ask again in a moment"
        raise Refused(503, "busy", busy, param="input_reference", headers={"Retry-After": "2"})
    try:
        parts = urlsplit(url)
        secure, host = parts.scheme == "https", parts.hostname
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise refused("is no address of an image or a clip")
        port = parts.port or (443 if secure else 80)
        if port not in PORTS:
            raise refused("is not at a usual port of the web")
        connection = _Pinned(host, port, public_address(host, port), secure=secure)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _read(connection, target)
    except Unfit as error:
        raise refused(str(error)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise refused("cannot be fetched") from error
    finally:
        _turns.release()


def public_address(host: str, port: int) -> str:
    """One of those that the name stands for, if all of them are public; Unfit otherwise."""
    public = addresses(host, port)
    if not all(map(is_public, public)):
        raise Unfit("is not a public address")
    return public[0]


def addresses(host: str, port: int) -> list[str]:
    """All that a name stands for, first choice first; Unfit if there is none.

    The system's resolver takes the time it takes: a thread of its own waits for it, and is left to it when it is late.
    """
    public: list[str] = []

    def look_up() -> None:
        with suppress(OSError, ValueError):  # ValueError: a name that cannot be one
            public.extend(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    looking = threading.Thread(target=look_up, daemon=True)
    looking.start()
    looking.join(PATIENCE)
    if looking.is_alive():
        raise Unfit(f"has a name that is looked up for over {format_duration(PATIENCE)}")
    if not public:
        raise Unfit("cannot be fetched: its name is not known")
    return public


def is_public(address: str) -> bool:
    given = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(given, ipaddress.IPv6Address):
        inner = given.ipv4_mapped or given.sixtofour  # IPv4 in another dress
        if inner is None:
            return given.is_global and given in GLOBAL_IPV6
        given = inner
    return given.is_global and not given.is_multicast and not any(given in net for net in INNER)


def _read(connection: http.client.HTTPConnection, target: str) -> bytes:
    late = threading.Event()

    def break_off(line: socket.socket) -> None:
        late.set()  # what is read from now on looks as if it had ended
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    connection.connect()
    timer = threading.Timer(PATIENCE, break_off, (connection.sock,))
    timer.start()
    try:
        connection.request(
            "GET", target, headers={"User-Agent": f"linnet/{__version__}", "Accept": "image/*, video/*"}
        )
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise Unfit(f"answers {answer.status}")
        content = answer.read(MOST_BYTES + 1)
        if late.is_set():
            raise Unfit(f"takes over {format_duration(PATIENCE)}")
        if len(content) > MOST_BYTES:
            raise Unfit(f"has over {MOST_BYTES // 2**20} MiB")
        if answer.length:
            raise Unfit("breaks off")
        return content
    finally:
        timer.cancel()
        connection.close()

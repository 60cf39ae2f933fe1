"""Connections of clients: how long each is waited for, how many there may be, and which is closed to make room.

uvicorn reads the requests and sends the answers, but waits for a silent client for ever, and for as many as come. All
of this works before anybody shows a key.
"""

import asyncio
import logging
import resource
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from linnet.serve.schemas import Refused

log = logging.getLogger("linnet.serve")

MOST = 1024  # connections, where the system allows many more open files
LEAST = 8
RESERVE = (
    128  # open files kept for the server itself: SQLite's in each thread, pipes of workers, models, the log
)
EACH = 2  # open files of a connection: its socket, and the file that is sent or received over it
HEAD_BYTES = 64 * 1024  # of a request's first line and headers
RATE = 10_000  # bytes a second: a body that comes more slowly is late
LONGEST_BODY = 16 * 2**20  # bytes, for which a body is waited for at that rate
SWEEP = 0.5  # seconds between two looks for clients that are late
NEWS = 60.0  # seconds between two lines of the log about connections


class Wait(IntEnum):
    """What the server waits for. Under pressure the connections of the first kind are closed first."""

    HEAD = 0  # a request's headers
    IDLE = 1  # the next request
    BODY = 2  # the rest of a body
    SEND = 3  # that the client takes what is sent


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """`most` connections at a time. `timeout`: seconds that a client has to send all headers of a request; its body,
    with another second for each RATE bytes that have come; its next request; and to take what waits to be sent."""

    most: int = MOST
    timeout: float = 30.0


class Connection(HttpToolsProtocol):
    """One client's, that knows what it waits for, and since when."""

    def __init__(self, *, connections: "Connections", **given: Any) -> None:
        super().__init__(**given)
        self.all, self.clock = connections, time.monotonic
        self.waits: dict[Wait, float] = {}
        self.overhead = 0  # bytes since the request began, but for its body's
        self.received = 0  # bytes of its body

    # --- what uvicorn calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits[Wait.HEAD] = self.clock()
        self.all.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.waits.pop(Wait.IDLE, None) is not None:
            self.waits[Wait.HEAD] = self.clock()
        self.overhead += len(data)
        super().data_received(data)
        if self.overhead > HEAD_BYTES and not self.transport.is_closing():
            self.refuse(Refused(431, "headers_too_large", f"the headers have over {HEAD_BYTES} bytes"))

    def pause_writing(self) -> None:
        self.waits[Wait.SEND] = self.clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.waits.pop(Wait.SEND, None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self.refuse(Refused(400, "invalid_request", "this is not a request of HTTP"))

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not supported is not made, as HTTP has it; a line of the log for each is too many."""

    # --- what its parser calls ------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self.waits.pop(Wait.HEAD, None)
        self.waits[Wait.BODY] = self.clock()
        self.overhead = self.received = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.received += len(body)
        self.overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.waits.pop(Wait.BODY, None)
        super().on_message_complete()
        if self.cycle.response_complete:  # before all of the body had come
            self.waits[Wait.IDLE] = self.clock()

    def on_response_complete(self) -> None:
        begun = len(self.pipeline) > 0
        super().on_response_complete()
        if not begun and Wait.BODY not in self.waits:
            self.waits[Wait.IDLE] = self.clock()

    # --- what waiting comes to ------------------------------------------------------------------------------------

    def late(self, now: float, timeout: float) -> Wait | None:
        """What has been waited for too long."""
        if self.transport.is_closing():
            self.waits.setdefault(Wait.SEND, now)  # what was sent last is to be taken, too
        allowed = min(self.received, LONGEST_BODY) / RATE
        for wait, since in self.waits.items():
            if now - since > timeout + (allowed if wait is Wait.BODY else 0.0):
                return wait
        return None

    def give_up(self, wait: Wait) -> None:
        """Close it, with a word to a client that is in the middle of a request."""
        if wait is Wait.SEND:
            self.transport.abort()
        elif wait is Wait.IDLE or (wait is Wait.HEAD and not self.overhead):
            self.transport.close()
        else:
            what = "headers" if wait is Wait.HEAD else "body"
            self.refuse(Refused(408, "too_slow", f"the {what} of the request took too long to come"))

    def refuse(self, error: Refused) -> None:
        """The last words over it, unless another answer is on its way."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = error.json()
            head = [STATUS_LINE[error.status], b"content-type: application/json\r\nconnection: close\r\n"]
            head += [f"{name}: {value}\r\n".encode() for name, value in error.headers.items()]
            self.transport.write(b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body]))
        self.transport.close()


class Connections:
    """All that are open."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.open: dict[Connection, None] = {}
        self.closed = Counter(dict.fromkeys((*(wait.name.lower() for wait in Wait), "room"), 0))
        self._at = -NEWS

    def make(self, **given: Any) -> Connection:
        """What uvicorn asks for when a client connects."""
        return Connection(connections=self, **given)

    def enter(self, connection: Connection) -> None:
        """Where there are too many, the one that has been waited for the longest is closed; where none is waited for,
        the new one is."""
        self.open[connection] = None
        if len(self.open) <= self.limits.most:
            return
        waiting = [
            (min(other.waits), min(other.waits.values()), index, other)
            for index, other in enumerate(self.open)
            if other.waits and other is not connection
        ]
        self.closed["room"] += 1
        self.say()
        if waiting:
            *_, victim = min(waiting)
            self.leave(victim)
            victim.transport.abort()
        else:
            busy = "the server has too many connections; ask again in a moment"
            connection.refuse(Refused(503, "busy", busy, headers={"Retry-After": "2"}))

    def leave(self, connection: Connection) -> None:
        self.open.pop(connection, None)

    def sweep(self) -> None:
        """Close those that have been waited for too long."""
        now = time.monotonic()
        for connection in list(self.open):
            if (wait := connection.late(now, self.limits.timeout)) is not None:
                self.closed[wait.name.lower()] += 1
                connection.give_up(wait)

    async def sweep_for_ever(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception:  # of one connection, which must not end this for all
                log.exception("could not close connections that are late")
            await asyncio.sleep(min(SWEEP, self.limits.timeout / 4))

    def say(self) -> None:
        if time.monotonic() - self._at > NEWS:
            self._at = time.monotonic()
            words = (
                "all %d connections are in use: those that wait longest are closed for new ones, %d so far"
            )
            log.warning(words, self.limits.most, self.closed["room"])


def most_connections(workers: int = 1) -> int:
    """How many the system lets this process have, beside the files that it needs itself. It is asked for as many open
    files as it allows first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    return max(LEAST, min(MOST, (soft - RESERVE - 4 * workers) // EACH))

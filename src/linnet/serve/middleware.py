"""Checks around the service: allowed hosts and origins, the size of requests, the headers of responses."""

import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi.responses import JSONResponse

from linnet.serve.schemas import Refused
from linnet.serve.service import Service

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
HOST = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{0,5}))?", re.ASCII | re.IGNORECASE)
# Headers of which two would leave open which one counts.
ONCE = {
    b"host",
    b"origin",
    b"authorization",
    b"content-type",
    b"content-length",
    b"idempotency-key",
    b"range",
}
ANYBODYS_BYTES = 4096  # of a body that is read before a key is known
MOST_HELD = 256 * 2**20  # bytes of all bodies together, at a time
SOON = {"Retry-After": "2", "Connection": "close"}


class Middleware:
    """Around everything: what is too large or comes from another site never gets in; what goes out is marked. HEAD is
    answered as GET is, without a body."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service
        self.buffered = 0  # bytes of all bodies that are being read or answered

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most, taken, started, ended = self.most(scope["path"]), 0, False, False
        alone = scope["method"] == "HEAD"
        if alone:
            headers = [
                (name, value) for name, value in scope["headers"] if name != b"range"
            ]  # which is of GET
            scope = scope | {"method": "GET", "headers": headers}

        async def counted() -> Any:
            nonlocal taken
            if ended:
                return {"type": "http.disconnect"}
            message = await receive()
            size = len(message.get("body", b""))
            taken, self.buffered = taken + size, self.buffered + size
            if taken > most:
                raise too_large(most)
            if self.buffered > MOST_HELD:
                raise Refused(503, "busy", "too much is being sent; ask again in a moment", headers=SOON)
            return message

        async def marked(message: Any) -> None:
            nonlocal started, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                started = True
                there = {name.lower() for name, _ in message["headers"]}
                more = HEADERS | {"Cache-Control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in more.items()
                        if name.lower().encode() not in there
                    ),
                ]
            await send(message)
            if alone and started and not ended:
                ended = True  # what would be the body is not waited for: it may be a stream
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            self.check(scope, most)
            await self.app(scope, counted, marked)
        except Refused as error:
            if started:
                raise
            if error.status in (413, 503):
                await swallow(receive, most)
            response = JSONResponse(error.body(), error.status, headers=error.headers)
            await response(scope, receive, marked)
        finally:
            self.buffered -= taken

    def most(self, path: str) -> int:
        """Bytes of a body: few where anybody may send one."""
        return ANYBODYS_BYTES if path == "/v1/session" else self.service.body_bytes

    def check(self, scope: Any, most: int) -> None:
        headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in ONCE and name in headers:
                raise Refused(400, "invalid_request", f"the header {name.decode().title()} is given twice")
            headers[name] = value.decode("latin-1")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large(most)
        host = headers.get(b"host", "")
        if not (match := HOST.fullmatch(host)) or int(match["port"] or 0) > 65535:
            problem = "is not a name with or without a port" if host else "is missing or empty"
            raise Refused(400, "invalid_host", f"the header Host {problem}")
        known = LOCAL_NAMES | {self.service.host.lower(), self.service.name}
        if (self.service.local or self.service.name) and match["name"].strip("[]").lower() not in known:
            raise Refused(
                403, "wrong_host", f"this server answers to {self.service.name or 'localhost'} alone"
            )
        origin = headers.get(b"origin")
        if origin is not None and parts_of(origin).netloc != host:
            raise Refused(403, "wrong_origin", "pages of other sites may not ask this server")


async def swallow(receive: Any, most: int) -> None:
    """What is still on its way, up to so much: a proxy that cannot hand over all does not listen to an answer."""
    taken, more = 0, True
    while more and taken <= most:
        message = await receive()
        taken += len(message.get("body", b""))
        more = message.get("more_body", False)


def too_large(most: int) -> Refused:
    return Refused(413, "too_large", f"the request has over {most} bytes", headers={"Connection": "close"})


def parts_of(address: str) -> SplitResult:
    """None, of what is no address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")

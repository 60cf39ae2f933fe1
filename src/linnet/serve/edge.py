"""Around the service: who may speak to it at all, how much, and under which headers it answers."""

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


class Edge:
    """Around everything: what is too large or comes from another site never gets in; what goes out is marked."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken, started = 0, False

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.service.body_bytes:
                raise too_large(self.service.body_bytes)
            return message

        async def marked(message: Any) -> None:
            nonlocal started
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

        try:
            self.check(scope)
            await self.app(scope, counted, marked)
        except Refused as error:
            if started:
                raise
            if error.status == 413:
                await swallow(receive, self.service.body_bytes)
            response = JSONResponse(error.body(), error.status, headers=error.headers)
            await response(scope, receive, marked)

    def check(self, scope: Any) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length) > self.service.body_bytes:
            raise too_large(self.service.body_bytes)
        host = headers.get(b"host", "")
        known = LOCAL_NAMES | {self.service.host.lower(), self.service.name}
        if (self.service.local or self.service.name) and parts_of(f"//{host}").hostname not in known:
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

"""Answers that take their time to be sent; who keeps account of them learns when they are `over`, sent or not."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse, Response, StreamingResponse

from linnet.serve.schemas import Refused


class Events(StreamingResponse):
    """Server-sent events, which no proxy may keep back."""

    def __init__(self, events: AsyncIterator[str], *, over: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.over = over

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.over()


class ClipFile(FileResponse):
    """A clip's file, a part of it, or word that the client has it already. FileNotFoundError if there is none."""

    def __init__(self, path: Path, kind: str, *, over: Callable[[], None]) -> None:
        super().__init__(
            path,
            media_type=kind,
            filename=path.name,
            headers={"Cache-Control": "private, max-age=3600"},
            content_disposition_type="inline",
            stat_result=path.stat(),
        )
        self.over = over

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            """What goes out, but for errors, which are put in our words."""
            status = message.get("status")
            if status == 416:
                limit = {"Content-Range": f"bytes */{self.headers['content-length']}"}
                raise Refused(416, "no_such_range", "it has no such part", headers=limit)
            if status == 400:
                raise Refused(400, "invalid_request", "this is not a range of bytes", param="Range")
            await send(message)

        try:
            if self.headers["etag"] in tags(scope):
                same = {name: self.headers[name] for name in ("etag", "last-modified", "cache-control")}
                await Response(status_code=304, headers=same)(scope, receive, send)
            else:
                await super().__call__(scope, receive, sent)
        finally:
            self.over()


def tags(scope: Any) -> set[str]:
    """Of what the client has already."""
    given = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
    return {tag.strip().removeprefix("W/") for tag in given.decode("latin-1").split(",")}

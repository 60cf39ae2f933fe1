"""A job's events, as server-sent events have it, for as long as somebody follows them and may."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from linnet.serve import schemas
from linnet.serve.eta import seconds_left
from linnet.serve.jobs import Job
from linnet.serve.service import Credentials, Service

POLL = 0.2  # seconds between two looks at a job whose events are streamed
QUIET = 15.0  # seconds after which a silent stream says that it lives
ASK_AGAIN = 1.0  # seconds between two looks whether who follows still may


class Events(StreamingResponse):
    """Server-sent events, which no proxy may keep back; whoever keeps account of them learns when they are `over`."""

    def __init__(self, events: AsyncIterator[str], *, over: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.over = over

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.over()


async def follow(
    service: Service, job: Job, asks: Credentials, shown: Callable[[Job], schemas.Video]
) -> AsyncIterator[str]:
    """A job's events, from how it stands now, while what the client came with is good for it."""
    last_line, spoke, seen, checked = "", time.monotonic(), 0, time.monotonic()
    while not service.stopping:
        if time.monotonic() - checked > ASK_AGAIN:
            checked = time.monotonic()
            if await run_in_threadpool(service.owner, asks) != job.owner:
                return
        now = await run_in_threadpool(service.queue.get, job.id)
        if now is None:
            yield event("end", {"id": job.id, "deleted": True})
            return
        if now.status in ("completed", "failed"):
            yield event("end", shown(now).model_dump())
            return
        if preview := await run_in_threadpool(service.queue.preview, job.id, seen):
            seen, image = preview
            address = f"data:image/webp;base64,{base64.b64encode(image).decode()}"
            yield event("preview", {"number": seen, "image": address})
        prospect = (
            await run_in_threadpool(service.etas.of, now) if now.status == "queued" else None
        )  # None, too, if it has just begun
        record = {
            "status": now.status,
            "progress": schemas.percentage(now),
            "queue_position": prospect and prospect.position,
            "worker_ready": prospect is None or prospect.worker_ready,
            "stage": now.stage,
            "done": now.done,
            "total": now.total,
        }
        if (line := json.dumps(record)) != last_line:
            last_line, spoke = line, time.monotonic()
            left = prospect.seconds if prospect else await run_in_threadpool(seconds_left, service.queue, now)
            yield event("progress", record | {"seconds_left": left})
        elif time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(POLL)


def event(name: str, record: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(record)}\n\n"

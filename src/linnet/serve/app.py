"""The HTTP interface: the Videos format that existing clients speak, what linnet adds to it, and the page.

Nothing here renders, and no path on the disk comes from a client: a job's files are named after the id that the queue
gave it.
"""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest

from linnet import __version__
from linnet.clip import default_name
from linnet.serve import schemas
from linnet.serve.acceptance import accept, check, plan_of
from linnet.serve.access import Own, Owner, cookie_of, credentials_of, hand_out, take_back
from linnet.serve.bodies import read_body
from linnet.serve.clips import file_of, remove_files
from linnet.serve.description import BINARY, LINKS, body_of, errors, openapi
from linnet.serve.events import Events, follow
from linnet.serve.failures import add_error_handlers
from linnet.serve.jobs import Job
from linnet.serve.keys import end_session, make_session
from linnet.serve.metrics import Metrics
from linnet.serve.middleware import Middleware
from linnet.serve.responses import ClipFile
from linnet.serve.schemas import Refused
from linnet.serve.service import Service

STREAMS = 64  # that a key may follow at a time; a browser opens six
POLL_HINT = "500"  # milliseconds, for clients that poll
KINDS = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("app", "beginning", "events", "form", "gallery", "jobs", "removal", "server", "words")
    },
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
RepeatKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def create_app(service: Service) -> FastAPI:
    """The whole interface, over one queue."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=service.models.warm, daemon=True).start()
        yield
        service.stopping = True

    app = FastAPI(title="linnet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Middleware, service=service)
    add_error_handlers(app)

    def shown(job: Job) -> schemas.Video:
        return schemas.video(job, begins=service.queue.begins(job.id), keep_seconds=service.keep_seconds)

    # --- the Videos format ----------------------------------------------------------------------------------------

    @app.post(
        "/v1/videos",
        operation_id="createVideo",
        responses=errors(400, 401, 409, 413, 415, 429, 503, 507) | {200: {"links": LINKS}},
        openapi_extra=body_of(schemas.VideoRequest),
    )
    async def create(
        request: Request, response: Response, owner: Owner, repeat_key: RepeatKey = None
    ) -> schemas.Video:
        """Ask for a video; it waits its turn."""
        body = await read_body(request, schemas.VideoRequest)
        job = await run_in_threadpool(accept, service, body, owner, repeat_key)
        response.headers["openai-poll-after-ms"] = POLL_HINT
        return shown(job)

    @app.get("/v1/videos", operation_id="listVideos", responses=errors(400, 401, 404))
    def list_videos(
        owner: Owner,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> schemas.VideoList:
        """Your videos, newest first unless `order` says otherwise, from the one behind `after`, which may have been
        deleted meanwhile."""
        start = None if after is None else service.queue.number(after, owner=owner)
        if after is not None and start is None:
            raise Refused(404, "not_found", "there is no such video to begin after", param="after")
        jobs = service.queue.page(owner=owner, after=start, limit=limit + 1, order=order)
        page = [shown(job) for job in jobs[:limit]]
        return schemas.VideoList(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(jobs) > limit,
        )

    @app.get("/v1/videos/{video_id}", operation_id="retrieveVideo", responses=errors(401, 404))
    async def retrieve(job: Own, response: Response) -> schemas.Video:
        """How far it is."""
        response.headers["openai-poll-after-ms"] = POLL_HINT
        return shown(job)

    @app.delete("/v1/videos/{video_id}", operation_id="deleteVideo", responses=errors(401, 404))
    def delete(job: Own) -> schemas.Deleted:
        """Delete it and its files; if it is not done yet, it is stopped first."""
        if service.journal is not None and job.status in ("completed", "failed"):
            service.journal.look()  # which may not have seen it yet
        service.queue.delete(job.id)
        remove_files(service.data, job.id)
        return schemas.Deleted(id=job.id)

    @app.get(
        "/v1/videos/{video_id}/content",
        operation_id="downloadVideo",
        response_class=FileResponse,
        responses={
            200: {"description": "The file.", "content": dict.fromkeys(KINDS.values(), BINARY)},
            206: {"description": "A part of it.", "content": dict.fromkeys(KINDS.values(), BINARY)},
            304: {"description": "As you have it."},
            **errors(400, 401, 404, 409, 412, 416),
        },
    )
    def content(job: Own, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> FileResponse:
        """The video, its thumbnail, or a sheet of 4 times 4 of its frames. Understands Range."""
        if job.status != "completed":
            why = job.message if job.status == "failed" else "it is not done yet"
            raise Refused(409, "not_ready", f"this video has no content: {why}")
        gone = Refused(404, "not_found", "its file is gone")
        if not service.open_files.begin(job.id):
            raise gone
        over = partial(service.open_files.end, job.id)
        try:
            path = file_of(service.data, job.id, variant)
            name = Path(default_name(job.request)).with_suffix(path.suffix).name
            return ClipFile(path, KINDS[variant], name=name, over=over)
        except FileNotFoundError:
            over()
            raise gone from None

    @app.post(
        "/v1/videos/{video_id}/remix",
        operation_id="remixVideo",
        responses=errors(400, 401, 404, 409, 413, 415, 429, 503, 507),
        openapi_extra=body_of(schemas.RemixRequest),
    )
    async def remix(request: Request, job: Own, owner: Owner, repeat_key: RepeatKey = None) -> schemas.Video:
        """The same settings, seed and beginning with another prompt."""
        body = await read_body(request, schemas.RemixRequest)
        wanted = schemas.VideoRequest(prompt=body.prompt)
        return shown(await run_in_threadpool(accept, service, wanted, owner, repeat_key, job))

    # --- linnet's own ---------------------------------------------------------------------------------------------

    @app.post("/v1/videos/{video_id}/cancel", operation_id="cancelVideo", responses=errors(401, 404, 409))
    def cancel(job: Own) -> schemas.Video:
        """Stop it, or take it out of the queue; it ends as failed, with the code `cancelled`."""
        if not service.queue.cancel(job.id):
            raise Refused(409, "not_running", "it has ended already")
        stopped = service.queue.get(job.id)
        return shown(stopped or job)

    @app.get(
        "/v1/videos/{video_id}/events",
        operation_id="followVideo",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "progress, preview, end",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **errors(401, 404, 429),
        },
    )
    async def events(request: Request, job: Own) -> StreamingResponse:
        """Server-sent events until it ends: `progress`, `preview` (an image as a data address), and `end`."""
        if service.streams[job.owner] >= STREAMS:
            problem = f"{STREAMS} of your jobs are being followed already; ask for them one by one"
            raise Refused(429, "too_many_streams", problem, headers={"Retry-After": "10"})
        if service.streams.total() >= service.connections.limits.most // 2:
            problem = "the server follows as many jobs as it can already; ask for them one by one"
            raise Refused(429, "too_many_streams", problem, headers={"Retry-After": "10"})
        service.streams[job.owner] += 1
        over = partial(service.streams.subtract, [job.owner])
        return Events(follow(service, job, credentials_of(request), shown), over=over)

    @app.post(
        "/v1/plan",
        operation_id="planVideo",
        responses=errors(400, 401, 413, 415, 503),
        openapi_extra=body_of(schemas.VideoRequest),
    )
    async def plan(request: Request, owner: Owner) -> schemas.Plan:
        """What a request would take, without asking for it."""
        body = await read_body(request, schemas.VideoRequest)
        wanted, given = await run_in_threadpool(check, service, body)
        return await run_in_threadpool(plan_of, service, wanted, given)

    @app.get("/v1/models", operation_id="listModels", responses=errors(401))
    def models(owner: Owner) -> schemas.ModelList:
        """The models that this server can run, its default first."""
        most = service.longest_seconds
        return schemas.ModelList(
            data=[
                schemas.model(spec, most, service.models.offered_loras(spec)) for spec in service.models.specs
            ]
        )

    @app.post("/v1/session", operation_id="signIn", status_code=204, responses=errors(400, 401, 413, 415),
              openapi_extra=body_of(schemas.SignIn))  # fmt: skip
    async def sign_in(request: Request) -> Response:
        """Begin a session with a key, for the page, whose videos cannot send a header. Its token is in a cookie that
        scripts cannot read; the session ends with the key."""
        given = await read_body(request, schemas.SignIn)
        session = await run_in_threadpool(make_session, service.queue, given.key)
        if session is None:
            raise Refused(401, "invalid_api_key", "this is not a key of this server", param="key")
        response = Response(status_code=204)
        hand_out(response, request, session)
        return response

    @app.delete("/v1/session", operation_id="signOut", status_code=204)
    def sign_out(request: Request) -> Response:
        """End the session of this browser; the key itself stays good."""
        if session := request.cookies.get(cookie_of(request)):
            end_session(service.queue, session)
        response = Response(status_code=204)
        take_back(response, request)
        return response

    @app.get("/healthz", operation_id="health")
    def health() -> dict[str, str]:
        """The service answers."""
        return {"status": "ok"}

    @app.get("/readyz", operation_id="ready", responses=errors(503))
    def ready() -> dict[str, str]:
        """A worker is ready to render."""
        if not service.ready():
            raise Refused(503, "not_ready", "no worker is ready", headers={"Retry-After": "2"})
        return {"status": "ready"}

    @app.get("/metrics", operation_id="metrics", response_class=Response, responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **errors(401),
    })  # fmt: skip
    def metrics(owner: Owner) -> Response:
        registry = CollectorRegistry()
        registry.register(Metrics(service.queue, service.connections))
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    for address, (name, kind) in PAGE.items():
        add_page(app, address, name, kind)

    app.openapi = lambda: openapi(app)
    return app


def add_page(app: FastAPI, address: str, name: str, kind: str) -> None:
    """One file of the page, read once."""
    text = (files("linnet.serve") / "static" / name).read_bytes()
    app.add_api_route(
        address,
        lambda: Response(text, media_type=kind, headers={"Cache-Control": "no-cache"}),
        include_in_schema=False,
    )

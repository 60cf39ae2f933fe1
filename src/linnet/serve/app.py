"""The HTTP interface: the Videos format that existing clients speak, what linnet adds to it, and the page.

Nothing here renders, and no path on the disk comes from a client: a job's files are named after the id that the queue
gave it.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from linnet import __version__
from linnet.direct.footage import check_fit
from linnet.errors import InvalidInput
from linnet.geometry import Size, format_seconds
from linnet.request import Request as ClipRequest
from linnet.serve import schemas
from linnet.serve.answers import ClipFile, Events
from linnet.serve.clips import file_of, is_full, remove_files
from linnet.serve.description import BINARY, LINKS, body_of, errors, openapi
from linnet.serve.edge import Edge
from linnet.serve.fetch import fetch
from linnet.serve.metrics import Metrics
from linnet.serve.outlook import seconds_left
from linnet.serve.queue import Given, Job, KeyReused, QueueFull
from linnet.serve.schemas import Refused
from linnet.serve.service import Service
from linnet.serve.uploads import is_clip

Body = TypeVar("Body", bound=BaseModel)

POLL = 0.2  # seconds between two looks at a job whose events are streamed
STREAMS = 64  # that a key may follow at a time; a browser opens six
POLL_HINT = "500"  # milliseconds, for clients that poll
QUIET = 15.0  # seconds after which a silent stream says that it lives
FIELD_BYTES = 64 * 1024  # of one field of a form; a prompt of the longest kind has 16 kB at most
COOKIE = "linnet_key"
KINDS = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# The fields of linnet's own request by the names that they have on the wire.
WIRE = {
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative": "negative_prompt",
    "width": "size",
    "height": "size",
}


# --- who asks, and for what ---------------------------------------------------------------------------------------
# These, and `retrieve`, only read, which in SQLite never waits: a thread each would cost more than all they do.


async def owner_of(request: Request) -> str:
    """Whose jobs the request may see, by its key."""
    service: Service = request.app.state.service
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    presented = key.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE)
    # A client that must send some key sends it to a server that has none, too.
    found = service.who(presented) or service.who(None)
    if found is None:
        raise Refused(
            401,
            "invalid_api_key",
            "this server asks for a key: send `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return found


Owner = Annotated[str, Depends(owner_of)]


async def own_job(video_id: str, request: Request, owner: Owner) -> Job:
    job = request.app.state.service.queue.get(video_id, owner=owner)
    if job is None:
        raise Refused(404, "not_found", f"there is no video {video_id[:100]}", param="video_id")
    return job


Own = Annotated[Job, Depends(own_job)]
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
    app.add_middleware(Edge, service=service)
    add_error_handlers(app)

    def shown(job: Job) -> schemas.Video:
        return schemas.video(job, begins=service.queue.begins(job.id), keep_seconds=service.keep_seconds)

    def checked(asked: schemas.VideoRequest, source: Job | None = None) -> tuple[ClipRequest, Given | None]:
        """The request and what its clip begins from: what was sent, or what that of its source began from."""
        request = service.models.request(asked, source.request if source else None)
        longest = service.longest_seconds
        if longest is not None and request.seconds > longest:
            problem = f"this server makes clips of up to {longest:g} s"
            raise InvalidInput("seconds", request.seconds, problem, "ask for less")
        content = asked.content(fetch if service.fetches else None)
        sent = given_of(asked, content, request.size)
        given = sent or (service.queue.given(source.id) if source else None)
        if given is not None and not given.content:
            problem = f"the {given.kind} that it was to begin from is not kept, since it failed; ask for a new video"
            raise Refused(409, f"{given.kind}_gone", problem)
        if given is not None and given.kind == "video":
            request = replace(request, onward=False)  # its windows are made together, as the clip is followed
        service.models.check_memory(request, given)
        return request, given

    def accept(
        asked: schemas.VideoRequest, owner: str, repeat_key: str | None, source: Job | None = None
    ) -> Job:
        sent = hashlib.sha256(asked._file or b"").hexdigest()  # what lies elsewhere is known by its address
        said = json.dumps(
            [asked.model_dump(exclude_none=True), source.id if source else None, sent], sort_keys=True
        )
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        # What was accepted before is so still, even if it would not be now.
        if repeat_key is not None and (before := service.queue.repeated(owner, repeat_key, digest)):
            return before
        if service.draining:
            raise Refused(503, "draining", "the server is about to stop", headers={"Retry-After": "30"})
        request, given = checked(asked, source)
        service.check_room()
        return service.queue.add(
            request,
            owner=owner,
            limits=service.limits,
            remixed_from=source.id if source else None,
            repeat_key=repeat_key,
            digest=digest,
            notice=service.notices,
            given=given,
        )

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
        asked = await read_body(request, schemas.VideoRequest)
        job = await run_in_threadpool(accept, asked, owner, repeat_key)
        response.headers["openai-poll-after-ms"] = POLL_HINT
        return shown(job)

    @app.get("/v1/videos", operation_id="listVideos", responses=errors(400, 401, 404))
    def list_videos(
        owner: Owner,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> schemas.VideoList:
        """Your videos, newest first unless `order` says otherwise, from the one behind `after`."""
        start = service.queue.get(after, owner=owner) if after else None
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

    @app.head("/v1/videos/{video_id}/content", include_in_schema=False)
    @app.get(
        "/v1/videos/{video_id}/content",
        operation_id="downloadVideo",
        response_class=FileResponse,
        responses={
            200: {"description": "The file.", "content": dict.fromkeys(KINDS.values(), BINARY)},
            206: {"description": "A part of it.", "content": dict.fromkeys(KINDS.values(), BINARY)},
            304: {"description": "As you have it."},
            **errors(400, 401, 404, 409, 416),
        },
    )
    def content(job: Own, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> FileResponse:
        """The video, its thumbnail, or a sheet of 4 times 4 of its frames. Understands Range."""
        if job.status != "completed":
            why = job.message if job.status == "failed" else "it is not done yet"
            raise Refused(409, "not_ready", f"this video has no content: {why}")
        gone = Refused(404, "not_found", "its file is gone")
        if not service.readers.begin(job.id):
            raise gone
        over = partial(service.readers.end, job.id)
        try:
            return ClipFile(file_of(service.data, job.id, variant), KINDS[variant], over=over)
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
        asked = await read_body(request, schemas.RemixRequest)
        wanted = schemas.VideoRequest(prompt=asked.prompt)
        return shown(await run_in_threadpool(accept, wanted, owner, repeat_key, job))

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
    async def events(job: Own) -> StreamingResponse:
        """Server-sent events until it ends: `progress`, `preview` (an image as a data address), and `end`."""
        if service.streams[job.owner] >= STREAMS:
            problem = f"{STREAMS} of your jobs are being followed already; ask for them one by one"
            raise Refused(429, "too_many_streams", problem, headers={"Retry-After": "10"})
        service.streams[job.owner] += 1
        return Events(follow(service, job, shown), over=lambda: service.streams.subtract([job.owner]))

    @app.post(
        "/v1/plan",
        operation_id="planVideo",
        responses=errors(400, 401, 413, 415, 503),
        openapi_extra=body_of(schemas.VideoRequest),
    )
    async def plan(request: Request, owner: Owner) -> schemas.Plan:
        """What a request would take, without asking for it."""
        asked = await read_body(request, schemas.VideoRequest)
        wanted, given = await run_in_threadpool(checked, asked)
        return await run_in_threadpool(plan_of, service, wanted, given)

    @app.get("/v1/models", operation_id="listModels", responses=errors(401))
    def models(owner: Owner) -> schemas.ModelList:
        """The models that this server can run, its default first."""
        most = service.longest_seconds
        return schemas.ModelList(data=[schemas.model(spec, most) for spec in service.models.specs])

    @app.post("/v1/session", operation_id="signIn", status_code=204, responses=errors(400, 401, 413, 415),
              openapi_extra=body_of(schemas.KeyGiven))  # fmt: skip
    async def sign_in(request: Request) -> Response:
        """Keep the key in a cookie that scripts cannot read: for the page, whose videos cannot send a header."""
        given = await read_body(request, schemas.KeyGiven)
        if not given.key or await run_in_threadpool(service.who, given.key) is None:
            raise Refused(401, "invalid_api_key", "this is not a key of this server", param="key")
        response = Response(status_code=204)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(
            COOKIE, given.key, httponly=True, samesite="strict", secure=secure, max_age=30 * 86400
        )
        return response

    @app.delete("/v1/session", operation_id="signOut", status_code=204)
    def sign_out() -> Response:
        """Forget the cookie of this browser; the key itself stays good."""
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
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
        registry.register(Metrics(service.queue))
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
        methods=["GET", "HEAD"],
        include_in_schema=False,
    )


# --- reading requests ---------------------------------------------------------------------------------------------


async def read_body(request: Request, kind: type[Body]) -> Body:
    """JSON, or a form whose fields are the same; numbers come as text in a form, and only there."""
    sort = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if sort == "application/json":
            return kind.model_validate_json(await request.body(), strict=True)
        if sort in ("multipart/form-data", "application/x-www-form-urlencoded"):
            form = await request.form(max_files=1, max_fields=32, max_part_size=FIELD_BYTES)
            names = [name for name, _ in form.multi_items()]
            for name in names:
                if names.count(name) > 1:
                    raise Refused(400, "invalid_request", f"{name[:100]} is given twice", param=name[:100])
            files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
            for name in files.keys() - ({"input_reference"} if kind is schemas.VideoRequest else set()):
                raise Refused(400, "invalid_request", f"{name[:100]} is no file", param=name[:100])
            fields = nested({name: value for name, value in form.items() if name not in files})
            if isinstance(said := fields.get("image_reference"), str):  # as JSON, in vLLM-Omni's forms
                fields["image_reference"] = schemas.Reference.model_validate_json(said)
            asked = kind.model_validate(fields)
            if isinstance(asked, schemas.VideoRequest):
                for file in files.values():
                    asked._file = await file.read()
            return asked
    except ValidationError as error:
        raise refusal_of(error.errors()) from None
    raise Refused(415, "unsupported_media_type", "send application/json or multipart/form-data")


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """`a[b]` is how a form says the field b of a."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        within = found.setdefault(outer, {}) if bracket and inner.endswith("]") else None
        if isinstance(within, dict):
            within[inner[:-1]] = value
        else:
            found[name] = value
    return found


def refusal_of(found: Any) -> Refused:
    """The first thing that is wrong."""
    first = found[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "header", "path"))
    words = first["msg"][:1].lower() + first["msg"][1:]
    message = f"{place[:100]}: {words[:300]}" if place else words[:300]
    return Refused(400, "invalid_request", message, param=place[:100] or None)


def given_of(asked: schemas.VideoRequest, content: bytes | None, size: Size) -> Given | None:
    """What was sent, as far as it is looked at here: an image's header, and no more of a clip than tells that it is
    one. InvalidInput for what cannot be used, or for settings of what was not sent."""
    clip = content is not None and is_clip(content)
    if asked.strength is not None and not clip:
        remedy = "send one as input_reference, or leave it out"
        raise InvalidInput(
            "strength", asked.strength, "is of a clip that is followed, and there is none", remedy
        )
    if content is None:
        if asked.fit:
            problem = "is of an image or a clip, and there is none"
            raise InvalidInput("fit", asked.fit, problem, "leave it out")
        return None
    if clip:
        from linnet.direct.beginning import STRENGTH  # which imports torch
        from linnet.direct.conditions import check_strength

        strength = STRENGTH if asked.strength is None else check_strength(asked.strength)
        return Given(content, asked.fit, strength)
    check_fit(schemas.look_at(content), size, asked.fit, field="input_reference", value="image")
    return Given(content, asked.fit)


def plan_of(service: Service, request: ClipRequest, given: Given | None) -> schemas.Plan:
    plan = service.models.plan(request, given)
    # What was measured without a clip is of all steps.
    took, measured = service.queue.speed(request, given) or (None if given else plan.seconds, False)
    return schemas.Plan(
        model=request.model,
        size=str(request.size),
        seconds=format_seconds(request.seconds),
        num_frames=request.frames,
        memory_bytes=plan.peak_bytes,
        memory_free_bytes=service.models.free(),
        seconds_needed=None if took is None else round(took, 2),
        measured=measured,
        jobs_waiting=service.queue.unfinished(),
    )


# --- answering ----------------------------------------------------------------------------------------------------


async def follow(service: Service, job: Job, shown: Callable[[Job], schemas.Video]) -> AsyncIterator[str]:
    """A job's events, from how it stands now."""
    said, spoke, seen = "", time.monotonic(), 0
    while not service.stopping:
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
            await run_in_threadpool(service.outlook.of, now) if now.status == "queued" else None
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
        if (line := json.dumps(record)) != said:
            said, spoke = line, time.monotonic()
            left = prospect.seconds if prospect else await run_in_threadpool(seconds_left, service.queue, now)
            yield event("progress", record | {"seconds_left": left})
        elif time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(POLL)


def event(name: str, record: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(record)}\n\n"


# --- errors -------------------------------------------------------------------------------------------------------


def add_error_handlers(app: FastAPI) -> None:
    """Whatever goes wrong comes in the same envelope."""

    def answer(error: Refused) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    async def refused(request: Request, error: Any) -> JSONResponse:
        return answer(error)

    async def invalid(request: Request, error: Any) -> JSONResponse:
        name = WIRE.get(error.field, error.field)
        message = str(error).replace("--fit ", "fit=")
        return answer(Refused(400, "invalid_value", message, param=name))

    async def full(request: Request, error: Any) -> JSONResponse:
        return answer(Refused(429, "queue_full", str(error), headers={"Retry-After": "10"}))

    async def reused(request: Request, error: Any) -> JSONResponse:
        return answer(Refused(409, "idempotency_key_reused", str(error), param="Idempotency-Key"))

    async def malformed(request: Request, error: Any) -> JSONResponse:
        return answer(refusal_of(error.errors()))

    async def http(request: Request, error: Any) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(allowed(request)))
        return answer(Refused(error.status_code, code, str(error.detail), headers=headers))

    async def gone(request: Request, error: Any) -> Response:
        return Response(status_code=400)  # which nobody hears

    async def broken(request: Request, error: Any) -> JSONResponse:
        if is_full(error):
            return answer(Refused(507, "disk_full", "the server's disk is full"))
        return answer(Refused(500, "internal_error", "the server made a mistake; it is in its log"))

    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Refused: refused,
        InvalidInput: invalid,
        QueueFull: full,
        KeyReused: reused,
        RequestValidationError: malformed,
        HTTPException: http,
        ClientDisconnect: gone,
        Exception: broken,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def allowed(request: Request) -> set[str]:
    """Methods of all routes that share the path; each route by itself knows but its own."""
    here = [route for route in request.app.routes if route.path_regex.match(request.scope["path"])]
    return {method for route in here for method in route.methods or ()}

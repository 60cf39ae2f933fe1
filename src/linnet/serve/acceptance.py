"""Whether a request is accepted: what is checked before it becomes a job, and what its job is."""

import hashlib
import json
from dataclasses import replace

from linnet.errors import InvalidInput
from linnet.geometry import format_seconds
from linnet.request import Request
from linnet.serve import schemas
from linnet.serve.bodies import input_reference_of
from linnet.serve.fetch import fetch
from linnet.serve.jobs import InputReference, Job
from linnet.serve.schemas import Refused
from linnet.serve.service import Service
from linnet.wording import format_duration


def accept(
    service: Service,
    body: schemas.VideoRequest,
    owner: str,
    repeat_key: str | None = None,
    source: Job | None = None,
) -> Job:
    """The job of a request: a new one, or the one that `repeat_key` stands for already. `source`: the job of which it
    is a remix. Refused, InvalidInput, QueueFull or KeyReused if there can be none."""
    digest = digest_of(body, source)
    # What was accepted before is so still, even if it would not be now.
    if repeat_key is not None and (before := service.queue.repeated(owner, repeat_key, digest)):
        return before
    if service.draining:
        raise Refused(503, "draining", "the server is about to stop", headers={"Retry-After": "30"})
    request, reference = check(service, body, source)
    service.check_room()
    return service.queue.add(
        request,
        owner=owner,
        limits=service.limits,
        remixed_from=source.id if source else None,
        repeat_key=repeat_key,
        digest=digest,
        notice=service.notices,
        given=reference,
    )


def digest_of(body: schemas.VideoRequest, source: Job | None) -> str:
    """The same for the same request, with the same file. A file at an address counts as its address."""
    file = hashlib.sha256(body._file or b"").hexdigest()
    fields = [body.model_dump(exclude_none=True), source.id if source else None, file]
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check(
    service: Service, body: schemas.VideoRequest, source: Job | None = None
) -> tuple[Request, InputReference | None]:
    """The request, and the image or clip that it brings, or that its `source` brought. Refused or InvalidInput for what
    this server cannot or may not make."""
    request = service.models.request(body, source.request if source else None)
    longest = service.longest_seconds
    if longest is not None and request.seconds > longest:
        problem = f"this server makes clips of up to {format_duration(longest)}"
        raise InvalidInput("seconds", request.seconds, problem, "ask for less")
    content = body.content(fetch if service.fetches else None)
    reference = input_reference_of(body, content, request.size)
    if reference is None and source:
        reference = service.queue.given(source.id)
    if reference is not None and not reference.content:
        kind = reference.kind
        problem = f"the {kind} that it was to begin from is not kept, since it failed; ask for a new video"
        raise Refused(409, f"{kind}_gone", problem)
    if reference is not None and reference.kind == "video":
        request = replace(request, onward=False)  # its windows are made jointly, as the clip is followed
    service.models.check_memory(request, reference)
    service.check_time(request, reference)
    return request, reference


def plan_of(service: Service, request: Request, reference: InputReference | None) -> schemas.Plan:
    """What a request would take."""
    plan = service.models.plan(request, reference)
    took, measured = service.seconds_of(request, reference)
    return schemas.Plan(
        model=request.model,
        size=str(request.size),
        seconds=format_seconds(request.seconds),
        num_frames=request.frames,
        memory_bytes=plan.peak_bytes,
        memory_free_bytes=service.models.free(),
        seconds_needed=None if took is None else round(took, 2),
        seconds_allowed=service.job_seconds,
        measured=measured,
        jobs_waiting=service.queue.unfinished(),
    )

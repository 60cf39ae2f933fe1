"""What goes over the wire: the Videos format that open servers share, with the extra fields that vLLM-Omni names.

The names of fields and their odd types (`seconds` is a string) are that format's.
"""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from linnet.catalog import SEEDLING, ModelSpec, find
from linnet.direct.footage import on_the_grid
from linnet.errors import InvalidInput
from linnet.geometry import Size, format_seconds, seconds_of
from linnet.inputs.reader import content_size
from linnet.loras import STRONGEST
from linnet.request import LONGEST_SECONDS, RANGES, Request, profile_settings
from linnet.serve.jobs import InputReference, Job, Status

IMAGES = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 40_000_000  # of an image that somebody sent
LONGEST_PROMPT = 4000  # characters
Profile = Literal["exact", "fast", "draft"]
SHARES = {"text": (0, 5), "denoise": (5, 85), "decode": (90, 8), "finish": (98, 1)}  # of the percentage


class Strict(BaseModel):
    """A field that is not known is refused, not passed over."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Reference(Strict):
    """An image to begin from, or a clip to follow, as a `data:` address; any other is refused where the operator does
    not allow it."""

    image_url: str | None = None
    file_id: str | None = Field(default=None, max_length=200)


class Lora(Strict):
    """One of those that the server offers (see `loras` of a model), and how strongly it acts."""

    name: str = Field(min_length=1, max_length=200)
    strength: float = Field(default=1.0, json_schema_extra={"minimum": -STRONGEST, "maximum": STRONGEST})


def within(name: str) -> dict[str, Any]:
    """The range of one of the request's numbers, for the description alone: `make_request` checks it, in its words."""
    least, most = RANGES[name]
    return {"minimum": least, "maximum": most}


class VideoRequest(Strict):
    """What is left out is the model's own default; a seed is drawn. Give `seconds` or `num_frames`."""

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT, examples=[SEEDLING.examples[0]])
    model: str | None = Field(default=None, max_length=100)
    seconds: str | float | None = Field(
        default=None, description='Length, such as "2"; the model\'s own when left out.'
    )
    size: str | None = Field(default=None, max_length=20, description="WIDTHxHEIGHT")
    width: int | None = Field(default=None, description="With `height`, the same as `size`.")
    height: int | None = None
    input_reference: Reference | None = None
    image_reference: Reference | None = Field(default=None, description="The same as `input_reference`.")
    fit: Literal["crop", "pad"] | None = Field(
        default=None, description="What to do with an image or clip of another shape; refused when left out."
    )
    strength: float | None = Field(
        default=None,
        description="How far from a clip that is followed: a share of the steps above 0, 0.6 when left out.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 1},
    )
    profile: Profile | None = Field(
        default=None,
        description="The model's own way to be exact (as when left out), fast or rough; other fields go first.",
    )
    lora: Lora | list[Lora] | None = Field(default=None, description="One or several; in a form, as JSON.")
    negative_prompt: str | None = Field(default=None, max_length=LONGEST_PROMPT)
    num_frames: int | None = Field(default=None, json_schema_extra=within("frames"))
    fps: int | None = Field(default=None, description="The model's own; no other is possible.")
    num_inference_steps: int | None = Field(default=None, json_schema_extra=within("steps"))
    guidance_scale: float | None = Field(default=None, json_schema_extra=within("guidance"))
    seed: int | None = Field(default=None, json_schema_extra=within("seed"))
    user: str | None = Field(
        default=None, max_length=1000, description="Whatever it says, it changes nothing."
    )
    _file: bytes | None = PrivateAttr(None)  # the form's, which JSON cannot carry

    def loras(self) -> list[tuple[str, float]] | None:
        """Names and strengths; None where nothing is said."""
        if self.lora is None:
            return None
        each = self.lora if isinstance(self.lora, list) else [self.lora]
        return [(lora.name, lora.strength) for lora in each]

    def dimensions(self) -> str | None:
        """Its size, whichever way it was given."""
        if self.width is None and self.height is None:
            return self.size
        size = f"{self.width or ''}x{self.height or ''}"
        if self.size not in (None, size):
            remedy = "give size, or width and height"
            raise InvalidInput("size", self.size, f"is not {size}, which is asked for, too", remedy)
        return size

    def content(self, fetch: Callable[[str], bytes] | None = None) -> bytes | None:
        """What it is to begin from, still in its file's form and not looked at; `fetch` gets it where it is far."""
        given = [
            reference
            for reference in (self._file, self.input_reference, self.image_reference)
            if reference is not None
        ]
        if len(given) > 1:
            raise InvalidInput("input_reference", "image", "is given twice", "send one image or clip")
        if not given:
            return None
        return given[0] if isinstance(given[0], bytes) else decoded(given[0], fetch)


def look_at(content: bytes) -> Size:
    """How large an image is, upright, by its header alone: no pixel is decoded here. InvalidInput for what is none or
    is too large."""
    problem, large = "cannot be read as an image", f"has over {MOST_PIXELS // 10**6} million pixels"
    try:
        size = content_size(content, IMAGES)
        if size.pixels <= MOST_PIXELS:
            return size
        problem = large
    except InvalidInput as error:
        if "million pixels" in error.problem:  # Pillow's own limit, which is higher
            problem = large
    raise InvalidInput("input_reference", "image", problem, "send a smaller PNG, JPEG or WebP")


def decoded(reference: Reference, fetch: Callable[[str], bytes] | None) -> bytes:
    address = reference.image_url or ""
    if fetch and address.startswith(("http://", "https://")):
        return fetch(address)
    if not address.startswith(("data:image/", "data:video/")):
        remedy = "send the image itself, as the file input_reference or as data:image/png;base64,..."
        raise InvalidInput("input_reference", address[:100], "is not fetched from anywhere", remedy)
    try:
        return base64.b64decode(address.partition(";base64,")[2], validate=True)
    except ValueError:
        raise InvalidInput("input_reference", address[:50], "is not base64", "encode it so") from None


class RemixRequest(Strict):
    """The same video with another prompt."""

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT, examples=[SEEDLING.examples[0]])


class SignIn(Strict):
    key: str = Field(max_length=200)


class Failure(BaseModel):
    """Why a job failed. `cancelled`, `disk_full`, `worker_died` or `invalid_FIELD`."""

    code: str
    message: str


class Video(BaseModel):
    """A job, and the video once it is completed. Times are seconds since 1970."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: Literal["video"] = "video"
    status: Status
    progress: int = Field(ge=0, le=100)
    created_at: int
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    model: str
    prompt: str
    seconds: str
    size: str
    error: Failure | None = None
    remixed_from_video_id: str | None = None
    negative_prompt: str
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    profile: Profile | None = Field(
        description="Whose settings it has, the steps aside, which may be others; null where they are none's."
    )
    lora: list[Lora] = []
    begins_from_image: bool
    begins_from_video: bool
    strength: float | None = Field(default=None, description="How far from the video that it began from.")
    notes: list[str] = []


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class ModelProfile(BaseModel):
    """A way to run a model that trades fidelity for time; the first, exact, trades none."""

    id: Profile
    steps: int


class Model(BaseModel):
    """One that this server can run, with its defaults and limits. What is longer than `seconds_at_once` is made in
    windows that overlap, in as much more time."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "linnet"
    title: str
    licence: str
    sizes: list[str]
    fps: int
    min_seconds: str
    seconds_at_once: str
    max_seconds: str
    default_seconds: str
    default_steps: int
    default_guidance: float
    profiles: list[ModelProfile]
    default_profile: Profile
    loras: list[str] = []
    example: str
    examples: list[str]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Plan(BaseModel):
    """What a request would take. `measured` says that just such a clip was made here; else `seconds_needed` is reckoned
    from another, or from what `linnet plan --measure` found, and null if there is neither; a request that takes over
    `seconds_allowed` is refused. `memory_free_bytes` is null where other machines make the clips."""

    object: Literal["plan"] = "plan"
    model: str
    size: str
    seconds: str
    num_frames: int
    memory_bytes: int
    memory_free_bytes: int | None
    seconds_needed: float | None
    seconds_allowed: float | None
    measured: bool
    jobs_waiting: int


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """The envelope of every error."""

    error: ErrorBody


class Refused(Exception):
    """A request that gets no more than an error; `status` is HTTP's."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return Error(
            error=ErrorBody(message=self.message, type=kind, param=self.param, code=self.code)
        ).model_dump()

    def json(self) -> bytes:
        return json.dumps(self.body()).encode()


def percentage(job: Job) -> int:
    """0 to 100, and 100 only when it is completed."""
    if job.status == "completed":
        return 100
    if job.status != "in_progress" or job.stage not in SHARES:
        return 0
    start, share = SHARES[job.stage]
    return start + int(share * min(1.0, job.done / max(job.total, 1)))


def video(job: Job, *, begins: InputReference | None = None, keep_seconds: float | None = None) -> Video:
    """As the wire has it; a clip is kept for `keep_seconds`, or for ever."""
    request, done = job.request, job.status == "completed"
    failed = Failure(code=job.code, message=job.message or "") if job.code else None
    expires = int(job.ended + keep_seconds) if done and job.ended and keep_seconds else None
    return Video(
        id=job.id,
        status=job.status,
        progress=percentage(job),
        created_at=int(job.created),
        started_at=int(job.started) if job.started else None,
        completed_at=int(job.ended) if done and job.ended else None,
        expires_at=expires,
        model=request.model,
        prompt=request.prompt,
        seconds=format_seconds(request.seconds),
        size=str(request.size),
        error=failed,
        remixed_from_video_id=job.remixed_from,
        negative_prompt=request.negative,
        num_frames=request.frames,
        fps=request.fps,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        seed=request.seed,
        profile=profile_of(request),
        lora=[Lora(name=use.name, strength=use.strength) for use in request.loras],
        begins_from_image=begins is not None and begins.kind == "image",
        begins_from_video=begins is not None and begins.kind == "video",
        strength=begins and begins.strength,
        notes=notes(request),
    )


def notes(request: Request) -> list[str]:
    """What of the prompt the model does not know."""
    if find(request.model).world != "theatre":
        return []
    from linnet.data.theatre.words import not_known

    return not_known(request.model, request.prompt)


def profiles(spec: ModelSpec) -> dict[Profile, dict[str, Any]]:
    """Those of a model, exact first, with all that each decides."""
    names: tuple[Profile, ...] = ("exact", "fast", "draft")
    return {name: profile_settings(spec, name) for name in names if name == "exact" or name in spec.profiles}


def profile_of(request: Request) -> Profile | None:
    """A request does not tell of its profile, but has its settings."""

    def matches(settings: dict[str, Any]) -> bool:
        return all(getattr(request, name) == value for name, value in settings.items() if name != "steps")

    known = profiles(find(request.model))
    other_steps: dict[Profile, bool] = {
        name: of["steps"] != request.steps for name, of in known.items() if matches(of)
    }
    return min(other_steps, key=other_steps.__getitem__, default=None)


def model(spec: ModelSpec, most: float | None, loras: Sequence[str] = ()) -> Model:
    """`most`: the longest clip, in seconds, that this server makes; None for linnet's own limit. `loras`: the names of
    those that are offered for it."""
    lengths = (spec.min_frames, spec.max_frames, spec.default_frames)
    shortest, at_once, usual = (seconds_of(frames, spec.fps) for frames in lengths)
    longest = LONGEST_SECONDS if most is None else min(most, LONGEST_SECONDS)
    longest = seconds_of(on_the_grid(int(longest * spec.fps) + 1), spec.fps)
    return Model(
        id=spec.name,
        title=spec.title,
        licence=spec.licence,
        sizes=[str(size) for size in spec.sizes],
        fps=spec.fps,
        min_seconds=format_seconds(shortest),
        seconds_at_once=format_seconds(min(at_once, longest)),
        max_seconds=format_seconds(longest),
        default_seconds=format_seconds(min(usual, longest)),
        default_steps=profile_settings(spec, spec.default_profile)["steps"],
        default_guidance=spec.guidance,
        profiles=[ModelProfile(id=name, steps=of["steps"]) for name, of in profiles(spec).items()],
        default_profile=spec.default_profile,
        loras=list(loras),
        example=spec.examples[0],
        examples=list(spec.examples),
    )

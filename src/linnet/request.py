"""What a user asks for, validated once and then trusted everywhere."""

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any, Literal, Self, TypedDict, Unpack

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput, one_line
from linnet.filesystem import StrPath
from linnet.geometry import FRAMES_PER_LATENT, Size, check_frames, format_seconds, frames_for, seconds_of
from linnet.loras import LoraUse, check_loras
from linnet.records import is_blank
from linnet.wording import choices, format_number

Dtype = Literal["float32", "bfloat16"]
ProfileName = Literal["exact", "fast", "draft"]
DtypeChoice = Literal["auto"] | Dtype
PROFILES = ("exact", "fast", "draft")

HOLD = "hold:"  # how a `reuse` begins that holds velocities
LONGEST_SECONDS = 300  # of a clip made in windows
SEEDS = 2**32  # the noise generator is seeded modulo this: larger seeds would repeat smaller ones

# field: (least, most), both allowed
RANGES: dict[str, tuple[float, float]] = {
    "width": (8, 16384),
    "height": (8, 16384),
    "frames": (1, 100_000),
    "fps": (1, 240),
    "seed": (0, SEEDS - 1),
    "steps": (1, 1000),
    "guidance": (0.0, 100.0),
    "apg_rescale": (0.0, 1000.0),
    "apg_momentum": (-0.99, 0.99),
    "apg_eta": (0.0, 1.0),
    "shift": (0.1, 100.0),
    "guidance_from": (0.0, 1.0),
    "guidance_until": (0.0, 1.0),
    "window": (0, 100_000),
    "window_overlap": (0, 100_000),
    "span": (0, 100_000),
}
CHOICES = {
    "guidance_method": ("apg", "cfg"),
    "dtype": ("auto", "float32", "bfloat16"),
    "solver": ("euler", "dpm++", "unipc"),
    "spacing": ("linspace", "trailing"),
    "decoder_dtype": ("auto", "float32", "bfloat16"),
}
EXACT = {
    "solver": "euler",
    "spacing": "linspace",
    "guidance_from": 0.0,
    "guidance_until": 1.0,
    "reuse": "none",
    "decoder_dtype": "float32",
}


@dataclass(frozen=True, kw_only=True)
class StepCache:
    """Which steps reuse what the model said before, in the place of asking it again: those of `skip` (from 0), or, by
    themselves, as many as change the velocity by less than `threshold` in all, a share of it. Neither: none.

    `hold`: the last velocity stays as it is. Otherwise its change is continued."""

    threshold: float = 0.0
    skip: frozenset[int] = frozenset()
    hold: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a request's `reuse`: "none", a change such as "0.05", or steps (from 1) such as "4,6", the latter two
        after "hold:" or not. ValueError for anything else."""
        if text == "none":
            return cls()
        hold, which = text.startswith(HOLD), text.removeprefix(HOLD)
        if "." in which:
            return cls(threshold=float(which), hold=hold)
        return cls(skip=frozenset(int(step) - 1 for step in which.split(",")), hold=hold)

    @property
    def adaptive(self) -> bool:
        """Whether the steps are found while it runs."""
        return self.threshold > 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides a clip's pixels, apart from the weights. Made by `make_request`.

    Sides in pixels; frames = 4k+1; `apg_*` act only under guidance_method "apg" (see sampling.denoise);
    `shift` and `spacing` are the flow schedule's (see sampling.flow). dtype "auto" is for the device to decide, and is
    replaced by what was decided before a request is written into a file; so is decoder_dtype, of the autoencoder.

    What has a default came later than the first clips, whose records lack it; the default is what made those.
    Of n steps, counted from 0, step i is guided where guidance_from <= i/n < guidance_until. `reuse` is "none", the
    steps (from 1) that do without the model, as "6,8,9", or the change, as "0.05", that steps may add up to before it
    is asked again; after "hold:" the velocity is held, otherwise its change is continued (see sampling.step_cache).
    `window` (4k+1) and `window_overlap` (4k) are frames of the windows that a
    long clip is made in: jointly (see sampling.windows) or, with `onward`, each from the one before it (see
    sampling.autoregressive). Without windows the model sees the clip at once; with `span` (4k) a frame attends to so
    many frames to either side, 0: to all of them (see sampling.local_attention). A `loop` has one frame less than
    `frames`: the last would be the first again. `loras` are applied to the model, in their order.
    """

    prompt: str
    negative: str
    model: str
    width: int
    height: int
    frames: int
    fps: int
    seed: int
    steps: int
    guidance: float
    guidance_method: Literal["apg", "cfg"]
    apg_rescale: float
    apg_momentum: float
    apg_eta: float
    shift: float
    dtype: DtypeChoice
    solver: Literal["euler", "dpm++", "unipc"] = "euler"
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    reuse: str = "none"
    decoder_dtype: DtypeChoice = "float32"
    window: int = 0
    window_overlap: int = 0
    onward: bool = False
    span: int = 0
    loop: bool = False
    spacing: Literal["linspace", "trailing"] = "linspace"
    loras: tuple[LoraUse, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_step_cache", StepCache.parse(self.reuse))  # once; it is no field

    @property
    def step_cache(self) -> StepCache:
        """What `reuse` says."""
        return self.__dict__["_step_cache"]

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def seconds(self) -> float:
        return seconds_of(self.frames, self.fps)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, one per field; `from_json` gives back an equal request. Without LoRAs it says nothing of
        them, as before there were any."""
        record = asdict(self) | {"loras": [use.to_json() for use in self.loras]}
        return record if self.loras else {name: value for name, value in record.items() if name != "loras"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """From `to_json`'s record, which may have been through anyone's hands: each field is checked."""
        later = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        names = [field.name for field in fields(cls)]
        for name in names:
            if name not in record and name not in later:
                raise InvalidInput(
                    "request", name, "is missing", "use a file that this version of linnet wrote"
                )
        for name in record:
            if name not in names:
                raise InvalidInput(
                    "request", name, "is not known", "update linnet to the version that wrote it"
                )
        return cls(**check_fields(later | dict(record)))


class RequestSettings(TypedDict, total=False):
    """What `make_request` takes beside the prompt: the fields of `Request`, `seconds` or `frames`, `size` in the place
    of its two sides, and a `profile`. What is None is as good as left out."""

    negative: str | None
    seconds: float | None
    frames: int | None
    size: Size | str | None
    seed: int | None
    steps: int | None
    guidance: float | None
    guidance_method: Literal["apg", "cfg"] | None
    apg_rescale: float | None
    apg_momentum: float | None
    apg_eta: float | None
    shift: float | None
    spacing: Literal["linspace", "trailing"] | None
    dtype: DtypeChoice | None
    solver: Literal["euler", "dpm++", "unipc"] | None
    guidance_from: float | None
    guidance_until: float | None
    reuse: str | None
    decoder_dtype: DtypeChoice | None
    window: int | None
    window_overlap: int | None
    onward: bool | None
    span: int | None
    loop: bool | None
    loras: Sequence[LoraUse | StrPath] | None  # files, where `linnet.prepare` finds them
    profile: ProfileName | None


def make_request(
    spec: ModelSpec,
    *,
    prompt: str | None = None,
    like: Request | None = None,
    **settings: Unpack[RequestSettings],
) -> Request:
    """A request that `spec`'s model can do, or InvalidInput that names the field, the value and the remedy.

    What is None comes from `profile`, the model's own way to be exact, fast or rough, else from `like`, else from the
    model's defaults with its `default_profile`; a seed that none gives is drawn.
    From a `like` of another model only prompt, negative prompt, frames and seed are taken: its size and
    sampling settings suit that other model. Nothing is rounded, clipped or trimmed on the way.
    """
    check_names(settings, (*RequestSettings.__annotations__, "prompt", "like"))
    given: dict[str, Any] = {"prompt": prompt, **settings}
    size, profile = given.pop("size", None), given.pop("profile", None)
    window, window_overlap, span = (given.get(name) for name in ("window", "window_overlap", "span"))
    onward, loop = given.get("onward"), given.get("loop")
    check_given(given, size=size, profile=profile, like=like)
    given["frames"] = given_length(spec, given.pop("seconds", None), given.get("frames"))
    if size is not None:
        size = Size.parse(size) if isinstance(size, str) else size
        given |= {"width": size.width, "height": size.height}
    defaults = {
        "prompt": "",
        "negative": "",
        "width": spec.sizes[0].width,
        "height": spec.sizes[0].height,
        "frames": spec.default_frames,
        "guidance": spec.guidance,
        "guidance_method": "apg",
        "apg_rescale": spec.apg_rescale,
        "apg_momentum": spec.apg_momentum,
        "apg_eta": spec.apg_eta,
        "dtype": "auto",
        "span": 0,
        "loop": False,
        "loras": (),
        **profile_settings(spec, spec.default_profile),
    }
    chosen = {} if profile is None else profile_settings(spec, profile)
    all_settings = defaults | inherited(spec, like) | chosen
    all_settings |= {name: value for name, value in given.items() if value is not None}
    all_settings |= {"model": spec.name, "fps": spec.fps}
    all_settings.setdefault("seed", secrets.randbelow(SEEDS))
    if window and span is None:
        all_settings["span"] = 0  # the earlier clip's own way
    changed = like is None or all_settings["frames"] != like.frames or "window" not in all_settings
    if window is None and (changed or span is not None):
        all_settings |= usual_windows(spec, all_settings, window_overlap)
    elif window is not None and window_overlap is None and (like is None or window != like.window):
        all_settings["window_overlap"] = usual_overlap(spec, window)
    if onward is None and (changed or window is not None or span is not None or loop):
        all_settings["onward"] = (
            bool(all_settings.get("window")) and spec.autoregressive_windows and not all_settings["loop"]
        )
    request = Request(**check_fields({"window": 0, "window_overlap": 0, "onward": False} | all_settings))
    spec.check_size(request.size)
    check_length(spec, request.frames, "frames", request.frames)
    check_windows(spec, request)
    check_loop(spec, request)
    check_steps(spec, request)
    return request


def check_steps(spec: ModelSpec, request: Request) -> None:
    """Refuse fewer steps than the solver needs to show what was asked for."""
    least = spec.least_steps.get(request.solver, 1)
    if request.steps < least:
        problem = f"are too few for the solver {request.solver}, which then spoils what is shown"
        remedy = f"use {least} or more" + (
            "" if request.solver == EXACT["solver"] else ", or the solver euler"
        )
        raise InvalidInput("steps", request.steps, problem, remedy)


def check_loop(spec: ModelSpec, request: Request) -> None:
    """Refuse a loop that is too short: all of its frames are shown, so it cannot be the first ones of a longer clip."""
    least = spec.least_window
    if request.loop and request.frames < least:
        problem = f"makes a loop that is too short for {spec.name}"
        seconds = format_seconds(seconds_of(least, spec.fps))
        raise InvalidInput("frames", request.frames, problem, f"use {least} or more, which is {seconds} s")


def usual_windows(spec: ModelSpec, settings: Mapping[str, Any], overlap: int | None) -> dict[str, int]:
    """Windows for a clip that is longer than the model's own, unless every frame has a `span` of its own."""
    if settings["frames"] <= spec.max_frames or settings["span"]:
        return {"window": 0} | ({"window_overlap": 0} if overlap is None else {})
    return {"window": spec.window} | ({"window_overlap": spec.overlap} if overlap is None else {})


def usual_overlap(spec: ModelSpec, window: int) -> int:
    """The share of a window that the model's own windows overlap by, in whole latent frames; 0 without windows."""
    if (
        not isinstance(window, int) or window <= 0
    ):  # the window itself is checked later, with all other fields
        return 0
    latents = round(spec.overlap * window / spec.window / FRAMES_PER_LATENT)
    return FRAMES_PER_LATENT * max(1, latents)


def check_windows(spec: ModelSpec, request: Request) -> None:
    """Refuse windows or a span that the model cannot do, or that do not fit together."""
    window, overlap, span = request.window, request.window_overlap, request.span
    if span % FRAMES_PER_LATENT or span > spec.max_frames:
        problem = "is not a distance in frames that the model knows"
        raise InvalidInput("span", span, problem, f"use a multiple of 4 up to {spec.max_frames - 1}")
    if span and (window or request.loop):
        problem = "is of a clip that the model sees at once, not of one in windows"
        raise InvalidInput("span", span, problem, "leave out the windows, the loop or the span")
    if request.onward:
        check_autoregressive(request)
    if not window:
        if overlap:
            raise InvalidInput(
                "window_overlap", overlap, "is of windows, of which there are none", "give `window` too"
            )
        if request.frames > spec.max_frames and not span:
            problem = f"{spec.name} does not see over {spec.max_frames} frames at once"
            raise InvalidInput("window", window, problem, f"use {spec.window}")
        return
    if window % FRAMES_PER_LATENT != 1 or not spec.least_window <= window <= spec.max_frames:
        problem = "is not a length in frames that the model can make"
        lengths = f"4k+1 from {spec.least_window} to {spec.max_frames}"
        raise InvalidInput("window", window, problem, f"use {spec.window}, or another {lengths}")
    if overlap % FRAMES_PER_LATENT or not 0 < overlap < window:
        problem = f"is not a part of a window of {window} frames"
        raise InvalidInput(
            "window_overlap", overlap, problem, "use a multiple of 4 above 0 and below the window"
        )


def check_autoregressive(request: Request) -> None:
    if not request.window:
        raise InvalidInput(
            "onward", "true", "is of windows, of which there are none", "give `window`, or leave it out"
        )
    if request.loop:
        raise InvalidInput("onward", "true", "has an end, and a loop has none", "leave out one of the two")


def profile_settings(spec: ModelSpec, name: str) -> dict[str, Any]:
    """Everything that a profile decides, so that it takes the place of another one."""
    if name != "exact" and name not in spec.profiles:
        if name in PROFILES:
            remedy = f"use exact, or run `linnet tune --model {spec.name}` first"
            raise InvalidInput("profile", name, f"was not measured for {spec.name}", remedy)
        raise InvalidInput("profile", name, "is not known", choices(name, ("exact", *spec.profiles)))
    return EXACT | {"steps": spec.steps, "shift": spec.shift} | dict(spec.profiles.get(name, {}))


def inherited(spec: ModelSpec, like: Request | None) -> dict[str, Any]:
    """The settings that `like` hands down to a request of `spec`'s model."""
    if like is None:
        return {}
    if like.model == spec.name:
        return like.to_json()
    return {name: getattr(like, name) for name in ("prompt", "negative", "frames", "seed")}


def given_length(spec: ModelSpec, seconds: float | None, frames: int | None) -> int | None:
    """Frames, from whichever of the two was given; None when neither was."""
    if seconds is None:
        return frames
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidInput("seconds", seconds, "is not a number", "give a number such as 2")
    if (
        isinstance(seconds, int) and abs(seconds) > spec.fps * RANGES["frames"][1]
    ):  # may be more than a float holds
        raise InvalidInput("seconds", seconds, "is out of range", f"use up to {LONGEST_SECONDS}")
    if math.isfinite(seconds):
        # Range before grid: 5.1 s is first of all too long.
        check_length(spec, seconds * spec.fps + 1, "seconds", seconds)
    length = frames_for(seconds, spec.fps)
    if frames is not None and frames != length:
        raise InvalidInput(
            "frames",
            frames,
            f"is not {format_seconds(seconds)} s, which is {length} frames",
            "give only one of them",
        )
    return length


def check_length(spec: ModelSpec, frames: float, field: str, value: object) -> None:
    """Refuse a clip that is too short or too long for the model; `field` is what the user gave."""
    slack = 0.02  # of a frame: seconds are read to the millisecond
    most = LONGEST_SECONDS * spec.fps + 1
    if spec.min_frames - slack <= frames <= most + slack:
        return
    shortest, longest = (format_seconds(seconds_of(count, spec.fps)) for count in (spec.min_frames, most))
    problem = f"{spec.name} makes {shortest} to {longest} seconds ({spec.min_frames} to {most} frames)"
    nearest = spec.min_frames if frames < spec.min_frames else most
    number = format_seconds(seconds_of(nearest, spec.fps)) if field == "seconds" else nearest
    raise InvalidInput(field, value, problem, f"the nearest is {number}")


def check_names(given: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse a keyword that is no setting, with the nearest that is."""
    for name, value in given.items():
        if name not in known:
            raise InvalidInput(name, value, "there is no such setting", choices(name, known))


def check_given(given: Mapping[str, Any], *, size: object, profile: object, like: object) -> None:
    """Refuse what is of another type than its setting, before anything is done with it."""
    for field in fields(Request):
        if (value := given.get(field.name)) is not None and field.name != "prompt":
            check_field(field, value)
    if size is not None and not isinstance(size, str | Size):
        raise InvalidInput("size", size, "is not a size", "write 360p, 720p or WIDTHxHEIGHT, such as 640x360")
    if profile is not None:
        check_text("profile", profile)
    if like is not None and not isinstance(like, Request):
        raise InvalidInput("like", like, "is no request", "give the request of a clip")


def check_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings, each of its declared type and within its range, whatever the model."""
    for field in fields(Request):
        settings[field.name] = check_field(field, settings[field.name])
    check_frames(settings["frames"])
    if settings["guidance_until"] <= settings["guidance_from"]:
        interval = ":".join(format_number(settings[name]) for name in ("guidance_from", "guidance_until"))
        raise InvalidInput(
            "guidance interval", interval, "does not rise", "use two shares of the steps, such as 0.1:0.8"
        )
    check_reuse(settings["reuse"], settings["steps"])
    return settings


def check_field(field: Field[Any], value: Any) -> Any:
    """The value of a request's field, of its declared type: no text for a number, no true for 1, no 13.0 for 13."""
    name = field.name
    if name == "loras":
        return check_loras(value)
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise InvalidInput(name, value, "is not known", choices(one_line(value), CHOICES[name]))
    elif field.type is str:
        check_text(name, value)
    elif field.type is bool:
        if not isinstance(value, bool):
            raise InvalidInput(name, value, "is neither true nor false", "use one of the two")
    else:
        return check_number(name, value, whole=field.type is int)
    return value


def no_guidance(method: str) -> float:
    """The scale that leaves the prompt's own velocity as it is."""
    return 0.0 if method == "apg" else 1.0


def check_dtype(name: str) -> DtypeChoice:
    if name == "auto" or name == "float32" or name == "bfloat16":
        return name
    raise InvalidInput("dtype", name, "is not known", choices(one_line(name), CHOICES["dtype"]))


def check_profile(name: str) -> ProfileName:
    if name == "exact" or name == "fast" or name == "draft":
        return name
    raise InvalidInput("profile", name, "is not known", choices(one_line(name), PROFILES))


def check_reuse(text: str, steps: int) -> None:
    remedy = f"use none, a change such as 0.05, or steps from 3 to {steps - 1}, such as 4,6 or hold:4,6"
    try:
        cache = StepCache.parse(text)
    except ValueError:
        raise InvalidInput("reuse", text, "is neither a change nor a list of steps", remedy) from None
    # The first two tell how the velocity changes; the last is the one that is seen.
    if not cache.skip <= set(range(2, steps - 1)):
        raise InvalidInput("reuse", text, f"names a step that {steps} steps cannot do without", remedy)
    if not 0 <= cache.threshold <= 1:  # false for NaN too
        raise InvalidInput("reuse", text, "is out of range", remedy)


def check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidInput(name, value, "is not text", "give a string")
    if name == "prompt" and is_blank(value):
        raise InvalidInput(name, value, "is empty", "describe the video in a sentence")
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = value.encode(errors="replace").decode()
        raise InvalidInput(name, shown, "is not valid UTF-8", "retype it, or set a UTF-8 locale") from None


def check_number(name: str, value: object, *, whole: bool) -> int | float:
    least, most = RANGES[name]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (whole and not isinstance(value, int))
    ):
        kind = "a whole number" if whole else "a number"
        raise InvalidInput(
            name, value, f"is not {kind}", f"use {format_number(least)} to {format_number(most)}"
        )
    if not least <= value <= most:  # false for NaN too
        raise InvalidInput(
            name, value, "is out of range", f"use {format_number(least)} to {format_number(most)}"
        )
    return value if whole else float(value)

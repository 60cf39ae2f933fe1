"""From what is asked for to what runs: the model, the requests, the machine, the plan, the pipeline. Python, the
command line and the server all come through here. Importing it imports no torch: what cannot be done is refused early.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from linnet.catalog import ModelSpec, find
from linnet.clip import Clip, default_name
from linnet.errors import InvalidInput, WeightsError
from linnet.filesystem import StrPath
from linnet.loras import LoraUse
from linnet.plan.execution import NOTHING_FIXED, FixedExecution, as_asked, recorded
from linnet.plan.plan import Plan
from linnet.request import DtypeChoice, Request, RequestSettings, make_request
from linnet.weights.store import ModelFiles, default_model, model_in, model_of, resolve

if TYPE_CHECKING:
    from linnet.clip import Image, Watch
    from linnet.direct.conditions import Conditioning, Conditions
    from linnet.pipeline import Pipeline
    from linnet.profiles import ChosenProfile
    from linnet.weights.resolve_loras import ResolvedLoras

Tell = Callable[[str], object]  # hears a line for a person


class LoadSettings(TypedDict, total=False):
    """What `linnet.load` takes, the dtype aside."""

    model: str | None
    weights: StrPath | None
    device: str | None
    threads: int | None
    vram: int | str | None
    ram: int | str | None


class LoraSettings(TypedDict, total=False):
    """LoRAs, each a file or FILE:STRENGTH. None: those of the clip that is started from, if there is one. `lora_merge`:
    into the weights as they are loaded, which have to be in bfloat16 or float32; None: as that clip's were."""

    loras: Sequence[LoraUse | StrPath] | None
    lora_merge: bool | None


class ConditionSettings(TypedDict, total=False):
    """What a clip begins from beside its prompt (see direct.conditions): files, and how they are used."""

    image: StrPath | None
    last_image: StrPath | None
    video: StrPath | None
    strength: float | None
    colours: Literal["prompt", "clip"] | None
    fit: Literal["crop", "pad"] | None


class ModelFileSettings(TypedDict, total=False):
    """Single files of a model, in the place of those in its folder."""

    transformer: StrPath | None
    vae: StrPath | None
    text_encoder: StrPath | None
    tokenizer: StrPath | None


class Settings(
    RequestSettings, LoraSettings, LoadSettings, ConditionSettings, ModelFileSettings, total=False
):
    """What `generate` and `frames` take beside the prompt: the settings of a request, what `load` takes, and what the
    clip begins from. `like` is a clip that linnet made: what is not given is as in it. `compile` compiles the
    transformer first, which is otherwise done on a card where it pays; `fp8` computes its products in FP8. `untuned`:
    the profile's settings are taken from the literature. `gpus`: how many cards share the work."""

    like: StrPath | None
    compile: bool | None
    fp8: bool | None
    untuned: bool
    gpus: int


def path_of(settings: Mapping[str, Any], name: str) -> Path | None:
    """A setting that is a file or folder."""
    return None if settings.get(name) is None else Path(settings[name])


# --- the model --------------------------------------------------------------------------------------------------------


def earlier_clip(file: Path) -> Clip:
    """The record inside a clip."""
    from linnet.inputs.reader import read_metadata

    return Clip.from_metadata(file, read_metadata(file))


def choose_model(
    name: str | None,
    earlier: Clip | None,
    weights: Path | None,
    single_files: Mapping[str, Path | None] | None = None,
) -> tuple[ModelSpec, str]:
    """The model to run and why: named, that of the earlier clip, that of the files, or what is here."""
    if name is not None:
        return find(name), "as asked"
    if earlier is not None:
        return find(earlier.request.model), f"as in {earlier.path}"
    if weights is not None and weights.is_dir() and model_in(weights) is None:
        problem = "does not look like a model that linnet knows"
        raise WeightsError("weights", weights, problem, "say which it is with `model`")
    for part, path in (single_files or {}).items():
        if weights is None and path is not None:
            problem = "does not tell which model it belongs to"
            raise InvalidInput(part.replace("_", "-"), path, problem, "say which with `model`")
    return default_model(weights)


def open_pipeline(
    spec: ModelSpec,
    settings: LoadSettings,
    *,
    dtype: DtypeChoice = "auto",
    compiled: bool | None = None,
    fp8: bool | None = None,
) -> "Pipeline":
    """The model on the machine that the settings describe; no weights are read yet."""
    from linnet.pipeline import Pipeline
    from linnet.runtime.machine import resolve_machine

    files = resolve(spec, weights=path_of(settings, "weights"))
    machine = resolve_machine(
        settings.get("device"),
        dtype=dtype,
        threads=settings.get("threads"),
        vram=settings.get("vram"),
        ram=settings.get("ram"),
    )
    return Pipeline.open(spec, files, machine, compiled=compiled, fp8=fp8)


def loras_of(
    spec: ModelSpec,
    files: Callable[[], ModelFiles],
    settings: LoraSettings,
    earlier: Clip | None = None,
) -> "ResolvedLoras | None":
    """The LoRAs that are named or, without any, those that the same model made the earlier clip with; None for none."""
    given, merge = settings.get("loras"), settings.get("lora_merge")
    if earlier is not None and earlier.request.model != spec.name:
        earlier = None
    if given is None and not merge and (earlier is None or not earlier.request.loras):
        return None
    from linnet.weights.resolve_loras import resolve_loras

    return resolve_loras(files().transformer, given, earlier=earlier, merge=merge)


def check_prompts(
    pipeline: "Pipeline", prompts: Mapping[str, str], request: Request, *, anyway: bool, prefix: str = ""
) -> list[str]:
    """Refuse prompts that the model cannot draw, each named as the person gave it, unless `anyway`. Lines for the
    person: what the prompts leave open, and what of them the model does not see. The request's LoRAs may teach words.
    """
    from linnet.data.known import check_words

    pipeline.model.use_loras(request.loras)
    lines: list[str] = []
    for field, prompt in prompts.items():
        if pipeline.spec.closed_vocabulary and not anyway:
            try:
                model = pipeline.model
                left_open = check_words(
                    pipeline.spec, model.tokenizer, prompt, field=field, taught=model.taught
                )
            except InvalidInput as error:
                remedy = f"{error.remedy}, or add `anyway`"
                raise InvalidInput(field, prompt, error.problem, remedy) from None
            lines += [f"note: {prefix}{line}" for line in left_open]
        if field != "negative" and (cut := pipeline.model.encode(prompt).cut):
            limit = pipeline.spec.max_prompt_tokens
            lines.append(
                f"warning: {prefix}the {field} has over {limit} tokens; the model does not see: {cut}"
            )
    return lines


# --- clips from a prompt ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PreparedClips:
    """A pipeline, with a plan for each clip that was asked for, and what the clips begin from. `why` this model; the
    `notes` are lines for the person."""

    pipeline: "Pipeline"
    plans: tuple[Plan, ...]
    conditions: "Conditions | None" = None
    outputs: tuple[Path, ...] = ()
    why: str = ""
    notes: tuple[str, ...] = ()

    def make(self, plan: Plan, output: Path, *, overwrite: bool = False, watch: "Watch", tell: Tell) -> Clip:
        """One of the clips. `tell` hears what was done to the files that it begins from."""
        if not self.conditions:
            (clip,) = self.pipeline.run(plan, {plan.request.seed: output}, overwrite=overwrite, watch=watch)
            return clip
        from linnet.pipeline import timed

        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            conditioning = self._conditioning(plan, watch, tell)
        clip = conditioning.generate(self.pipeline, output, overwrite=overwrite, watch=watch)
        clip.seconds.update(seconds)
        return clip

    def frames(self, plan: Plan, *, watch: "Watch", tell: Tell) -> "Generator[Image, None, None]":
        """The frames of one of the clips, as they are decoded."""
        if not self.conditions:
            yield from self.pipeline.frames(plan, watch=watch)
            return
        conditioning = self._conditioning(plan, watch, tell)
        yield from self.pipeline.frames(conditioning.plan, watch=watch, sampler=conditioning.sampler)

    def _conditioning(self, plan: Plan, watch: "Watch", tell: Tell) -> "Conditioning":
        from linnet.clip import Progress

        def tick() -> None:
            watch(Progress("encode", 0, 1))

        assert self.conditions is not None
        self.pipeline.model.on_load = watch
        conditioning = self.conditions.conditioning(self.pipeline, plan.request, watch, plan=plan, tick=tick)
        for line in conditioning.notes:
            tell(line)
        return conditioning


def prepare_clips(
    prompt: str | None,
    settings: Settings,
    *,
    seeds: Sequence[int] = (),
    output: Path | None = None,
    overwrite: bool = False,
    anyway: bool = False,
    here: bool = True,
) -> PreparedClips:
    """All that decides the clips of a prompt, one for each seed, checked and planned; no weights are read yet.

    Without `seeds` there is one clip, of the settings' seed. Without `output` the files are named after the prompt and
    the seed. Without `here` the device may be one that is not in this machine, to be planned for.
    """
    like, weights = path_of(settings, "like"), path_of(settings, "weights")
    earlier = earlier_clip(like) if like else None
    single_files = {name: path_of(settings, name) for name in ModelFileSettings.__annotations__}
    spec, why = choose_model(settings.get("model"), earlier, weights, single_files)
    conditions: dict[str, Any] = {name: settings.get(name) for name in ConditionSettings.__annotations__}
    conditions |= {name: path_of(settings, name) for name in ("image", "last_image", "video")}
    of_request = {name: settings[name] for name in RequestSettings.__annotations__ if name in settings}
    files_of = partial(resolve, spec, weights=weights, **single_files)
    if loras := loras_of(spec, files_of, settings, earlier):
        of_request["loras"] = loras.uses
    chosen = chosen_profile(spec, cast(RequestSettings, of_request), settings, files_of, earlier)
    requests = make_requests(
        spec,
        seeds or [settings.get("seed")],
        prompt=prompt,
        earlier=earlier,
        conditions=conditions,
        settings=chosen.settings if chosen else cast(RequestSettings, of_request),
    )
    files = files_of()
    outputs = output_names(output, requests)

    from linnet.media import check_target  # imports PyAV

    if output is not None or seeds:
        for request, path in zip(requests, outputs, strict=True):
            check_target(path, size=request.size, overwrite=overwrite)
    if chosen and settings.get("compile") is None:
        settings = {**settings, "compile": chosen.compiled}
    if chosen and settings.get("fp8") is None:
        settings = {**settings, "fp8": chosen.fp8}
    opened = open_for(spec, files, requests, earlier, conditions, settings, here=here)
    pipeline, notes = opened.pipeline, list(opened.notes)
    pipeline.profile = chosen.record if chosen else None
    if pipeline.profile is None and earlier is not None and "profile" in earlier.choices:
        from linnet.profiles import carried_on

        pipeline.profile = carried_on(earlier.choices["profile"], earlier.request, requests[0])
    first = requests[0]
    words = check_prompts(
        pipeline, {"prompt": first.prompt, "negative": first.negative}, first, anyway=anyway
    )
    if loras:
        notes += loras.notes
    if (file := single_files["transformer"]) and spec.repository and model_of(file) is None:
        notes.insert(0, f"warning: {file} does not tell by its name that it is {spec.name}'s")
    of_profile = chosen.notes if chosen else ()
    return replace(opened, outputs=tuple(outputs), why=why, notes=(*words, *of_profile, *notes))


def chosen_profile(
    spec: ModelSpec,
    of_request: RequestSettings,
    settings: Settings,
    files: Callable[[], ModelFiles],
    earlier: Clip | None,
) -> "ChosenProfile | None":
    """What the name of a profile stands for on this machine; None for the plain settings."""
    untuned = settings.get("untuned", False)
    if not isinstance(untuned, bool):
        raise InvalidInput("untuned", untuned, "is neither true nor false", "use one of the two")
    if not untuned and of_request.get("profile") in (None, "exact"):
        return None

    from linnet.profiles import choose_profile

    like = earlier.request if earlier else None
    return choose_profile(
        spec, of_request, untuned=untuned, files=files, device=settings.get("device"), like=like
    )


def make_requests(
    spec: ModelSpec,
    seeds: Sequence[int | None],
    *,
    prompt: str | None,
    earlier: Clip | None,
    conditions: Mapping[str, Any],
    settings: RequestSettings,
) -> list[Request]:
    """A request for each seed. Without a length, a clip that follows a video is as long as that one allows; windows
    that lead to a last image, or follow a video, are made together."""
    settings = settings.copy()
    video, seconds = conditions.get("video"), settings.get("seconds")
    told = earlier.direction if earlier and seconds is not None else {}
    if settings.get("onward") is None and (
        video or conditions.get("last_image") or "video" in told or "last_image" in told
    ):
        settings["onward"] = False
    if video and seconds is None and settings.get("frames") is None:
        from linnet.direct.footage import frames_in

        settings["frames"] = frames_in(video, spec)
    like = earlier.request if earlier else None
    requests = []
    for seed in seeds:
        settings["seed"] = seed
        requests.append(make_request(spec, prompt=prompt, like=like, **settings))
    return requests


def output_names(output: Path | None, requests: Sequence[Request]) -> list[Path]:
    """A path for each clip: as given, with the seed in its name where there are several."""
    if output is None:
        return [Path(default_name(request)) for request in requests]
    if len(requests) == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{request.seed}") for request in requests]


def open_for(
    spec: ModelSpec,
    files: ModelFiles,
    requests: Sequence[Request],
    earlier: Clip | None,
    conditions: Mapping[str, Any],
    settings: Settings,
    *,
    here: bool,
) -> PreparedClips:
    """Check what the clips begin from, resolve the machine, plan, and open the model.

    The requests differ in their seeds alone. What is not given is as in the `earlier` clip, so that its bytes repeat.
    """
    from linnet.pipeline import Pipeline
    from linnet.plan.plan import SizedModel
    from linnet.runtime.machine import check_asked, resolve_machine

    begins = conditions_of(earlier, conditions)
    if begins:
        for request in requests:
            begins.check(request)
    choices, notes = earlier.choices if earlier else {}, []
    device, threads = settings.get("device"), settings.get("threads")
    machine = resolve_machine(
        device_to_use(device, choices.get("device")) if here else device,
        dtype=requests[0].dtype,
        threads=threads if threads is not None else choices.get("threads"),
        vram=settings.get("vram"),
        ram=settings.get("ram"),
        here=here,
    )
    sized = SizedModel.of(spec, files)
    encoded = max(map(begins.encoded_frames, requests)) if begins else 0
    repeated = earlier_execution(earlier, spec)
    compiled, fp8 = settings.get("compile"), settings.get("fp8")
    wanted, fixed = (as_asked(known, compiled=compiled, fp8=fp8) for known in (NOTHING_FIXED, repeated))
    check_asked(machine, fixed)
    try:
        plan = machine.plan(sized, requests[0], encoded_frames=encoded, fixed=fixed)
    except InvalidInput:
        if not repeated or earlier is None:
            raise
        plan = machine.plan(sized, requests[0], encoded_frames=encoded, fixed=wanted)
        repeated = NOTHING_FIXED
        notes.append(
            f"warning: {earlier.path} was made in more memory than there is, so this clip may differ in rounding"
        )
    pipeline = Pipeline.open(
        spec,
        files,
        machine,
        execution=plan.execution if repeated else None,
        compiled=compiled,
        fp8=fp8,
        attention=str(choices.get("attention", "")),
    )
    if earlier and earlier.request.model == spec.name and earlier.model_hash != pipeline.model_hash:
        notes.append(f"warning: {earlier.path} was made with other weights, so this clip will differ")
    gpus = settings.get("gpus", 1)
    if isinstance(gpus, bool) or not isinstance(gpus, int):
        raise InvalidInput("gpus", gpus, "is not a number of GPUs", "use a whole number such as 2")
    if gpus != 1:
        from linnet.multi_gpu import attach

        notes.append(attach(pipeline, gpus, plan, device=device))
    elif earlier and "processes" in choices:
        notes.append(f"warning: {earlier.path} was made on several GPUs, so this clip may differ in rounding")
    plans = (plan, *(plan.with_seed(request.seed) for request in requests[1:]))
    return PreparedClips(pipeline=pipeline, plans=plans, conditions=begins, notes=tuple(notes))


def conditions_of(earlier: Clip | None, given: Mapping[str, Any]) -> "Conditions | None":
    """What a clip begins from beside its prompt: as given, else as the earlier clip did; None for nothing."""
    if all(value is None for value in given.values()) and not (earlier and earlier.direction):
        return None

    from linnet.direct.conditions import Conditions

    if earlier:
        return Conditions.from_record(earlier.path, earlier.direction, **given) or None
    return Conditions(**given) or None


def prepare_loaded(
    pipeline: "Pipeline", request: Request, conditions: "Conditions | None" = None
) -> PreparedClips:
    """A clip of a pipeline that is open already."""
    plan = pipeline.plan(request, encoded_frames=conditions.encoded_frames(request) if conditions else 0)
    return PreparedClips(pipeline=pipeline, plans=(plan,), conditions=conditions)


def earlier_execution(earlier: Clip | None, spec: ModelSpec) -> FixedExecution:
    """What of an earlier clip's way to run decides its last bits; nothing if it was another model's."""
    if earlier is None or earlier.request.model != spec.name:
        return NOTHING_FIXED
    record = earlier.choices.get("knobs", {})
    if not isinstance(record, Mapping):
        raise InvalidInput(
            "file", earlier.path, "does not say how it was executed", "use a clip that linnet generated"
        )
    return as_asked(recorded(record), compiled=earlier.choices.get("compiled") is True)


def device_to_use(device: str | None, earlier: str | None) -> str:
    """As asked; else that of the earlier clip, so that its bytes repeat, where it is here; else the fastest."""
    from linnet.runtime.device import resolve_device

    if device is None and earlier is not None:
        with suppress(InvalidInput):
            return resolve_device(earlier)
    return resolve_device(device or "auto")

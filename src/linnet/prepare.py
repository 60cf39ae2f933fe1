"""From what was asked to what runs: the model, the requests, the machine, the plan, the pipeline. The command line and
Python both come through here. Importing it imports no torch, so that what cannot be done is refused early."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.catalog import ModelSpec, find
from linnet.clip import Clip
from linnet.errors import InvalidInput, WeightsError
from linnet.plan.execution import NOTHING_FIXED, FixedExecution, as_asked, recorded
from linnet.plan.plan import Plan
from linnet.profiles import carried_on
from linnet.request import Request, RequestSettings, make_request
from linnet.weights.store import ModelFiles, default_model, model_in

if TYPE_CHECKING:
    from linnet.direct.conditions import Conditions
    from linnet.pipeline import Pipeline
    from linnet.progress import Image, Watch


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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A pipeline, with a plan for each clip that was asked for, and what the clips begin from. `notes` are for the
    person."""

    pipeline: "Pipeline"
    plans: tuple[Plan, ...]
    beginning: "Conditions"
    notes: tuple[str, ...]

    def generate(
        self, plan: Plan, output: Path, *, overwrite: bool, watch: "Watch", tell: Callable[[str], object]
    ) -> Clip:
        """One of the clips. `tell` hears what was done to the files that it begins from."""
        if not self.beginning:
            seed = plan.request.seed
            (clip,) = self.pipeline.run(plan, {seed: output}, overwrite=overwrite, watch=watch)
            return clip
        way = self.beginning.way(self.pipeline, plan.request, watch, plan=plan)
        for line in way.notes:
            tell(line)
        return way.generate(self.pipeline, output, overwrite=overwrite, watch=watch)

    def frames(
        self, plan: Plan, *, watch: "Watch", tell: Callable[[str], object]
    ) -> "Generator[Image, None, None]":
        """The frames of one of the clips, as they are decoded."""
        if not self.beginning:
            yield from self.pipeline.frames(plan, watch=watch)
            return
        way = self.beginning.way(self.pipeline, plan.request, watch, plan=plan)
        for line in way.notes:
            tell(line)
        yield from self.pipeline.frames(way.plan, watch=watch, sampler=way.sampler)


def prepare(
    spec: ModelSpec,
    files: ModelFiles,
    requests: Sequence[Request],
    *,
    earlier: Clip | None = None,
    conditions: Mapping[str, Any],
    device: str | None = None,
    threads: int | None = None,
    vram: int | str | None = None,
    ram: int | str | None = None,
    compiled: bool | None = None,
    fp8: bool | None = None,
    profile: Mapping[str, Any] | None = None,
    gpus: int = 1,
    here: bool = True,
) -> Prepared:
    """Check what the clips begin from, resolve the machine, plan, and open the model; no weights are read yet.

    The requests differ in their seeds alone. What is not given is as in the `earlier` clip, so that its bytes repeat.
    `compiled` and `fp8` are as for `Pipeline.open`. Without `here` the device may be one that is not in this machine,
    to be planned for. `profile` is what the clips say of a tuned profile; that of the earlier clip goes on where its
    settings do. `gpus`: how many cards share the work."""
    from linnet.direct.conditions import Conditions
    from linnet.pipeline import Pipeline
    from linnet.plan.workload import SizedModel
    from linnet.runtime.machine import check_asked, resolve_machine

    given = dict(conditions)
    beginning = (
        Conditions.from_record(earlier.path, earlier.direction, **given) if earlier else Conditions(**given)
    )
    for request in requests if beginning else ():
        beginning.check(request)
    choices, notes = earlier.choices if earlier else {}, []
    machine = resolve_machine(
        device_to_use(device, choices.get("device")) if here else device,
        dtype=requests[0].dtype,
        threads=threads if threads is not None else choices.get("threads"),
        vram=vram,
        ram=ram,
        here=here,
    )
    sized, encoded = SizedModel.of(spec, files), max(map(beginning.encoded_frames, requests))
    repeated = earlier_execution(earlier, spec)
    asked, fixed = (as_asked(settings, compiled=compiled, fp8=fp8) for settings in (NOTHING_FIXED, repeated))
    check_asked(machine, fixed)
    try:
        plan = machine.plan(sized, requests[0], encoded_frames=encoded, fixed=fixed)
    except InvalidInput:
        if not repeated or earlier is None:
            raise
        plan = machine.plan(sized, requests[0], encoded_frames=encoded, fixed=asked)
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
    if profile is None and earlier is not None:
        profile = carried_on(choices.get("profile"), earlier.request, requests[0])
    pipeline.profile = profile
    if earlier and earlier.request.model == spec.name and earlier.model_hash != pipeline.model_hash:
        notes.append(f"warning: {earlier.path} was made with other weights, so this clip will differ")
    if isinstance(gpus, bool) or not isinstance(gpus, int):
        raise InvalidInput("gpus", gpus, "is not a number of GPUs", "use a whole number such as 2")
    if gpus != 1:
        from linnet.multi_gpu import attach

        notes.append(attach(pipeline, gpus, plan, device=device))
    elif earlier and "processes" in choices:
        notes.append(f"warning: {earlier.path} was made on several GPUs, so this clip may differ in rounding")
    plans = (plan, *(plan.with_seed(request.seed) for request in requests[1:]))
    return Prepared(pipeline=pipeline, plans=plans, beginning=beginning, notes=tuple(notes))


def earlier_execution(earlier: Clip | None, spec: ModelSpec) -> FixedExecution:
    """What of an earlier clip's way to run decides its last bits; nothing if it was another model's."""
    if earlier is None or earlier.request.model != spec.name:
        return NOTHING_FIXED
    record = earlier.choices.get("knobs", {})
    if not isinstance(record, Mapping):
        raise InvalidInput("file", earlier.path, "tells no knobs", "use a clip that linnet generated")
    return as_asked(recorded(record), compiled=earlier.choices.get("compiled") is True)


def device_to_use(asked: str | None, earlier: str | None) -> str:
    """As asked; else that of the earlier clip, so that its bytes repeat, where it is here; else the fastest."""
    from linnet.runtime.device import resolve_device

    if asked is None and earlier is not None:
        with suppress(InvalidInput):
            return resolve_device(earlier)
    return resolve_device(asked or "auto")

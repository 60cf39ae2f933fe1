"""From what is asked for to what runs, for clips that are made from other clips, for films, and for grids of drafts.

Importing it imports no torch, so that what cannot be done is refused early.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from linnet.catalog import ModelSpec
from linnet.clip import Clip, default_name
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, Size, format_seconds, frames_for
from linnet.plan.plan import Plan
from linnet.plan.profiles import kept
from linnet.prepare import (
    LoadSettings,
    LoraSettings,
    Tell,
    check_prompts,
    choose_model,
    loras_of,
    open_pipeline,
    path_of,
)
from linnet.profiles import ChosenProfile, choose_profile
from linnet.request import LONGEST_SECONDS, ProfileName, Request, RequestSettings, make_request
from linnet.weights.store import resolve

if TYPE_CHECKING:
    from linnet.clip import Watch
    from linnet.direct.conditions import Conditioning
    from linnet.direct.film import Film
    from linnet.direct.footage import Source
    from linnet.direct.grid import Grid
    from linnet.direct.storyboard import Storyboard
    from linnet.pipeline import Pipeline
    from linnet.weights.resolve_loras import ResolvedLoras


class LoadAndLoras(LoadSettings, LoraSettings, total=False):
    """What every clip's model is loaded with, a storyboard's, too."""


class RemakeSettings(LoadAndLoras, total=False):
    """What `extend`, `edit` and `refine` take alike. What is not given is as in the clip that they start from."""

    seed: int | None
    profile: ProfileName | None
    steps: int | None
    guidance: float | None
    fit: Literal["crop", "pad"] | None


class ExtendSettings(RemakeSettings, total=False):
    """`seconds` are those that are added, 2 by default. `prompt` is what goes on, by default the clip's own. With
    `reencode` all of the clip is encoded anew, at the model's size and pace, without its sound."""

    seconds: float
    prompt: str | None
    reencode: bool


class EditSettings(RemakeSettings, total=False):
    """`from_` is what the clip shows, by default the prompt that it was made from. `strength` is the share of the steps
    in which it changes, 0.95 by default. `everywhere` lets all of it change, not only what the descriptions differ in.
    """

    from_: str | None
    strength: float | None
    everywhere: bool


class RefineSettings(RemakeSettings, total=False):
    """`strength` is the share of the steps that are taken again, 0.4 by default."""

    prompt: str | None
    strength: float | None
    size: Size | str | None


class GridSettings(LoadAndLoras, total=False):
    """The profile is by default draft, where the model has one or one was tuned here."""

    negative: str | None
    size: Size | str | None
    seconds: float | None
    profile: ProfileName | None
    steps: int | None
    guidance: float | None


@dataclass(frozen=True, kw_only=True)
class PreparedClip:
    """A clip that is made from another one, with its plan. `added`: seconds of it that are new, if not all are. `make`
    makes it; `notes` are lines for the person, and so is what `make` tells."""

    pipeline: "Pipeline"
    plan: Plan
    output: Path
    make: "Callable[[Watch, Tell], Clip]"
    notes: tuple[str, ...] = ()
    added: float = 0.0


# --- from a clip ------------------------------------------------------------------------------------------------------


def prepare_extend(
    file: Path,
    settings: ExtendSettings,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    anyway: bool = False,
) -> PreparedClip:
    """A clip that goes on. Of a clip of linnet's the prompt goes on; if the same model made it, all its settings do,
    too, those of its profile unless another is given, but not its step cache."""
    seconds, reencode, fit = (
        settings.get("seconds", 2.0),
        settings.get("reencode", False),
        settings.get("fit"),
    )
    earlier, spec = model_of_clip(file, settings, needed=settings.get("prompt") is None)
    output = output or beside(file, "extended")
    added = frames_for(seconds, spec.fps) - 1
    if added < FRAMES_PER_LATENT:
        raise InvalidInput("seconds", seconds, "adds nothing", "give at least 0.167")

    from linnet.direct import extend as extending  # it takes seconds to import
    from linnet.direct.conditions import check_fit
    from linnet.inputs.reader import probe

    prompt = settings.get("prompt")
    of_request: dict[str, Any] = {
        "prompt": earlier.request.prompt if prompt is None and earlier else prompt,
        "reuse": "none",
        "steps": settings.get("steps"),
        "guidance": settings.get("guidance"),
        "loop": False,
    }
    like = earlier.request if earlier and earlier.request.model == spec.name else None
    loras = loras_for(spec, settings, earlier)
    if loras:
        of_request["loras"] = loras.uses
    if spec.allows(size := probe(file).size):
        of_request["size"] = size
    of_any_length = {**of_request, "seed": settings.get("seed"), "frames": spec.default_frames}
    usual = make_request(spec, like=like, **of_any_length)
    extending.check_output(output, usual, overwrite=overwrite, reencode=reencode)
    source = extending.open_old(file, usual, reencode=reencode, fit=check_fit(fit))
    seen = extending.seen_of(source)
    of_request |= {"seed": usual.seed, "frames": frames_after(spec, seen, added, seconds)}
    chosen = profile_for(spec, settings, of_request, like)
    request = make_request(spec, like=like, **chosen.settings)
    pipeline = open_pipeline(spec, settings, compiled=chosen.compiled, fp8=chosen.fp8)
    pipeline.profile = chosen.record
    notes = [*chosen.notes]
    notes += check_prompts(pipeline, {"prompt": request.prompt}, request, anyway=anyway)
    notes += loras.notes if loras else ()
    plan = pipeline.plan(request, encoded_frames=seen)

    def make(watch: "Watch", tell: Tell) -> Clip:
        return extending.extend(
            pipeline, plan, source, output, overwrite=overwrite, reencode=reencode, watch=watch
        )

    changes = [f"note: {line}" for line in source.notes] if reencode else []
    return PreparedClip(
        pipeline=pipeline,
        plan=plan,
        output=output,
        make=make,
        notes=(*notes, *changes),
        added=added / spec.fps,
    )


def frames_after(spec: ModelSpec, seen: int, added: int, seconds: float) -> int:
    """The frames that the model makes: those that it sees of the old clip and the new ones."""
    if seen + added < spec.min_frames:
        shortest = format_seconds((spec.min_frames - seen) / spec.fps)
        raise InvalidInput(
            "seconds", seconds, f"is less than {spec.name} can add here", f"give {shortest} or more"
        )
    most = LONGEST_SECONDS * spec.fps + 1
    if seen + added > most:
        longest = format_seconds((most - seen) / spec.fps)
        raise InvalidInput(
            "seconds", seconds, f"is more than {spec.name} can add here", f"give {longest} or less"
        )
    return seen + added


def prepare_edit(
    file: Path,
    to: str,
    settings: EditSettings,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    anyway: bool = False,
) -> PreparedClip:
    """A clip that shows something else and keeps its motion. From a clip that the same model made it takes the size,
    the guidance, the negative prompt and the seed, but not the shortcuts: without a profile it is exact."""
    shown = settings.get("from_")
    earlier, spec = model_of_clip(file, settings, needed=shown is None, field="from")
    if shown is None:
        assert earlier is not None
        shown = earlier.request.prompt
    for field, words in (("from", shown), ("to", to)):
        if not words.strip():
            raise InvalidInput(field, words, "is empty", "describe the video in a sentence")

    from linnet.direct import edit as editing  # it and what follows take seconds to import
    from linnet.direct.samplers import check_strength

    strength = settings.get("strength")
    strength = check_strength(editing.STRENGTH if strength is None else strength)
    like = earlier.request if earlier and earlier.request.model == spec.name else None

    def condition(pipeline: "Pipeline", plan: Plan, source: "Source") -> "Conditioning":
        everywhere = settings.get("everywhere", False)
        return editing.edit(pipeline, plan, source, shown, strength=strength, everywhere=everywhere)

    return prepare_remake(
        spec,
        file,
        output or beside(file, "edited"),
        settings,
        earlier,
        condition,
        {"to": to, "from": shown},
        overwrite=overwrite,
        anyway=anyway,
        prompt=to,
        like=like,
    )


def prepare_refine(
    file: Path,
    settings: RefineSettings,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    anyway: bool = False,
) -> PreparedClip:
    """A draft that is finished at the model's size. From a clip of linnet's it takes the prompt, the negative prompt
    and the seed; if the same model made it, the size and the guidance, too, but never the shortcuts: without a profile
    it is exact."""
    earlier, spec = model_of_clip(file, settings, needed=settings.get("prompt") is None)

    from linnet.direct.edit import refine  # it and what follows take seconds to import
    from linnet.direct.samplers import check_strength

    strength = settings.get("strength")
    strength = check_strength(0.4 if strength is None else strength)

    def condition(pipeline: "Pipeline", plan: Plan, source: "Source") -> "Conditioning":
        return refine(pipeline, plan, source, strength=strength)

    return prepare_remake(
        spec,
        file,
        output or beside(file, "refined"),
        settings,
        earlier,
        condition,
        overwrite=overwrite,
        anyway=anyway,
        prompt=settings.get("prompt"),
        size=settings.get("size"),
        like=earlier.request if earlier else None,
    )


def prepare_remake(
    spec: ModelSpec,
    file: Path,
    output: Path,
    settings: RemakeSettings,
    earlier: Clip | None,
    condition: "Callable[[Pipeline, Plan, Source], Conditioning]",
    prompts: Mapping[str, str] | None = None,
    *,
    overwrite: bool,
    anyway: bool,
    **of_request: Any,
) -> PreparedClip:
    """A clip that is made of a whole other one, as `condition` says. `prompts`: those that the model reads, by their
    fields; None: the request's."""
    loras = loras_for(spec, settings, earlier)
    of_request["loras"] = loras.uses if loras else None
    request, source, notes, chosen = remaking(spec, file, output, settings, overwrite=overwrite, **of_request)
    pipeline = open_pipeline(spec, settings, compiled=chosen.compiled, fp8=chosen.fp8)
    pipeline.profile = chosen.record
    words = [*chosen.notes]
    words += check_prompts(pipeline, prompts or {"prompt": request.prompt}, request, anyway=anyway)
    words += loras.notes if loras else ()
    plan = pipeline.plan(request, encoded_frames=request.frames)
    make = making(pipeline, lambda: condition(pipeline, plan, source), output, notes, overwrite=overwrite)
    return PreparedClip(pipeline=pipeline, plan=plan, output=output, make=make, notes=tuple(words))


def loras_for(spec: ModelSpec, settings: LoadAndLoras, earlier: Clip | None = None) -> "ResolvedLoras | None":
    files = partial(resolve, spec, weights=path_of(settings, "weights"))
    return loras_of(spec, files, settings, earlier)


def model_of_clip(
    file: Path, settings: LoadSettings, *, needed: bool, field: str = "prompt"
) -> tuple[Clip | None, ModelSpec]:
    """The record inside a clip, if it is one of linnet's, and the model: as asked, else the one that made the clip,
    else what is here. InvalidInput for a file that is no clip, and where the record's prompt is `needed` and missing.
    """
    from linnet.inputs.reader import read_metadata

    record, earlier = read_metadata(file), None
    with suppress(InvalidInput):
        earlier = Clip.from_metadata(file, record)
    if needed and earlier is None:
        problem = f"is not in {file}, which linnet did not make"
        raise InvalidInput(field, "", problem, f"say what it shows with `{field}`")
    spec, _ = choose_model(settings.get("model"), earlier, path_of(settings, "weights"))
    return earlier, spec


def remaking(
    spec: ModelSpec,
    file: Path,
    output: Path,
    settings: RemakeSettings,
    *,
    overwrite: bool,
    like: Request | None,
    **of_request: Any,
) -> tuple[Request, "Source", list[str], ChosenProfile]:
    """The request for a clip that is made of a whole other one, what it is made of, what to tell the person of it, and
    the profile that is in it. Without one it is exact, whatever the `like` of the request was."""
    from linnet.direct.conditions import check_fit
    from linnet.direct.footage import length_for, open_source
    from linnet.media import check_target

    of_request |= {
        "steps": settings.get("steps"),
        "guidance": settings.get("guidance"),
        "reuse": "none",
        "loop": False,
        "onward": False,
    }
    seed = settings.get("seed")
    first = make_request(
        spec, like=like, seed=seed, frames=spec.default_frames, profile="exact", **of_request
    )
    source = open_source(file, first.size, spec.fps, check_fit(settings.get("fit")))
    check_target(output, size=first.size, overwrite=overwrite)
    frames = length_for(spec, file, len(source.order))
    of_request |= {"frames": frames, "seed": first.seed}
    chosen = profile_for(spec, settings, of_request, like, usual="exact")
    request = make_request(spec, like=like, **chosen.settings)
    left_out = len(source.order) - frames
    notes = [f"its last {left_out} frames are left out: the model makes 4k+1"] if left_out else []
    return request, source, notes, chosen


def profile_for(
    spec: ModelSpec,
    settings: RemakeSettings,
    of_request: Mapping[str, Any],
    like: Request | None,
    *,
    usual: ProfileName | None = None,
) -> ChosenProfile:
    """What the profile that was asked for, or the usual one, makes of a request for a clip that is made from another
    one: all but its step cache, whose steps are counted from pure noise."""
    wanted = {**of_request, "profile": settings.get("profile") or usual, "reuse": "none"}
    chosen = choose_profile(
        spec,
        cast(RequestSettings, wanted),
        files=lambda: resolve(spec, weights=path_of(settings, "weights")),
        device=settings.get("device"),
        like=like,
    )
    if chosen.record is None or chosen.record["settings"].get("reuse", "none") == "none":
        return chosen
    note = f"note: {chosen.record['name']} is used without its step cache, which is for clips made from noise"
    return replace(chosen, record=None, notes=(*chosen.notes, note))


def making(
    pipeline: "Pipeline",
    conditioning: "Callable[[], Conditioning]",
    output: Path,
    notes: Sequence[str],
    *,
    overwrite: bool,
) -> "Callable[[Watch, Tell], Clip]":
    def make(watch: "Watch", tell: Tell) -> Clip:
        pipeline.model.on_load = watch
        made_from = conditioning()
        for line in (*made_from.notes, *notes):
            tell(line)
        return made_from.generate(pipeline, output, overwrite=overwrite, watch=watch)

    return make


def beside(file: Path, word: str) -> Path:
    """The usual name of what is made from a clip."""
    return file.with_name(f"{file.stem}-{word}.mp4")


# --- films and grids --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PreparedFilm:
    """A storyboard, and its model, of which no weights are read yet."""

    board: "Storyboard"
    pipeline: "Pipeline"
    notes: tuple[str, ...]

    def render(self, output: Path | None, *, overwrite: bool, watch: "Callable[[range], Watch]") -> "Film":
        """See `direct.film.render`."""
        from linnet.direct import film

        path = output or film.film_name(self.board)
        return film.render(self.board, self.pipeline, path, overwrite=overwrite, watch=watch)


def prepare_film(file: Path, settings: LoadAndLoras, *, anyway: bool = False) -> PreparedFilm:
    """Whatever is wrong with the storyboard or its model is said now, with its place in the file."""
    from linnet.direct.storyboard import read_storyboard

    board = read_storyboard(
        file,
        model=settings.get("model"),
        weights=path_of(settings, "weights"),
        device=settings.get("device"),
        loras=settings.get("loras"),
        lora_merge=settings.get("lora_merge"),
    )
    pipeline = open_pipeline(board.spec, settings, dtype=board.shots[0].request.dtype)
    notes = list(board.notes)
    for shot, section in zip(board.shots, board.sections, strict=True):
        prompts = {"prompt": shot.request.prompt, "negative": shot.request.negative}
        with section.placed():
            prefix = f"{file}:{section.line}: "
            notes += check_prompts(pipeline, prompts, shot.request, anyway=anyway, prefix=prefix)
    return PreparedFilm(board=board, pipeline=pipeline, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class PreparedGrid:
    """A request for each draft, and the model, of which no weights are read yet."""

    pipeline: "Pipeline"
    requests: tuple[Request, ...]
    folder: Path
    notes: tuple[str, ...]

    def draft(self, *, overwrite: bool, watch: "Callable[[int], Watch]") -> "Grid":
        """See `direct.grid.draft`."""
        from linnet.direct.grid import draft

        return draft(self.pipeline, self.requests, self.folder, overwrite=overwrite, watch=watch)


def prepare_grid(
    prompt: str,
    settings: GridSettings,
    *,
    seeds: Sequence[int] = range(1, 10),
    folder: Path | None = None,
    anyway: bool = False,
) -> PreparedGrid:
    """A draft of the prompt for each seed."""
    spec, _ = choose_model(settings.get("model"), None, path_of(settings, "weights"))
    drafts = "draft" in spec.profiles or kept(spec.name, "draft")
    chosen = choose_profile(
        spec,
        {
            "negative": settings.get("negative"),
            "size": settings.get("size"),
            "seconds": settings.get("seconds"),
            "steps": settings.get("steps"),
            "guidance": settings.get("guidance"),
            "profile": settings.get("profile") or ("draft" if drafts else None),
        },
        files=lambda: resolve(spec, weights=path_of(settings, "weights")),
        device=settings.get("device"),
    )
    loras = loras_for(spec, settings)
    requests = []
    for seed in seeds:
        of_request = chosen.settings.copy()
        of_request["seed"] = seed
        of_request["loras"] = loras.uses if loras else None
        requests.append(make_request(spec, prompt=prompt, **of_request))
    pipeline = open_pipeline(spec, settings, compiled=chosen.compiled, fp8=chosen.fp8)
    pipeline.profile = chosen.record
    first = requests[0]
    notes = check_prompts(
        pipeline, {"prompt": first.prompt, "negative": first.negative}, first, anyway=anyway
    )
    notes += loras.notes if loras else ()
    folder = folder or Path(default_name(first).removesuffix(f"{first.seed}.mp4") + "grid")
    return PreparedGrid(
        pipeline=pipeline, requests=tuple(requests), folder=folder, notes=(*chosen.notes, *notes)
    )

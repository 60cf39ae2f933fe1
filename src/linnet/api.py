"""linnet from Python: functions that stand for the whole way from a prompt or a clip to a file, or to frames.

Each has the words of the command of its name, and raises InvalidInput, which names the field, the value and the remedy,
for anything that cannot be done as asked; so does a prompt with words that seedling does not know, unless `anyway`.
`progress` is told of each step of each stage, and of notes; what it returns does not matter. What it raises stops the
run, as `Progress.cancel` does, and no file is left.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast, overload

from linnet.catalog import find
from linnet.clip import Clip, Image, Progress, Watch, ignore
from linnet.direct.film import Film
from linnet.direct.grid import MOST, Grid
from linnet.errors import InvalidInput
from linnet.filesystem import StrPath, as_path
from linnet.pipeline import Pipeline
from linnet.prepare import LoadSettings, Settings, open_pipeline, prepare_clips
from linnet.prepare_direct import (
    EditSettings,
    ExtendSettings,
    GridSettings,
    LoadAndLoras,
    PreparedClip,
    RefineSettings,
    prepare_edit,
    prepare_extend,
    prepare_film,
    prepare_grid,
    prepare_refine,
)
from linnet.request import DtypeChoice, check_dtype, check_names, check_text
from linnet.weights.store import default_model

PATHS = ("weights", "image", "last_image", "video", "like", "transformer", "vae", "text_encoder", "tokenizer")
OWN = ("output", "overwrite", "anyway", "progress", "seeds")  # parameters of the functions themselves

S = TypeVar("S", bound=Mapping[str, Any])


def load(
    model: str | None = None,
    *,
    weights: StrPath | None = None,
    device: str | None = "auto",
    dtype: DtypeChoice = "auto",
    threads: int | None = None,
    vram: int | str | None = None,
    ram: int | str | None = None,
) -> Pipeline:
    """A pipeline that can make many clips: `load("seedling").generate(request, "clip.mp4")`.

    `model` is a name of the catalogue; None takes the Linum model that is on this machine, else seedling. `weights` is
    the folder of a downloaded repository. `dtype` is that of the matrix products, "float32" or "bfloat16"; `threads`
    of the CPU are by default as many as this process may use. `vram` and `ram` are what may be used of the card's and
    of main memory, such as "8GB", or in bytes: every clip is planned to keep to them, and the card gives no more.
    Raises InvalidInput for a model, device or dtype that is not here, WeightsError for files that are missing or
    damaged.
    """
    kind = check_dtype(dtype)
    if model is not None:
        check_text("model", model)
    folder = None if weights is None else as_path(weights, "weights")
    spec = default_model(folder)[0] if model is None else find(model)
    settings: LoadSettings = {
        "weights": folder,
        "device": device,
        "threads": threads,
        "vram": vram,
        "ram": ram,
    }
    return open_pipeline(spec, settings, dtype=kind)


# --- from a prompt ----------------------------------------------------------------------------------------------------


@overload
def generate(
    prompt: str | None,
    output: StrPath | None = None,
    *,
    seeds: None = None,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[Settings],
) -> Clip: ...


@overload
def generate(
    prompt: str | None,
    output: StrPath | None = None,
    *,
    seeds: Iterable[int],
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[Settings],
) -> list[Clip]: ...


def generate(
    prompt: str | None,
    output: StrPath | None = None,
    *,
    seeds: Iterable[int] | None = None,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[Settings],
) -> Clip | list[Clip]:
    """Make one clip of `prompt`, or with `seeds` a list of clips, one for each. `settings` are those of
    `linnet.make_request` (seconds, seed, steps, ...), of `load` (model, weights, device, vram, ...), files that the
    clip begins from (image, last_image, video), and `like`, an earlier clip, whose prompt stands if `prompt` is None.

    Without `output` the file is named after the prompt and the seed, in the current folder. Several clips have their
    seeds in their names.
    """
    settings = checked(settings, Settings, progress)
    if prompt is not None or "like" not in settings:
        check_text("prompt", prompt)
    several = None if seeds is None else seeds_of(seeds, settings.get("seed"))
    ready = prepare_clips(
        prompt,
        settings,
        seeds=several or (),
        output=output_of(output),
        overwrite=overwrite,
        anyway=anyway,
    )
    tell = telling(progress)
    try:
        for line in ready.notes:
            tell(line)
        clips = [
            ready.make(plan, path, overwrite=overwrite, watch=progress, tell=tell)
            for plan, path in zip(ready.plans, ready.outputs, strict=True)
        ]
    finally:
        ready.pipeline.unload()
    return clips if several else clips[0]


def frames(
    prompt: str | None, *, anyway: bool = False, progress: Watch = ignore, **settings: Unpack[Settings]
) -> Generator[Image, None, None]:
    """The frames of a clip of `prompt`, uint8 RGB arrays [H, W, 3], one by one as they are decoded; no file is written.
    All else is as in `generate`.

    What cannot be done is refused at once; the first frame is made when it is asked for. The model's memory is given
    back after the last frame, and earlier when the iterator is closed or nobody holds it any more.
    """
    settings = checked(settings, Settings, progress)
    if prompt is not None or "like" not in settings:
        check_text("prompt", prompt)
    ready, tell = prepare_clips(prompt, settings, anyway=anyway), telling(progress)
    for line in ready.notes:
        tell(line)

    def decoded() -> Generator[Image, None, None]:
        try:
            yield from ready.frames(ready.plans[0], watch=progress, tell=tell)
        finally:
            ready.pipeline.unload()

    return decoded()


def grid(
    prompt: str,
    output: StrPath | None = None,
    *,
    seeds: Iterable[int] = range(1, 10),
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[GridSettings],
) -> Grid:
    """Drafts of a prompt to pick from: in the folder `output`, by default PROMPT-grid, a clip for each seed,
    `sheet.png` with three moments of each, and `mosaic.mp4` with all of them at once. Drafts that are there already
    are kept.

    Make the one that you pick in full with `generate(None, like=clip.path, profile="exact")`.
    """
    settings = checked(settings, GridSettings, progress)
    check_text("prompt", prompt)
    several = seeds_of(seeds)
    if len(several) > MOST:
        raise InvalidInput("seeds", len(several), "are too many to be seen", f"use up to {MOST}")
    ready = prepare_grid(prompt, settings, seeds=several, folder=output_of(output), anyway=anyway)
    tell = telling(progress)

    def watch(number: int) -> Watch:
        tell(f"draft {number + 1} of {len(several)}")
        return progress

    try:
        for line in ready.notes:
            tell(line)
        return ready.draft(overwrite=overwrite, watch=watch)
    finally:
        ready.pipeline.unload()


# --- from a clip ------------------------------------------------------------------------------------------------------


def extend(
    file: StrPath,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[ExtendSettings],
) -> Clip:
    """Go on from a clip's last frames, for `seconds`, in a new file, by default FILE-extended.mp4.

    The clip's own packets are copied, not encoded again, and so is its sound; the new frames follow them. A clip whose
    packets cannot be kept so is refused, or encoded anew with `reencode`. The returned clip's request is that of the
    frames that the model made; `direction["kept"]` counts the frames before them.
    """
    settings = checked(settings, ExtendSettings, progress)
    path = as_path(file, "file")
    ready = prepare_extend(path, settings, output=output_of(output), overwrite=overwrite, anyway=anyway)
    return made(ready, progress)


def edit(
    file: StrPath,
    to: str,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[EditSettings],
) -> Clip:
    """Change what a clip shows into what `to` says, and keep its motion. The new file is by default FILE-edited.mp4."""
    settings = checked(settings, EditSettings, progress)
    path = as_path(file, "file")
    check_text("to", to)
    ready = prepare_edit(path, to, settings, output=output_of(output), overwrite=overwrite, anyway=anyway)
    return made(ready, progress)


def refine(
    file: StrPath,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[RefineSettings],
) -> Clip:
    """Finish a draft at the model's size: it is scaled up and taken through the last steps again. The new file is by
    default FILE-refined.mp4."""
    settings = checked(settings, RefineSettings, progress)
    path = as_path(file, "file")
    ready = prepare_refine(path, settings, output=output_of(output), overwrite=overwrite, anyway=anyway)
    return made(ready, progress)


def storyboard(
    file: StrPath,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[LoadAndLoras],
) -> Film:
    """Make the film of a storyboard, a YAML file, and a contact sheet beside it; by default FILE with the ending .mp4.

    Every shot is kept in the folder FILE.shots. Only what is not there is made: a call that was stopped goes on, and a
    changed shot is made again, with those that continue it.
    """
    settings = checked(settings, LoadAndLoras, progress)
    ready = prepare_film(as_path(file, "file"), settings, anyway=anyway)
    tell = telling(progress)

    def watch(shots: range) -> Watch:
        tell(f"shot {shots.start + 1} of {len(ready.board.shots)}")
        return progress

    try:
        for line in ready.notes:
            tell(line)
        return ready.render(output_of(output), overwrite=overwrite, watch=watch)
    finally:
        ready.pipeline.unload()


# --- what they share --------------------------------------------------------------------------------------------------


def made(ready: PreparedClip, progress: Watch) -> Clip:
    tell = telling(progress)
    try:
        for line in ready.notes:
            tell(line)
        return ready.make(progress, tell)
    finally:
        ready.pipeline.unload()


def checked(settings: S, known: type[S], progress: object) -> S:
    """The settings with paths in the place of their names; InvalidInput for one that the function does not have."""
    check_names(settings, (*known.__annotations__, *OWN))
    if not callable(progress):
        raise InvalidInput("progress", progress, "cannot be called", "give a function of one argument")
    for name in ("untuned", "reencode", "everywhere"):
        if not isinstance(settings.get(name, False), bool):
            raise InvalidInput(name, settings[name], "is neither true nor false", "use one of the two")
    for name in ("model", "device"):
        if settings.get(name) is not None:
            check_text(name, settings[name])
    paths = {name: as_path(settings[name], name) for name in PATHS if settings.get(name) is not None}
    left_out = [name for name in PATHS if name in settings and name not in paths]
    return cast(S, {name: value for name, value in {**settings, **paths}.items() if name not in left_out})


def output_of(output: StrPath | None) -> Path | None:
    return None if output is None else as_path(output, "output")


def seeds_of(seeds: Iterable[int], seed: int | None = None) -> Sequence[int]:
    """Each once, and at least one."""
    if seed is not None:
        raise InvalidInput("seed", seed, "is given with `seeds`", "give one of the two")
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise InvalidInput("seeds", seeds, "is no list of numbers", "give a list such as [1, 2, 3]")
    several = list(seeds)
    if not several or len(set(several)) < len(several):
        problem = "names a seed twice" if several else "names no seed"
        raise InvalidInput("seeds", several, problem, "give each clip a seed of its own, such as [1, 2, 3]")
    return several


def telling(progress: Watch) -> Callable[[str], object]:
    """What is to be told in words, as a Progress that says it."""
    return lambda line: progress(Progress("load", 0, 1, note=line))

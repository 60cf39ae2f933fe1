"""linnet from Python: functions that stand for the whole way from a prompt to a file, or to frames."""

import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypedDict, Unpack, cast

from linnet.catalog import find
from linnet.clip import Clip, default_name
from linnet.data.known import check_words
from linnet.direct.conditions import Colours
from linnet.direct.footage import Fit
from linnet.errors import InvalidInput
from linnet.filesystem import StrPath, as_path
from linnet.media import check_target
from linnet.pipeline import Pipeline
from linnet.prepare import Prepared, choose_model, earlier_clip, make_requests, prepare
from linnet.profiles import choose_profile
from linnet.progress import Image, Progress, Watch, ignore
from linnet.request import DtypeChoice, RequestSettings, check_dtype, check_names, check_text
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import default_model, resolve

PATHS = ("weights", "image", "last_image", "video", "like")


class LoadSettings(TypedDict, total=False):
    """What `load` takes, the dtype aside."""

    model: str | None
    weights: StrPath | None
    device: str | None
    threads: int | None
    vram: int | str | None
    ram: int | str | None


class ConditionSettings(TypedDict, total=False):
    """What a clip begins from beside its prompt (see direct.conditions): files, and how they are used."""

    image: StrPath | None
    last_image: StrPath | None
    video: StrPath | None
    strength: float | None
    colours: Colours | None
    fit: Fit | None


class Settings(RequestSettings, LoadSettings, ConditionSettings, total=False):
    """What `generate` and `frames` take beside the prompt: the settings of a request, what `load` takes, and what the
    clip begins from. `like` is a clip that linnet made: what is not given is as in it. `compile` compiles the
    transformer first, which is otherwise done on a card where it pays; `fp8` computes its products in FP8. `untuned`:
    the profile's settings are taken from the literature. `gpus`: how many cards share the work."""

    like: StrPath | None
    compile: bool | None
    fp8: bool | None
    untuned: bool
    gpus: int


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
    files = resolve(spec, weights=folder)
    machine = resolve_machine(device, dtype=kind, threads=threads, vram=vram, ram=ram)
    return Pipeline.open(spec, files, machine)


def generate(
    prompt: str | None,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[Settings],
) -> Clip:
    """Make one clip of `prompt`, in the words of `linnet generate`. `settings` are those of `linnet.make_request`
    (seconds, seed, steps, ...), of `load` (model, weights, device, vram, ...), files that the clip begins from (image,
    last_image, video), and `like`, an earlier clip, whose prompt stands if `prompt` is None.

    Without `output` the file is named after the prompt and the seed, in the current folder. `progress` is told of each
    step of each stage, and of notes; what it returns does not matter. What it raises stops the run, as
    `Progress.cancel` does, and no file is left. Raises InvalidInput, which names the field, the value and the remedy,
    for anything that cannot be done as asked; so does a prompt with words that seedling does not know, unless `anyway`.
    """
    target = None if output is None else as_path(output, "output")
    ready = _ready(generate, prompt, target, overwrite, anyway, progress, settings)
    plan, tell = ready.plans[0], _telling(progress)
    try:
        path = target or Path(default_name(plan.request))
        return ready.generate(plan, path, overwrite=overwrite, watch=progress, tell=tell)
    finally:
        ready.pipeline.unload()


def frames(
    prompt: str | None,
    *,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[Settings],
) -> Generator[Image, None, None]:
    """The frames of a clip of `prompt`, uint8 RGB arrays [H, W, 3], one by one as they are decoded; no file is written.
    All else is as in `generate`.

    What cannot be done is refused at once; the first frame is made when it is asked for. The model's memory is given
    back after the last frame, and earlier when the iterator is closed or nobody holds it any more.
    """
    ready = _ready(frames, prompt, None, True, anyway, progress, settings)

    def decoded() -> Generator[Image, None, None]:
        try:
            yield from ready.frames(ready.plans[0], watch=progress, tell=_telling(progress))
        finally:
            ready.pipeline.unload()

    return decoded()


def _ready(
    function: Callable[..., object],
    prompt: str | None,
    output: Path | None,
    overwrite: bool,
    anyway: bool,
    progress: Watch,
    settings: Settings,
) -> Prepared:
    """What a call to `function` asks for, checked and planned."""
    own = [
        name for name, each in inspect.signature(function).parameters.items() if each.default != each.empty
    ]
    check_names(settings, (*Settings.__annotations__, *own))
    if not callable(progress):
        raise InvalidInput("progress", progress, "cannot be called", "give a function of one argument")
    paths = {name: as_path(value, name) for name in PATHS if (value := settings.get(name)) is not None}
    if prompt is not None or "like" not in paths:
        check_text("prompt", prompt)
    model, device, weights = settings.get("model"), settings.get("device"), paths.get("weights")
    for name, value in (("model", model), ("device", device)):
        if value is not None:
            check_text(name, value)
    conditions = {name: paths.get(name, settings.get(name)) for name in ConditionSettings.__annotations__}
    earlier = earlier_clip(paths["like"]) if "like" in paths else None
    spec, _ = choose_model(model, earlier, weights)
    of_request = {name: settings[name] for name in RequestSettings.__annotations__ if name in settings}
    untuned = settings.get("untuned", False)
    if not isinstance(untuned, bool):
        raise InvalidInput("untuned", untuned, "is neither true nor false", "use one of the two")
    chosen = choose_profile(
        spec,
        cast(RequestSettings, of_request),
        untuned=untuned,
        files=lambda: resolve(spec, weights=weights),
        device=device,
        like=earlier.request if earlier else None,
    )
    requests = make_requests(
        spec,
        [settings.get("seed")],
        prompt=prompt,
        earlier=earlier,
        conditions=conditions,
        settings=chosen.settings,
    )
    if output is not None:
        check_target(output, size=requests[0].size, overwrite=overwrite)
    ready = prepare(
        spec,
        resolve(spec, weights=weights),
        requests,
        earlier=earlier,
        conditions=conditions,
        device=device,
        threads=settings.get("threads"),
        vram=settings.get("vram"),
        ram=settings.get("ram"),
        compiled=settings.get("compile", chosen.compiled),
        fp8=settings.get("fp8"),
        profile=chosen.record,
        gpus=settings.get("gpus", 1),
    )
    if spec.closed_vocabulary and not anyway:
        for field, text in (("prompt", requests[0].prompt), ("negative", requests[0].negative)):
            for line in check_words(spec, ready.pipeline.model.tokenizer, text, field=field):
                _telling(progress)(f"note: {line}")
    for line in (*chosen.notes, *ready.notes):
        _telling(progress)(line)
    return ready


def _telling(progress: Watch) -> Callable[[str], object]:
    """What is to be told in words, as a Progress that says it."""
    return lambda line: progress(Progress("load", 0, 1, note=line))

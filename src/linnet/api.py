"""linnet from Python: functions that stand for the whole way from a prompt to a file, or to frames."""

import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypedDict, Unpack, cast

from linnet.catalog import find
from linnet.clip import Clip, default_name
from linnet.data.known import check_words
from linnet.errors import InvalidInput
from linnet.filesystem import StrPath, as_path
from linnet.pipeline import Pipeline
from linnet.progress import Image, Watch, ignore
from linnet.request import (
    DtypeChoice,
    Request,
    RequestSettings,
    check_dtype,
    check_names,
    check_text,
    make_request,
)
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import default_model, resolve


class LoadSettings(TypedDict, total=False):
    """What `load` takes, the dtype aside."""

    model: str | None
    weights: StrPath | None
    device: str | None
    threads: int | None
    vram: int | str | None
    ram: int | str | None


class Settings(RequestSettings, LoadSettings, total=False):
    """What `generate` and `frames` take beside the prompt: the settings of a request, and what `load` takes."""


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
    prompt: str,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    anyway: bool = False,
    progress: Watch = ignore,
    **settings: Unpack[Settings],
) -> Clip:
    """Make one clip of `prompt`. `settings` are those of `linnet.make_request`: seconds, seed, steps, ...; and those of
    `load`: model, weights, device, vram, ...

    Without `output` the file is named after the prompt and the seed, in the current folder. `progress` is told of each
    step of each stage; what it returns does not matter. What it raises stops the run, as `Progress.cancel` does, and
    no file is left. Raises InvalidInput, which names the field, the value and the remedy, for anything that cannot be
    done as asked; so does a prompt with words that seedling does not know, unless `anyway`.
    """
    pipeline, request = _ready(generate, prompt, anyway, progress, settings)
    path = Path(default_name(request)) if output is None else as_path(output, "output")
    try:
        return pipeline.generate(request, path, overwrite=overwrite, watch=progress)
    finally:
        pipeline.unload()


def frames(
    prompt: str,
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
    pipeline, request = _ready(frames, prompt, anyway, progress, settings)
    plan = pipeline.plan(request)

    def decoded() -> Generator[Image, None, None]:
        try:
            yield from pipeline.frames(plan, watch=progress)
        finally:
            pipeline.unload()

    return decoded()


def _ready(
    function: Callable[..., object], prompt: str, anyway: bool, progress: object, settings: Settings
) -> tuple[Pipeline, Request]:
    """The pipeline and the request of a call to `function`, both checked."""
    own = [
        name for name, each in inspect.signature(function).parameters.items() if each.default != each.empty
    ]
    check_names(settings, (*Settings.__annotations__, *own))
    if not callable(progress):
        raise InvalidInput("progress", progress, "cannot be called", "give a function of one argument")
    check_text("prompt", prompt)
    loading = cast(LoadSettings, {name: settings.get(name) for name in LoadSettings.__annotations__})
    of_request = {name: value for name, value in settings.items() if name not in LoadSettings.__annotations__}
    pipeline = load(**loading, dtype=settings.get("dtype") or "auto")
    request = make_request(pipeline.spec, prompt=prompt, **cast(RequestSettings, of_request))
    if pipeline.spec.closed_vocabulary and not anyway:
        check_words(pipeline.tokenizer, request.prompt)
    return pipeline, request

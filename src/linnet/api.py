"""linnet from Python: two functions that stand for the whole way from a prompt to a file."""

from pathlib import Path
from typing import Any

from linnet.catalog import find
from linnet.clip import Clip, default_name
from linnet.data.known import check_words
from linnet.pipeline import Pipeline
from linnet.request import check_dtype, make_request
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import default_model, resolve


def load(
    model: str | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    vram: int | None = None,
    ram: int | None = None,
) -> Pipeline:
    """A pipeline that can make many clips: `load("seedling").generate(request, Path("clip.mp4"))`.

    `model` is a name of the catalogue; None takes the Linum model that is on this machine, else seedling. `weights` is
    the folder of a downloaded repository. `dtype` is that of the matrix products, "float32" or "bfloat16"; `threads`
    of the CPU are by default as many as this process may use. `vram` and `ram` are bytes, of the card and of main
    memory, that may be used: every clip is planned to keep to them, and the card gives no more. Raises InvalidInput for
    a model, device or dtype that is not here, WeightsError for files that are missing or damaged.
    """
    kind = check_dtype(dtype)
    folder = Path(weights) if weights is not None else None
    spec = find(model) if model else default_model(folder)[0]
    files = resolve(spec, weights=folder)
    machine = resolve_machine(device, dtype=kind, threads=threads, vram=vram, ram=ram)
    return Pipeline.open(spec, files, machine)


def generate(
    prompt: str,
    output: str | Path | None = None,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    vram: int | None = None,
    ram: int | None = None,
    overwrite: bool = False,
    anyway: bool = False,
    **settings: Any,
) -> Clip:
    """Make one clip of `prompt`. `settings` are those of `linnet.request.make_request`: seconds, seed, steps, ...; the
    rest is as in `load`.

    Without `output` the file is named after the prompt and the seed, in the current folder. Raises InvalidInput, which
    names the field, the value and the remedy, for anything that cannot be done as asked; so does a prompt with words
    that seedling does not know, unless `anyway`.
    """
    dtype = settings.get("dtype") or "auto"
    pipeline = load(model, weights=weights, device=device, dtype=dtype, vram=vram, ram=ram)
    request = make_request(pipeline.spec, prompt=prompt, **settings)
    if pipeline.spec.closed_vocabulary and not anyway:
        check_words(pipeline.tokenizer, request.prompt)
    path = Path(output) if output is not None else Path(default_name(request))
    return pipeline.generate(request, path, overwrite=overwrite)

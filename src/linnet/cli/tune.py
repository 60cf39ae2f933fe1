"""`linnet tune`"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.catalog import find
from linnet.cli import fail
from linnet.cli.options import (
    Device,
    Dimensions,
    Dtype,
    Model,
    Overwrite,
    Threads,
    Weights,
    number,
    option,
    whole,
)
from linnet.cli.terminal import bars, note, print_table
from linnet.errors import InvalidInput
from linnet.geometry import format_seconds
from linnet.request import make_request
from linnet.weights.store import default_model, resolve
from linnet.wording import format_duration, format_number

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def tune(
    model: Model = None,
    clips: Annotated[
        int,
        whole("clips", "Clips for the search, and as many others for the decision; 8 by default.", least=2),
    ] = 8,
    minutes: Annotated[float, number("minutes", "How long it may take; 60 by default.", above=0)] = 60.0,
    target: Annotated[
        str, option("target", "Speed to reach, as a multiple of exact; 2.5x by default.", metavar="N")
    ] = "2.5x",
    floor: Annotated[
        float | None,
        number("floor", "Lowest PSNR to exact that `fast` may have, in dB; by default the model's.", least=0),
    ] = None,
    prompts: Annotated[
        Path | None, option("prompts", "File with your own prompts, one per line.", metavar="FILE")
    ] = None,
    fewer_steps: Annotated[
        bool,
        option("fewer-steps", "Also try fewer steps and other solvers. They may change what a clip shows."),
    ] = False,
    size: Dimensions = None,
    seconds: Annotated[float | None, number("seconds", "Length of the clips.")] = None,
    output: Annotated[
        Path | None,
        option(
            "output",
            "Page with exact and fast clips side by side; by default tune-MODEL.html.",
            metavar="FILE",
        ),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but the result and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line.")] = False,
) -> None:
    """Find settings that are faster than exact and still make its clips.

    Clips are made with many settings, and each is compared with the exact clip of the same prompt and seed. The
    fastest settings that keep the floor become the model's `fast` profile. They are confirmed on clips that the search
    has not used. A faster and less faithful profile becomes `draft`. `linnet generate --profile fast` then uses these
    settings. If no settings keep the floor, nothing is written. If the command is stopped, the same command continues
    it.
    """
    weights_folder = weights
    spec = default_model(weights_folder)[0] if model is None else find(model)
    times = parse_target(target)
    settings: dict[str, Any] = {"size": size, "seconds": seconds, "dtype": dtype, "profile": "exact"}
    request = make_request(spec, prompt="any", seed=0, **settings)
    files = resolve(spec, weights=weights_folder)
    page = output or Path(f"tune-{spec.name}.html")

    from linnet.measure.tune import job as tuning  # takes seconds to import
    from linnet.measure.tune.page import check_page

    check_page(page, overwrite=overwrite)
    job = tuning.prepare(
        spec,
        files,
        request,
        clips=clips,
        prompts=prompts,
        device=device,
        threads=threads,
        floor=floor,
        consent=fewer_steps,
    )
    if not quiet:
        clip = f"{format_seconds(request.seconds)} s of {request.size}"
        note(
            f"{spec.name}, {clip}, on {job.subject.card}: looking for settings that are {format_number(times)} times "
            f"faster than exact and keep {job.floor:g} dB to its clips"
        )
        note(f"what is measured is kept in {job.folder}")
    try:
        with bars(quiet=quiet or as_json) as show:
            job.search.watch = lambda stage, done, total: show(stage, "", done, total)
            outcome = tuning.run(job, target=times, seconds=60 * minutes)
    except KeyboardInterrupt:
        fail(f"stopped; what was measured is in {job.folder}, and the same command continues", 130)
    if not quiet and outcome.another > job.floor:
        note(
            f"clips of another seed are {outcome.another:.1f} dB from exact's, so a floor of {job.floor:g} dB may say "
            "little"
        )
    if not as_json:
        print_table(tuning.HEADS, tuning.rows(outcome))
    if outcome.fast is None:
        over = "" if outcome.finished else f" in the {format_duration(60 * minutes)} that were given"
        remedy = "lower `floor` or `target`, or add `fewer_steps`; what was measured is kept"
        raise InvalidInput(
            "tune", spec.name, f"found no profile{over}, and wrote none: {outcome.why}", remedy
        )
    kept = tuning.keep(job, outcome, page)
    if as_json:
        print(json.dumps(tuning.to_json(job, outcome, page)))
        return
    if not quiet:
        for path in kept:
            note(f"kept as {path}")
        note(f"use it: linnet generate --model {spec.name} --profile fast; exact and fast side by side:")
    print(page)


def parse_target(text: str) -> float:
    """From "2.5x" or "2.5"."""
    try:
        value = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 1 <= value <= 100:
        raise InvalidInput("target", text, "is not how many times faster", "use 1 to 100, such as 2.5x")
    return value

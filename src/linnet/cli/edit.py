"""`linnet edit`"""

from pathlib import Path
from typing import Annotated

import typer

from linnet.cli.direct import Place, beside, earlier_clip, go, model_for, needs_prompt, opened, remaking
from linnet.cli.options import (
    Anyway,
    AsJson,
    ClipsModel,
    ClipsSeed,
    Device,
    Fit,
    GuidanceScale,
    Overwrite,
    Profile,
    Quiet,
    Ram,
    Steps,
    Threads,
    Vram,
    Weights,
    number,
    option,
)
from linnet.errors import InvalidInput

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def edit(
    file: Annotated[Path, typer.Argument(help="A clip to change.", metavar="FILE", show_default=False)],
    wanted: Annotated[str, option("to", "What the clip is to show.", metavar="TEXT")],
    shown: Annotated[
        str | None, option("from", "What it shows; by default the prompt it was made from.", metavar="TEXT")
    ] = None,
    strength: Annotated[
        float | None, number("strength", "Share of the steps in which it changes; 0.95 by default.")
    ] = None,
    everywhere: Annotated[
        bool,
        option("everywhere", "Let all of it change, not only where the two descriptions see something else."),
    ] = False,
    fit: Fit = None,
    seed: ClipsSeed = None,
    profile: Profile = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    output: Annotated[Path | None, option("output", "By default FILE-edited.mp4.", metavar="PATH")] = None,
    model: ClipsModel = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = None,
    vram: Vram = None,
    ram: Ram = None,
    overwrite: Overwrite = False,
    anyway: Anyway = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Change what a clip shows, and keep its motion.

    From a clip that the same model made it takes the size, the guidance, the negative prompt and the seed, but not the
    shortcuts: without --profile it is exact.
    """
    earlier = earlier_clip(file)
    if shown is None:
        if earlier is None:
            raise needs_prompt(file, "from")
        shown = earlier.request.prompt
    for field, words in (("from", shown), ("to", wanted)):
        if not words.strip():
            raise InvalidInput(field, words, "is empty", "describe the video in a sentence")
    spec = model_for(model, earlier, weights)
    output = output or beside(file, "edited")
    like = earlier.request if earlier and earlier.request.model == spec.name else None

    from linnet.direct import edit as editing  # it and what follows take seconds to import
    from linnet.direct.samplers import check_strength

    share = check_strength(editing.STRENGTH if strength is None else strength)
    request, source, left_out = remaking(
        spec,
        file,
        output,
        fit=fit,
        overwrite=overwrite,
        profile=profile,
        seed=seed,
        prompt=wanted,
        steps=steps,
        guidance=guidance,
        like=like,
    )
    place = Place(weights, device, threads, vram, ram)
    pipeline = opened(spec, {"to": wanted, "from": shown}, place, anyway=anyway, quiet=quiet)
    go(
        pipeline,
        request,
        lambda: editing.edit(pipeline, request, source, shown, strength=share, everywhere=everywhere),
        output,
        left_out=left_out,
        overwrite=overwrite,
        quiet=quiet,
        as_json=as_json,
    )

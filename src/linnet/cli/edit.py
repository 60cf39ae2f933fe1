"""`linnet edit`"""

from pathlib import Path
from typing import Annotated, cast

import typer

from linnet.cli.direct import run
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
from linnet.cli.terminal import starting
from linnet.prepare_direct import EditSettings, prepare_edit

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
    settings = {
        "from_": shown,
        "strength": strength,
        "everywhere": everywhere,
        "seed": seed,
        "profile": profile,
        "steps": steps,
        "guidance": guidance,
        "fit": fit,
        "model": model,
        "weights": weights,
        "device": device,
        "threads": threads,
        "vram": vram,
        "ram": ram,
    }
    with starting(quiet=quiet or as_json):
        ready = prepare_edit(
            file, wanted, cast(EditSettings, settings), output=output, overwrite=overwrite, anyway=anyway
        )
    run(ready, quiet=quiet, as_json=as_json)

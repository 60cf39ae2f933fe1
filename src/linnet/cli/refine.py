"""`linnet refine`"""

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
    Dimensions,
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
from linnet.prepare_direct import RefineSettings, prepare_refine

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def refine(
    file: Annotated[Path, typer.Argument(help="A draft.", metavar="FILE", show_default=False)],
    strength: Annotated[
        float | None,
        number(
            "strength",
            "Share of the steps that are taken again; 0.4 by default. A note says from which noise level.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, option("prompt", "What it shows; by default the clip's own.", metavar="TEXT")
    ] = None,
    size: Dimensions = None,
    fit: Fit = None,
    seed: ClipsSeed = None,
    profile: Profile = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    output: Annotated[Path | None, option("output", "By default FILE-refined.mp4.", metavar="PATH")] = None,
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
    """Improve a draft: scale it up and repeat the last steps.

    It is scaled up and taken through them again. Choose a seed among drafts of linum-v2-360p, and finish that one with
    `--model linum-v2-720p`.

    From a clip of linnet's it takes the prompt, the negative prompt and the seed; if the same model made it, the size
    and the guidance, too, but never the shortcuts: without --profile it is exact.
    """
    settings = {
        "prompt": prompt,
        "strength": strength,
        "size": size,
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
        ready = prepare_refine(
            file, cast(RefineSettings, settings), output=output, overwrite=overwrite, anyway=anyway
        )
    run(ready, quiet=quiet, as_json=as_json)

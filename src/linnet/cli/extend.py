"""`linnet extend`"""

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
from linnet.prepare_direct import ExtendSettings, prepare_extend

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def extend(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .mp4 with H.264 of the model's size; with --reencode, any clip.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    seconds: Annotated[float, number("seconds", "How much is added, in steps of 1/6 s; 2 by default.")] = 2.0,
    prompt: Annotated[
        str | None, option("prompt", "What goes on; by default the clip's own.", metavar="TEXT")
    ] = None,
    seed: ClipsSeed = None,
    profile: Profile = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    reencode: Annotated[
        bool,
        option(
            "reencode",
            "Encode all of it anew, at the model's size and pace, without its sound: for any clip.",
        ),
    ] = False,
    fit: Annotated[
        str | None, option("fit", "crop or pad a clip of another shape; with --reencode.", metavar="HOW")
    ] = None,
    output: Annotated[Path | None, option("output", "By default FILE-extended.mp4.", metavar="PATH")] = None,
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
    """Continue a clip from its last frames.

    Its own packets are copied, not encoded again, and so is its sound; the new frames follow them. A clip whose
    packets cannot be kept so is refused, or encoded anew with --reencode.

    Of a clip of linnet's the prompt goes on; if the same model made it, all its settings do, too, those of its profile
    unless --profile says another, but not its --step-cache.
    """
    settings = {
        "seconds": seconds,
        "prompt": prompt,
        "reencode": reencode,
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
        ready = prepare_extend(
            file, cast(ExtendSettings, settings), output=output, overwrite=overwrite, anyway=anyway
        )
    run(ready, quiet=quiet, as_json=as_json)

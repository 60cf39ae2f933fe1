"""`linnet extend`"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from linnet.cli.direct import run
from linnet.cli.options import (
    ClipLoadOptions,
    ClipOptions,
    LoraOptions,
    RemakeOptions,
    grouped,
    number,
    option,
)
from linnet.prepare_direct import ExtendSettings, prepare_extend

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@grouped
def extend(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .mp4 file with H.264 video of the model's size; with --reencode, any clip.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    *,
    seconds: Annotated[
        float, number("seconds", "Length of the new part, in steps of 1/6 s; 2 by default.")
    ] = 2.0,
    prompt: Annotated[
        str | None,
        option("prompt", "What the new part shows; by default the clip's own prompt.", metavar="TEXT"),
    ] = None,
    reencode: Annotated[
        bool,
        option(
            "reencode", "Encode the whole clip again, at the model's size and frame rate, without its sound."
        ),
    ] = False,
    output: Annotated[
        Path | None, option("output", "The new clip; by default FILE-extended.mp4.", metavar="PATH")
    ] = None,
    remake: RemakeOptions,
    load: ClipLoadOptions,
    lora: LoraOptions,
    result: ClipOptions,
) -> None:
    """Continue a clip from its last frames.

    The old video and its sound are copied without encoding them again. The new frames follow them. If the old video
    cannot be copied, the command says why; --reencode then encodes it again. --fit applies only with --reencode.

    By default the new part has the prompt of the clip. If the same model made the clip, it also has the clip's
    settings, except for its --step-cache. --profile selects another profile.
    """
    own = ExtendSettings(seconds=seconds, prompt=prompt, reencode=reencode)
    settings = ExtendSettings(**own, **vars(remake), **vars(load), **vars(lora))
    run(partial(prepare_extend, file, settings, output=output), result)

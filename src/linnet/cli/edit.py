"""`linnet edit`"""

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
from linnet.prepare_direct import EditSettings, prepare_edit

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@grouped
def edit(
    file: Annotated[Path, typer.Argument(help="The clip to change.", metavar="FILE", show_default=False)],
    wanted: Annotated[str, option("to", "What the new clip shows.", metavar="TEXT")],
    *,
    shown: Annotated[
        str | None,
        option(
            "from", "What the clip shows now; by default the prompt that it was made from.", metavar="TEXT"
        ),
    ] = None,
    strength: Annotated[
        float | None, number("strength", "Share of the steps in which the clip changes; 0.95 by default.")
    ] = None,
    everywhere: Annotated[
        bool,
        option("everywhere", "Change the whole picture, not only the parts in which the two texts differ."),
    ] = False,
    output: Annotated[
        Path | None, option("output", "The new clip; by default FILE-edited.mp4.", metavar="PATH")
    ] = None,
    remake: RemakeOptions,
    load: ClipLoadOptions,
    lora: LoraOptions,
    result: ClipOptions,
) -> None:
    """Change what a clip shows, and keep its motion.

    If the same model made the clip, the new one has its size, guidance, negative prompt and seed. Its profile is not
    copied: without --profile, the new clip is made with `exact`.
    """
    own = EditSettings(from_=shown, strength=strength, everywhere=everywhere)
    settings = EditSettings(**own, **vars(remake), **vars(load), **vars(lora))
    run(partial(prepare_edit, file, wanted, settings, output=output), result)

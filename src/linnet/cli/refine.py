"""`linnet refine`"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from linnet.cli.direct import run
from linnet.cli.options import (
    ClipLoadOptions,
    ClipOptions,
    Dimensions,
    LoraOptions,
    RemakeOptions,
    grouped,
    number,
    option,
)
from linnet.prepare_direct import RefineSettings, prepare_refine

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@grouped
def refine(
    file: Annotated[Path, typer.Argument(help="A draft.", metavar="FILE", show_default=False)],
    *,
    strength: Annotated[
        float | None,
        number(
            "strength",
            "Share of the steps that are repeated; 0.4 by default. A note says at which noise level they begin.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, option("prompt", "What the clip shows; by default its own prompt.", metavar="TEXT")
    ] = None,
    size: Dimensions = None,
    output: Annotated[
        Path | None, option("output", "The new clip; by default FILE-refined.mp4.", metavar="PATH")
    ] = None,
    remake: RemakeOptions,
    load: ClipLoadOptions,
    lora: LoraOptions,
    result: ClipOptions,
) -> None:
    """Improve a draft: scale it up and repeat the last steps.

    For example, make drafts with linum-v2-360p and several seeds. Then refine the best one with
    `--model linum-v2-720p`.

    The new clip has the prompt, the negative prompt and the seed of the draft. If the same model made the draft, it
    also has the draft's size and guidance. The profile is not copied: without --profile, it is `exact`.
    """
    own = RefineSettings(prompt=prompt, strength=strength, size=size)
    settings = RefineSettings(**own, **vars(remake), **vars(load), **vars(lora))
    run(partial(prepare_refine, file, settings, output=output), result)

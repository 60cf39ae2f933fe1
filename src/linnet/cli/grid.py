"""`linnet grid`"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from linnet.cli import fail
from linnet.cli.options import (
    PROFILES,
    Anyway,
    AsJson,
    Dimensions,
    GuidanceScale,
    LoadOptions,
    LoraOptions,
    Steps,
    grouped,
    number,
    one_of,
    option,
    parse_seeds,
)
from linnet.cli.terminal import bars, note, starting, tell_made, telling
from linnet.prepare_direct import GridSettings, prepare_grid
from linnet.wording import format_count

if TYPE_CHECKING:
    from linnet.clip import Watch

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@grouped
def grid(
    prompt: Annotated[
        str, typer.Argument(help="What the video shows.", metavar="PROMPT", show_default=False)
    ],
    *,
    seeds: Annotated[
        list[str] | None,
        option(
            "seed",
            "A draft for each seed: 1-9, or 3,5,8; by default 1-9.",
            also=("--seeds",),
            metavar="SEEDS",
        ),
    ] = None,
    size: Dimensions = None,
    seconds: Annotated[float | None, number("seconds", "Length, in steps of 1/6 s.")] = None,
    profile: Annotated[
        str | None,
        one_of("profile", "exact, fast or draft; by default draft, where the model has one.", *PROFILES),
    ] = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    negative: Annotated[
        str | None, option("negative", "What the video must not show.", metavar="TEXT")
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "output",
            "Folder for drafts, sheet and mosaic; by default PROMPT-grid.",
            metavar="DIR",
        ),
    ] = None,
    overwrite: Annotated[
        bool, option("overwrite", "Replace files in the folder that an earlier grid did not write.")
    ] = False,
    anyway: Anyway = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but the folder and errors.")] = False,
    as_json: AsJson = False,
    load: LoadOptions,
    lora: LoraOptions,
) -> None:
    """Make several drafts of a prompt to choose from.

    The folder has a clip for each seed, SEED.mp4. sheet.png shows three frames of each clip, and mosaic.mp4 plays
    all of them at once. To make the clip of your choice in full, run `linnet generate --like DIR/SEED.mp4 --profile
    exact`.
    """
    settings = {
        **vars(load),
        **vars(lora),
        "negative": negative,
        "size": size,
        "seconds": seconds,
        "profile": profile,
        "steps": steps,
        "guidance": guidance,
    }

    with starting(quiet=quiet or as_json):
        from linnet.direct.grid import MOST

        ready = prepare_grid(
            prompt,
            cast(GridSettings, settings),
            seeds=parse_seeds(seeds or ["1-9"], most=MOST),
            folder=output,
            anyway=anyway,
        )
    requests, folder = ready.requests, ready.folder
    for line in () if quiet else ready.notes:
        note(line)
    begun = time.monotonic()
    try:
        with bars(quiet=quiet or as_json) as show:

            def watch(number_of_clip: int) -> "Watch":
                show("drafts", "", number_of_clip, len(requests), unit="draft")
                return telling(show)

            made = ready.draft(overwrite=overwrite, watch=watch)
    except KeyboardInterrupt:
        fail(f"stopped; the clips in {folder} are kept, and the same command continues", 130)
    if as_json:
        clips = [{"path": str(clip.path), "seed": clip.request.seed} for clip in made.clips]
        print(
            json.dumps(
                {"sheet": str(made.sheet), "mosaic": str(made.mosaic), "made": made.made, "clips": clips}
            )
        )
        return
    if not quiet:
        kept = len(made.clips) - made.made
        note(
            f"{format_count(made.made, 'draft')} made, {kept:,} kept from before; {made.sheet} shows them all"
        )
        made_of = f"seeds {', '.join(str(request.seed) for request in requests)}"
        spent = time.monotonic() - begun
        tell_made(f"{made_of}, each ", requests[0].seconds, requests[0].size, spent)
    print(folder)

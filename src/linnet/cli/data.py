"""`linnet data`"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from linnet.cli import Group, fail
from linnet.cli.options import AsJson, Device, Model, Ram, Threads, Vram, Weights, option
from linnet.cli.terminal import bars, note, starting
from linnet.errors import InvalidInput
from linnet.wording import format_count

MOST_LISTED = 20  # files that are not used

app = typer.Typer(
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,
    help="Make a dataset of clips, and check it. A dataset is a folder of clips and images, each with a .txt caption.",
)


@app.callback()
def data() -> None:
    """Make a dataset of clips, and check it. A dataset is a folder of clips and images, each with a .txt caption."""


Folder = Annotated[Path, typer.Argument(help="Folder of clips, images and their captions.", metavar="FOLDER")]
CacheFolder = Annotated[
    Path | None,
    option("cache", "Folder for what is found out about clips and their latents.", metavar="DIR"),
]
Quiet = Annotated[bool, option("quiet", "Print nothing but the result and errors.")]


@app.command("cache")
def cache_dataset(
    folder: Folder,
    model: Model = None,
    weights: Weights = None,
    cache: CacheFolder = None,
    device: Device = "auto",
    threads: Threads = None,
    vram: Vram = None,
    ram: Ram = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Encode the clips and captions of a dataset for training.

    Training does this itself when it begins. The size is shown first. A clip that was renamed or touched is not encoded
    again; one that changed is.
    """
    from linnet.catalog import find
    from linnet.data.buckets import clips_in
    from linnet.data.dataset import read_dataset
    from linnet.weights.store import default_model

    spec = find(model) if model else default_model(weights)[0]
    dataset = read_dataset(folder)
    folder_of_cache = cache_of(cache)
    try:
        with bars(quiet=quiet or as_json) as show:
            clips, left_out = clips_in(
                dataset,
                spec,
                folder_of_cache,
                lambda done, total: show("files", "", done, total, unit="file"),
            )
            if not quiet:
                tell_left_out([f"{each.name} is not used: {each.problem}" for each in left_out])
            with starting(quiet=quiet or as_json):
                from linnet.data.encoded import Cache, encode_dataset
                from linnet.prepare import open_pipeline

            pipeline = open_pipeline(
                spec,
                {"weights": weights, "device": device, "threads": threads, "vram": vram, "ram": ram},
            )
            plan = Cache(folder_of_cache, pipeline.model).plan(clips)
            if not quiet:
                note(str(plan))
            encode_dataset(
                pipeline,
                clips,
                folder_of_cache,
                tell=lambda stage, done, total: show(stage, "", done, total, unit="clip"),
            )
    except KeyboardInterrupt:
        fail("stopped; what is encoded is kept, and the same command goes on", 130)
    record = {"cache": str(folder_of_cache), "clips": plan.clips, "new": plan.new, "bytes": plan.whole}
    if as_json:
        print(
            json.dumps({**record, "left_out": [vars(each) | {"path": str(each.path)} for each in left_out]})
        )
    elif quiet:
        print(folder_of_cache)
    else:
        note(f"{format_count(plan.new, 'clip')} encoded, {plan.clips - plan.new:,} were there")
        print(folder_of_cache)


def cache_of(given: Path | None) -> Path:
    """The folder that was named, else the one in the user's cache."""
    from linnet.data.probe import default_cache

    folder = given or default_cache()
    if folder is None:
        raise InvalidInput(
            "cache", "", "has no folder, since there is no home folder", "name one with `cache`"
        )
    return folder


def tell_left_out(lines: Sequence[str]) -> None:
    for line in lines[:MOST_LISTED]:
        note(f"note: {line}")
    if len(lines) > MOST_LISTED:
        note(f"note: {len(lines) - MOST_LISTED:,} more are not used; `linnet data check` lists them")

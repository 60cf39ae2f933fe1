"""`linnet storyboard`"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnet.catalog import CATALOG
from linnet.cli import Group, fail
from linnet.cli.options import (
    Anyway,
    AsJson,
    Device,
    LoadOptions,
    LoraOptions,
    Quiet,
    Weights,
    grouped,
    one_of,
    option,
)
from linnet.cli.terminal import bars, note, print_table, starting, tell_made, telling
from linnet.geometry import format_seconds, seconds_of
from linnet.prepare_direct import LoadAndLoras, prepare_film
from linnet.wording import format_count

if TYPE_CHECKING:
    from linnet.clip import Watch
    from linnet.direct.storyboard import Storyboard
    from linnet.pipeline import Pipeline

app = typer.Typer(
    cls=Group, add_completion=False, rich_markup_mode=None, help="Make a film of several shots."
)

File = Annotated[Path, typer.Argument(help="The storyboard, in YAML.", metavar="FILE", show_default=False)]
Model = Annotated[
    str | None, one_of("model", "A name from `linnet models`; by default the storyboard's own.", *CATALOG)
]


@dataclass(frozen=True, kw_only=True)
class FilmLoadOptions(LoadOptions):
    model: Model = None


@app.command()
@grouped
def render(
    file: File,
    *,
    output: Annotated[
        Path | None, option("output", "The film; by default FILE with .mp4 as its ending.", metavar="PATH")
    ] = None,
    overwrite: Annotated[
        bool, option("overwrite", "Replace a file that is not an earlier film or sheet of this storyboard.")
    ] = False,
    tidy: Annotated[bool, option("tidy", "Delete the takes that the film no longer uses.")] = False,
    anyway: Anyway = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    load: FilmLoadOptions,
    lora: LoraOptions,
) -> None:
    """Make the film, and a contact sheet beside it.

    Every shot is kept in the folder FILE.shots, and only missing shots are made. The same command therefore continues
    a render that was stopped. A shot that you change is made again, and so are the shots that continue it.
    """
    with starting(quiet=quiet or as_json):
        ready = prepare_film(file, LoadAndLoras(**vars(load), **vars(lora)), anyway=anyway)
    board = ready.board
    for line in () if quiet else ready.notes:
        note(line)

    from linnet.direct import film

    begun = time.monotonic()
    try:
        with bars(quiet=quiet or as_json) as show:

            def watch(shots: range) -> "Watch":
                show("shots", "", shots.start, len(board.shots), unit="shot")
                return telling(show)

            done = ready.render(output, overwrite=overwrite, watch=watch)
    except KeyboardInterrupt:
        fail(
            f"stopped; the shots in {film.takes_folder(board)} are kept, and the same command continues", 130
        )
    thrown_away = film.tidy(board, ready.pipeline) if tidy else 0
    if as_json:
        made = [number + 1 for number in done.made]
        print(
            json.dumps({"path": str(done.path), "sheet": str(done.sheet), "shots": done.shots, "made": made})
        )
        return
    if not quiet:
        kept = done.shots - len(done.made)
        words = f"{format_count(len(done.made), 'shot')} made, {kept:,} kept from before"
        note(f"{words}; {done.sheet} shows them all")
        if tidy:
            note(f"{format_count(thrown_away, 'take')} deleted that the film does not use")
        seeds = f"seeds {', '.join(str(shot.request.seed) for shot in board.shots)}"
        first, length = board.shots[0].request, board.spans()[-1].stop
        tell_made(f"{seeds}, in all ", seconds_of(length, first.fps), first.size, time.monotonic() - begun)
    print(done.path)


@app.command()
def check(
    file: File,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    anyway: Anyway = False,
    as_json: AsJson = False,
) -> None:
    """Check a storyboard, and show its shots and which of them are made."""
    board, pipeline = opened(file, model, weights, device, anyway)

    from linnet.direct.film import takes_folder, takes_of

    made = {
        number: take.made for take in takes_of(board, pipeline, takes_folder(board)) for number in take.shots
    }
    rows = [
        {
            "shot": number + 1,
            "start": format_seconds(frames.start / shot.request.fps),
            "begin": shot.begin,
            "seconds": format_seconds(shot.request.seconds),
            "seed": shot.request.seed,
            "made": "yes" if made[number] else "no",
            "prompt": shot.request.prompt,
        }
        for number, (shot, frames) in enumerate(zip(board.shots, board.spans(), strict=True))
    ]
    if as_json:
        print(json.dumps({"path": str(file), "model": board.spec.name, "shots": rows}))
        return
    print_table(tuple(rows[0]), [[str(cell) for cell in row.values()] for row in rows])


@app.command()
def sheet(
    file: File,
    output: Annotated[
        Path | None, option("output", "The image; by default FILE with .png as its ending.", metavar="PATH")
    ] = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    overwrite: Annotated[bool, option("overwrite", "Replace a file that is not an earlier sheet.")] = False,
    anyway: Anyway = False,
) -> None:
    """Draw the contact sheet of the shots that are made so far. Missing shots are grey."""
    board, pipeline = opened(file, model, weights, device, anyway)

    from linnet.direct import film

    path = output or film.sheet_name(film.film_name(board))
    takes = film.takes_of(board, pipeline, film.takes_folder(board))
    film.write_sheet(board, takes, path, overwrite=overwrite)
    print(path)


def opened(
    file: Path, model: str | None, weights: Path | None, device: str | None, anyway: bool
) -> tuple["Storyboard", "Pipeline"]:
    """The storyboard and its model, and what there is to say of its prompts."""
    ready = prepare_film(file, {"model": model, "weights": weights, "device": device}, anyway=anyway)
    for line in ready.notes:
        note(line)
    return ready.board, ready.pipeline

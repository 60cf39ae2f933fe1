"""`linnet models`"""

import json
from typing import Annotated, Any

import typer

from linnet.catalog import CATALOG, ModelSpec, find
from linnet.cli.options import completing, option
from linnet.cli.terminal import print_table
from linnet.geometry import seconds_of
from linnet.request import LONGEST_SECONDS
from linnet.weights.store import Availability, availability
from linnet.wording import format_bytes, format_duration, in_a_row

SHAPES = (
    "A prompt names one shape. It may name its colour, its size, one motion, the background and a place:",
    "a large red star moves right on a blue background at the top left",
)
THINGS = (
    "A prompt names a thing, and what it does where. It may say when, in which weather, and what is beside it:",
    "a red car drives on a street in the rain at night",
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def models(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Show the details of this model.",
            metavar="MODEL",
            show_default=False,
            autocompletion=completing(lambda: CATALOG),
        ),
    ] = None,
    as_json: Annotated[bool, option("json", "Print one JSON line a model.")] = False,
) -> None:
    """List the models that exist, and those on this machine."""
    if model is not None:
        show_model(availability(find(model)), as_json)
        return
    states = [availability(spec) for spec in CATALOG.values()]
    if as_json:
        for here in states:
            print(json.dumps(record(here)))
        return
    print_table(
        ("model", "makes", "size", "licence", "on this machine"),
        [
            (here.spec.name, here.spec.title, size_of(here), here.spec.licence, place_of(here))
            for here in states
        ],
    )


def show_model(here: Availability, as_json: bool) -> None:
    """All about one model; of a small one, every word that it knows."""
    spec, known = here.spec, {}
    if spec.closed_vocabulary:
        from linnet.data.known import world

        known = world(spec)
    if as_json:
        print(json.dumps({**record(here), **details(spec), **({"knows": known} if known else {})}))
        return
    shortest, at_once = (seconds_of(count, spec.fps) for count in (spec.min_frames, spec.max_frames))
    rows = {
        "model": spec.name,
        "makes": spec.title,
        "sizes": in_a_row([str(size) for size in spec.sizes], "or"),
        "length": f"{format_duration(shortest)} to {format_duration(LONGEST_SECONDS)}; "
        f"a clip of over {format_duration(at_once)} is made in windows",
        "profiles": in_a_row(["exact", *spec.profiles], "or"),
        "size": size_of(here),
        "licence": spec.licence,
        "here": place_of(here),
    }
    for name, words in [*rows.items(), *((kind, ", ".join(words)) for kind, words in known.items())]:
        print(f"{name:<12}{words}")
    if known:
        grammar, example = THINGS if spec.world == "theatre" else SHAPES
        print(f"\n{grammar}")
        print(f'  linnet generate "{example}"')


def details(spec: ModelSpec) -> dict[str, Any]:
    return {
        "sizes": [str(size) for size in spec.sizes],
        "fps": spec.fps,
        "min_seconds": seconds_of(spec.min_frames, spec.fps),
        "seconds_at_once": seconds_of(spec.max_frames, spec.fps),
        "max_seconds": LONGEST_SECONDS,
        "profiles": ["exact", *spec.profiles],
    }


def size_of(here: Availability) -> str:
    """On disk, or as a download."""
    return format_bytes(here.spec.download_bytes if here.missing else here.bytes)


def place_of(here: Availability) -> str:
    if not here.missing:
        return str(here.folder)
    if here.spec.ships:
        return "its files are missing: install linnet again"
    if not here.spec.published:
        return "no; train it (docs/theatre.md)"
    if here.folder and here.bytes:
        return f"in part ({here.folder}); go on with `linnet pull {here.spec.name}`"
    return f"no; `linnet pull {here.spec.name}`"


def record(here: Availability) -> dict[str, Any]:
    spec: ModelSpec = here.spec
    return {
        "model": spec.name,
        "title": spec.title,
        "licence": spec.licence,
        "repository": spec.repository,
        "download_bytes": spec.download_bytes,
        "folder": str(here.folder) if here.folder else None,
        "bytes": here.bytes,
        "missing": list(here.missing),
    }

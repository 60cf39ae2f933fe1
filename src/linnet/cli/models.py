"""`linnet models`"""

import json
from typing import Annotated, Any

import typer

from linnet.catalog import CATALOG, ModelSpec
from linnet.cli.options import option
from linnet.cli.terminal import format_bytes, print_table
from linnet.weights.store import Availability, availability

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def models(
    as_json: Annotated[bool, option("json", "Print one JSON line a model.")] = False,
) -> None:
    """List the models: what exists, what is on this machine."""
    found = [availability(spec) for spec in CATALOG.values()]
    if as_json:
        for here in found:
            print(json.dumps(record(here)))
        return
    print_table(
        ("model", "makes", "size", "licence", "on this machine"),
        [
            (here.spec.name, here.spec.title, size_of(here), here.spec.licence, place_of(here))
            for here in found
        ],
    )


def size_of(here: Availability) -> str:
    """On disk, or as a download."""
    return format_bytes(here.spec.download_bytes if here.missing else here.bytes)


def place_of(here: Availability) -> str:
    if not here.missing:
        return str(here.folder)
    if here.spec.ships:
        return "its files are missing: install linnet again"
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

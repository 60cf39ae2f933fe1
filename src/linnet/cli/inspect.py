"""`linnet inspect`"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.cli.options import option
from linnet.cli.terminal import print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(help="A clip that linnet made.", metavar="FILE", show_default=False)
    ],
    as_json: Annotated[bool, option("json", "Print the whole record as one JSON line.")] = False,
) -> None:
    """Show the request inside a clip."""
    from linnet.clip import Clip
    from linnet.inputs.reader import read_metadata

    metadata = read_metadata(file)
    if metadata and isinstance(metadata.get("shots"), list):
        show_film(file, metadata, as_json)
        return
    clip = Clip.from_metadata(file, metadata)
    record = clip.metadata()
    if as_json:
        print(json.dumps({"path": str(file)} | record))
        return
    request = record.pop("request")
    rows = {**request, **record.pop("choices"), **record}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def show_film(file: Path, record: dict[str, Any], as_json: bool) -> None:
    """A line for each shot of a storyboard's film."""
    if as_json:
        print(json.dumps({"path": str(file)} | record))
        return
    heads = ("shot", "begin", "frames", "seed", "prompt")
    shots = [(number, shot, shot["request"]) for number, shot in enumerate(record["shots"], 1)]
    print_table(
        heads,
        [[str(n), shot["begin"], *(str(request[key]) for key in heads[2:])] for n, shot, request in shots],
    )

"""`linnet inspect`"""

import json
from pathlib import Path
from typing import Annotated

import typer

from linnet.cli.options import option

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
    from linnet.media import read_metadata

    clip = Clip.from_metadata(file, read_metadata(file))
    record = clip.metadata()
    if as_json:
        print(json.dumps({"path": str(file)} | record))
        return
    request = record.pop("request")
    rows = {**request, **record.pop("choices"), **record}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")

"""`linnet keys`"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnet.cli.options import option
from linnet.cli.serve import DATA
from linnet.cli.terminal import note, print_table
from linnet.errors import InvalidInput

if TYPE_CHECKING:
    from linnet.serve.queue import Queue

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Say who may use the server.")

Data = Annotated[Path, option("data", "Folder of all that is kept.", metavar="DIR")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is, for `linnet keys list`.", metavar="NAME")],
    data: Data = DATA,
    adopt: Annotated[bool, option("adopt", "Give it the clips that were made without a key.")] = False,
) -> None:
    """Make a key and print it, this once."""
    from linnet.serve.keys import make_key

    data.mkdir(parents=True, exist_ok=True)
    queue = opened(data)
    identity, key = make_key(queue, name)
    if adopt:
        note(f"videos that were made without a key and are now its own: {queue.adopt(identity)}")
    elif hidden := queue.keyless():
        note(
            f"videos that were made without a key, which it cannot see: {hidden}; a key made with --adopt owns them"
        )
    note(f"key {identity} of {name}; only a hash of it is kept, so keep it well:")
    print(key)


@app.command("list")
def list_keys(
    data: Data = DATA,
    as_json: Annotated[bool, option("json", "Print one JSON line a key.")] = False,
) -> None:
    """Show whose keys there are, and which are revoked."""
    keys = opened(data).all_keys()
    for key in keys:
        key.pop("hash")
    if as_json:
        for key in keys:
            print(json.dumps(key))
        return
    rows = [
        (key["id"], key["name"], day(key["created"]), day(key["revoked"]) if key["revoked"] else "")
        for key in keys
    ]
    print_table(("key", "name", "made", "revoked"), rows)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The id that `linnet keys list` shows.", metavar="ID")],
    data: Data = DATA,
) -> None:
    """Make a key worthless, at once."""
    if not opened(data).revoke_key(key):
        raise InvalidInput("key", key, "is no valid key's id", "see `linnet keys list`")
    note(f"{key} is revoked")


def opened(data: Path) -> "Queue":
    from linnet.serve.queue import Queue

    if not data.is_dir():
        raise InvalidInput("data", data, "there is no such folder", "give the --data of `linnet serve`")
    return Queue(data)


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")

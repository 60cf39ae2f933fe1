"""`linnet keys`"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnet.cli import Group
from linnet.cli.options import option
from linnet.cli.serve import DATA
from linnet.cli.terminal import note, print_table
from linnet.errors import InvalidInput

if TYPE_CHECKING:
    from linnet.serve.queue import Queue

app = typer.Typer(
    cls=Group, add_completion=False, rich_markup_mode=None, help="Manage the access keys of the server."
)

Data = Annotated[Path, option("data", "Folder of the database and the clips.", metavar="DIR")]


@app.command()
def add(
    name: Annotated[
        str, typer.Argument(help="A name for the key, shown by `linnet keys list`.", metavar="NAME")
    ],
    data: Data = DATA,
    adopt: Annotated[bool, option("adopt", "Give it the clips that were made without a key.")] = False,
    inherit: Annotated[
        str | None, option("inherit", "Give it the clips of this revoked key.", metavar="ID")
    ] = None,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    from linnet.serve.keys import make_key

    if not name.strip():
        raise InvalidInput("name", name, "is empty", "say whose key it is")
    if not name.isprintable():
        problem = "has a line break or another character that cannot be shown"
        raise InvalidInput("name", name, problem, "leave it out")
    with opened(data, new=True) as queue:
        if inherit is not None and not any(
            key["id"] == inherit and key["revoked"] for key in queue.all_keys()
        ):
            raise InvalidInput("inherit", inherit, "is no revoked key's id", "see `linnet keys list`")
        identity, key = make_key(queue, name)
        if inherit is not None:
            note(f"videos of the key {inherit} that are now its own: {queue.adopt(identity, of=inherit)}")
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
    """List the keys, and which of them are revoked."""
    with opened(data) as queue:
        keys = queue.all_keys()
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
    """Revoke a key. It stops working immediately."""
    with opened(data) as queue:
        if not queue.revoke_key(key):
            raise InvalidInput("key", key, "is no valid key's id", "see `linnet keys list`")
    note(f"{key} is revoked")


@contextmanager
def opened(data: Path, *, new: bool = False) -> Iterator["Queue"]:
    """The queue of that folder, which is made if it may be `new`."""
    from linnet.serve.backup import open_beside
    from linnet.serve.database import explained
    from linnet.serve.lock import make_data_folder
    from linnet.serve.queue import Queue
    from linnet.serve.recover import check_present

    path = data / "linnet.db"
    with explained(path):
        if new and not path.exists():
            make_data_folder(data)
            check_present(data)
            yield Queue(data)
        else:
            yield open_beside(data)


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")

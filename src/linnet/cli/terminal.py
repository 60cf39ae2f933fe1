"""What the commands share in talking to a person: stdout holds what was asked for, stderr what is going on."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from linnet.errors import one_line
from linnet.wording import format_bytes as format_bytes

Show = Callable[[str, str, float, float], None]


def note(line: str) -> None:
    """Say what is going on."""
    print(line, file=sys.stderr)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns fitted to the terminal; into a pipe or file, whole and one line a row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    rows = [[one_line(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for row in [heads, *rows]:
            print("\t".join(row))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


@contextmanager
def bars(*, quiet: bool) -> Iterator[Show]:
    """Progress bars on stderr while inside; none when `quiet` or when stderr is no terminal.

    The function within takes a bar's name, words to show beside it, what is done and the total. A bar is
    made when first named.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda name, words, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", justify="left"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}

    def show(name: str, words: str, done: float, total: float) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total, words=words)
        progress.update(tasks[name], completed=done, total=total, words=words)

    with progress:
        yield show

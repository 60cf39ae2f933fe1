"""What the commands share in talking to a person: stdout holds what was asked for, stderr what is going on."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from linnet.cli.stages import Stage
from linnet.errors import one_line
from linnet.wording import format_bytes as format_bytes

LINE_EVERY = 30.0  # seconds between two lines where there is no terminal
PASSING = ("load", "compile", "encode")  # stages whose bars go when they are done

Show = Callable[..., None]


def note(line: str) -> None:
    """Say what is going on."""
    print(line, file=sys.stderr, flush=True)


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


class Stages:
    """The stages that were named so far, in their order. One that begins again expects the pace that it had."""

    def __init__(self) -> None:
        self.known: dict[str, Stage] = {}

    def show(
        self,
        name: str,
        words: str,
        done: float,
        total: float,
        *,
        unit: str = "",
        expected: float | None = None,
    ) -> None:
        """That so much of a stage is done."""
        now = time.monotonic()
        stage = self.known.get(name)
        if stage is None or done < stage.done:
            if stage is not None and stage.pace is not None:
                expected = stage.pace * total
            stage = Stage(name, total, now, done, unit=unit, expected=expected)
            self.known = {**{n: s for n, s in self.known.items() if n != name}, name: stage}
        stage.update(now, words, done, total)

    def under_way(self) -> list[Stage]:
        return [stage for stage in self.known.values() if stage.done < stage.total]


@contextmanager
def starting(*, quiet: bool) -> Iterator[None]:
    """While inside, a terminal shows that PyTorch is being loaded, which takes seconds when it comes first."""
    if quiet or "torch" in sys.modules or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("loading PyTorch"):
        yield


@contextmanager
def bars(*, quiet: bool) -> Iterator[Show]:
    """While inside, what is going on is told on stderr: as bars on a terminal, elsewhere as a line every half minute,
    not at all when `quiet`.

    The function within is `Stages.show`: it takes a stage's name, words to show beside it, what is done and the total.
    """
    stages = Stages()
    if quiet:
        yield stages.show
    elif sys.stderr.isatty():
        with live(stages):
            yield stages.show
    else:
        with lines(stages):
            yield stages.show


@contextmanager
def lines(stages: Stages) -> Iterator[None]:
    """A plain line now and then, of all that is under way."""
    over = Event()

    def tell() -> None:
        while not over.wait(LINE_EVERY):
            now = time.monotonic()
            if busy := stages.under_way():
                note("; ".join(stage.line(now) for stage in busy))

    thread = Thread(target=tell, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def live(stages: Stages) -> Iterator[None]:
    """Bars that move between two calls, too: their times go on while a step lasts."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(stderr=True)
    with Live(
        get_renderable=lambda: Group(table(stages.known.values(), console.width)),
        console=console,
        refresh_per_second=4,
    ):
        yield


def table(stages: Any, width: int) -> Any:
    """A row for each stage: its name, a bar, its share, where it is, its times."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    now = time.monotonic()
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(width=max(8, min(24, width // 5)))
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(overflow="fold")
    for stage in list(stages):
        ended = stage.done >= stage.total
        if ended and stage.name.split()[0] in PASSING:
            continue
        reached = stage.reached(now)
        bar = ProgressBar(total=stage.total, completed=reached or 0.0, pulse=reached is None and not ended)
        share = "" if reached is None else f"{100 * reached / stage.total:.0f} %" if stage.total else ""
        words = [
            stage.words if ended else stage.position(),
            stage.times(stage.marks[-1][0] if ended else now),
        ]
        grid.add_row(
            Text(stage.name),
            bar,
            share,
            Text(", ".join(filter(None, [*words, "" if ended else stage.rest(now)]))),
        )
    return grid

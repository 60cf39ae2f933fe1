"""What the commands share in talking to a person: stdout holds what was asked for, stderr what is going on. Bars tell
how far each stage of a long work is, how long it has gone on, and how long it still takes."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from linnet.errors import one_line
from linnet.filesystem import complete
from linnet.geometry import Size
from linnet.wording import format_bytes as format_bytes
from linnet.wording import format_duration, format_pace, format_seconds

if TYPE_CHECKING:
    from linnet.clip import Progress, Watch

SLOW = 5.0  # seconds in one step, from which on they are told
AHEAD = 0.95  # of a step that is under way: no more is shown until it is done
LINE_EVERY = 30.0  # seconds between two lines where there is no terminal
PASSING = ("load", "compile", "encode")  # stages whose bars go when they are done
STAGES = {
    "load": "load",
    "encode": "encode the clip",
    "text": "text",
    "compile": "compile",
    "denoise": "denoise",
    "decode": "decode + encode",
}
UNITS = {"denoise": "step", "decode": "frame"}
PREVIEWS = 8  # a clip

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


# --- stages of a work -------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A stage with so many parts, called `unit`: "step", "frame", "B" for bytes. `expected` are the seconds that it was
    planned to take, where that is known. Times are on the monotonic clock."""

    name: str
    total: float
    began: float
    done: float = 0.0
    words: str = ""
    unit: str = ""
    expected: float | None = None
    marks: list[tuple[float, float]] = field(default_factory=list)  # (time, done): first, second, ..., last

    def update(self, now: float, words: str, done: float, total: float) -> None:
        self.words, self.total = words, total
        if not self.marks or done > self.done:
            self.marks = [*self.marks[:2], *self.marks[2:][-1:], (now, done)]
        self.done = done

    def elapsed(self, now: float) -> float:
        return now - self.began

    def in_step(self, now: float) -> float:
        """Seconds since the last part was done."""
        return now - (self.marks[-1][0] if self.marks else self.began)

    @property
    def pace(self) -> float | None:
        """Seconds a part. The first one takes longer, since memory is touched and kernels are chosen in it, so it
        counts only until there is another."""
        first, *later = self.marks or [(self.began, 0.0)]
        since = later[0] if len(later) > 1 else first
        if later and later[-1][1] > since[1]:
            return (later[-1][0] - since[0]) / (later[-1][1] - since[1])
        return self.expected / self.total if self.expected and self.total else None

    @property
    def at_once(self) -> float:
        """How many parts come together, as far as that is known."""
        return self.marks[-1][1] - self.marks[-2][1] if len(self.marks) > 1 else 1.0

    def left(self, now: float) -> float | None:
        """Seconds; None while nobody can tell."""
        if self.done >= self.total:
            return 0.0
        if self.pace is None:
            return None
        took, others = self.in_step(now), max(0, math.ceil((self.total - self.done) / self.at_once) - 1)
        if not others and took > self.pace * self.at_once:
            return None  # the last step lasts longer than expected
        each = max(self.pace * self.at_once, took)  # a step that lasts longer tells of the next
        return each - took + each * others

    def reached(self, now: float) -> float | None:
        """What is done, with the share of the step that is under way; None where nothing tells how long it takes."""
        if self.done >= self.total:
            return self.total
        if self.pace is None:
            return self.done if self.done else None
        share = min(AHEAD, self.in_step(now) / max(self.pace * self.at_once, 1e-9))
        return min(self.done + share * self.at_once, self.total)

    def position(self) -> str:
        """step 3 of 20; 1.2 GB of 10 GB; the words that were given, where parts have no name."""
        if self.unit == "B":
            here = f"{format_bytes(self.done)} of {format_bytes(self.total)}"
        elif self.unit and self.total > 1:
            here = f"{self.unit} {min(self.done + 1, self.total):,.0f} of {self.total:,.0f}"
        else:
            here = ""
        pace = format_pace(self.pace) if self.unit == "step" and self.done and self.pace else ""
        return ", ".join(word for word in (here, self.words, pace) if word)

    def times(self, now: float, so_far: str = "") -> str:
        """12 min 5 s, 4 min 1 s in this step."""
        words = format_duration(self.elapsed(now)) + so_far
        if self.unit == "step" and self.done < self.total and self.in_step(now) >= SLOW:
            words += f", {format_duration(self.in_step(now))} in this step"
        return words

    def rest(self, now: float) -> str:
        left = self.left(now)
        return "" if left is None else f"about {format_duration(max(1.0, round(left)))} left"

    def line(self, now: float) -> str:
        """All of it on one line, for where there is no terminal."""
        position = self.position()
        if not position and self.total > 1:
            position = f"{100 * self.done / self.total:.0f} %"
        words = [position, self.times(now, " so far"), self.rest(now)]
        return f"{self.name}: {', '.join(word for word in words if word)}"


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


# --- a run of the pipeline --------------------------------------------------------------------------------------------


def telling(show: Show, *, prefix: str = "", expected: Mapping[str, float | None] | None = None) -> "Watch":
    """A `watch` that moves the bars. `prefix` stands before each stage's name; `expected` are the planned seconds."""

    def watch(progress: "Progress") -> None:
        if progress.note:
            note(progress.note)
            return
        stage = progress.stage
        name = f"{prefix}{STAGES[stage]}{f' {progress.part}' if progress.part else ''}"
        unit, planned = UNITS.get(stage, ""), (expected or {}).get(stage)
        show(name, "", progress.done, progress.total, unit=unit, expected=planned)

    return watch


@contextmanager
def previewing(watch: "Watch", sheet: Path | None) -> Iterator["Watch"]:
    """`watch`, which keeps the preview sheet up to date, too. If the clip fails, its sheet goes."""
    tiles: list[Any] = []

    def look(progress: "Progress") -> None:
        watch(progress)
        due = progress.done * PREVIEWS // progress.total > len(tiles)
        if sheet and progress.preview and (due or progress.done == progress.total):
            tiles.append(progress.preview())
            write_sheet(sheet, tiles)

    try:
        yield look
    except BaseException:
        if sheet:
            sheet.unlink(missing_ok=True)
        raise


def write_sheet(path: Path, tiles: Sequence[Any]) -> None:
    """The previews so far, RGB images of one size, in rows of four."""
    from PIL import Image

    images = [Image.fromarray(tile) for tile in tiles]
    for image in images:
        image.thumbnail((320, 320))
    width, height = images[0].size
    sheet = Image.new("RGB", (4 * width, -(-PREVIEWS // 4) * height))
    for index, image in enumerate(images):
        sheet.paste(image, (index % 4 * width, index // 4 * height))
    with complete(path) as part:
        sheet.save(part, "PNG")


def tell_made(what: str, seconds: float, size: Size, spent: float, *, seed: int | None = None) -> None:
    """One line for every kind of clip: how long it is, its size, its seed, how long it took."""
    seeded = f", seed {seed}" if seed is not None else ""
    note(f"{what}{format_seconds(seconds)} s of {size}{seeded}, made in {format_duration(spent)}:")

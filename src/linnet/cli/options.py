"""How the commands declare their options. Numbers are read here, so that a bad one is answered as any other bad
input is; what typer would say depends on its version, and does not name the value."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from linnet.errors import InvalidInput
from linnet.plan.budget import parse_bytes

T = TypeVar("T")


def option(name: str, help: str, *, metavar: str | None = None, **more: Any) -> Any:
    """`--name`, whose default is what its function's signature says; `help` names it where it matters."""
    letters = ("-q",) if name == "quiet" else ()
    return typer.Option(f"--{name}", *letters, help=help, metavar=metavar, show_default=False, **more)


def whole(
    name: str, help: str, *, metavar: str = "N", least: int | None = None, most: int | None = None
) -> Any:
    """`--name N`, a whole number from `least` to `most`."""

    def read(given: str | int) -> int:  # a default comes as the number that it is
        value = parse(name, str(given), int, "a whole number")
        if least is not None and value < least:
            raise InvalidInput(name, str(given), "is out of range", f"use {least} or more")
        if most is not None and value > most:
            raise InvalidInput(name, str(given), "is out of range", f"use {most} or less")
        return value

    return option(name, help, metavar=metavar, parser=read)


def number(
    name: str, help: str, *, metavar: str = "X", least: float | None = None, above: float | None = None
) -> Any:
    """`--name X`, a finite number: `least` or more, or more than `above`."""

    def read(given: str | float) -> float:
        value = parse(name, str(given), float, "a number")
        if not math.isfinite(value):
            raise InvalidInput(name, str(given), "is not a finite number", "write it in digits, such as 2")
        if least is not None and value < least:
            raise InvalidInput(name, str(given), "is out of range", f"use {least:g} or more")
        if above is not None and value <= above:
            raise InvalidInput(name, str(given), "is out of range", f"use more than {above:g}")
        return value

    return option(name, help, metavar=metavar, parser=read)


def amount(name: str, help: str, *, metavar: str = "SIZE") -> Any:
    """`--name SIZE`, an amount of memory with its unit, in bytes."""
    return option(name, help, metavar=metavar, parser=lambda text: parse_bytes(name, text))


def parse(name: str, text: str, kind: Callable[[str], T], what: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(name, text, f"is not {what}", "write it in digits, such as 2") from None


# What several commands share, said once.
Weights = Annotated[Path | None, option("weights", "Folder of a downloaded model.", metavar="DIR")]
Threads = Annotated[int | None, whole("threads", "CPU threads; by default all cores.", least=1)]
Device = Annotated[str, option("device", "cpu, cuda or mps; by default the fastest here.", metavar="NAME")]
Vram = Annotated[int | None, amount("vram", "Memory of the card that may be used, such as 8GB.")]
Ram = Annotated[int | None, amount("ram", "Main memory that may be used, such as 12GB.")]
WorkerVram = Annotated[int | None, amount("vram", "Memory of its card that a worker may use, such as 8GB.")]
WorkerRam = Annotated[int | None, amount("ram", "Main memory that a worker may use, such as 12GB.")]
Steps = Annotated[int | None, whole("steps", "Denoising steps.")]
Anyway = Annotated[bool, option("anyway", "Go on with words that the model does not know.")]
AsJson = Annotated[bool, option("json", "Print one JSON line.")]
GuidanceScale = Annotated[float | None, number("guidance", "How closely to follow the prompt.")]
Dimensions = Annotated[str | None, option("size", "360p, 720p or WIDTHxHEIGHT.", metavar="SIZE")]
Quiet = Annotated[bool, option("quiet", "Print nothing but the path and errors.")]
Model = Annotated[
    str | None,
    option("model", "A name from `linnet models`; by default a Linum v2 that is here.", metavar="NAME"),
]
Profile = Annotated[str | None, option("profile", "exact, fast or draft: fidelity for time.", metavar="NAME")]
Overwrite = Annotated[bool, option("overwrite", "Replace a file that exists.")]
Dtype = Annotated[
    str | None,
    option("dtype", "Of the matrix products: float32 or bfloat16; by default auto.", metavar="NAME"),
]
ClipsSeed = Annotated[
    int | None, whole("seed", "Which of the possible videos; by default the clip's own, or a new one.")
]
ClipsModel = Annotated[
    str | None, option("model", "A name from `linnet models`; by default the clip's own.", metavar="NAME")
]

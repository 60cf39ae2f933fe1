"""How the commands declare their options. Numbers are read here, so that a bad one is answered as any other bad
input is; what typer would say depends on its version, and does not name the value."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from linnet.catalog import CATALOG
from linnet.errors import InvalidInput
from linnet.geometry import NAMED_SIZES
from linnet.plan.host import most_threads, parse_bytes
from linnet.request import CHOICES, SEEDS
from linnet.wording import format_number

T = TypeVar("T")
PROFILES = list(dict.fromkeys(("exact", *(name for spec in CATALOG.values() for name in spec.profiles))))


LETTERS = {"quiet": "-q", "output": "-o"}


def option(
    name: str,
    help: str,
    *,
    metavar: str | None = None,
    also: Sequence[str] = (),
    values: Callable[[], Iterable[str]] | None = None,
    **more: Any,
) -> Any:
    """`--name`, whose default is what its function's signature says; `help` names it where it matters. `also` are other
    names for it; the shell completes `values`."""
    names = [f"--{name}", *also, *([LETTERS[name]] if name in LETTERS else [])]
    if values is not None:
        more["autocompletion"] = completing(values)
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, **more)


def completing(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for a value that is typed in part."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete


def one_of(name: str, help: str, *values: str, metavar: str = "NAME") -> Any:
    """`--name NAME`, of which the shell completes the values."""
    return option(name, help, metavar=metavar, values=lambda: values)


def parse_seeds(texts: Sequence[str], field: str = "seed", *, most: int = 1000) -> list[int]:
    """From "3", "1-9", "3,5,8" or any mixture: in the order given, none twice."""
    remedy = "write them as 3, 1-9 or 3,5,8"
    seeds: list[int] = []
    for text in texts:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-") if part.strip()[:1] != "-" else (part, "", "")
            try:
                start, end = int(first), int(last if dash else first)
            except ValueError:
                problem = f'"{part}" is not a whole number, nor two of them with a dash'
                raise InvalidInput(field, text, problem, remedy) from None
            if not 0 <= start < SEEDS > end:
                raise InvalidInput(field, part, "is out of range", f"use 0 to {SEEDS - 1}")
            if start > end:
                raise InvalidInput(field, text, f'"{part}" runs backwards', remedy)
            if len(seeds) + end - start >= most:
                raise InvalidInput(field, text, f"are more than {most:,}", "give fewer")
            seeds += range(start, end + 1)
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise InvalidInput(field, twice, "is given twice", "give each seed once")
    return seeds


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
            raise InvalidInput(name, str(given), "is out of range", f"use {format_number(least)} or more")
        if above is not None and value <= above:
            raise InvalidInput(name, str(given), "is out of range", f"use more than {format_number(above)}")
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
Threads = Annotated[
    int | None, whole("threads", "CPU threads; by default all cores.", least=1, most=most_threads())
]
Device = Annotated[
    str | None,
    one_of(
        "device", "cpu, cuda or mps; by default the fastest on this machine.", "cpu", "cuda", "mps", "auto"
    ),
]
Gpus = Annotated[
    int, whole("gpus", "GPUs that share the work of a clip; with --device cpu, processes.", least=1)
]
Vram = Annotated[int | None, amount("vram", "GPU memory that may be used, such as 8GB.")]
Ram = Annotated[int | None, amount("ram", "Main memory that may be used, such as 12GB.")]
Steps = Annotated[int | None, whole("steps", "Denoising steps.")]
Anyway = Annotated[bool, option("anyway", "Continue even if the model does not know a word of the prompt.")]
AsJson = Annotated[bool, option("json", "Print one JSON line.")]
GuidanceScale = Annotated[
    float | None, number("guidance", "Guidance scale: how closely the clip follows the prompt.")
]
Dimensions = Annotated[
    str | None, one_of("size", "360p, 720p or WIDTHxHEIGHT.", *NAMED_SIZES, metavar="SIZE")
]
Quiet = Annotated[bool, option("quiet", "Print nothing but the path and errors.")]
Model = Annotated[
    str | None,
    one_of("model", "A name from `linnet models`; by default a Linum v2 model on this machine.", *CATALOG),
]
Profile = Annotated[
    str | None, one_of("profile", "exact, fast or draft: less time for less fidelity.", *PROFILES)
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the transformer first: the first step is slow, the others faster; by default where it pays.",
        show_default=False,
    ),
]
Fp8 = Annotated[
    bool | None,
    typer.Option(
        "--fp8/--no-fp8",
        help="Multiply in FP8, on cards from the RTX 40 series and H100 on: faster, and not quite the same clip.",
        show_default=False,
    ),
]
LoraMerge = Annotated[
    bool | None,
    typer.Option(
        "--lora-merge/--no-lora-merge",
        help="Add the LoRAs to the weights as they are loaded: no memory or time beside them. Not for 8-bit weights.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, option("overwrite", "Replace a file that exists.")]
Dtype = Annotated[
    str | None,
    one_of(
        "dtype", "Precision of the matrix products: float32, bfloat16 or auto (default).", *CHOICES["dtype"]
    ),
]
ClipsSeed = Annotated[
    int | None, whole("seed", "Seed of the noise; by default the clip's own, or a random one.")
]
ClipsModel = Annotated[
    str | None, one_of("model", "A name from `linnet models`; by default the clip's own.", *CATALOG)
]
Fit = Annotated[
    str | None, one_of("fit", "crop or pad a clip of another shape.", "crop", "pad", metavar="HOW")
]


# --- what several commands take together, as one record each ----------------------------------------------------------
# Their fields have the names of the settings that `linnet.prepare` takes, so `vars(record)` is a part of them.


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which model runs, and on what."""

    model: Model = None
    weights: Weights = None
    device: Device = None
    threads: Threads = None
    vram: Vram = None
    ram: Ram = None


@dataclass(frozen=True, kw_only=True)
class ClipLoadOptions(LoadOptions):
    """Of a command that starts from a clip, which names its model."""

    model: ClipsModel = None


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Where workers run, and what each of them may use."""

    device: Annotated[
        list[str] | None,
        option("device", "cpu, cuda:0, ...; give several for a worker each.", metavar="NAME"),
    ] = None
    dtype: Annotated[
        str,
        one_of("dtype", "Of the matrix products: float32 or bfloat16; by default auto.", *CHOICES["dtype"]),
    ] = "auto"
    threads: Annotated[
        int | None, whole("threads", "CPU threads of a worker.", least=1, most=most_threads())
    ] = None
    vram: Annotated[int | None, amount("vram", "GPU memory that a worker may use, such as 8GB.")] = None
    ram: Annotated[int | None, amount("ram", "Main memory that a worker may use, such as 12GB.")] = None
    ray: Annotated[
        str | None,
        option("ray", "Address of a Ray cluster that does the work; auto finds it.", metavar="ADDRESS"),
    ] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.device or None)  # typer gives an empty list

    def pool_settings(self) -> dict[str, Any]:
        """As serve.worker_pool.WorkerPool takes them."""
        devices = tuple(self.device or ["auto"])
        return {"devices": devices} | {name: value for name, value in vars(self).items() if name != "device"}


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Which LoRAs the model computes with."""

    loras: Annotated[
        list[str] | None,
        option(
            "lora",
            "A LoRA, and its strength; may be repeated. `none`: not those of the clip that is started from.",
            metavar="FILE[:STRENGTH]",
        ),
    ] = None
    lora_merge: LoraMerge = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "loras", self.loras or None)  # typer gives an empty list


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Single files of a model, in the place of those in its folder."""

    transformer: Annotated[
        Path | None, option("transformer", "The transformer's own file.", metavar="FILE")
    ] = None
    vae: Annotated[Path | None, option("vae", "The autoencoder's own file.", metavar="FILE")] = None
    text_encoder: Annotated[
        Path | None, option("text-encoder", "The text encoder's own file or folder.", metavar="PATH")
    ] = None
    tokenizer: Annotated[
        Path | None, option("tokenizer", "The tokenizer's own file or folder.", metavar="PATH")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ConditionOptions:
    """What a clip begins from beside its prompt."""

    image: Annotated[Path | None, option("image", "The first frame.", metavar="FILE")] = None
    last_image: Annotated[Path | None, option("last-image", "The last frame.", metavar="FILE")] = None
    video: Annotated[Path | None, option("video", "A clip to change.", metavar="FILE")] = None
    strength: Annotated[
        float | None, number("strength", "Share of the steps in which the --video changes; 0.6 by default.")
    ] = None
    colours: Annotated[
        str | None,
        one_of(
            "colours",
            "Colours of the --video to start from: prompt (default) adapts them to the prompt, clip keeps them.",
            "prompt",
            "clip",
            metavar="WHICH",
        ),
    ] = None
    fit: Annotated[
        str | None,
        one_of("fit", "crop or pad an image or video of another shape.", "crop", "pad", metavar="HOW"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RemakeOptions:
    """Settings of a clip that is made from another one."""

    fit: Fit = None
    seed: ClipsSeed = None
    profile: Profile = None
    steps: Steps = None
    guidance: GuidanceScale = None


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What may be replaced, and what is printed, of a command that makes one clip."""

    overwrite: Overwrite = False
    anyway: Anyway = False
    quiet: Quiet = False
    as_json: AsJson = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer. Each parameter of it that is a dataclass stands for an option of each field."""
    parameters = inspect.signature(command, eval_str=True).parameters
    groups = {name: each.annotation for name, each in parameters.items() if is_group(each.annotation)}
    options: list[inspect.Parameter] = []
    for name, each in parameters.items():
        options += options_of(groups[name]) if name in groups else [each]

    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options]
    run.__signature__ = inspect.Signature(named)  # which typer reads
    return run


def is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def options_of(group: type[Any]) -> list[inspect.Parameter]:
    annotations = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=annotations[field.name],
        )
        for field in fields(group)
    ]

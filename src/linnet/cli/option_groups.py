"""Options that several commands take together, as one record each. Their fields have the names of the settings that
`linnet.prepare` takes, so `vars(record)` is a part of them."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from linnet.cli.options import (
    Anyway,
    AsJson,
    ClipsModel,
    ClipsSeed,
    Device,
    Fit,
    GuidanceScale,
    Model,
    Overwrite,
    Profile,
    Quiet,
    Ram,
    Steps,
    Threads,
    Vram,
    Weights,
    number,
    one_of,
    option,
)


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

"""Which LoRAs a request uses, and how strongly. Imports no torch; what is in their files is known by `weights`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from linnet.errors import InvalidInput
from linnet.wording import format_number

STRONGEST = 100.0  # and as much below zero
MOST = 32  # LoRAs of one request


@dataclass(frozen=True, kw_only=True)
class LoraUse:
    """`file` is a path or, of a server, a name in the operator's folder. `hash` tells the file's content, `numbers` how
    many numbers are in it, which decides the memory that it takes. `merged`: it is added to the weights when they are
    loaded, where it takes neither memory nor time, and is rounded as they are."""

    file: str
    strength: float = 1.0
    hash: str = ""
    numbers: int = 0
    merged: bool = False

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if not isinstance(self.file, str) or not self.file:
            raise InvalidInput("lora", self.file, "is not the name of a file", "name a .safetensors file")

    @property
    def name(self) -> str:
        """For people: the file's without its folder and its ending."""
        return Path(self.file).name.removesuffix(".safetensors")

    def __str__(self) -> str:
        return f"{self.file}:{format_number(self.strength)}"

    @classmethod
    def from_json(cls, record: Any) -> Self:
        """From a clip's record, which may have been through anyone's hands."""
        if isinstance(record, cls):
            return record
        known = {field.name: field for field in fields(cls)}
        if not isinstance(record, Mapping) or not record.keys() <= known.keys():
            raise InvalidInput("loras", str(record), "is not a LoRA's record", "use a clip that linnet made")
        made = cls(**{"file": "", **record})
        if (
            not isinstance(made.hash, str)
            or isinstance(made.numbers, bool)
            or not isinstance(made.numbers, int)
            or not isinstance(made.merged, bool)
        ):
            raise InvalidInput("loras", str(record), "is not a LoRA's record", "use a clip that linnet made")
        return made

    def to_json(self) -> dict[str, Any]:
        """As earlier versions read it, unless it is merged, which they cannot do."""
        record = asdict(self)
        return record if self.merged else {name: value for name, value in record.items() if name != "merged"}

    def described(self) -> str:
        return f"{self}, merged" if self.merged else str(self)


def check_strength(strength: object) -> None:
    if (
        isinstance(strength, bool)
        or not isinstance(strength, int | float)
        or not -STRONGEST <= strength <= STRONGEST  # false for NaN too
    ):
        most = format_number(STRONGEST)
        raise InvalidInput("lora", strength, "is out of range for a strength", f"use -{most} to {most}")


def check_loras(value: object) -> tuple[LoraUse, ...]:
    """A request's."""
    if isinstance(value, str | Mapping) or not isinstance(value, list | tuple):
        raise InvalidInput("loras", str(value), "is no list of LoRAs", "give a list")
    if len(value) > MOST:
        raise InvalidInput("loras", len(value), "are too many", f"use up to {MOST}")
    uses = tuple(map(LoraUse.from_json, value))
    for number, use in enumerate(uses):
        if use.file in [other.file for other in uses[:number]]:
            raise InvalidInput("lora", use.file, "is given twice", "give it once, with the strength of both")
    if len({use.merged for use in uses}) > 1:
        raise InvalidInput("loras", len(uses), "are merged in part", "merge all of them, or none")
    return uses


def parse_lora(text: str) -> tuple[str, float]:
    """The file and the strength of FILE[:STRENGTH], such as my-dog.safetensors:0.8."""
    file, colon, tail = text.rpartition(":")
    try:
        strength = float(tail) if colon else 1.0
    except ValueError:  # the colon is the path's own
        return text, 1.0
    check_strength(strength)
    return (file, strength) if colon else (text, 1.0)


def numbers_in(loras: tuple[LoraUse, ...]) -> int:
    """That are beside the model's own weights."""
    return sum(use.numbers for use in loras if use.strength and not use.merged)


def any_merged(loras: tuple[LoraUse, ...]) -> bool:
    return any(use.merged for use in loras if use.strength)

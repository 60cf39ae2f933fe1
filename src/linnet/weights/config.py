"""A model's shape as a weight file carries it, under the metadata key "config", checked by the shape's dataclass."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from linnet.errors import WeightsError, one_line
from linnet.models.transformer import Transformer, TransformerConfig, linum_v2
from linnet.weights.files import read_config

C = TypeVar("C")

LARGEST_COUNT = 2**20  # of a model's width, layers, tokens


def config_as(kind: type[C], path: Path) -> C | None:
    """The model's shape that a file carries, as its dataclass; None if it carries none. WeightsError, which names the
    key, for a shape of another model."""
    config = read_config(path)
    return None if config is None else as_config(kind, config, path)


def as_config(kind: type[C], config: Mapping[str, Any], path: Path) -> C:
    known = {field.name: field for field in fields(cast(Any, kind))}
    for name, value in config.items():
        if name not in known:
            raise other_model(path, f'its config has "{name}"')
        if not fits_field(value, known[name].type):
            raise other_model(path, f'its config says {one_line(value)[:40]} of "{name}"')
    for name, field in known.items():
        if name not in config and field.default is MISSING and field.default_factory is MISSING:
            raise other_model(path, f'its config lacks "{name}"')
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


def fits_field(value: Any, kind: Any) -> bool:
    """Whether a value of JSON can be that of a shape's field: counts are above zero and not without end."""
    if isinstance(value, list):
        return all(fits_field(item, int) for item in value) and "tuple" in str(kind).lower()
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and 0 < value <= LARGEST_COUNT
    if kind is float:
        return isinstance(value, int | float)
    return True


def other_model(path: Path, how: str) -> WeightsError:
    return WeightsError("weights", path, f"is of another model: {how}", "use the files of the chosen model")


def transformer_of(file: Path) -> Transformer:
    """The model whose weights a file holds, as it says itself; Linum v2's if it says nothing."""
    return Transformer(config_as(TransformerConfig, file) or linum_v2())

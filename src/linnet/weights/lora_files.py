"""A LoRA's file as its header tells it: for which modules of a model it has what, and how strong. Reads no tensor,
imports no torch."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnet.errors import WeightsError
from linnet.records import read_object, read_object_or_nothing, read_text
from linnet.weights.files import TRANSFORMER_PREFIX, Header, check_dtypes, fingerprint, read_header
from linnet.weights.lora_formats import FLAGS, Keys, Layout, Shape, check_shapes, read_keys

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FOLDER_FILES = (PEFT_FILE, "pytorch_lora_weights.safetensors")
# Metadata: diffusers' own, and linnet's: of layouts without alphas those that were multiplied into `up`, and the words
# that a LoRA teaches a model with a closed vocabulary, whose rows are a tensor of this name.
DIFFUSERS_CONFIG = "lora_adapter_metadata"
FOLDED = "linnet.folded_alpha"
WORDS, WORD_ROWS = "linnet.words", "text_encoder.shared.rows"
NO_ALPHA = 1.0  # kohya's own default


@dataclass(frozen=True, kw_only=True)
class LoraHeader:
    """`config` is PEFT's, from the file beside or from diffusers' metadata. `words` are those that it teaches."""

    header: Header
    keys: Keys
    layout: Layout
    config: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: entry.shape for key, entry in self.header.tensors.items()}

    @property
    def numbers(self) -> int:
        """How many its tensors hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def rank(self, module: str) -> int:
        """0 where nothing is of low rank."""
        down = self.keys.modules[module].get("down")
        return self.shapes[down][0] if down else 0

    def alpha(self, module: str, rank: int, stored: float | None, *, rslora: bool = False) -> float:
        """Such that the scale is alpha / rank; `stored` is that of the file's own tensor, of which the scale is alpha /
        sqrt(rank) under `rslora`."""
        alpha = stored
        if alpha is None and self.config:
            rslora = self.config.get("use_rslora") is True
            default = self.config.get("alpha" if self.is_lokr else "lora_alpha")
            alpha = of_pattern(self.config.get("alpha_pattern"), self.spelled(module), default)
        if alpha is None and self.layout in ("kohya", "videox-fun"):
            alpha = self.usual_alpha
        if not alpha:
            return float(rank)
        return float(alpha) * (math.sqrt(rank) if rslora else 1.0)

    @property
    def is_lokr(self) -> bool:
        """Whether PEFT's config says so: its LoKr has a scale of its own."""
        return str(self.config.get("peft_type", "")).upper() == "LOKR"

    @property
    def usual_alpha(self) -> float:
        """That of a kohya file without alphas."""
        try:
            return float(self.header.metadata["ss_network_alpha"])
        except (KeyError, ValueError):
            return NO_ALPHA

    def spelled(self, module: str) -> str:
        """As the file's config names the module."""
        return self.keys.spelled[module]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file leaves open, and what is taken instead."""
        without = [
            module for module, roles in self.keys.modules.items() if "down" in roles and "alpha" not in roles
        ]
        if (
            self.layout not in ("kohya", "videox-fun")
            or not without
            or "ss_network_alpha" in self.header.metadata
        ):
            return ()
        rank = max(map(self.rank, without))
        return (
            f"warning: {self.path} holds no alpha; {NO_ALPHA:g} is taken, which is kohya's default: "
            f"at rank {rank} it acts at 1/{rank} of its strength",
        )


def of_pattern(patterns: Any, module: str, default: Any) -> float | None:
    """PEFT's rule: the first pattern that the module's name ends in."""
    for pattern, value in (patterns if isinstance(patterns, Mapping) else {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return as_number(value)
        except re.error:
            continue
    return as_number(default)


def as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_lora_header(path: Path, parameters: Mapping[str, Shape]) -> LoraHeader:
    """What the file, or the folder that holds it, has for a model whose parameters have these shapes. WeightsError
    names the first tensor that is of nothing in the model, of another shape, or lacks another."""
    file = lora_file(path)
    try:
        header = read_header(file)
        check_dtypes(header, {key: entry for key, entry in header.tensors.items() if key not in FLAGS})
    except WeightsError as error:
        raise WeightsError("lora", file, error.problem, error.remedy) from None
    words = read_words(header)
    keys = read_keys([key for key in header.tensors if key != WORD_ROWS], parameters, file)
    layout, config, files = keys.layout, read_diffusers_config(header), [file]
    beside = file.with_name(PEFT_CONFIG)
    if not config and beside.is_file() and (layout == "peft" or file.name == PEFT_FILE):
        config = read_object(read_text(beside, field="lora"), field="lora", value=beside)
        files.append(beside)
    if layout == "peft" and not config:
        problem = f"lacks {PEFT_CONFIG}, in which PEFT keeps how strong it is"
        raise WeightsError("lora", file, problem, "put that file beside it")
    if layout == "original" and not any("alpha" in roles for roles in keys.modules.values()):
        layout = "diffusion-pipe" if beside in files else "ai-toolkit"
    made = LoraHeader(header=header, keys=keys, layout=layout, config=config, files=tuple(files), words=words)
    check_shapes(keys, made.shapes, parameters, file)
    return made


def lora_file(path: Path) -> Path:
    """The weights in a folder as PEFT or diffusers write it; a file is itself."""
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    inside = sorted(path.glob("*.safetensors"))
    if len(inside) == 1:
        return inside[0]
    problem = (
        f"holds {len(inside)} .safetensors files" if inside else "is a folder without a .safetensors file"
    )
    raise WeightsError("lora", path, problem, "name the file itself")


def lora_path(file: str, folder: Path | None) -> Path:
    """Of a LoRA as a request names it: a path or, in a server's folder, a name, which leads to nowhere else."""
    return (
        Path(file)
        if folder is None
        else loras_in(folder).get(file, folder / f"{Path(file).name}.safetensors")
    )


def loras_in(folder: Path) -> dict[str, Path]:
    """Every LoRA of a folder by its name: files, and folders as PEFT and diffusers write them."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    names: dict[str, Path] = {}
    for path in paths:
        if path.suffix == ".safetensors" and path.is_file():
            names.setdefault(path.stem, path)
        elif any((path / name).is_file() for name in FOLDER_FILES):
            names.setdefault(path.name, path)
    return names


def lora_hash(path: Path) -> str:
    """A fingerprint of all that decides what a LoRA does."""
    file = lora_file(path)
    beside = file.with_name(PEFT_CONFIG)
    return fingerprint([file, *([beside] if file.name == PEFT_FILE and beside.is_file() else [])])


def read_diffusers_config(header: Header) -> dict[str, Any]:
    text = header.metadata.get(DIFFUSERS_CONFIG)
    record = read_object_or_nothing(text) if text else {}
    return {name.removeprefix("transformer."): value for name, value in record.items()}


def read_words(header: Header) -> tuple[str, ...]:
    text, entry = header.metadata.get(WORDS), header.tensors.get(WORD_ROWS)
    try:
        words = json.loads(text) if text else []
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise WeightsError(
            "lora", header.path, f"has a list of words ({WORDS}) that is none", "fetch it again"
        )
    rows = entry.shape[0] if entry and len(entry.shape) == 2 else 0
    if rows != len(words) or (entry is not None and len(entry.shape) != 2):
        problem = f"names {len(words)} words ({WORDS}) and has {rows} rows for them ({WORD_ROWS})"
        raise WeightsError("lora", header.path, problem, "fetch it again")
    return tuple(words)


def shapes_in(header: Header) -> dict[str, Shape]:
    """Those of a transformer's parameters, by its own names, from its file."""
    return {
        name.removeprefix(TRANSFORMER_PREFIX): entry.shape
        for name, entry in header.tensors.items()
        if name.startswith(TRANSFORMER_PREFIX)
    }

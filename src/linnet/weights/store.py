"""Where a model's files are on this machine. Touches neither network nor torch."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from linnet.catalog import CATALOG, SEEDLING, ModelSpec
from linnet.errors import InvalidInput, WeightsError
from linnet.weights.files import absent, files_under, read_header, shards

TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The four parts of a model. `text_encoder` and `tokenizer` may each be a file or a folder of files."""

    transformer: Path
    autoencoder: Path
    text_encoder: Path
    tokenizer: Path

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold tensors, shards listed singly."""
        return (self.transformer, self.autoencoder, *shards(self.text_encoder))

    @property
    def bytes(self) -> int:
        """On disk, all parts together."""
        files = {*self.weights, *files_under(self.text_encoder), *files_under(self.tokenizer)}
        return sum(file.stat().st_size for file in files)


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a model is on this machine: in which folder, how many bytes, and which parts are not."""

    spec: ModelSpec
    folder: Path | None
    bytes: int
    missing: tuple[str, ...]


def resolve(
    spec: ModelSpec,
    *,
    weights: Path | None = None,
    transformer: Path | None = None,
    vae: Path | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
) -> ModelFiles:
    """The files to load: each part from its own argument, else from the folder `weights` (laid out as the
    published repository), else from where `locate` finds the model.

    WeightsError names what is missing, cut short, or not a safetensors file; no tensor is read for that.
    """
    if weights is not None and not weights.is_dir():
        problem = "is a file" if weights.exists() else "is missing"
        remedy = "give the folder of a downloaded repository, or single files with `transformer` and the like"
        raise WeightsError("weights", weights, problem, remedy)
    given = {
        "transformer": ("transformer", transformer),
        "autoencoder": ("vae", vae),
        "text_encoder": ("text-encoder", text_encoder),
        "tokenizer": ("tokenizer", tokenizer),
    }
    folder = weights or locate_folder(spec)
    paths: dict[str, Path] = {}
    for part, relative in layout(spec).items():
        field, path = given[part]
        remedy = "check the path"
        if path is None and folder is None:
            raise WeightsError("model", spec.name, f"its {field} is not on this machine", remedy_for(spec))
        if path is None:
            assert folder is not None
            field, path, remedy = "weights", folder / relative, remedy_for(spec)
        if missing := missing_file(part, path):
            raise absent(missing, field, remedy)
        paths[part] = path
    if transformer is not None:
        check_own(spec, transformer)
    files = ModelFiles(**paths)
    for path in files.weights:
        read_header(path)
    return files


def check_own(spec: ModelSpec, transformer: Path) -> None:
    """Refuse another model's transformer that has the same tensors, as the two of Linum v2 have."""
    other = model_of(transformer)
    if other and other is not spec:
        problem = f"is {other.name}'s by its name, and {spec.name} was asked for"
        remedy = f"use `model={other.name}`, or rename a file that is none of its"
        raise WeightsError("transformer", transformer, problem, remedy)


def model_of(transformer: Path) -> ModelSpec | None:
    """Whose transformer a file is, as far as names tell: its own ("360p", as a word of it), or that of the Hub's folder
    in which it lies."""
    with suppress(OSError):
        transformer = transformer.absolute()
        folders = {*transformer.parts, *transformer.resolve().parts}
        for spec in CATALOG.values():
            if spec.repository is None:
                continue
            word = re.escape(Path(spec.transformer_file).stem)
            if folder_name(spec.repository) in folders or re.search(
                rf"(?<![0-9a-z]){word}(?![0-9a-z])", transformer.stem.lower()
            ):
                return spec
    return None


def locate(spec: ModelSpec) -> ModelFiles | None:
    """The model's files inside the package or the Hub's cache, or None if any is missing."""
    folder = locate_folder(spec)
    return None if folder is None else files_in(spec, folder)


def availability(spec: ModelSpec) -> Availability:
    """How much of a model is on this machine, for `linnet models`."""
    folder = locate_folder(spec)
    candidates = [folder] if folder else folders_of(spec)
    best = min(candidates, key=lambda candidate: len(missing_parts(spec, candidate)), default=None)
    if best is None:
        return Availability(spec=spec, folder=None, bytes=0, missing=tuple(layout(spec).values()))
    size = sum(
        file.stat().st_size
        for part in layout(spec).values()
        if (best / part).exists()
        for file in files_under(best / part)
    )
    return Availability(spec=spec, folder=best, bytes=size, missing=missing_parts(spec, best))


def model_in(weights: Path) -> ModelSpec | None:
    """Which model a folder holds, told by the name of its transformer's file."""
    return next((spec for spec in CATALOG.values() if (weights / spec.transformer_file).is_file()), None)


def default_model(weights: Path | None = None) -> tuple[ModelSpec, str]:
    """The model to run when none was named, and why, in words that follow its name."""
    if weights is not None and (spec := model_in(weights)):
        return spec, f"found in {weights}"
    for spec in CATALOG.values():
        if not spec.ships and locate_folder(spec):
            return spec, "its weights are on this machine"
    return SEEDLING, "ships with linnet; no Linum weights are on this machine"


def layout(spec: ModelSpec) -> dict[str, str]:
    """Part of the model to its path inside the model's folder."""
    return {
        "transformer": spec.transformer_file,
        "autoencoder": spec.autoencoder_file,
        "text_encoder": spec.text_encoder_dir,
        "tokenizer": spec.tokenizer_dir,
    }


def files_in(spec: ModelSpec, folder: Path) -> ModelFiles:
    return ModelFiles(**{part: folder / relative for part, relative in layout(spec).items()})


def missing_parts(spec: ModelSpec, folder: Path) -> tuple[str, ...]:
    missing = []
    for part, relative in layout(spec).items():
        try:
            if missing_file(part, folder / relative):
                missing.append(relative)
        except (WeightsError, OSError):  # a damaged index, or a folder that may not be entered
            missing.append(relative)
    return tuple(missing)


def missing_file(part: str, path: Path) -> Path | None:
    """The first file that the part would need and that is not there."""
    if part == "tokenizer" and path.is_dir():
        names = [path / name for name in TOKENIZER_FILES]
        return None if any(name.is_file() for name in names) else names[0]
    files = shards(path) if part == "text_encoder" else (path,)
    return next((file for file in files if not file.is_file()), None)


def locate_folder(spec: ModelSpec) -> Path | None:
    """The folder that holds every part of the model, if there is one."""
    return next((folder for folder in folders_of(spec) if not missing_parts(spec, folder)), None)


def folders_of(spec: ModelSpec) -> list[Path]:
    """Where the model may be: the package's own folder, or its snapshots in the Hub's cache, the one that
    was pulled last by name first, then the newest."""
    if spec.repository is None:
        return [Path(__file__).parent.parent / spec.name] if spec.ships else []
    if (cache := hub_cache()) is None:
        return []
    repository = cache / folder_name(spec.repository)
    current = ""
    with suppress(OSError, UnicodeDecodeError):
        current = (repository / "refs" / "main").read_text("utf-8").strip()
    try:
        times = {path: path.stat().st_mtime for path in (repository / "snapshots").iterdir() if path.is_dir()}
    except OSError:  # absent, or another user's: then it counts as empty
        return []
    return sorted(times, key=lambda path: (path.name != current, -times[path], path.name))


def repository_folder(repository: str) -> Path:
    """Of a model repository inside the Hub's cache; InvalidInput if there is no place for one."""
    if (cache := hub_cache()) is None:
        raise InvalidInput(
            "cache", "~", "is nowhere: this user has no home folder", "set HF_HOME to a folder"
        )
    return cache / folder_name(repository)


def folder_name(repository: str) -> str:
    return f"models--{repository.replace('/', '--')}"


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The Hub's cache, by huggingface_hub's rules, without importing it (half a second); None for a user without a home
    folder who names none."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := environment.get(name):
            return expand(value)
    home = environment.get("HF_HOME")
    folder = expand(home or environment.get("XDG_CACHE_HOME") or "~/.cache")
    if folder is None:
        return None
    return folder / "hub" if home else folder / "huggingface" / "hub"


def expand(path: str) -> Path | None:
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError:  # no home folder
        return None


def remedy_for(spec: ModelSpec) -> str:
    if spec.ships:
        return "install linnet again"
    if not spec.published:
        return "train it (docs/theatre.md), and give the folder with `weights`"
    return f"run `linnet pull {spec.name}`, or point `weights` at a downloaded copy of {spec.repository}"

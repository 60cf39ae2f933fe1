"""From what a person names to the LoRAs of a request: found, checked by their headers, and known by their content.
Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from linnet.clip import Clip
from linnet.errors import InvalidInput, WeightsError
from linnet.filesystem import StrPath
from linnet.loras import LoraUse, any_merged, check_loras, parse_lora
from linnet.weights.files import read_header
from linnet.weights.lora_files import LoraHeader, lora_hash, read_lora_header, shapes_in
from linnet.weights.lora_formats import Shape

NO_LORA = "none"  # in the place of a file: not even those of an earlier clip


class ResolvedLoras(NamedTuple):
    """`words` are those that they teach a model with a closed vocabulary; the `notes` are lines for the person."""

    uses: tuple[LoraUse, ...] = ()
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def resolve_loras(
    transformer: Path,
    given: Sequence[LoraUse | StrPath] | None,
    *,
    earlier: Clip | None = None,
    folder: Path | None = None,
    merge: bool | None = None,
) -> ResolvedLoras:
    """LoRAs as FILE[:STRENGTH], for the model in this file; without any, those of the earlier clip, by the same names.
    A name that is no path from here may be one in `folder`. `merge`: into the weights; None: as the earlier clip's
    were. WeightsError for a file that is none of this model's."""
    known = loras_as_given(transformer, given, earlier, folder)
    if merge and not known.uses:
        raise nothing_to_merge()
    if merge is None:
        merge = given is None and any_merged(earlier.request.loras if earlier else ())
    uses = [replace(use, merged=merge) for use in known.uses]
    return known._replace(uses=check_loras(uses))


def nothing_to_merge() -> InvalidInput:
    return InvalidInput("lora_merge", "true", "has no LoRA to merge", "name one with `lora`")


def loras_as_given(
    transformer: Path,
    given: Sequence[LoraUse | StrPath] | None,
    earlier: Clip | None,
    folder: Path | None,
) -> ResolvedLoras:
    if given is not None:
        if isinstance(given, str | Path):
            raise InvalidInput("loras", given, "is no list of LoRAs", "put it into one: [...]")
        wanted = [parse_lora(str(text)) for text in given if str(text) != NO_LORA]
        paths = [(existing_path(file, folder), strength) for file, strength in wanted]
        return resolved(transformer, paths)
    if earlier is None or not earlier.request.loras:
        return ResolvedLoras()
    paths = [(path_like(use, earlier), use.strength) for use in earlier.request.loras]
    made = resolved(transformer, paths)
    changed = [
        f"warning: {use.file} has changed since {earlier.path} was made, so this clip will differ"
        for use, before in zip(made.uses, earlier.request.loras, strict=True)
        if use.hash != before.hash
    ]
    return made._replace(notes=(*made.notes, *changed))


def resolved(transformer: Path, paths: Iterable[tuple[Path, float]]) -> ResolvedLoras:
    shapes = shapes_in(read_header(transformer))
    headers = [(path, strength, read_lora_header(path, shapes)) for path, strength in paths]
    uses = check_loras([use_of(path, strength, header) for path, strength, header in headers])
    return ResolvedLoras(
        uses,
        tuple(word for *_, header in headers for word in header.words),
        tuple(note for *_, header in headers for note in header.notes),
    )


def use_of(path: Path, strength: float, header: LoraHeader) -> LoraUse:
    return LoraUse(file=str(path), strength=strength, hash=lora_hash(path), numbers=header.numbers)


def existing_path(file: str, folder: Path | None) -> Path:
    """As named, from here, or else in the folder; the ending .safetensors may be left out."""
    path = Path(file).expanduser()
    for parent in (path, *([folder / path] if folder else ())):
        for named in (parent, parent.with_name(f"{parent.name}.safetensors")):
            if named.exists():
                return named
    return path


def path_like(use: LoraUse, earlier: Clip) -> Path:
    """Where a clip's LoRA is now: where it was, or beside the clip."""
    recorded = Path(use.file)
    for path in (recorded, earlier.path.parent / recorded, earlier.path.parent / recorded.name):
        if (path := existing_path(str(path), None)).exists():
            return path
    problem = f"is not here, and {earlier.path} was made with it"
    raise WeightsError(
        "lora", use.file, problem, f"name its file with `lora`, or leave it out with `lora={NO_LORA}`"
    )


def named_use(
    name: str, strength: float, path: Path, shapes: Mapping[str, Shape]
) -> tuple[LoraUse, LoraHeader]:
    """Of a server's LoRA: the clip says its name, and nothing of where it is."""
    header = read_lora_header(path, shapes)
    return replace(use_of(path, strength, header), file=name), header

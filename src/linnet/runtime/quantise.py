"""A whole model in 8 bits: a folder laid out as the published one, to be given as `weights`."""

import shutil
from collections.abc import Callable
from pathlib import Path

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.models.quantised import Format
from linnet.models.text import T5Encoder
from linnet.plan.memory import shape_of
from linnet.runtime.stream import transformer_of
from linnet.runtime.text import text_config
from linnet.weights.files import files_under
from linnet.weights.names import TRANSFORMER_PREFIX
from linnet.weights.quantise import quantise_files
from linnet.weights.store import ModelFiles, files_in

Watch = Callable[[str, int, int], None]  # a part, the bytes of it that are done, all of its bytes


def quantise_model(
    spec: ModelSpec, files: ModelFiles, folder: Path, format: Format, watch: Watch = lambda *state: None
) -> ModelFiles:
    """Make `folder`, which must not exist and does so only once it is complete. The transformer's and the text
    encoder's blocks are stored in `format`; all else is copied."""
    if folder.exists():
        raise InvalidInput("output", folder, "exists", "name a folder that is to be made")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    check_space(files, folder, format)
    made = files_in(spec, part)
    try:
        quantise_files(
            lambda: transformer_of(files.transformer),
            files.transformer,
            made.transformer,
            format,
            prefix=TRANSFORMER_PREFIX,
            watch=lambda done, total: watch("transformer", done, total),
        )
        quantise_files(
            lambda: T5Encoder(text_config(files.text_encoder)),
            files.text_encoder,
            made.text_encoder,
            format,
            watch=lambda done, total: watch("text encoder", done, total),
        )
        for source, target in (
            (files.autoencoder, made.autoencoder),
            (files.tokenizer, made.tokenizer),
            (files.text_encoder, made.text_encoder),
        ):
            copy_rest(source, target, set(files.weights) - {files.autoencoder})
        part.rename(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            problem = f"cannot be written: {error.strerror or error}"
            raise InvalidInput(
                "output", folder, problem, "name a folder elsewhere, or free some space"
            ) from error
        raise
    return files_in(spec, folder)


def check_space(files: ModelFiles, folder: Path, format: Format) -> None:
    """InvalidInput where the disk has no room for what will be written."""
    shape = shape_of(files)
    need = shape.text.bytes(format) + shape.transformer.bytes(format) + shape.autoencoder.bytes("float32")
    place = next(place for place in folder.absolute().parents if place.exists())
    if (free := shutil.disk_usage(place).free) < need:
        problem = f"has {free / 1e9:.1f} GB free around it, and takes about {need / 1e9:.1f} GB"
        raise InvalidInput("output", folder, problem, "name a folder elsewhere, or free some space")


def copy_rest(source: Path, target: Path, done: set[Path]) -> None:
    """A file, or what is in a folder, but those that are `done`."""
    for file in files_under(source):
        place = target / file.name if source.is_dir() else target
        if file not in done:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)

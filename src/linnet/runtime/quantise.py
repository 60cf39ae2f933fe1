"""A whole model in 8 bits: a folder laid out as the published one, to be given as `weights`."""

import shutil
from collections.abc import Callable
from pathlib import Path

from linnet.catalog import Format, ModelSpec
from linnet.errors import InvalidInput
from linnet.filesystem import (
    check_folder,
    check_name,
    nearest_folder,
    publish,
    remove,
    sweep,
    temporary_name,
    writing,
)
from linnet.models.text import T5Encoder
from linnet.plan.memory import shape_of
from linnet.runtime.text import text_config
from linnet.weights.files import TRANSFORMER_PREFIX, files_under
from linnet.weights.load import transformer_of
from linnet.weights.quantise import quantise_files
from linnet.weights.store import ModelFiles, files_in
from linnet.wording import format_bytes

Watch = Callable[[str, int, int], None]  # a part, the bytes of it that are done, all of its bytes


def quantise_model(
    spec: ModelSpec, files: ModelFiles, folder: Path, format: Format, watch: Watch = lambda *state: None
) -> ModelFiles:
    """Make `folder`, which must not exist and does so only once it is complete. The transformer's and the text
    encoder's blocks are stored in `format`; all else is copied."""
    check_name(folder)
    with writing(folder):
        if folder.exists():
            raise InvalidInput("output", folder, "exists", "name a folder that is to be made")
    check_folder(folder.absolute().parent, path=folder)
    check_space(files, folder, format)
    part = temporary_name(folder)
    sweep(part.parent, f".{folder.name}.*.part")
    made = files_in(spec, part)
    try:
        with writing(folder):
            part.mkdir(parents=True)
            fill(files, made, format, watch)
            publish(part, folder, overwrite=False)
    finally:
        remove(part)
    return files_in(spec, folder)


def fill(files: ModelFiles, made: ModelFiles, format: Format, watch: Watch) -> None:
    """Write `made`'s files from `files`."""
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


def check_space(files: ModelFiles, folder: Path, format: Format) -> None:
    """InvalidInput where the disk has no room for what will be written."""
    shape = shape_of(files)
    need = shape.text.bytes(format) + shape.transformer.bytes(format) + shape.autoencoder.bytes("float32")
    if (free := shutil.disk_usage(nearest_folder(folder)).free) < need:
        problem = f"has {format_bytes(free)} free around it, and takes about {format_bytes(need)}"
        raise InvalidInput("output", folder, problem, "name a folder elsewhere, or free some space")


def copy_rest(source: Path, target: Path, done: set[Path]) -> None:
    """A file, or what is in a folder, but those that are `done`."""
    for file in files_under(source):
        output = target / file.name if source.is_dir() else target
        if file not in done:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, output)

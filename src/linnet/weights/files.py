"""Weight files as they lie on disk: headers, names, shards, fingerprints. Reads no tensor, imports no torch.

A safetensors file is an 8-byte little-endian length, a JSON header of that length (tensor name to dtype,
shape and byte range, plus free text under `__metadata__`), then the tensors' bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from linnet.errors import InvalidInput, WeightsError
from linnet.filesystem import reading
from linnet.records import read_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
SAFETENSORS = "use a .safetensors file"
PICKLE = ("is a pickle, which can run any code when it is opened", SAFETENSORS)
AGAIN = "it is what a server answered in the place of the file: fetch it again"
ARCHIVE = "unpack it, and give the .safetensors file that is in it"
# What a file is instead, by how it begins: the problem and the remedy.
STARTS: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": (
        "is a Git LFS pointer, not the weights themselves",
        "run `git lfs pull` in its folder, or `linnet pull`",
    ),
    b"GGUF": ("is a GGUF file, which linnet does not read", SAFETENSORS),
    b"ggml": ("is a GGML file, which linnet does not read", SAFETENSORS),
    b"lmgg": ("is a GGML file, which linnet does not read", SAFETENSORS),
    **{bytes([0x80, version]): PICKLE for version in (2, 3, 4, 5)},
    b"\x89HDF": ("is an HDF5 file, which linnet does not read", SAFETENSORS),
    b"\x93NUMPY": ("is a NumPy file, which linnet does not read", SAFETENSORS),
    b"PK": ("is a zip archive", ARCHIVE),
    b"\x1f\x8b": ("is compressed by gzip", ARCHIVE),
    b"BZh": ("is compressed by bzip2", ARCHIVE),
    b"\xfd7zXZ": ("is compressed by xz", ARCHIVE),
    b"\x28\xb5\x2f\xfd": ("is compressed by zstd", ARCHIVE),
    b"7z\xbc\xaf": ("is a 7z archive", ARCHIVE),
    b"Rar!": ("is a RAR archive", ARCHIVE),
    b"<!doctype html": ("is an HTML page", AGAIN),
    b"<html": ("is an HTML page", AGAIN),
    b"<?xml": ("is an XML page", AGAIN),
    b"<": ("is a page of HTML or XML", AGAIN),
    b"{": ("is JSON text", AGAIN),
}
START = 1024  # bytes of a file that tell what it is
TAR = slice(257, 262)  # where a tar archive says "ustar"

FLOATS = frozenset({"F32", "BF16", "F16"})  # as files call the dtypes in which weights are stored

WHOLE = 64 * 2**20  # files up to this many bytes are hashed whole
BLOCKS, BLOCK = 256, 64 * 2**10  # of larger ones, this many evenly spaced blocks of this many bytes


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: `dtype` in the format's own words ("F32", "BF16"), `size` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself; `tensors` in the order in which they lie, one behind the other from byte `start`."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Entry]
    start: int


def read_header(path: Path) -> Header:
    """The header of a complete safetensors file. Anything else is a WeightsError that says what the file is
    instead: absent, a pickle, a Git LFS pointer, cut short, or damaged."""
    with open_weights(path) as file:
        total = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(total - 8, LONGEST_HEADER):
            raise damaged(path, "is not a safetensors file, or is cut short in its header")
        try:
            record = read_object(file.read(length).decode(), field="header", value="")
            metadata = {str(k): str(v) for k, v in dict(record.pop("__metadata__", None) or {}).items()}
            ranges = {name: entry["data_offsets"] for name, entry in record.items()}
            end = max((int(stop) for _, stop in ranges.values()), default=0)
            names = sorted(record, key=lambda name: ranges[name][0])
            tensors = {
                name: Entry(
                    str(record[name]["dtype"]),
                    tuple(int(side) for side in record[name]["shape"]),
                    int(ranges[name][1]) - int(ranges[name][0]),
                )
                for name in names
            }
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, InvalidInput):
            raise damaged(path, "is not a safetensors file, or its header is damaged") from None
    if total != 8 + length + end:
        state = "is cut short" if total < 8 + length + end else "is damaged"
        raise damaged(path, f"{state}: it has {total:,} bytes and should have {8 + length + end:,}")
    return Header(path=path, metadata=metadata, tensors=tensors, start=8 + length)


def check_dtypes(header: Header, entries: dict[str, Entry]) -> None:
    for name, entry in entries.items():
        if entry.dtype not in FLOATS:
            problem = f'tensor "{name}" is stored as {entry.dtype}'
            raise WeightsError("weights", header.path, problem, "use a float32, bfloat16 or float16 file")


def write_weights(
    path: Path, tensors: Mapping[str, Entry], metadata: Mapping[str, str], values: Iterable[bytes]
) -> None:
    """A safetensors file of these tensors; `values` are their bytes, in the same order, asked for one by one."""
    record: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, entry in tensors.items():
        offsets = [end, end := end + entry.size]
        record[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    header = json.dumps(record, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for entry, value in zip(tensors.values(), values, strict=True):
            if file.write(value) != entry.size:
                raise RuntimeError(f"{path}: a tensor has not the size that was announced")


def open_weights(path: Path) -> BinaryIO:
    """The file at its start, once it is known to be there and not to be of another format."""
    with reading(path, "weights"):
        if path.is_dir():
            raise WeightsError("weights", path, "is a folder, not a weight file", "give a .safetensors file")
        if not path.is_file():
            raise absent(path)
        file = path.open("rb")
        start = file.read(START)
    file.seek(0)
    if format := other_format(start) or (PICKLE if path.suffix.lower() in PICKLE_SUFFIXES else None):
        file.close()
        raise WeightsError("weights", path, *format)
    return file


def other_format(start: bytes) -> tuple[str, str] | None:
    """What a file that begins so is, if it is known and not safetensors: the problem and the remedy. Eight bytes of
    length stand in front of a safetensors file's header, of which the first is "{"."""
    if not start:
        return "is empty: it is cut short, or was never written", "fetch it again"
    if start[8:9] == b"{" and not start.startswith(b"{"):
        return None
    if start.startswith(b"PK") and b"data.pkl" in start:  # as torch.save writes it
        return PICKLE
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, problem in STARTS.items():
        if start.startswith(magic) or (magic[:1] in b"<{" and text.startswith(magic)):
            return problem
    return ("is a tar archive", ARCHIVE) if start[TAR] == b"ustar" else None


def absent(path: Path, field: str = "weights", remedy: str = "check the path") -> WeightsError:
    """For a file that is not there; says so if only a pickle is in its place."""
    pickles = []
    with suppress(OSError):
        pickles = sorted(
            file.name for file in path.parent.glob("*") if file.suffix.lower() in PICKLE_SUFFIXES
        )
    beside = f" (beside it is {pickles[0]}, a pickle, which linnet does not open)" if pickles else ""
    return WeightsError(field, path, f"is missing{beside}", remedy)


def damaged(path: Path, problem: str) -> WeightsError:
    return WeightsError("weights", path, problem, "fetch it again")


def shards(path: Path) -> tuple[Path, ...]:
    """The files that make up one model: `path` itself, or, for a folder in the layout of `transformers`,
    those that its index names, or its single model.safetensors."""
    if not path.is_dir():
        return (path,)
    index = path / INDEX
    if index.is_file():
        try:
            names = sorted(set(read_object(index.read_text("utf-8"), field="index")["weight_map"].values()))
        except (ValueError, TypeError, KeyError, AttributeError, InvalidInput):
            raise damaged(index, "is not an index of safetensors files") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise damaged(index, f"names a file outside its folder ({name})")
        return tuple(path / name for name in names)
    return (path / SINGLE,)


def files_under(path: Path) -> tuple[Path, ...]:
    """`path` itself or, for a folder, what is in it, in the order of the names."""
    return tuple(sorted(file for file in path.iterdir() if file.is_file())) if path.is_dir() else (path,)


def read_config(path: Path) -> dict[str, Any] | None:
    """The JSON object that a file carries under the metadata key "config", if it does."""
    text = read_header(path).metadata.get("config")
    if text is None:
        return None
    try:
        return read_object(text, field="config")
    except InvalidInput:
        raise damaged(path, 'has a "config" that is not a JSON object') from None


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256, in hex, that tells one set of weights from another whatever the files are called.

    Small files are hashed whole. Of one over 64 MiB the size, the safetensors header and 256 evenly spaced
    blocks are, so that 10 GB take a moment; a change that misses every block goes unseen, so this names
    weights and does not prove them (`linnet pull` checks every byte). Folders stand for their files.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in files_under(path):
            hash_file(file, digest)
    return digest.hexdigest()


def hash_file(path: Path, digest: "hashlib._Hash") -> None:
    with path.open("rb") as file:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        if size <= WHOLE:
            digest.update(file.read())
            return
        length = int.from_bytes(file.read(8), "little")
        digest.update(file.read(min(length, LONGEST_HEADER)))
        for i in range(BLOCKS):
            file.seek((size - BLOCK) * i // (BLOCKS - 1))
            digest.update(file.read(BLOCK))


# --- what published files call things, where that differs from what the modules here call them ------------------------


TRANSFORMER_PREFIX = "model."

# Scale and bias that bring the autoencoder's latents into the transformer's space, 16 numbers each, beside
# the transformer's weights. The image pair is a left-over of an earlier stage of training.
LATENT_SCALE, LATENT_BIAS = "video_data_scale", "video_data_bias"
LEGACY = frozenset({"image_data_scale", "image_data_bias"})

# transformers writes T5's token table under this name too in some versions; it is the same as shared.weight.
TIED = frozenset({"encoder.embed_tokens.weight"})

NOT_WEIGHTS = frozenset({LATENT_SCALE, LATENT_BIAS}) | LEGACY | TIED

# Modules whose matrix products stay float32 in a bfloat16 model: a step's time is one row, so they cost
# nothing, and every token of every block depends on them.
FLOAT32_PARTS = frozenset({"time_embedding", "time_projection"})

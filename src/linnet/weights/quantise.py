"""A model's weight files in 8 bits: made once, half as large as bfloat16's, loaded as they are."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from linnet.catalog import Format
from linnet.errors import WeightsError
from linnet.models.quantised import STORED, QuantisedLinear, quantise
from linnet.weights.files import Entry, Header, read_header, shards, write_weights
from linnet.weights.load import EIGHT_BITS, QUANTISATION, matched, read, scale_of, stored_format

SCALE = "BF16"


def quantise_files(
    build: Callable[[], nn.Module],
    files: Path,
    target: Path,
    format: Format,
    *,
    prefix: str = "",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `target`, a file, or a folder of shards if `files` is one, with the weights of the blocks of the model
    that `build` makes in 8 bits and all else as it is. One tensor at a time is in memory. `watch` hears of the bytes
    that are `done`.

    WeightsError if the files are not that model's, or are in 8 bits already.
    """
    headers = [read_header(path) for path in shards(files)]
    if stored := stored_format(headers):
        remedy = "start from the files as published"
        raise WeightsError("weights", files, f"holds {stored} weights already", remedy)
    module, headers = matched(build, files, prefix=prefix, quantise=format)
    narrow = {
        f"{prefix}{path}.weight"
        for path, layer in module.named_modules()
        if isinstance(layer, QuantisedLinear)
    }
    done, total = 0, sum(entry.size for header in headers for entry in header.tensors.values())
    for header in headers:
        path = target / header.path.name if files.is_dir() else target
        path.parent.mkdir(parents=True, exist_ok=True)

        def values(header: Header = header) -> Iterator[bytes]:
            nonlocal done
            for name, tensor in read([header], header.tensors):
                yield from map(raw, quantise(tensor, STORED[format]) if name in narrow else [tensor])
                done += header.tensors[name].size
                watch(done, total)

        write_weights(
            path, entries(header, narrow, format), header.metadata | {QUANTISATION: format}, values()
        )


def entries(header: Header, narrow: Iterable[str], format: Format) -> dict[str, Entry]:
    """What the new file holds, in the order of the old one: behind each 8-bit weight, its scale."""
    kept: dict[str, Entry] = {}
    for name, entry in header.tensors.items():
        if name not in narrow:
            kept[name] = entry
            continue
        rows, columns = entry.shape
        kept[name] = Entry(EIGHT_BITS[STORED[format]], entry.shape, rows * columns)
        kept[scale_of(name)] = Entry(SCALE, (rows, 1), 2 * rows)
    return kept


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()

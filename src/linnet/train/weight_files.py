"""Averaged weights in several files of a limited size, which leave the machine that trains and come back to it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.filesystem import make_folder
from linnet.train.state import replace_file

MOST_BYTES = 15_000_000
HEADER = 200_000  # bytes that a file needs beside its tensors, at most


def write_parts(
    folder: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any], *, most: int = MOST_BYTES
) -> list[Path]:
    """Write weights-1-of-N.safetensors and so on; what else is `metadata` (of JSON) travels in each of them."""
    groups: list[dict[str, Tensor]] = [{}]
    room = most - HEADER
    for name, tensor in sorted(weights.items()):
        size = tensor.numel() * tensor.element_size()
        if size > room and groups[-1]:
            groups.append({})
            room = most - HEADER
        groups[-1][name] = tensor.detach().cpu().contiguous()
        room -= size
    make_folder(folder)
    whole = fingerprint(weights)
    paths = [folder / f"weights-{n}-of-{len(groups)}.safetensors" for n in range(1, len(groups) + 1)]
    for path, group in zip(paths, groups, strict=True):
        header = {"whole": whole, "parts": str(len(groups)), "metadata": json.dumps(metadata)}
        replace_file(path, group, header)
    for old in set(folder.glob("weights-*-of-*.safetensors")) - set(paths):
        old.unlink()  # of an earlier run that had another number of them
    return paths


def read_parts(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and what was metadata with them. Parts that are missing or of two runs raise InvalidInput."""
    paths = sorted(folder.glob("weights-*-of-*.safetensors"))
    weights: dict[str, Tensor] = {}
    wholes, counts, metadata = set(), set(), "{}"
    for path in paths:
        with safe_open(path, "pt") as file:
            wholes.add(file.metadata()["whole"])
            counts.add(int(file.metadata()["parts"]))
            metadata = file.metadata()["metadata"]
            weights |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    remedy = "bring all parts of one run into one folder, and no others"
    if counts != {len(paths)} or len(wholes) != 1:
        raise InvalidInput("from", str(folder), f"holds {len(paths)} part(s) that are not one whole", remedy)
    if fingerprint(weights) != wholes.pop():
        raise InvalidInput("from", str(folder), "holds weights that were changed on their way", remedy)
    return weights, json.loads(metadata)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()

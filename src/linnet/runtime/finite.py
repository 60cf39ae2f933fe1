"""Numbers that are none: they come from damaged weights, or from more than a dtype can hold, and end as a black clip.

Each stage's result is looked at once. Only where it is not finite are the weights read again, to name the tensor.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from linnet.errors import WeightsError
from linnet.sampling.denoise import Step
from linnet.weights.files import read_header, shards
from linnet.weights.load import read


def is_finite(tensor: Tensor) -> bool:
    """Makes nothing of the tensor's size: it is asked where memory is short."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def finite_steps(steps: Iterator[Step], *files: Path) -> Iterator[Step]:
    """The same steps; WeightsError at the first whose latents are not finite."""
    for step in steps:
        if not is_finite(step.latents):
            raise not_finite(f"in step {step.index + 1} of {step.count} of the denoise stage", *files)
        yield step


def not_finite(where: str, *files: Path) -> WeightsError:
    """Of the first file that holds such a number itself, else of the first file, which made it of others."""
    for file in (shard for path in files for shard in shards(path)):
        if name := spoilt_tensor(file):
            problem = f'holds numbers that are none (NaN or infinite) in tensor "{name}", seen {where}'
            return WeightsError("weights", file, problem, "fetch the file again, or use another one")
    problem = f"gives numbers that are none (NaN or infinite) {where}"
    return WeightsError("weights", files[0], problem, "use dtype float32, less guidance, or another file")


def spoilt_tensor(file: Path) -> str | None:
    """The first tensor with a number that is not finite."""
    header = read_header(file)
    for name, tensor in read([header], header.tensors):
        if tensor.dtype.is_floating_point and not is_finite(tensor.float()):
            return name
    return None

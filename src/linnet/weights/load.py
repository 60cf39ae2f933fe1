"""Weights from safetensors files into modules: strictly, one tensor at a time, never twice in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from linnet.errors import WeightsError
from linnet.weights.files import Entry, Header, damaged, fingerprint, read_config, read_header, shards
from linnet.weights.names import FLOAT32_PARTS, LATENT_BIAS, LATENT_SCALE, NOT_WEIGHTS

__all__ = ["fill", "fingerprint", "load_into", "matched", "read_config", "read_latent_scale", "read_rows"]

M = TypeVar("M", bound=nn.Module)

STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
BATCH = 256 * 2**20  # bytes of a file that are mapped into memory at a time


def load_into(
    build: Callable[[], M],
    files: Path | Sequence[Path],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
    ignore: frozenset[str] = NOT_WEIGHTS,
) -> M:
    """The module that `build` makes, with the weights of `files`; they may be float32 or bfloat16.

    A folder stands for its shards. Each tensor of the module must be found as `prefix` + its name, of its
    shape, and the files may hold nothing else but `ignore`: all of this is known from the headers, before
    a tensor is read, and WeightsError names the first tensor that differs.

    `dtype` is that of the matrix products: Linear and convolution layers, save those of the time
    embedding. All else (norms, modulation, token tables) becomes float32. On the CPU, tensors that need no
    conversion stay mapped from the file, which must then not be overwritten in place.
    """
    module, headers = matched(build, files, prefix=prefix, ignore=ignore)
    return fill(module, headers, device=device, dtype=dtype, prefix=prefix)


def fill(
    module: M,
    headers: Sequence[Header],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
) -> M:
    """`module`, on the meta device until now, with its weights, which stand under `prefix` in the files.

    It may be a part of one that `matched` knows to be in them; `device` and `dtype` as for `load_into`.
    """
    dtypes = product_dtypes(module, dtype)
    state: dict[str, Tensor] = {}
    for stored, tensor in read(headers, {prefix + name for name in module.state_dict()}):
        name = stored.removeprefix(prefix)
        state[name] = tensor.to(device=device, dtype=dtypes.get(name, torch.float32))
    module.load_state_dict(state, strict=True, assign=True)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise RuntimeError(
                f"{type(module).__name__}.{name} is not in its state_dict, so it cannot be loaded"
            )
    return module


def read_rows(headers: Sequence[Header], name: str, rows: Sequence[int]) -> Float[Tensor, "rows width"]:
    """Some rows of one table, in float32; the rest of it is not read."""
    header = next(header for header in headers if name in header.tensors)
    try:
        with safe_open(header.path, framework="pt", device="cpu") as file:
            table = file.get_slice(name)
            return torch.cat([table[row : row + 1].float() for row in rows])
    except (SafetensorError, OSError) as error:
        raise damaged(header.path, f"cannot be read ({error})") from error


def read_latent_scale(path: Path) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]] | None:
    """Scale and bias of the latents, in float32, that a transformer's file carries, if it does."""
    header = read_header(path)
    if LATENT_SCALE not in header.tensors or LATENT_BIAS not in header.tensors:
        return None
    scale_and_bias = {name: header.tensors[name] for name in (LATENT_SCALE, LATENT_BIAS)}
    check_dtypes(header, scale_and_bias)
    found = {name: tensor.float() for name, tensor in read([header], scale_and_bias)}
    return found[LATENT_SCALE], found[LATENT_BIAS]


def matched(
    build: Callable[[], M],
    files: Path | Sequence[Path],
    *,
    prefix: str = "",
    ignore: frozenset[str] = NOT_WEIGHTS,
) -> tuple[M, list[Header]]:
    """The module on the meta device, and the headers of the files that are now known to be all of its
    weights: what `load_into` can find wrong, found without reading a tensor."""
    with torch.device("meta"):
        module = build()
    headers = [read_header(path) for given in as_list(files) for path in shards(given)]
    check({prefix + name: tensor for name, tensor in module.state_dict().items()}, headers, ignore)
    return module, headers


def as_list(files: Path | Sequence[Path]) -> Sequence[Path]:
    return [files] if isinstance(files, Path) else files


def check(wanted: dict[str, Tensor], headers: Sequence[Header], ignore: frozenset[str]) -> None:
    """Refuse files whose tensors are not exactly the wanted ones."""
    found: dict[str, Path] = {}
    for header in headers:
        for name, entry in header.tensors.items():
            if name in found:
                problem = f'holds tensor "{name}", which {found[name].name} holds too'
                raise WeightsError("weights", header.path, problem, "remove one of the two files")
            found[name] = header.path
            if name in ignore and name not in wanted:
                continue
            if name not in wanted:
                extra = [other for other in header.tensors if other not in wanted and other not in ignore]
                raise stranger(header.path, "has the unexpected", extra)
            if entry.shape != (shape := tuple(wanted[name].shape)):
                problem = f'tensor "{name}" has shape {list(entry.shape)} and should have {list(shape)}'
                raise WeightsError("weights", header.path, problem, "use the files of the chosen model")
        check_dtypes(header, {name: entry for name, entry in header.tensors.items() if name in wanted})
    if missing := [name for name in wanted if name not in found]:
        place = headers[0].path if len(headers) == 1 else headers[0].path.parent
        raise stranger(place, "lacks", missing)


def check_dtypes(header: Header, entries: dict[str, Entry]) -> None:
    for name, entry in entries.items():
        if entry.dtype not in STORED_DTYPES:
            problem = f'tensor "{name}" is stored as {entry.dtype}'
            raise WeightsError("weights", header.path, problem, "use a float32 or bfloat16 file")


def stranger(path: Path, verb: str, names: Sequence[str]) -> WeightsError:
    others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    problem = f'{verb} tensor "{names[0]}"{others}'
    return WeightsError("weights", path, problem, "use the files of the chosen model")


def product_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each tensor that belongs to a matrix product, by its name."""
    return {
        f"{path}.{name}" if path else name: dtype
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd) and FLOAT32_PARTS.isdisjoint(path.split("."))
        for name, _ in layer.named_parameters(recurse=False)
    }


def read(headers: Iterable[Header], wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, as stored, in file order, for each name of `wanted` that the files hold.

    A file is mapped anew for every 256 MiB: pages that were read count as this process's memory until
    they are unmapped, so that one mapping would hold the whole file beside what was converted from it.
    """
    names = set(wanted)
    for header in headers:
        for batch in batches((name, entry.size) for name, entry in header.tensors.items() if name in names):
            try:
                with safe_open(header.path, framework="pt", device="cpu") as file:
                    for name in batch:
                        yield name, file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise damaged(header.path, f"cannot be read ({error})") from error


def batches(sizes: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Consecutive names whose sizes sum to `BATCH` bytes at the most, or one larger name alone."""
    batch: list[str] = []
    total = 0
    for name, size in sizes:
        if batch and total + size > BATCH:
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += size
    if batch:
        yield batch

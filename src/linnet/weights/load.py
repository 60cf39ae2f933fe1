"""Weights from safetensors files into modules: strictly, by a few threads, never twice in memory. A model's shape comes
from the same files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from linnet.catalog import FORMATS, Format
from linnet.errors import WeightsError, one_line
from linnet.models.transformer import Transformer, TransformerConfig, linum_v2
from linnet.weights.files import (
    FLOAT32_PARTS,
    LATENT_BIAS,
    LATENT_SCALE,
    NOT_WEIGHTS,
    Header,
    check_dtypes,
    damaged,
    read_config,
    read_header,
    shards,
)
from linnet.weights.staging import fetched, stored

M = TypeVar("M", bound=nn.Module)

QUANTISATION = "quantisation"  # the metadata key under which a file says its 8-bit format
EIGHT_BITS = {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3"}
BATCH = 256 * 2**20  # bytes of a file that are mapped into memory at a time


def load_into(
    build: Callable[[], M],
    files: Path | Sequence[Path],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
    ignore: frozenset[str] = NOT_WEIGHTS,
    quantise: Format | None = None,
) -> M:
    """The module that `build` makes, with the weights of `files`; they may be float32, bfloat16 or float16.

    A folder stands for its shards. Each tensor of the module must be found as `prefix` + its name, of its
    shape, and the files may hold nothing else but `ignore`: all of this is known from the headers, before
    a tensor is read, and WeightsError names the first tensor that differs.

    `dtype` is that of the matrix products: Linear and convolution layers, save those of the time
    embedding. All else (norms, modulation, token tables) becomes float32. On the CPU, tensors that need no
    conversion stay mapped from the file, which must then not be overwritten in place.

    `quantise`: store the weights of the blocks in 8 bits, from a file that holds them whole. A file that holds them
    in 8 bits says so, and its weights are stored as it says in any case.
    """
    module, headers = matched(build, files, prefix=prefix, ignore=ignore, quantise=quantise)
    return fill(module, headers, device=device, dtype=dtype, prefix=prefix)


def fill(
    module: M,
    headers: Sequence[Header],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> M:
    """`module`, on the meta device until now, with its weights, which stand under `prefix` in the files.

    It may be a part of one that `matched` knows to be in them; `device` and `dtype` as for `load_into`. `watch` hears
    how many of the tensors are read.
    """
    dtypes, device = product_dtypes(module, dtype), torch.device(device)
    state: dict[str, Tensor] = {}
    held_by_files = stored(headers, {prefix + name for name in module.state_dict()})
    kinds = {name: dtypes.get(name.removeprefix(prefix), torch.float32) for name in held_by_files}
    mapped = {
        name for name, kind in kinds.items() if device.type == "cpu" and held_by_files[name].dtype == kind
    }

    def finish(name: str, fetch: Callable[[torch.dtype], Tensor]) -> dict[str, Tensor]:
        kind, own = kinds[name], name.removeprefix(prefix)
        if kind in EIGHT_BITS and held_by_files[name].dtype not in EIGHT_BITS:
            from linnet.models.quantised import quantise

            tensor, scale = quantise(fetch(held_by_files[name].dtype), kind)
            return {own: tensor, scale_of(own): scale.to(dtype)}
        return {own: fetch(kind)}

    for name, tensor in read(headers, mapped):
        state[name.removeprefix(prefix)] = tensor
        watch(len(state), len(held_by_files))
    others = {name: tensor for name, tensor in held_by_files.items() if name not in mapped}
    for number, made in enumerate(fetched(others, device, finish), 1 + len(mapped)):
        state |= made
        watch(number, len(held_by_files))
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
    tensors = {name: tensor.float() for name, tensor in read([header], scale_and_bias)}
    return tensors[LATENT_SCALE], tensors[LATENT_BIAS]


def matched(
    build: Callable[[], M],
    files: Path | Sequence[Path],
    *,
    prefix: str = "",
    ignore: frozenset[str] = NOT_WEIGHTS,
    quantise: Format | None = None,
) -> tuple[M, list[Header]]:
    """The module on the meta device, and the headers of the files that are now known to be all of its
    weights: what `load_into` can find wrong, found without reading a tensor."""
    headers = [read_header(path) for given in as_list(files) for path in shards(given)]
    format = stored_format(headers)
    if format and quantise and format != quantise:
        problem = f"holds {format} weights, from which {quantise} ones cannot be made"
        raise WeightsError("weights", headers[0].path, problem, "use the files as published, or leave it")
    with torch.device("meta"):
        try:
            module = build()
        except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:  # a shape that no network has
            problem = f"has a config of which no model can be built ({error})"
            raise WeightsError(
                "weights", headers[0].path, problem, "use the files of the chosen model"
            ) from None
        if format:
            store_in_8_bits(module, format)
        check({prefix + name: tensor for name, tensor in module.state_dict().items()}, headers, ignore)
        if quantise and not format:
            store_in_8_bits(module, quantise)
    return module, headers


def store_in_8_bits(module: nn.Module, format: Format) -> None:
    from linnet.models.quantised import store_in

    store_in(format, module)


def stored_format(headers: Sequence[Header]) -> Format | None:
    """The 8-bit format in which files say that they hold the weights of the blocks; None if they say nothing."""
    formats = {header.metadata.get(QUANTISATION) for header in headers}
    if formats == {None} or not formats:
        return None
    for format in FORMATS:
        if formats == {format}:
            return format
    problem = f"says {', '.join(sorted(map(str, formats)))} of how its weights are stored"
    raise WeightsError("weights", headers[0].path, problem, f"linnet knows {' and '.join(FORMATS)}")


def as_list(files: Path | Sequence[Path]) -> Sequence[Path]:
    return [files] if isinstance(files, Path) else files


def check(wanted: dict[str, Tensor], headers: Sequence[Header], ignore: frozenset[str]) -> None:
    """Refuse files whose tensors are not exactly the wanted ones."""
    sources: dict[str, Path] = {}
    for header in headers:
        for name, entry in header.tensors.items():
            if name in sources:
                problem = f'holds tensor "{name}", which {sources[name].name} holds too'
                raise WeightsError("weights", header.path, problem, "remove one of the two files")
            sources[name] = header.path
            if name in ignore and name not in wanted:
                continue
            if name not in wanted:
                extra = [other for other in header.tensors if other not in wanted and other not in ignore]
                raise stranger(header.path, "has the unexpected", extra)
            if entry.shape != (shape := tuple(wanted[name].shape)):
                problem = f'tensor "{name}" has shape {list(entry.shape)} and should have {list(shape)}'
                raise WeightsError("weights", header.path, problem, "use the files of the chosen model")
            if (stored := EIGHT_BITS.get(wanted[name].dtype)) and entry.dtype != stored:
                problem = f'tensor "{name}" is stored as {entry.dtype} and should be {stored}'
                raise WeightsError("weights", header.path, problem, "make the file again: linnet quantize")
        whole = {name for name in wanted if wanted[name].dtype not in EIGHT_BITS}
        check_dtypes(header, {name: entry for name, entry in header.tensors.items() if name in whole})
    if missing := [name for name in wanted if name not in sources]:
        path = headers[0].path if len(headers) == 1 else headers[0].path.parent
        raise stranger(path, "lacks", missing)


def stranger(path: Path, verb: str, names: Sequence[str]) -> WeightsError:
    others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    problem = f'{verb} tensor "{names[0]}"{others}'
    return WeightsError("weights", path, problem, "use the files of the chosen model")


def product_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each tensor that belongs to a matrix product, by its name; 8-bit ones keep theirs."""
    return {
        f"{path}.{name}" if path else name: weight.dtype if weight.dtype in EIGHT_BITS else dtype
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd) and FLOAT32_PARTS.isdisjoint(path.split("."))
        for name, weight in layer.named_parameters(recurse=False)
    }


def scale_of(name: str) -> str:
    """The name of the scale that belongs to an 8-bit weight."""
    return name.removesuffix("weight") + "scale"


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


# --- a model's shape --------------------------------------------------------------------------------------------------


C = TypeVar("C")

LARGEST_COUNT = 2**20  # of a model's width, layers, tokens


def config_as(kind: type[C], path: Path) -> C | None:
    """The model's shape that a file carries, as its dataclass; None if it carries none. WeightsError, which names the
    key, for a shape of another model."""
    config = read_config(path)
    return None if config is None else as_config(kind, config, path)


def as_config(kind: type[C], config: Mapping[str, Any], path: Path) -> C:
    known = {field.name: field for field in fields(cast(Any, kind))}
    for name, value in config.items():
        if name not in known:
            raise other_model(path, f'its config has "{name}"')
        if not fits_field(value, known[name].type):
            raise other_model(path, f'its config says {one_line(value)[:40]} of "{name}"')
    for name, field in known.items():
        if name not in config and field.default is MISSING and field.default_factory is MISSING:
            raise other_model(path, f'its config lacks "{name}"')
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


def fits_field(value: Any, kind: Any) -> bool:
    """Whether a value of JSON can be that of a shape's field: counts are above zero and not without end."""
    if isinstance(value, list):
        return all(fits_field(item, int) for item in value) and "tuple" in str(kind).lower()
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and 0 < value <= LARGEST_COUNT
    if kind is float:
        return isinstance(value, int | float)
    return True


def other_model(path: Path, how: str) -> WeightsError:
    return WeightsError("weights", path, f"is of another model: {how}", "use the files of the chosen model")


def transformer_of(file: Path) -> Transformer:
    """The model whose weights a file holds, as it says itself; Linum v2's if it says nothing."""
    return Transformer(config_as(TransformerConfig, file) or linum_v2())

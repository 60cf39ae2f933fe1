"""How much memory a request takes at its peak, known from file headers before any weight is read.

The parts run one after the other: the text encoder, of which one block is held at a time if it is large; the
transformer; then the autoencoder beside the transformer. Weights are counted exactly. What a forward pass adds is
linear in tokens or pixels; its coefficients were measured (benchmarks/activation_memory.py) on a CPU and rounded up.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import torch

from linnet.catalog import SEEDLING, ModelSpec
from linnet.errors import InvalidInput, WeightsError
from linnet.geometry import FRAMES_PER_LATENT, format_seconds, seconds_of, token_count
from linnet.request import Request, make_request
from linnet.runtime.device import available_memory
from linnet.weights.files import Header, read_header, shards
from linnet.weights.names import FLOAT32_PARTS, NOT_WEIGHTS, TRANSFORMER_PREFIX
from linnet.weights.store import ModelFiles, locate

LIBRARIES = 500_000_000  # bytes: torch and the video encoder; on a GPU, the driver's context
LOADING = 256 * 2**20  # bytes: the stretch of a file that is mapped while it is converted
SMALL_TEXT = 2**30  # bytes: text encoders up to this size stay in memory; larger ones stream from their files
TEXT_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")
FLOAT32_TABLES = FLOAT32_PARTS | {"shared", "relative_attention_bias", "modulation"}
DECODER_SCRATCH = {"wan": 350_000_000, "tiny": 100_000_000}  # bytes, whatever the size of the frame
DECODER_PIXEL = {"wan": 16_000, "tiny": 5_500}  # bytes for each pixel of a frame, four frames at a time


class Parameters(NamedTuple):
    """Numbers of weights: those of matrix products, stored in the chosen dtype, and the float32 rest."""

    products: int
    others: int

    def bytes(self, dtype: torch.dtype) -> int:
        return self.products * dtype.itemsize + self.others * 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides how much memory it takes."""

    text: Parameters
    text_block: Parameters
    transformer: Parameters
    autoencoder: Parameters
    dim: int
    ffn_dim: int


LINUM_V2 = Shape(
    text=Parameters(4_630_511_616, 131_799_040),
    text_block=Parameters(192_937_984, 10_240),
    transformer=Parameters(1_986_363_392, 21_688_512),
    autoencoder=Parameters(0, 126_892_531),
    dim=1664,
    ffn_dim=8192,
)


class Need(NamedTuple):
    """Peak bytes of each stage of a request, on the device that it runs on."""

    text: int
    denoise: int
    decode: int

    @property
    def stage(self) -> str:
        """The one that takes most."""
        return max(self._fields, key=lambda name: getattr(self, name))


def shape_of(files: ModelFiles) -> Shape:
    """Read from the headers of the files; WeightsError if the transformer's are not a transformer's."""
    ffn = read_header(files.transformer).tensors.get(f"{TRANSFORMER_PREFIX}blocks.0.ffn.0.weight")
    if ffn is None or len(ffn.shape) != 2:
        remedy = "use the files of the chosen model"
        raise WeightsError("weights", files.transformer, "is not a video transformer of linnet's", remedy)
    text = [read_header(path) for path in shards(files.text_encoder)]
    return Shape(
        text=count(text),
        text_block=largest_block(text),
        transformer=count([read_header(files.transformer)]),
        autoencoder=Parameters(0, sum(count([read_header(files.autoencoder)]))),  # decodes in float32
        dim=ffn.shape[1],
        ffn_dim=ffn.shape[0],
    )


def largest_block(headers: Sequence[Header]) -> Parameters:
    """Of a text encoder: what is in memory of it at a time while it streams."""
    numbers = {found[1] for header in headers for name in header.tensors if (found := TEXT_BLOCK.match(name))}
    blocks = (count(headers, f"encoder.block.{number}.") for number in numbers)
    return max(blocks, default=Parameters(0, 0))


def count(headers: Iterable[Header], prefix: str = "") -> Parameters:
    """Weights whose names begin with `prefix`, told apart by name and shape (biases count as float32, a thousandth
    too much)."""
    products = others = 0
    for header in headers:
        for name, entry in header.tensors.items():
            if name in NOT_WEIGHTS or not name.startswith(prefix):
                continue
            if len(entry.shape) > 1 and FLOAT32_TABLES.isdisjoint(name.split(".")):
                products += math.prod(entry.shape)
            else:
                others += math.prod(entry.shape)
    return Parameters(products, others)


def estimate(spec: ModelSpec, shape: Shape, request: Request, *, clips: int = 1) -> Need:
    """Peak bytes for `clips` clips at once; the request's dtype must be decided."""
    dtype = torch.bfloat16 if request.dtype == "bfloat16" else torch.float32
    text, transformer = shape.text.bytes(dtype), shape.transformer.bytes(dtype)
    kept = text if text <= SMALL_TEXT else 0
    spoken = kept or shape.text_block.bytes(dtype)
    # Both guidance passes go as one batch where a model ships with the package, one by one elsewhere.
    tokens = token_count(request.frames, request.size) * clips * (2 if spec.source == "package" else 1)
    forward = forward_bytes(tokens, shape.dim, shape.ffn_dim)
    decoder = DECODER_SCRATCH[spec.autoencoder] + DECODER_PIXEL[spec.autoencoder] * request.size.pixels
    return Need(
        text=LIBRARIES + LOADING + spoken,
        denoise=LIBRARIES + kept + transformer + max(forward, LOADING),
        decode=LIBRARIES + kept + transformer + shape.autoencoder.bytes(torch.float32) + decoder,
    )


def forward_bytes(tokens: int, dim: int, ffn_dim: int) -> int:
    """What one pass of the transformer takes beside its weights: the activations of the block at work."""
    return tokens * (10 * ffn_dim + 40 * dim)


def refuse_if_too_large(
    spec: ModelSpec, files: ModelFiles, request: Request, *, device: str, clips: int = 1
) -> Need:
    """What the request needs, if `device` has that much left; else InvalidInput with what would fit."""
    shape = shape_of(files)
    need = estimate(spec, shape, request, clips=clips)
    left = available_memory(device)
    if left is None or max(need) <= left:
        return need
    clip = f"a {format_seconds(request.seconds)} s {request.size} clip"
    many = f"{clips} clips like " if clips > 1 else ""
    problem = (
        f"is free on {device}, and the {need.stage} stage of {many}{clip} in {request.dtype} "
        f"takes about {gigabytes(max(need))}"
    )
    raise InvalidInput("memory", gigabytes(left), problem, remedy(spec, shape, request, device, clips, left))


def comfortable(need: int, device: str) -> bool:
    """Whether `need` bytes are at most half of what is left on the device."""
    left = available_memory(device)
    return left is not None and 2 * need <= left


def remedy(spec: ModelSpec, shape: Shape, request: Request, device: str, clips: int, left: int) -> str:
    """The fewest changes that make the request fit."""
    options: list[tuple[str, dict[str, Any]]] = []
    if request.dtype != "bfloat16":
        options.append(("--dtype bfloat16", {"dtype": "bfloat16"}))
    if clips > 1:
        options.append(("one seed at a time", {"clips": 1}))
    if request.frames > spec.min_frames:
        shortest = format_seconds(seconds_of(spec.min_frames, spec.fps))
        options.append((f"--seconds {shortest}", {"frames": spec.min_frames}))
    for number in range(1, len(options) + 1):
        for chosen in combinations(options, number):
            changes = {name: value for _, change in chosen for name, value in change.items()}
            fewer = changes.pop("clips", clips)
            if max(estimate(spec, shape, replace(request, **changes), clips=fewer)) <= left:
                return f"use {' and '.join(words for words, _ in chosen)}"
    if device != "cpu" and max(estimate(spec, shape, request, clips=clips)) <= (available_memory("cpu") or 0):
        return "use --device cpu"
    return "close other programs" if spec is SEEDLING else "close other programs, or use --model seedling"


def fits(spec: ModelSpec, device: str, dtype: torch.dtype) -> dict[str, Any] | None:
    """What the shortest and the longest clip of the default size need, in bytes by seconds, and the longest
    that fits now. None for a model of which nothing is known because its files are not here."""
    files = locate(spec)
    if files is None and spec.source == "package":
        return None
    shape = shape_of(files) if files else LINUM_V2
    left = available_memory(device)
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    lengths = range(spec.min_frames, spec.max_frames + 1, FRAMES_PER_LATENT)
    needs = {
        frames: max(
            estimate(spec, shape, make_request(spec, prompt="any", frames=frames, seed=0, dtype=name))
        )
        for frames in lengths
    }
    fitting = [frames for frames, need in needs.items() if left is None or need <= left]
    return {
        "model": spec.name,
        "installed": files is not None,
        "needs_bytes": {
            format_seconds(seconds_of(frames, spec.fps)): needs[frames]
            for frames in (lengths[0], lengths[-1])
        },
        "longest_seconds": seconds_of(fitting[-1], spec.fps) if fitting else None,
    }


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

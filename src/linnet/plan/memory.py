"""How many bytes a model takes: its weights, counted in the files' headers, and what each stage adds at its peak.

The arithmetic follows the code of `models/`, tensor by tensor, at the moment at which most of them live; it is checked
against full-size runs on a card that is not there (`measure/fake.py`, benchmarks/plan.py) and against real memory
(benchmarks/activation_memory.py). Imports no torch, so that what cannot fit is refused at once.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from linnet.errors import WeightsError
from linnet.geometry import Grid
from linnet.plan.execution import PREVIEW_TILING, ExecutionConfig, Pasts, Tiling
from linnet.weights.files import FLOAT32_PARTS, NOT_WEIGHTS, TRANSFORMER_PREFIX, Header, read_header, shards
from linnet.weights.store import ModelFiles

EIGHT_BITS = frozenset({"I8", "F8_E4M3"})  # as files call them
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "float8": 1}
LOADING = 256 * 2**20  # bytes: the stretch of a file that is mapped while it is converted
SMALL_TEXT = 2**30  # bytes: text encoders up to this size stay in memory; larger ones stream from their files
TEXT_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")
FLOAT32_TABLES = FLOAT32_PARTS | {"shared", "relative_attention_bias", "modulation"}
CHANNELS = 16  # of the latents
HEAD_PAIRS = 64  # of channels in a head, each with a cosine and a sine


class Parameters(NamedTuple):
    """Numbers of weights: those of matrix products, stored in the chosen dtype, the float32 rest, and those that a
    file holds in 8 bits."""

    products: int
    others: int
    narrow: int = 0

    def bytes(self, dtype: str) -> int:
        return self.products * BYTES[dtype] + self.others * 4 + self.narrow


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides how much memory it takes."""

    text: Parameters
    text_block: Parameters
    text_dim: int
    text_ffn: int
    text_heads: int
    transformer: Parameters
    block: Parameters
    layers: int
    dim: int
    ffn_dim: int
    autoencoder: Parameters


LINUM_V2 = Shape(
    text=Parameters(4_630_511_616, 131_799_040),
    text_block=Parameters(192_937_984, 10_240),
    text_dim=4096,
    text_ffn=10_240,
    text_heads=64,
    transformer=Parameters(1_986_363_392, 21_688_512),
    block=Parameters(49_414_144, 46_464),
    layers=40,
    dim=1664,
    ffn_dim=8192,
    autoencoder=Parameters(0, 126_892_531),
)


def shape_of(files: ModelFiles) -> Shape:
    """Read from the headers of the files; WeightsError names a matrix that is none."""
    header = read_header(files.transformer)
    ffn_dim, dim = sides(
        header, f"{TRANSFORMER_PREFIX}blocks.0.ffn.0.weight", "a video transformer of linnet's"
    )
    text = [read_header(path) for path in shards(files.text_encoder)]
    first = [(shard, name) for shard in text for name in shard.tensors if ".block.0." in name]
    kind = "a text encoder of linnet's"
    inner = [
        sides(shard, name, kind)
        for shard, name in first
        if "wi" in name.split(".")[-2] and name.endswith(".weight")
    ]
    biases = [sides(shard, name, kind) for shard, name in first if "relative_attention_bias" in name]
    return Shape(
        text=count(text),
        text_block=largest_block(text),
        text_dim=inner[0][1] if inner else 0,
        text_ffn=inner[0][0] if inner else 0,
        text_heads=biases[0][1] if biases else 0,
        transformer=count([header]),
        block=count([header], f"{TRANSFORMER_PREFIX}blocks.0."),
        layers=sum(name.endswith(".ffn.0.weight") for name in header.tensors),
        dim=dim,
        ffn_dim=ffn_dim,
        autoencoder=Parameters(0, sum(count([read_header(files.autoencoder)]))),
    )


def sides(header: Header, name: str, kind: str) -> tuple[int, int]:
    """(Rows, columns) of a matrix."""
    entry = header.tensors.get(name)
    if entry is None or len(entry.shape) != 2:
        state = f"has the shape {list(entry.shape)} and is no matrix" if entry else "is missing"
        problem = f"is not {kind}: {name} {state}"
        raise WeightsError("weights", header.path, problem, "use the files of the chosen model")
    rows, columns = entry.shape
    return rows, columns


def largest_block(headers: Sequence[Header]) -> Parameters:
    """Of a text encoder: what is in memory of it at a time while it streams."""
    numbers = {match[1] for header in headers for name in header.tensors if (match := TEXT_BLOCK.match(name))}
    blocks = (count(headers, f"encoder.block.{number}.") for number in numbers)
    return max(blocks, default=Parameters(0, 0))


def count(headers: Iterable[Header], prefix: str = "") -> Parameters:
    """Weights whose names begin with `prefix`, told apart by name and shape (biases count as float32, a thousandth
    too much)."""
    products = others = narrow = 0
    for header in headers:
        for name, entry in header.tensors.items():
            if name in NOT_WEIGHTS or not name.startswith(prefix):
                continue
            if entry.dtype in EIGHT_BITS:
                narrow += math.prod(entry.shape)
            elif len(entry.shape) > 1 and FLOAT32_TABLES.isdisjoint(name.split(".")):
                products += math.prod(entry.shape)
            else:
                others += math.prod(entry.shape)
    return Parameters(products, others, narrow)


# --- text -------------------------------------------------------------------------------------------------------------


def text_weights(shape: Shape, dtype: str, execution: ExecutionConfig) -> int:
    """Of the whole encoder."""
    return shape.text.bytes(execution.text_format or dtype)


def text_working(shape: Shape, dtype: str, execution: ExecutionConfig, tokens: int) -> int:
    """What encoding `tokens` takes: the feed-forward net's three inner tensors, the stream and two copies, and the
    bias of every head, in float32 and in the products' dtype."""
    item = BYTES[dtype]
    inner = tokens * (3 * item * shape.text_ffn + 12 * shape.text_dim)
    whole = (
        2 * item * shape.text_dim * shape.text_ffn if execution.text_format or shape.text_block.narrow else 0
    )
    return whole + inner + tokens * tokens * shape.text_heads * (4 + item)


# --- denoising --------------------------------------------------------------------------------------------------------


def transformer_weights(shape: Shape, dtype: str, execution: ExecutionConfig) -> tuple[int, int]:
    """(On the device, waiting elsewhere): all, or the blocks that stay and two places through which the others go."""
    stored = execution.transformer_format or dtype
    block = shape.block.bytes(stored)
    rest = shape.transformer.bytes(dtype) - shape.layers * shape.block.bytes(dtype)
    stay = shape.layers if execution.resident_blocks is None else min(execution.resident_blocks, shape.layers)
    if stay == shape.layers:
        return rest + shape.layers * block, 0
    absent = shape.layers - stay
    return rest + (stay + min(2, absent)) * block, absent * block


def lora_weights(numbers: int, dtype: str) -> int:
    """Of LoRAs with so many numbers in all, which stay on the device beside the blocks that come and go."""
    return numbers * BYTES[dtype]


def denoise_working(
    shape: Shape,
    dtype: str,
    execution: ExecutionConfig,
    *,
    tokens: int,
    grid: Grid,
    clips: int,
    text_rows: int,
    fused: bool = False,
) -> int:
    """What one pass of the transformer takes beside its weights; `tokens` of all that go through at once.

    `fused`: the device's products apply GELU themselves (see models.attention.FeedForward)."""
    item = BYTES[dtype]
    tables = tokens // max(1, clips) * 2 * HEAD_PAIRS * 4
    spread = 2 * (min(tokens, execution.token_chunk or tokens) // max(1, clips)) * 2 * HEAD_PAIRS * 4
    # An 8-bit weight is made whole for the time of its product, and once more while it is scaled.
    narrow = bool(execution.transformer_format or shape.block.narrow) and not execution.fp8
    whole = 2 * item * shape.dim * shape.ffn_dim if narrow else 0
    plain = fused and not narrow and not execution.fp8
    block = block_working(shape, item, tokens, execution.token_chunk, fused=plain)
    if execution.fp8:  # a layer's input once more while it is scaled, and in 8 bits
        block += min(tokens, execution.token_chunk or tokens) * (1 + item) * shape.ffn_dim
    if execution.compiled:
        block += compiled_working(shape, tokens, execution.token_chunk)
    always = between_steps(shape, dtype, grid=grid, clips=clips, text_rows=text_rows)
    return whole + block + always + tables + spread


def compiled_working(shape: Shape, tokens: int, chunk: int | None) -> int:
    """What compiled blocks keep beside plain ones: the residual stream of what is at work once more. With all tokens at
    once also room for another: under a limit (`--vram`) torch's allocator counts a new tensor in full, even where most
    of its memory is mapped already, and would first give back all that it keeps."""
    whole = chunk is None or chunk >= tokens
    return (2 if whole else 1) * 4 * shape.dim * (tokens if whole else chunk or tokens)


def between_steps(shape: Shape, dtype: str, *, grid: Grid, clips: int, text_rows: int) -> int:
    """What is there all the time while denoising: latents, velocities, and the texts as each block sees them."""
    latents = 4 * CHANNELS * math.prod(grid) * clips
    return 4 * latents + shape.layers * 2 * text_rows * shape.dim * BYTES[dtype]


def block_working(shape: Shape, item: int, tokens: int, chunk: int | None, *, fused: bool) -> int:
    """The residual stream, in float32, and the most of what stands beside it (see models.transformer.Block).

    All tokens at once: the feed-forward net's output of the block before, and either what self-attention sees with
    queries, keys and values, the last of which is being rotated in float32, or the hidden layer. In chunks: keys and
    values of all, and the same of a chunk. `fused`: the hidden layer is written once, otherwise twice.
    """
    dim, hidden = shape.dim, (1 if fused else 2) * item * shape.ffn_dim
    if chunk is None or chunk >= tokens:
        project, feed = (4 * item + 16) * dim, (2 * item + 4) * dim + hidden
        return tokens * (4 * dim + max(project, feed))
    project, feed = (item + 20) * dim, (item + 4) * dim + hidden
    return tokens * (4 + 2 * item) * dim + chunk * max(project, feed)


# --- decoding ---------------------------------------------------------------------------------------------------------

# Of the Wan decoder, for a latent cell: channels of all inputs of causal convolutions, at 1, 4, 16 and 64 positions.
PAST_CHANNELS = 4_240 + 4 * 2_496 + 16 * 1_152 + 64 * 672
TINY_CELLS = 600  # at a time, of small frames several: models.tae.STRETCH, which would import torch
TINY_SCRATCH, TINY_PIXEL = 100_000_000, 5_500  # bytes, measured; whatever the size, and for each pixel


def decode_working(
    kind: str, execution: ExecutionConfig, grid: Grid, *, lower: bool = False
) -> tuple[int, int]:
    """(Beside the weights on the device, waiting in main memory.) `lower`: convolved in bfloat16, whatever the dtype of
    the weights."""
    return decoding(kind, grid, item_of(execution, lower), execution.tiling, execution.pasts)


def preview_working(kind: str, execution: ExecutionConfig, grid: Grid, *, lower: bool = False) -> int:
    """What a preview takes beside the weights."""
    tiling = PREVIEW_TILING if kind == "wan" else None
    return decoding(kind, grid._replace(frames=1), item_of(execution, lower), tiling, execution.pasts)[0]


def item_of(execution: ExecutionConfig, lower: bool) -> int:
    """Bytes of a number in the autoencoder."""
    return 2 if lower else BYTES[execution.autoencoder_dtype]


@cache
def decoding(kind: str, grid: Grid, item: int, tiling: Tiling | None, pasts: Pasts) -> tuple[int, int]:
    cells = grid.height * grid.width
    if kind == "tiny":
        return TINY_SCRATCH + TINY_PIXEL * 64 * max(cells, TINY_CELLS), 0
    latents = (4 + item) * CHANNELS * grid.frames * cells
    if tiling:
        from linnet.plan.tiles import decode_sizes, wan_decoder  # which only plans with tiles need

        steps = min(grid.frames, tiling.chunk + 1)
        sizes = decode_sizes(wan_decoder(), grid.height, grid.width, tiling, item, steps=steps)
        saved = sizes.pasts // 2 if pasts == "bfloat16" and item == 4 else 0
        # The past of the tile before leaves while this one is computed, and that of the next one comes.
        return sizes.peak + 2 * sizes.resident + latents, sizes.parked - saved
    past = 2 * PAST_CHANNELS * item * cells  # two frames of each
    # Four frames of 96 channels: a residual block's input, and two and a half of what its convolution sees.
    return latents + past + 5 * 4 * 96 * item * 64 * cells, 0


# --- encoding ---------------------------------------------------------------------------------------------------------

# Of the Wan encoder, for a latent cell, as measure/simulate.py counts them: numbers at the peak of a first frame, which
# is encoded alone, and of four more, with their past. Whole frames: it has no tiles.
ENCODED, ENCODED_AFTER = 94_000, 215_000


def encode_working(kind: str, execution: ExecutionConfig, grid: Grid, frames: int) -> int:
    """Beside the weights, for a clip of so many frames, whose pixels wait in their file."""
    cells = grid.height * grid.width
    if kind == "tiny":
        return TINY_SCRATCH + TINY_PIXEL * 64 * cells
    numbers = ENCODED if frames == 1 else ENCODED_AFTER
    return numbers * BYTES[execution.autoencoder_dtype] * cells + 8 * CHANNELS * grid.frames * cells

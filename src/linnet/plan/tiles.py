"""The arithmetic of tiles: which part of a frame each layer of a decoder must be given, and what that takes.

Works on plain records of the layers, without torch, so that a plan is made at once; `runtime/tiles.py` makes the
records of a real autoencoder, and `wan_decoder` is that of the published one.

Axes: as in `runtime/tiles.py`; all lengths are rows or columns of what a layer is given.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Literal, NamedTuple

from linnet.geometry import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from linnet.plan.execution import Tiling

QUERIES = 2048  # positions of a frame whose attention is computed at a time


class Layer(NamedTuple):
    """`width` channels come in, a residual block has `inner` ones inside; `past` numbers are remembered for each
    position; an output depends on inputs that are `sees` positions of the output away; sides grow by `scale`, and
    frames double where `doubles`."""

    kind: Literal["residual", "upsample", "attention", "other"] = "other"
    width: int = 0
    inner: int = 0
    past: int = 0
    sees: int = 0
    scale: int = 1
    doubles: bool = False


def residual(inward: int, outward: int) -> Layer:
    return Layer("residual", inward, outward, 2 * (inward + outward), 2)


def upsample(width: int, *, time: bool) -> Layer:
    return Layer("upsample", width, past=2 * width if time else 0, sees=1, scale=2, doubles=time)


def wan_decoder(dim: int = 96, channels: int = 16) -> tuple[list[Layer], list[Layer]]:
    """The layers that see whole frames, and those that see tiles."""
    wide = 4 * dim
    whole = [Layer(width=channels), Layer(width=channels, past=2 * channels, sees=1), residual(wide, wide)]
    whole += [Layer("attention", wide), residual(wide, wide), *[residual(wide, wide)] * 3]
    tiled, inward = [upsample(wide, time=True)], wide // 2
    for level, width in enumerate((wide, 2 * dim, dim)):
        tiled += [residual(inward, width), *[residual(width, width)] * 2]
        if level < 2:
            tiled.append(upsample(width, time=level == 0))
        inward = width // 2
    return whole, [*tiled, Layer(width=dim), Layer(), Layer(width=dim, past=2 * dim, sees=1)]


class Span(NamedTuple):
    """A stretch of rows or columns: `start` belongs to it, `stop` no longer."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def seen_from(self, position: int) -> "Span":
        return Span(self.start - position, self.stop - position)


class Tile(NamedTuple):
    """What each layer is given of its frame's rows and of its columns; the last is what comes out."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]


def tiles_of(layers: Sequence[Layer], height: int, width: int, tiling: Tiling) -> list[Tile]:
    """The tiles of a frame of height x width latent cells, row by row."""
    rows, columns = (
        [needed(layers, core, size) for core in cores(size, length)]
        for size, length in ((height, tiling.rows), (width, tiling.columns))
    )
    return [Tile(*pair) for pair in product(rows, columns)]


def cores(size: int, length: int) -> list[Span]:
    """As few stretches as can be of at most `length` cells, as even as they can be."""
    count = -(-size // length)
    edges = [i * size // count for i in range(count + 1)]
    return [Span(*pair) for pair in pairwise(edges)]


def needed(layers: Sequence[Layer], core: Span, size: int) -> tuple[Span, ...]:
    """Of a side of `size` cells: what each layer must be given so that the pixels of `core` are right, and those."""
    factor = math.prod(layer.scale for layer in layers)
    size, range_seen = factor * size, Span(factor * core.start, factor * core.stop)
    spans = [range_seen]
    for layer in reversed(layers):
        reach, step = layer.sees, layer.scale
        size //= step
        start, stop = (range_seen.start - reach) // step, -(-(range_seen.stop + reach) // step)
        range_seen = Span(max(0, start), min(size, stop))
        spans.append(range_seen)
    return tuple(reversed(spans))


class DecodeSizes(NamedTuple):
    """Bytes of a tiled decode, weights and latents apart. `parked`: the `pasts` of all tiles and the frames of a chunk,
    where they wait; `resident`: the largest past at work; `peak`: the most on the device, that past among it."""

    parked: int
    pasts: int
    resident: int
    peak: int


def decode_sizes(
    layers: tuple[Sequence[Layer], Sequence[Layer]],
    height: int,
    width: int,
    tiling: Tiling,
    item: int,
    *,
    batch: int = 1,
    steps: int | None = None,
) -> DecodeSizes:
    """What `decode_tiled` takes for frames of height x width latent cells, whatever their number from `tiling.chunk`
    on, by a decoder of these `layers` (those of whole frames, those of tiles) in numbers of `item` bytes; `steps`
    latent frames if they are fewer: those of a single chunk leave no past behind. What the kernels of a convolution
    take for themselves is not in it.
    """
    whole, tiled = layers
    chunk = min(tiling.chunk, steps or tiling.chunk)
    frame = Span(0, height), Span(0, width)
    everything = Tile(*(tuple(axis for _ in range(len(whole) + 1)) for axis in frame))
    tiles = tiles_of(tiled, height, width, tiling)
    small = chunk * height * width * tiled[0].width
    common = past_size(whole, everything)
    pasts = [past_size(tiled, tile) for tile in tiles]
    peaks = [common + working_size(whole, everything, item)]
    peaks += [past + working_size(tiled, tile, item) for past, tile in zip(pasts, tiles, strict=True)]
    goes_on = steps is None or steps > tiling.chunk
    later = common + sum(pasts) if goes_on else 0
    frames = FRAMES_PER_LATENT * chunk * height * width * PIXELS_PER_LATENT**2 * 3
    return DecodeSizes(
        parked=batch * item * (later + frames),
        pasts=batch * item * later,
        resident=batch * item * max(common, *pasts) if goes_on else 0,
        peak=batch * item * (small + max(peaks)),
    )


def tiling_work(
    layers: tuple[Sequence[Layer], Sequence[Layer]], height: int, width: int, tiling: Tiling
) -> float:
    """How much the convolutions of a tiled decode multiply, for one of whole frames: tiles take their seams along."""
    whole, tiled = layers
    frame = Tiling(rows=height, columns=width)
    before, plain, cut = (
        sum(work(part, tile) for tile in tiles_of(part, height, width, tiling_of_part))
        for part, tiling_of_part in ((whole, frame), (tiled, frame), (tiled, tiling))
    )
    return (before + cut) / (before + plain)


def work(layers: Sequence[Layer], tile: Tile) -> int:
    """Multiplications of the convolutions for one latent frame of a tile."""
    frames, total = 1, 0
    for i, layer in enumerate(layers):
        frames *= 2 if layer.doubles else 1
        weights = 0
        if layer.kind == "residual":
            joins = layer.width * layer.inner if layer.width != layer.inner else 0
            weights = 27 * layer.inner * (layer.width + layer.inner) + joins
        elif layer.kind == "upsample":
            weights = 4 * 9 * layer.width * layer.width // 2 + (6 * layer.width**2 if layer.doubles else 0)
        total += frames * area(tile, i) * weights
    return total


def past_size(layers: Sequence[Layer], tile: Tile) -> int:
    """Numbers that a tile remembers between chunks."""
    return sum(layer.past * area(tile, i) for i, layer in enumerate(layers))


def working_size(layers: Sequence[Layer], tile: Tile, item: int) -> int:
    """The most numbers, of `item` bytes each, that exist beside the past while a latent frame passes through."""
    normed = 1 if item == 4 else 1 + 4 // item  # computed in float32, then cast
    frames, most = 1, 0
    for i, layer in enumerate(layers):
        here = area(tile, i)
        came = area(tile, i - 1) * layers[i - 1].scale ** 2 if i else here  # before the seam was dropped
        if layer.kind == "residual":
            joined = 1 + (frames + 4) / frames  # beside what is joined, and with the tail that is kept of it
            inside = here * layer.inner * max(1 + normed, joined)
            most = max(most, frames * (came * layer.width + inside))
        elif layer.kind == "upsample":
            frames *= 2 if layer.doubles else 1
            larger = 1 + 4 + 2  # itself, with sides twice as long, and with half of the width
            most = max(most, frames * here * layer.width * larger)
        elif layer.kind == "attention":
            most = max(most, here * 8 * layer.width + QUERIES * here)
    return int(most)


def area(tile: Tile, i: int) -> int:
    """Positions of what layer `i` is given, in one frame."""
    return tile.rows[i].length * tile.columns[i].length

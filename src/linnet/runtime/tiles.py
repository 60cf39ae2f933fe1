"""The video autoencoder in little memory: a clip is decoded tile by tile, a few latent frames at a time, exactly.

What mixes all positions of a frame (attention) and what is small (the layers before the first upsampling) runs on
whole frames. From there on a frame is cut into tiles. A tile's pixels depend on no more than a seam of cells around
it, so each tile takes that seam along, and after every layer drops the part of it that no later layer needs: its
result is that of the whole frame, to rounding, with no blending and no visible edges. At the frame's own border the
layers pad with zeros, as they do on whole frames.

Every tile has a causal past. Together the pasts of a frame are the largest thing in a decode (4 GB at 1280x720 in
bfloat16); all but the one at work wait in system memory, and each comes to the device once a chunk.

Axes: B batch, z latent channels, C channels, T latent frames, f video frames, h and w rows and columns of latent
cells, H and W of pixels.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linnet.geometry import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from linnet.models.vae import QUERIES, VAE, Attention, CausalConv3d, Past, Residual, Upsample, run
from linnet.runtime import transfer
from linnet.runtime.knobs import Tiling

SMALL_LEVEL = 3  # residual blocks of the decoder's upsampling path that come before its first upsampling


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


class Waiting:
    """A stream's `Past` between two chunks, on the device where memory is plenty."""

    def __init__(self, parked: torch.device) -> None:
        self.parked = parked
        self.tails: dict[nn.Module, Tensor | float] = {}

    def wake(self, device: torch.device) -> Past:
        past = Past()
        for conv, tail in self.tails.items():
            past.tails[conv] = transfer.move(tail, device) if isinstance(tail, Tensor) else tail
        return past

    def rest(self, past: Past) -> None:
        for conv, tail in past.tails.items():
            place = self.tails.get(conv)
            self.tails[conv] = (
                transfer.park(tail, self.parked, place if isinstance(place, Tensor) else None)
                if isinstance(tail, Tensor)
                else tail
            )


def decode_tiled(
    vae: VAE,
    latents: Float[Tensor, "B z T h w"],
    tiling: Tiling,
    *,
    parked: torch.device | str = "cpu",
) -> Iterator[Float[Tensor, "B 3 f H W"]]:
    """What `vae.decode_stream(latents)` yields, 1 frame and then 4 at a time, but on the device `parked`.

    The latents are on the autoencoder's device, which then holds of the video only the tile at work.
    """
    parked, home = torch.device(parked), latents.device
    whole, tiled = halves(vae)
    tiles = tiles_of(tiled, latents.shape[3], latents.shape[4], tiling)
    common, pasts = Waiting(parked), [Waiting(parked) for _ in tiles]
    for chunk in latents.to(vae.conv2.weight.dtype).split(tiling.chunk, dim=2):
        past = common.wake(home)
        small = [run(whole, z, past) for z in chunk.split(1, dim=2)]
        common.rest(past)
        del past
        video: list[Tensor] = []
        for tile, waiting in zip(tiles, pasts, strict=True):
            past = waiting.wake(home)
            for time, x in enumerate(small):
                piece = decode_tile(tiled, x, tile, past)
                if time == len(video):  # the first tile tells how many frames there are
                    sides = (PIXELS_PER_LATENT * side for side in latents.shape[3:])
                    video.append(torch.empty((*piece.shape[:3], *sides), dtype=piece.dtype, device=parked))
                transfer.copy(window(video[time], tile.rows[-1], tile.columns[-1]), piece)
                del piece
            waiting.rest(past)
            del past
        while video:  # what has been handed out is let go of
            yield video.pop(0).float()


def decode_tile(
    layers: Sequence[nn.Module], x: Float[Tensor, "B C T h w"], tile: Tile, past: Past
) -> Float[Tensor, "B 3 f H W"]:
    """One tile's pixels from the whole frame's cells."""
    x = window(x, tile.rows[0], tile.columns[0])
    for i, layer in enumerate(layers):
        x = run([layer], x, past)
        row, column = (scale(layer) * spans[i].start for spans in tile)  # where `x` begins in its frame
        x = window(x, tile.rows[i + 1].seen_from(row), tile.columns[i + 1].seen_from(column))
    return x


def window(x: Float[Tensor, "*rest H W"], rows: Span, columns: Span) -> Float[Tensor, "*rest h w"]:
    return x.narrow(-2, rows.start, rows.length).narrow(-1, columns.start, columns.length)


def halves(vae: VAE) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers that see whole frames, and those that see tiles."""
    decoder = vae.decoder
    upsamples = list(decoder.upsamples)
    whole = [vae.conv2, decoder.conv1, *decoder.middle, *upsamples[:SMALL_LEVEL]]
    return whole, [*upsamples[SMALL_LEVEL:], *decoder.head]


def tiles_of(layers: Sequence[nn.Module], height: int, width: int, tiling: Tiling) -> list[Tile]:
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


def needed(layers: Sequence[nn.Module], core: Span, size: int) -> tuple[Span, ...]:
    """Of a side of `size` cells: what each layer must be given so that the pixels of `core` are right, and those."""
    factor = math.prod(map(scale, layers))
    size, span = factor * size, Span(factor * core.start, factor * core.stop)
    spans = [span]
    for layer in reversed(layers):
        reach, step = sees(layer), scale(layer)
        size //= step
        start, stop = (span.start - reach) // step, -(-(span.stop + reach) // step)
        span = Span(max(0, start), min(size, stop))
        spans.append(span)
    return tuple(reversed(spans))


def scale(layer: nn.Module) -> int:
    return 2 if isinstance(layer, Upsample) else 1


def sees(layer: nn.Module) -> int:
    """How many positions away from its own an output depends on the input, in positions of the output."""
    if isinstance(layer, Residual):
        return 2
    return 1 if isinstance(layer, Upsample | CausalConv3d) else 0


class DecodeSizes(NamedTuple):
    """Bytes of a tiled decode, weights and latents apart. `parked`: the pasts of all tiles and the frames of a chunk,
    where they wait; `held`: the largest past at work; `peak`: the most on the device, that past among it."""

    parked: int
    held: int
    peak: int


def decode_sizes(
    vae: VAE,
    height: int,
    width: int,
    tiling: Tiling,
    dtype: torch.dtype,
    *,
    batch: int = 1,
    steps: int | None = None,
) -> DecodeSizes:
    """What `decode_tiled` takes for frames of height x width latent cells, whatever their number from `tiling.chunk`
    on; `steps` latent frames if they are fewer. The autoencoder may be on the meta device. What the kernels of a
    convolution take for themselves is not in it.
    """
    whole, tiled = halves(vae)
    chunk, item = min(tiling.chunk, steps or tiling.chunk), dtype.itemsize
    frame = Span(0, height), Span(0, width)
    everything = Tile(*(tuple(span for _ in range(len(whole) + 1)) for span in frame))
    tiles = tiles_of(tiled, height, width, tiling)
    small = chunk * height * width * width_of(tiled[0])
    common = past_size(whole, everything)
    pasts = [past_size(tiled, tile) for tile in tiles]
    peaks = [common + working_size(whole, everything, item)]
    peaks += [past + working_size(tiled, tile, item) for past, tile in zip(pasts, tiles, strict=True)]
    frames = FRAMES_PER_LATENT * chunk * height * width * PIXELS_PER_LATENT**2 * 3
    return DecodeSizes(
        parked=batch * item * (common + sum(pasts) + frames),
        held=batch * item * max(common, *pasts),
        peak=batch * item * (small + max(peaks)),
    )


def past_size(layers: Sequence[nn.Module], tile: Tile) -> int:
    """Numbers that a tile remembers between chunks."""
    return sum(
        conv.in_channels * conv.reach * area(tile, i)
        for i, layer in enumerate(layers)
        for conv in layer.modules()
        if isinstance(conv, CausalConv3d)
    )


def working_size(layers: Sequence[nn.Module], tile: Tile, item: int) -> int:
    """The most numbers, of `item` bytes each, that exist beside the past while a latent frame passes through."""
    normed = 1 if item == 4 else 1 + 4 // item  # computed in float32, then cast
    frames, most = 1, 0
    for i, layer in enumerate(layers):
        here = area(tile, i)
        came = area(tile, i - 1) * scale(layers[i - 1]) ** 2 if i else here  # before the seam was dropped
        if isinstance(layer, Residual):
            before, after = (conv.in_channels for conv in layer.modules() if isinstance(conv, CausalConv3d))
            joined = 1 + (frames + 4) / frames  # beside what is joined, and with the tail that is kept of it
            most = max(most, frames * (came * before + here * after * max(1 + normed, joined)))
        elif isinstance(layer, Upsample):
            frames *= 2 if layer.time_conv else 1
            larger = 1 + 4 + 2  # itself, with sides twice as long, and with half of the width
            most = max(most, frames * here * width_of(layer) * larger)
        elif isinstance(layer, Attention):
            most = max(most, here * 8 * width_of(layer) + QUERIES * here)
    return int(most)


def width_of(layer: nn.Module) -> int:
    """Channels of what the layer is given."""
    return next(conv.in_channels for conv in layer.modules() if isinstance(conv, nn.Conv2d | nn.Conv3d))


def area(tile: Tile, i: int) -> int:
    """Positions of what layer `i` is given, in one frame."""
    return tile.rows[i].length * tile.columns[i].length

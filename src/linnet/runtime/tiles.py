"""The video autoencoder in little memory: a clip is decoded tile by tile, a few latent frames at a time, exactly.

What mixes all positions of a frame (attention) and what is small (the layers before the first upsampling) runs on
whole frames. From there on a frame is cut into tiles. A tile's pixels depend on no more than a seam of cells around
it, so each tile takes that seam along, and after every layer drops the part of it that no later layer needs: its
result is that of the whole frame, to rounding, with no blending and no visible edges. At the frame's own border the
layers pad with zeros, as they do on whole frames.

Every tile has a causal past. Together the pasts of a frame are the largest thing in a decode (4 GB at 1280x720 in
bfloat16); all but the one at work wait in system memory, and each comes to the device once a chunk, on a GPU while
the tile before it is computed.

Axes: B batch, z latent channels, C channels, T latent frames, f video frames, h and w rows and columns of latent
cells, H and W of pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linnet.geometry import PIXELS_PER_LATENT
from linnet.models.vae import VAE, Attention, CausalConv3d, Past, Residual, RMSNorm, Upsample, run
from linnet.plan.execution import Pasts, Tiling
from linnet.plan.tiles import Layer, Span, Tile, residual, tiles_of, upsample
from linnet.runtime import transfer

SMALL_LEVEL = 3  # residual blocks of the decoder's upsampling path that come before its first upsampling


class Waiting:
    """A stream's `Past` between two chunks, on the device `parked` where memory is plenty, in the dtype `kind` or, when
    None, in its own. On a GPU it comes and goes on the stream `aside`."""

    def __init__(self, parked: torch.device, aside: transfer.Aside, kind: torch.dtype | None) -> None:
        self.parked, self.aside, self.kind = parked, aside, kind
        self.tails: dict[nn.Module, Tensor | float] = {}
        self._own: dict[nn.Module, torch.dtype] = {}
        self._coming: tuple[dict[nn.Module, Tensor | float], Any] | None = None
        self._going: tuple[list[Tensor], Any] | None = None

    def fetch(self, device: torch.device) -> None:
        """Begin to bring it to the device."""
        coming = dict(self.tails)
        waiting = [(conv, tail) for conv, tail in self.tails.items() if isinstance(tail, Tensor)]
        if self.aside.is_apart:
            # The current stream's memory: what the other stream allocates is of no use to this one afterwards.
            buffers = [torch.empty_like(tail, device=device) for _, tail in waiting]
            with self.aside.copying():
                for (conv, tail), buffer in zip(waiting, buffers, strict=True):
                    transfer.copy(buffer, tail)
                    coming[conv] = buffer
        else:
            for conv, tail in waiting:
                coming[conv] = transfer.move(tail, device)
        self._coming = coming, self.aside.mark()

    def wake(self, device: torch.device) -> Past:
        if self._coming is None:
            self.fetch(device)
        assert self._coming is not None
        (tails, mark), self._coming = self._coming, None
        self.aside.wait(mark)
        past = Past()
        for conv in list(tails):
            tail = tails.pop(conv)  # one by one: another dtype is another copy
            past.tails[conv] = tail.to(self._own[conv]) if isinstance(tail, Tensor) else tail
        return past

    def rest(self, past: Past) -> None:
        going: list[Tensor] = []
        for conv, tail in past.tails.items():
            if isinstance(tail, Tensor):
                self._own[conv] = tail.dtype
                going.append(tail if self.kind is None else tail.to(self.kind))
        with self.aside.copying():
            sent = iter(going)
            for conv, tail in past.tails.items():
                buffer = self.tails.get(conv)
                self.tails[conv] = (
                    transfer.park(next(sent), self.parked, buffer if isinstance(buffer, Tensor) else None)
                    if isinstance(tail, Tensor)
                    else tail
                )
        if self.aside.is_apart:
            self._going = going, self.aside.mark()

    def release_sent(self) -> None:
        """Let go of what was sent, once it has arrived."""
        if self._going is not None:
            self.aside.wait(self._going[1])
            self._going = None


def decode_tiled(
    vae: VAE,
    latents: Float[Tensor, "B z T h w"],
    tiling: Tiling,
    *,
    parked: torch.device | str = "cpu",
    pasts: Pasts = "exact",
) -> Iterator[Float[Tensor, "B 3 f H W"]]:
    """What `vae.decode_stream(latents)` yields, 1 frame and then 4 at a time, but on the device `parked`.

    The latents are on the autoencoder's device, which then holds of the video only the tile at work and, on a GPU, the
    pasts of the tile before, which leaves, and of the next one, which comes. With `pasts` in bfloat16 they wait in half
    of the memory, and what comes out differs by their rounding: by 0.3 to 0.5 % (relative error over four to six latent
    frames, Wan's layers with random weights, 8 to 24 wide), where all of the decoder in bfloat16 differs by 2.2 to 2.6.
    """
    parked, home = torch.device(parked), latents.device
    whole, tiled = halves(vae)
    tiles = tiles_of([described(layer) for layer in tiled], latents.shape[3], latents.shape[4], tiling)
    aside = transfer.Aside(home)
    kind = torch.bfloat16 if pasts == "bfloat16" else None
    common, waits = Waiting(parked, aside, kind), [Waiting(parked, aside, kind) for _ in tiles]
    chunks = latents.to(vae.conv2.weight.dtype).split(tiling.chunk, dim=2)
    for number, chunk in enumerate(chunks, 1):
        past = common.wake(home)
        small = [run(whole, z, past) for z in chunk.split(1, dim=2)]
        if number < len(chunks):
            common.rest(past)
        del past
        video: list[Tensor] = []
        for index, (tile, waiting) in enumerate(zip(tiles, waits, strict=True)):
            past = waiting.wake(home)
            if aside.is_apart and index + 1 < len(waits):
                waits[index + 1].fetch(home)
            for time, x in enumerate(small):
                piece = decode_tile(tiled, x, tile, past)
                if time == len(video):  # the first tile tells how many frames there are
                    sides = (PIXELS_PER_LATENT * side for side in latents.shape[3:])
                    video.append(torch.empty((*piece.shape[:3], *sides), dtype=piece.dtype, device=parked))
                transfer.copy(window(video[time], tile.rows[-1], tile.columns[-1]), piece)
                del piece
            (waits[index - 1] if index else common).release_sent()
            if number < len(chunks):
                waiting.rest(past)
            del past
        waits[-1].release_sent()
        while video:  # what has been handed out is let go of
            yield video.pop(0).float()


def decode_tile(
    layers: Sequence[nn.Module], x: Float[Tensor, "B C T h w"], tile: Tile, past: Past
) -> Float[Tensor, "B 3 f H W"]:
    """One tile's pixels from the whole frame's cells."""
    x = window(x, tile.rows[0], tile.columns[0])
    for i, layer in enumerate(layers):
        x = run([layer], x, past)
        row, column = (
            described(layer).scale * spans[i].start for spans in tile
        )  # where `x` begins in its frame
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


def described(layer: nn.Module) -> Layer:
    """What the arithmetic of tiles needs to know of it."""
    convs = [conv for conv in layer.modules() if isinstance(conv, nn.Conv2d | nn.Conv3d)]
    causal = [conv for conv in convs if isinstance(conv, CausalConv3d)]
    width = convs[0].in_channels if convs else layer.gamma.numel() if isinstance(layer, RMSNorm) else 0
    if isinstance(layer, Residual):
        return residual(width, causal[1].in_channels)
    if isinstance(layer, Upsample):
        return upsample(width, time=layer.time_conv is not None)
    if isinstance(layer, Attention):
        return Layer("attention", width)
    return Layer(width=width, past=sum(conv.in_channels * conv.reach for conv in causal), sees=len(causal))

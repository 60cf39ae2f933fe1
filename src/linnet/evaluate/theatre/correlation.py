"""How well sprites explain what differs from an empty place, at every position of many frames at once.

A pixel is fitted as light * sprite + (1 - cover) * (place + shift), with one light and one shift for each channel. The
score of a position is the share that this explains of what differs from the place, around the sprite's edge, too: a
normalised correlation that flat shapes pass as well. Pixels that another thing hides are masked out. All sums are
correlations: by FFT for every position of a frame, or directly for a few.

Axes: N templates, F frames, c colour channels, h w rows and columns that are read, H W the same with a border, V half
of W, S a sprite's side, K a sprite's pixels, L positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BORDER_X, BORDER_Y = 16, 12  # read pixels about the frame, where a sprite may lie in part
RING = 0.10  # of the side: how far around a sprite the place counts
DARKEST, BRIGHTEST = 0.82, 1.12  # times the light of the time of day: that of a sprite
SHIFT = 0.12  # of a place's colours, at most
LEAST_SEEN = 0.4  # of a sprite: less of it inside the frame, or in front of what hides it, is no sight
FLOOR = 0.004  # a pixel's share of what is to be explained where nothing differs


class Kernels(NamedTuple):
    """What frames are summed over: products of w weight, o the sprite's own colour (three channels), a 1 - cover. Flat,
    [N K], or transformed, [N 1 H V]; the three channels come first."""

    w: Tensor
    wa: Tensor
    waa: Tensor
    wo: Tensor
    woa: Tensor
    woo: Tensor
    whole: Float[Tensor, "N"]  # pixels that count


class Fields(NamedTuple):
    """What is summed of frames: products of x pixels, b the empty place, d their difference, m 1 where nothing else is
    in front (else 0, and the others with it). As patches, [K L], or transformed, [F H V]; three channels come first."""

    x: Tensor
    b: Tensor
    xx: Tensor
    xb: Tensor
    bb: Tensor
    dd: Tensor
    m: Tensor


Summed = Callable[..., Tensor]  # of pairs (kernel, field): what they sum up to at each position


def weights(pictures: Float[Tensor, "N 4 S S"]) -> Float[Tensor, "N S S"]:
    """1 for the pixels of a sprite and of the ring about it."""
    reach = max(1, round(RING * pictures.shape[-1]))
    return (F.max_pool2d(pictures[:, 3:], 2 * reach + 1, 1, reach)[:, 0] > 0.3).float()


def flat(pictures: Float[Tensor, "N 4 S S"]) -> Kernels:
    w, own, a = (
        weights(pictures).flatten(1),
        pictures[:, :3].flatten(2).transpose(0, 1),
        1 - pictures[:, 3].flatten(1),
    )
    return Kernels(w, w * a, w * a * a, w * own, w * a * own, w * own * own, whole=w.sum(1))


def transformed(pictures: Float[Tensor, "N 4 S S"], size: tuple[int, int]) -> Kernels:
    *parts, whole = flat(pictures)
    side = pictures.shape[-1]
    return Kernels(
        *(
            torch.fft.rfft2(part.unflatten(-1, (side, side)), s=size).conj()[..., None, :, :]
            for part in parts
        ),
        whole=whole,
    )


def products(x: Float[Tensor, "F c H W"], b: Float[Tensor, "F c H W"], m: Float[Tensor, "F H W"]) -> Fields:
    x, b = (picture.transpose(0, 1) * m for picture in (x, b))
    return Fields(x, b, (x * x).sum(0), (x * b).sum(0), (b * b).sum(0), (x - b).square().sum(0), m)


@dataclass(frozen=True)
class Frames:
    """Frames beside their empty places, with a border, transformed once for all templates."""

    x: Float[Tensor, "F c H W"]
    b: Float[Tensor, "F c H W"]
    m: Float[Tensor, "F H W"]
    fields: Fields
    light: tuple[float, ...]  # of the time of day, for each channel

    @classmethod
    def of(
        cls,
        frames: Float[Tensor, "F c h w"],
        bare: Float[Tensor, "F c h w"],
        light: Float[Tensor, "c"],
        seen: Float[Tensor, "F h w"] | None = None,
    ) -> "Frames":
        """`seen` is 0 where something else is in front."""
        mask = torch.ones_like(frames[:, 0]) if seen is None else seen
        border = (BORDER_X, BORDER_X, BORDER_Y, BORDER_Y)
        x, b, m = (F.pad(picture, border) for picture in (frames, bare, mask))
        fields = Fields(*(torch.fft.rfft2(field) for field in products(x, b, m)))
        return cls(x, b, m, fields, tuple(light.tolist()))

    @property
    def size(self) -> tuple[int, int]:
        return self.m.shape[-2], self.m.shape[-1]

    def __len__(self) -> int:
        return len(self.m)

    def frame(self, number: int) -> "Frames":
        only = slice(number, number + 1)
        fields = Fields(*(field[..., only, :, :] for field in self.fields))
        return Frames(self.x[only], self.b[only], self.m[only], fields, self.light)


def everywhere(frames: Frames, of: Kernels, side: int) -> Float[Tensor, "N F rows columns"]:
    """The score of each (transformed) template at each position of its upper left corner, the border included."""
    rows, columns = (length - side + 1 for length in frames.size)

    def summed(*pairs: tuple[Tensor, Tensor]) -> Tensor:
        product = sum(kernel * field for kernel, field in pairs)
        return torch.fft.irfft2(product, s=frames.size)[..., :rows, :columns]

    return scores(frames.fields, of, frames.light, summed)


def about(
    frames: Frames, pictures: Float[Tensor, "N 4 S S"], left: int, top: int, reach: int, stride: int
) -> Float[Tensor, "N L"]:
    """The same in the first frame, at positions up to `reach` read pixels from a corner; none outside of the border."""
    side, (height, width) = pictures.shape[-1], frames.size
    rows = slice(max(0, top - reach), min(height, top + reach + side))
    columns = slice(max(0, left - reach), min(width, left + reach + side))
    x, b, m = frames.x[:1, :, rows, columns], frames.b[:1, :, rows, columns], frames.m[:1, rows, columns]
    if min(m.shape[-2:]) < side:
        return pictures.new_full((len(pictures), 1), -1.0)
    cut = products(x, b, m)
    patches = Fields(
        *(
            F.unfold(field.flatten(0, -3)[None] if field.dim() > 3 else field[None], side, stride=stride)[0]
            for field in cut
        )
    )
    patches = patches._replace(x=patches.x.unflatten(0, (3, -1)), b=patches.b.unflatten(0, (3, -1)))

    def summed(*pairs: tuple[Tensor, Tensor]) -> Tensor:
        return torch.stack([kernel @ field for kernel, field in pairs]).sum(0)

    return scores(patches, flat(pictures), frames.light, summed)


def scores(fields: Fields, of: Kernels, usual: Sequence[float], summed: Summed) -> Tensor:
    """What each template explains at each position; -1 where too little of it is seen. u = x - a * b is what
    light * o + shift * a has to explain."""
    count = summed((of.w, fields.m)).clamp(min=1)
    aa = summed((of.waa, fields.m)).clamp(min=1e-3)
    rest = summed(
        (of.w, fields.xx), (-2 * of.wa, fields.xb), (of.waa, fields.bb)
    )  # of u * u, over all channels
    total = summed((of.w, fields.dd))
    for c in range(3):
        x, b = fields.x[c], fields.b[c]
        ou = summed((of.wo[c], x), (-of.woa[c], b))
        au = summed((of.wa, x), (-of.waa, b))
        oo, oa = summed((of.woo[c], fields.m)), summed((of.woa[c], fields.m))
        light = (ou - au * oa / aa) / (oo - oa * oa / aa).clamp(min=1e-3)
        light = light.clamp(DARKEST * usual[c], BRIGHTEST * usual[c])
        shift = ((au - light * oa) / aa).clamp(-SHIFT, SHIFT)
        rest = rest - 2 * (light * ou + shift * au) + light * light * oo
        rest = rest + 2 * light * shift * oa + shift * shift * aa
        total = total - summed((of.w, x - b)).square() / count
    score = 1 - rest / (total + FLOOR * count)
    whole = of.whole.view(-1, *[1] * (score.dim() - 1))
    return torch.where(count >= LEAST_SEEN * whole, score, -1.0)

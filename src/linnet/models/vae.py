"""The video autoencoder of Wan 2.1, which Linum v2 uses unchanged: 8 x 8 pixels, 4 frames to a latent cell.

It is causal in time: the first latent frame stands for the first video frame alone, each later one for four
more. So a clip can go through in chunks, and all that a chunk needs of those before it is the last frame or
two of what every causal layer saw. That memory is a `Past`: an object of constant size, held by the caller.

Axes: B batch, C channels, z latent channels, T latent frames, F video frames, F = 4 (T - 1) + 1; H and
W are rows and columns before a layer, h and w after it (of pixels and of latent cells, in VAE's own methods).
Inside the network F counts whatever frames there are at that depth. Video is RGB in [-1, 1]. Latents are the
autoencoder's own; the transformer's normalised ones are scaled back before they come here.

Tensor names are those of the published file. Source: Wan 2.1 (arXiv 2503.20314), section 4.1.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from linnet.models.latents import off_grid, regroup
from linnet.models.norm_silu import norm_silu

QUERIES = 2048  # positions of a frame whose attention is computed at a time


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """`dim` is the width at full resolution; the deeper levels are 2, 4 and 4 times as wide."""

    dim: int = 96
    z_dim: int = 16


class Past:
    """What a stream remembers between chunks: the last input frames of every causal layer; at first, nothing.

    One `Past` belongs to one clip and one direction.
    """

    def __init__(self) -> None:
        self.tails: dict[nn.Module, Tensor | float] = {}

    def join(self, conv: "CausalConv3d", x: Float[Tensor, "B C F H W"]) -> Float[Tensor, "B C joined H W"]:
        """`x` with what `conv` saw just before it in front: all that `conv` is to see."""
        joined, self.tails[conv] = conv.join(x, self.tails.get(conv, 0.0))
        return joined


class CausalConv3d(nn.Conv3d):
    """A convolution whose every output frame depends on frames up to its own, never on later ones.

    It pads space only. In time, `join` puts the frames in front that the kernel reaches back to.
    """

    def __init__(
        self, inward: int, outward: int, kernel: tuple[int, int, int] = (3, 3, 3), *, every: int = 1
    ) -> None:
        time, height, width = kernel
        super().__init__(inward, outward, kernel, (every, 1, 1), (0, height // 2, width // 2))
        self.reach = time - every

    def join(
        self, x: Float[Tensor, "B C F H W"], tail: Float[Tensor, "B C reach H W"] | float
    ) -> tuple[Float[Tensor, "B C joined H W"], Float[Tensor, "B C reach H W"]]:
        """(`x` with its tail in front, the tail of the chunk after it). At a clip's start the tail is 0."""
        if not isinstance(tail, Tensor):
            tail = torch.full_like(x.narrow(2, 0, 1), tail).expand(-1, -1, self.reach, -1, -1)
        # On CPUs this layout is twice as fast in bfloat16, no slower in float32; most often it is there already.
        joined = torch.cat([tail, x], dim=2).contiguous(memory_format=torch.channels_last_3d)
        return joined, joined.narrow(2, x.shape[2], self.reach).clone()  # a view would keep the chunk alive


class RMSNorm(nn.Module):
    """Scales every position to root mean square 1 over its channels, then by `gamma`; computed in float32.

    `kernel`: with a SiLU behind it, both are one kernel on a CUDA card (see models.norm_silu). Off until it was
    measured on one; `fuse_norms` sets it."""

    def __init__(self, width: int, *, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *[1] * axes))
        self.kernel = False

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B C *space"]:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        scaled = x * (x.shape[1] ** 0.5 / length.clamp_min(1e-12))
        return scaled.mul_(self.gamma).to(x.dtype)


class Residual(nn.Module):
    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(  # numbered as in the published file, which has a dropout at 5
            RMSNorm(inward, axes=3),
            nn.SiLU(inplace=True),
            CausalConv3d(inward, outward),
            RMSNorm(outward, axes=3),
            nn.SiLU(inplace=True),
            nn.Identity(),
            CausalConv3d(outward, outward),
        )
        self.shortcut = nn.Identity() if inward == outward else nn.Conv3d(inward, outward, 1)

    def forward(self, x: Float[Tensor, "B C F H W"], past: Past) -> Float[Tensor, "B D F H W"]:
        change = run(self.residual, x, past)
        return self.shortcut(x) + change


class Attention(nn.Module):
    """Every position of a frame attends to all positions of that frame, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, axes=2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "B C F H W"]) -> Float[Tensor, "B C F H W"]:
        return x + per_frame(self.attend, x)

    def attend(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        tokens = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)
        q, k, v = tokens.unsqueeze(1).chunk(3, dim=-1)  # the axis put in is that of the one head
        # Some kernels write down every weight, of 14,400 x 14,400 at 720p: never of more queries than these.
        parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(QUERIES, dim=2)]
        mixed = torch.cat(parts, dim=2).squeeze(1)
        return self.proj(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halves height and width; then, with `time`, the frames: a clip's first 1 + 2n become 1 + n."""

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2))
        self.time_conv = CausalConv3d(width, width, (3, 1, 1), every=2) if time else None

    def forward(self, x: Float[Tensor, "B C F H W"], past: Past) -> Float[Tensor, "B C f h w"]:
        x = per_frame(self.resample, x)
        conv = self.time_conv
        if conv is None:
            return x
        if conv in past.tails:
            return conv(past.join(conv, x))
        past.tails[conv] = x[:, :, :1].clone()  # the first frame passes unchanged, and the next two see it
        return spare_first(lambda rest: conv(past.join(conv, rest)), x)


class Upsample(nn.Module):
    """With `time`, doubles the frames: a clip's first 1 + n become 1 + 2n. Then H and W; halves the width."""

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(width, width // 2, 3, padding=1)
        )
        self.time_conv = CausalConv3d(width, 2 * width, (3, 1, 1)) if time else None

    def forward(self, x: Float[Tensor, "B C F H W"], past: Past) -> Float[Tensor, "B C//2 f h w"]:
        conv = self.time_conv
        if conv is None:
            return per_frame(self.resample, x)

        def double(frames: Tensor) -> Tensor:
            pairs = conv(past.join(conv, frames)).movedim(1, -1).unflatten(-1, (2, -1))  # B F H W 2 C
            return pairs.movedim(-2, 2).flatten(1, 2).movedim(-1, 1)

        if conv in past.tails:
            return per_frame(self.resample, double(x))
        past.tails[conv] = 0.0  # the first frame passes unchanged, and the next ones do not see it
        return per_frame(self.resample, spare_first(double, x))


class Encoder(nn.Module):
    def __init__(self, dim: int, z_dim: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(3, dim)
        self.downsamples = nn.Sequential()
        for level, (inward, outward) in enumerate(pairwise([dim, dim, 2 * dim, 4 * dim, 4 * dim])):
            self.downsamples.extend([Residual(inward, outward), Residual(outward, outward)])
            if level < 3:
                self.downsamples.append(Downsample(outward, time=level > 0))
        self.middle = middle(4 * dim)
        self.head = head(4 * dim, 2 * z_dim)

    def forward(self, x: Float[Tensor, "B 3 F H W"], past: Past) -> Float[Tensor, "B C T h w"]:
        return run([self.conv1, *self.downsamples, *self.middle, *self.head], x, past)


class Decoder(nn.Module):
    def __init__(self, dim: int, z_dim: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(z_dim, 4 * dim)
        self.middle = middle(4 * dim)
        self.upsamples = nn.Sequential()
        inward = 4 * dim
        for level, width in enumerate([4 * dim, 4 * dim, 2 * dim, dim]):
            self.upsamples.extend([Residual(inward, width), Residual(width, width), Residual(width, width)])
            if level < 3:
                self.upsamples.append(Upsample(width, time=level < 2))
            inward = width // 2
        self.head = head(dim, 3)

    def forward(self, x: Float[Tensor, "B z T h w"], past: Past) -> Float[Tensor, "B 3 F H W"]:
        return run([self.conv1, *self.middle, *self.upsamples, *self.head], x, past)


def middle(width: int) -> nn.Sequential:
    return nn.Sequential(Residual(width, width), Attention(width), Residual(width, width))


def head(width: int, outward: int) -> nn.Sequential:
    return nn.Sequential(RMSNorm(width, axes=3), nn.SiLU(inplace=True), CausalConv3d(width, outward))


class VAE(nn.Module):
    """Weights may be bfloat16; norms are computed in float32 all the same, and what comes out is float32."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.dim, config.z_dim)
        self.conv1 = nn.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config.dim, config.z_dim)

    def encode(
        self, video: Float[Tensor, "B 3 F H W"], past: Past | None = None
    ) -> Float[Tensor, "B z T h w"]:
        """The mean of the latents' distribution. With a `past`, of the chunk of a clip that follows it.

        A clip's first chunk has 4n + 1 frames and any later one 4n; height and width are multiples of 8:
        InvalidInput where not.
        """
        past = past or Past()
        frames, height, width = video.shape[2:]
        extra = 0 if past.tails else 1
        if frames == 0 or frames % FRAMES_PER_LATENT != extra:
            raise off_grid(frames, f"{FRAMES_PER_LATENT}n + {extra}")
        if height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT:
            problem = f"the autoencoder takes multiples of {PIXELS_PER_LATENT}"
            raise InvalidInput("size", f"{width}x{height}", problem, "crop or pad the video")
        moments = self.conv1(self.encoder(video.to(self.conv1.weight.dtype), past))
        return moments[:, : self.config.z_dim].float()

    def decode(
        self, latents: Float[Tensor, "B z T h w"], past: Past | None = None
    ) -> Float[Tensor, "B 3 F H W"]:
        """Video about [-1, 1], not clamped. With a `past`, of the chunk of a clip that follows it."""
        return self.decoder(self.conv2(latents.to(self.conv2.weight.dtype)), past or Past()).float()

    def encode_stream(
        self, chunks: Iterable[Float[Tensor, "B 3 _ H W"]]
    ) -> Iterator[Float[Tensor, "B z 1 h w"]]:
        """Latent frames one by one, each as soon as its frames are there; chunks may have any length."""
        past = Past()
        for group in regroup(chunks):
            yield self.encode(group, past)

    def decode_stream(
        self, latents: Float[Tensor, "B z T h w"], chunk: int = 1
    ) -> Iterator[Float[Tensor, "B 3 _ H W"]]:
        """The video of `chunk` latent frames at a time: 4 frames for each, but 1 for the clip's first."""
        past = Past()
        for part in latents.split(chunk, dim=2):
            yield self.decode(part, past)


def lay_channels_last(vae: VAE) -> VAE:
    """Its convolutions' weights in the order of memory in which `CausalConv3d` lays what they convolve: a library that
    convolves in that order otherwise copies them each time. The numbers stay."""
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            flat = isinstance(layer, nn.Conv2d)
            order = torch.channels_last if flat else torch.channels_last_3d
            layer.weight.data = layer.weight.data.contiguous(memory_format=order)
    return vae


def fuse_norms(vae: VAE) -> VAE:
    """Each norm and the SiLU behind it as one kernel, where a card can (see models.norm_silu)."""
    for layer in vae.modules():
        if isinstance(layer, RMSNorm):
            layer.kernel = True
    return vae


def run(layers: Iterable[nn.Module], x: Tensor, past: Past) -> Tensor:
    """One layer after another. Whatever a layer has used is let go of before the next one runs."""
    waiting = list(layers)[::-1]
    while waiting:
        layer = waiting.pop()
        if isinstance(layer, RMSNorm) and layer.kernel and waiting and isinstance(waiting[-1], nn.SiLU):
            waiting.pop()
            x = norm_silu(x, layer.gamma)
        elif isinstance(layer, CausalConv3d):
            x = past.join(layer, x)
            x = layer(x)
        elif isinstance(layer, Residual | Downsample | Upsample):
            x = layer(x, past)
        else:
            x = layer(x)
    return x


def per_frame(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "B C F H W"]) -> Float[Tensor, "B D F h w"]:
    """A layer for images, on every frame."""
    frames = layer(x.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def spare_first(
    layer: Callable[[Tensor], Tensor], x: Float[Tensor, "B C F H W"]
) -> Float[Tensor, "B C f H W"]:
    """A layer on all frames but the first, which passes unchanged."""
    first, rest = x[:, :, :1], x[:, :, 1:]
    return torch.cat([first, layer(rest)], dim=2) if rest.shape[2] else first

"""The tiny autoencoder of the TAEHV family: 2-D convolutions frame by frame, and three layers that know about time.

Axes: B clips, T frames (pixels or latent), C channels, H rows, W columns, N = B*T images. Inside, clips travel as N
images, so that one convolution sees them all. Every layer keeps causality: a frame depends on itself and earlier ones.
The published weights (`taew2_1`, MIT) hold the layout of the two Sequentials below; seedling's are a smaller set.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linnet.models.latents import regroup

Images = Float[Tensor, "N C H W"]

STRETCH = (
    600  # latent cells, of small frames several, that are decoded at a time: less leaves processors idle
)


@dataclass(frozen=True, kw_only=True)
class TAEConfig:
    encoder_width: int = 64
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    latent_channels: int = 16

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """From the record in a weight file, in which a tuple has become a list."""
        return cls(**{**config, "decoder_widths": tuple(config["decoder_widths"])})


def taew2_1() -> TAEConfig:
    """The published tiny autoencoder for Wan 2.1's latents, 11.3 M parameters."""
    return TAEConfig()


@dataclass
class Memory:
    """What a stream carries from one call to the next: each memory block's last input frame, by its place."""

    past: dict[int, Float[Tensor, "B C H W"]] = field(default_factory=dict)


class MemoryBlock(nn.Module):
    """A residual block that also sees its own input one frame earlier (zeros before the first frame)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Images, past: Images) -> Images:
        return F.relu(self.conv(torch.cat((x, past), 1)).add_(x), inplace=True)


class TimePool(nn.Module):
    """`stride` consecutive frames become one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Images) -> Float[Tensor, "n C H W"]:
        frames = x.unflatten(0, (-1, self.stride)).permute(0, 3, 4, 1, 2)  # n h w s c: stays channels last
        return self.conv(frames.flatten(3).permute(0, 3, 1, 2))


class TimeGrow(nn.Module):
    """One frame becomes `stride` consecutive ones."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Images) -> Float[Tensor, "n C H W"]:
        frames = self.conv(x).unflatten(1, (self.stride, -1)).permute(0, 1, 3, 4, 2)  # n s h w c
        return frames.flatten(0, 1).permute(0, 3, 1, 2)


class Clamp(nn.Module):
    def forward(self, x: Images) -> Images:
        return torch.tanh(x / 3) * 3


def _encoder(width: int, latent: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True)]
    for stride in (2, 2, 1):
        layers += [TimePool(width, stride), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)]
        layers += [MemoryBlock(width) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(width, latent, 3, padding=1))


def _decoder(widths: tuple[int, ...], latent: int) -> nn.Sequential:
    layers: list[nn.Module] = [Clamp(), nn.Conv2d(latent, widths[0], 3, padding=1), nn.ReLU(inplace=True)]
    for width, narrower, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
        layers += [MemoryBlock(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), TimeGrow(width, stride)]
        layers += [nn.Conv2d(width, narrower, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Conv2d(widths[-1], 3, 3, padding=1))


class TAE(nn.Module):
    """Latents are one frame for four of the clip, one row and column for eight; pixels are RGB in 0..1."""

    def __init__(self, config: TAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config.encoder_width, config.latent_channels)
        self.decoder = _decoder(config.decoder_widths, config.latent_channels)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> Self:
        """Weights to train from: signals keep their size through the stack, and its residual branches start quiet.

        PyTorch's own defaults shrink them so much that colours take thousands of steps to come through.
        """
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                conv.weight.normal_(std=(2 / conv.weight[0].numel()) ** 0.5, generator=generator)
                if conv.bias is not None:
                    conv.bias.zero_()
        for block in self.modules():
            if isinstance(block, MemoryBlock):
                block.conv.get_submodule("4").get_parameter("weight").mul_(0.2)
        into_latents = self.encoder.get_submodule(str(len(self.encoder) - 1))
        into_pixels = self.decoder.get_submodule(str(len(self.decoder) - 1))
        into_latents.get_parameter("weight").mul_(0.5**0.5)
        into_pixels.get_parameter("weight").mul_(0.1)
        into_pixels.get_parameter("bias").fill_(0.5)
        return self

    def encode(self, video: Float[Tensor, "B F 3 H W"], *, lead: int = 0) -> Float[Tensor, "B T C h w"]:
        """Latents of a whole clip. The published weights pad its end with copies of the last frame (`lead` 0).

        With `lead` 3 as many copies of the first frame go in front instead, so that the first latent frame stands for
        the first frame alone, as Wan's does; seedling is trained so. H and W are multiples of 8.
        """
        front = video[:, :1].expand(-1, lead, -1, -1, -1)
        short = -(video.shape[1] + lead) % 4
        end = video[:, -1:].expand(-1, short, -1, -1, -1)
        return _run(self.encoder, torch.cat((front, video, end), 1), Memory())

    def encode_stream(
        self, chunks: Iterable[Float[Tensor, "B 3 _ H W"]]
    ) -> Iterator[Float[Tensor, "B C 1 h w"]]:
        """Latent frames one by one, of chunks of any length in -1..1; equal to `encode` with a `lead` of 3."""
        memory = Memory()
        for group in regroup(chunks):
            frames = group.transpose(1, 2).add(1).div(2)
            four = frames.expand(-1, 4, -1, -1, -1) if frames.shape[1] == 1 else frames
            yield _run(self.encoder, four, memory).transpose(1, 2)

    def decode(self, latents: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B F 3 H W"]:
        """All frames of a clip, F = 4T - 3, clamped to 0..1."""
        return self.reconstruct(latents).clamp(0, 1)

    def reconstruct(self, latents: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B F 3 H W"]:
        """The same before clamping, for a loss to compare."""
        return _run(self.decoder, latents, Memory())[:, 3:]

    def decode_stream(
        self, latents: Float[Tensor, "B C T h w"], *, chunk: int | None = None
    ) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Frames in -1..1, `chunk` latent frames at a time; equal to `decode`, in memory that no length changes."""
        chunk = chunk or max(1, STRETCH // latents.shape[3:].numel())
        memory, first = Memory(), True
        for part in latents.transpose(1, 2).split(chunk, 1):
            frames = _run(self.decoder, part, memory)[:, 3 if first else 0 :]
            first = False
            yield frames.clamp(0, 1).mul(2).sub(1).transpose(1, 2)


def _run(
    layers: nn.Sequential, clip: Float[Tensor, "B T C H W"], memory: Memory
) -> Float[Tensor, "B t c h w"]:
    """The Sequential over a stretch of a clip, continuing from (and updating) `memory`."""
    batch = clip.shape[0]
    # Channels last: CPUs with bfloat16 tiles and GPUs convolve several times faster so.
    x = clip.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    for index, layer in _cheapest_first(layers):
        x = layer(x, _past(x, batch, index, memory)) if isinstance(layer, MemoryBlock) else layer(x)
    return x.unflatten(0, (batch, -1))


def _cheapest_first(layers: nn.Sequential) -> list[tuple[int, nn.Module]]:
    """The layers with their places, each that grows time before the one that doubles its pixels, not after it.

    It sees every pixel alone, so that it gives the same of a fourth of them.
    """
    order = list(enumerate(layers))
    for at in range(len(order) - 1):
        if isinstance(order[at][1], nn.Upsample) and isinstance(order[at + 1][1], TimeGrow):
            order[at : at + 2] = order[at + 1], order[at]
    return order


def _past(x: Images, batch: int, index: int, memory: Memory) -> Images:
    """Every frame's predecessor; the first one's comes from the stream's memory, which is moved on."""
    frames = x.unflatten(0, (batch, -1))
    before = torch.empty_like(x)  # keeps the memory format
    earlier = before.unflatten(0, (batch, -1))
    earlier[:, 1:] = frames[:, :-1]
    earlier[:, 0] = memory.past.get(index, 0)
    memory.past[index] = frames[:, -1]
    return before

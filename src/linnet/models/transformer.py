"""The video transformer of Linum v2: noisy latents, a time and a text in, a velocity out.

Axes: B batch, C latent channels, T latent frames, H and W latent rows and columns, L tokens (T * H/2 * W/2),
D model width, S text rows, N heads, d head width.

The architecture is Wan 2.1's with affine norms and a bias-free text path. Attribute names give the published
files' keys once `model.` is stripped from those. The residual stream, the norms and the modulation are
float32 whatever the dtype of the matrix products.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from linnet.models.attention import (
    GELU,
    Attend,
    CrossAttention,
    FeedForward,
    Heads,
    Linear,
    Rotary,
    SelfAttention,
    Share,
    Tokens,
    attend,
    float64_device,
    mix,
    product_dtype,
    rotary_tables,
)

GATE = 0.3  # of each block's attention and feed-forward before training
PATCH = 2  # A token covers 1 x 2 x 2 latent cells.


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_len: int
    text_dim: int
    freq_dim: int = 256
    channels: int = 16


def linum_v2() -> TransformerConfig:
    """The 2.008-billion-parameter model, 360p and 720p alike."""
    return TransformerConfig(dim=1664, ffn_dim=8192, num_heads=13, num_layers=40, text_len=256, text_dim=4096)


@dataclass(frozen=True)
class TextContext:
    """One batch of prompts as cross-attention sees it: each block's keys and values, the same at all steps.

    The model was trained with the text zero-padded to `text_len` rows and with the padding attended. Each
    padded row has a zero key and a zero value, so together they add (text_len - length) to the softmax's
    denominator and nothing else: here they are one zero row, the last, whose `bias` is the logarithm of
    their number. Rows that a shorter prompt of the batch leaves unused have a bias of minus infinity.
    """

    keys: tuple[Heads, ...]
    values: tuple[Heads, ...]
    bias: Float[Tensor, "B S"]

    def repeat(self, count: int) -> "TextContext":
        """The whole batch, `count` times over."""
        return TextContext(
            tuple(key.repeat(count, 1, 1, 1) for key in self.keys),
            tuple(value.repeat(count, 1, 1, 1) for value in self.values),
            self.bias.repeat(count, 1),
        )

    def join(self, other: "TextContext") -> "TextContext":
        """This batch followed by `other`, the one with fewer rows filled up with unused ones."""
        rows = max(self.bias.shape[1], other.bias.shape[1])

        def stack(first: Tensor, second: Tensor) -> Heads:
            return torch.cat([F.pad(x, (0, 0, 0, rows - x.shape[2])) for x in (first, second)])

        return TextContext(
            tuple(map(stack, self.keys, other.keys)),
            tuple(map(stack, self.values, other.values)),
            torch.cat([F.pad(x, (0, rows - x.shape[1]), value=-math.inf) for x in (self.bias, other.bias)]),
        )

    def row(self, index: int) -> "TextContext":
        """One prompt of the batch."""
        at = slice(index, index + 1)
        return TextContext(
            tuple(key[at] for key in self.keys), tuple(value[at] for value in self.values), self.bias[at]
        )

    def blend(self, other: "TextContext", share: float) -> "TextContext":
        """Both texts at once: every row of `other` weighs `share` in the softmax, every row of this one the rest.

        What the tokens look at then moves evenly from one text to the other, whatever their lengths; the states of two
        prompts have no common order in which they could be averaged. `share` lies between 0 and 1.
        """
        bias = torch.cat((self.bias + math.log(1 - share), other.bias + math.log(share)), 1)
        return TextContext(
            tuple(torch.cat(pair, 2) for pair in zip(self.keys, other.keys, strict=True)),
            tuple(torch.cat(pair, 2) for pair in zip(self.values, other.values, strict=True)),
            bias,
        )


def modulate(
    x: Float[Tensor, "B L D"], scale: Float[Tensor, "B 1 D"], shift: Float[Tensor, "B 1 D"]
) -> Float[Tensor, "B L D"]:
    return torch.addcmul(shift, x, 1 + scale)


def add(x: Float[Tensor, "B L D"], change: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """The sum, in the memory of `x` where no gradient needs what was there."""
    return x + change if torch.is_grad_enabled() else x.add_(change)


class Change(NamedTuple):
    """What a block's feed-forward net has to add to the residual stream, and its gate.

    The next block adds it: there a compiler fuses the addition with the norm that follows, so that the residual stream
    is read and written once less.
    """

    value: Float[Tensor, "B L D"]
    gate: Float[Tensor, "B 1 D"]


def add_change(x: Float[Tensor, "B L D"], change: Change) -> Float[Tensor, "B L D"]:
    return add(x, change.gate * change.value)


class Room(NamedTuple):
    """Memory for the keys and values of all tokens, which every block fills anew."""

    key: Tokens
    value: Tokens


def equal_chunk(length: int, most: int) -> int:
    """Tokens of a chunk, `most` or fewer. Chunks are of one length, so that they are compiled once, where `length` has
    a divisor not much smaller than `most`; otherwise the last chunk is the shortest."""
    least = -(-length // most)
    for parts in range(least, least + least // 2 + 2):
        if length % parts == 0:
            return length // parts
    return -(-length // least)


class Block(nn.Module):
    """Self-attention, cross-attention and a feed-forward net; time steers the first and the last."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-5) for _ in range(3))
        self.self_attn = SelfAttention(dim, config.num_heads)
        self.cross_attn = CrossAttention(dim, config.num_heads)
        self.ffn = FeedForward(dim, config.ffn_dim)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        change: Change,
        time: Float[Tensor, "B 6 D"],
        rotary: Rotary,
        key: Heads,
        value: Heads,
        bias: Float[Tensor, "B 1 1 S"],
        attend: Attend = attend,
    ) -> tuple[Float[Tensor, "B L D"], Change]:
        """The stream and what is still to be added to it; `change` is what the block before left to be added."""
        shift, scale, gate, *later = self.steering(time)
        x = add_change(x, change)
        # Cast once for all three layers that see it.
        seen = modulate(self.norm1(x), scale, shift).to(product_dtype(self.self_attn.q))
        x = add(x, gate * self.self_attn(seen, rotary, attend))
        return self.finish(x, later, key, value, bias)

    def steering(self, time: Float[Tensor, "B 6 D"]) -> Sequence[Float[Tensor, "B 1 D"]]:
        """Shift, scale and gate of self-attention, then of the feed-forward net."""
        return (self.modulation + time).split(1, dim=1)

    def finish(
        self,
        x: Float[Tensor, "B L D"],
        steering: Sequence[Float[Tensor, "B 1 D"]],
        key: Heads,
        value: Heads,
        bias: Float[Tensor, "B 1 1 S"],
    ) -> tuple[Float[Tensor, "B L D"], Change]:
        """What follows self-attention, each token by itself."""
        shift, scale, gate = steering
        x = add(x, self.cross_attn(self.norm3(x), key, value, bias))
        return x, Change(self.ffn(modulate(self.norm2(x), scale, shift)), gate)

    def in_chunks(
        self,
        x: Float[Tensor, "B L D"],
        time: Float[Tensor, "B 6 D"],
        rotary: Rotary,
        key: Heads,
        value: Heads,
        bias: Float[Tensor, "B 1 1 S"],
        attend: Attend,
        *,
        chunk: int,
        room: Room,
    ) -> None:
        """The same in little memory, `chunk` tokens at a time; `x` itself becomes the result.

        Keys and values of all tokens come first. Then each chunk's queries go all the way, so that neither all queries
        nor all that attention makes ever exist. The first norm is computed twice.
        """
        parts = x.split(chunk, dim=1)
        rotations = [Rotary(*pair) for pair in zip(*(table.split(chunk) for table in rotary), strict=True)]
        places = zip(room.key.split(chunk, dim=1), room.value.split(chunk, dim=1), strict=True)
        for part, turn, (keys, values) in zip(parts, rotations, places, strict=True):
            self.fill(keys, values, part, time, turn)
        for part, turn in zip(parts, rotations, strict=True):
            self.advance(part, time, turn, room, key, value, bias, attend)

    def fill(
        self, keys: Tokens, values: Tokens, x: Float[Tensor, "B _ D"], time: Tensor, rotary: Rotary
    ) -> None:
        """Write a chunk's keys and values where all of them stand."""
        shift, scale, *_ = self.steering(time)
        for buffer, own in zip(
            (keys, values),
            self.self_attn.keys_values(modulate(self.norm1(x), scale, shift), rotary),
            strict=True,
        ):
            buffer.copy_(own)

    def advance(
        self,
        x: Float[Tensor, "B _ D"],
        time: Float[Tensor, "B 6 D"],
        rotary: Rotary,
        room: Room,
        key: Heads,
        value: Heads,
        bias: Float[Tensor, "B 1 1 S"],
        attend: Attend,
    ) -> None:
        """A chunk of the stream, which becomes the result."""
        shift, scale, gate, *later = self.steering(time)
        query = self.self_attn.query(modulate(self.norm1(x), scale, shift), rotary)
        x = add(x, gate * self.self_attn.o(mix(query, *room, attend)))
        x, change = self.finish(x, later, key, value, bias)
        add_change(x, change)


class Head(nn.Module):
    """From tokens to the velocity of their patches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))
        self.norm = nn.LayerNorm(config.dim, eps=1e-5)
        self.head = Linear(config.dim, PATCH * PATCH * config.channels)

    def forward(self, x: Float[Tensor, "B L D"], time: Float[Tensor, "B D"]) -> Float[Tensor, "B L patch"]:
        shift, scale = (self.modulation + time[:, None]).split(1, dim=1)
        return self.head(modulate(self.norm(x), scale, shift)).float()


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.channels, dim, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.text_embedding = nn.Sequential(
            Linear(config.text_dim, dim, bias=False),
            GELU(),
            Linear(dim, dim, bias=False),
        )
        self.time_embedding = nn.Sequential(Linear(config.freq_dim, dim), nn.SiLU(), Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Linear(dim, 6 * dim))
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config) for _ in range(config.num_layers)))
        self.head = Head(config)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> Self:
        """Weights to train from: the model predicts zero, blocks are nearly shut, and attention looks nearby.

        Matrices keep the variance of their input (normal, 1/sqrt(fan-in)). Time and text say nothing at first, by way
        of a zero time projection and a zero output of the cross-attention (Peebles & Xie, arXiv 2212.09748, shut the
        gates too; open by `GATE`, they let attention learn from the first step).
        """
        silent = {self.time_projection[1], self.head.head, *(block.cross_attn.o for block in self.blocks)}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(std=0.0 if module in silent else fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
            elif isinstance(module, Block | Head):
                module.modulation.zero_()
        for block in self.blocks:
            block.modulation[:, 2::3] = GATE
            block.self_attn.look_nearby()
        return self

    def encode_text(
        self, states: Sequence[Float[Tensor, "_ text_dim"]], *, blocks: Iterable[Block] | None = None
    ) -> TextContext:
        """Prompts as the text encoder's states of their real tokens, one tensor a prompt, without padding.

        `blocks` as for `forward`."""
        lengths = torch.tensor([len(rows) for rows in states], device=states[0].device)
        return self.encode_padded_text(pad_sequence(list(states), batch_first=True), lengths, blocks=blocks)

    def encode_padded_text(
        self,
        states: Float[Tensor, "B S text_dim"],
        lengths: Int[Tensor, "B"],
        *,
        blocks: Iterable[Block] | None = None,
    ) -> TextContext:
        """The same from one tensor, of whose sample i the first lengths[i] rows count: fixed shapes."""
        row = torch.arange(states.shape[1] + 1, device=states.device)
        used = row < lengths[:, None]
        # A zero row stays zero through every bias-free layer, so masking the input masks keys and values.
        text = self.text_embedding(F.pad(states, (0, 0, 0, 1)).where(used[..., None], 0.0))
        folded = (self.config.text_len - lengths).float().log()[:, None]
        bias = torch.where(row == states.shape[1], folded, torch.zeros_like(folded).where(used, -math.inf))
        pairs = [block.cross_attn.keys_values(text) for block in blocks or self.blocks]
        keys, values = zip(*pairs, strict=True)
        return TextContext(keys, values, bias)

    def forward(
        self,
        latents: Float[Tensor, "B C T H W"],
        timestep: Float[Tensor, "B"],
        text: TextContext,
        *,
        blocks: Iterable[Block] | None = None,
        token_chunk: int | None = None,
        share: Callable[[int], Share] | None = None,
        attend: Attend = attend,
    ) -> Float[Tensor, "B C T H W"]:
        """The float32 velocity, noise - data, at `timestep` = 1000 * sigma. Text of batch 1 serves all.

        `blocks` are the model's own, in turn, where they are not all in memory: each is used before the next one is
        asked for. `token_chunk` bounds memory, not the result: see `Block.in_chunks`; where gradients are kept or
        tokens shared it means nothing. `attend` is one of several ways that give the same. Processes that `share` the
        tokens, told their number, all call this with the same inputs and all get the whole.
        """
        height, width = latents.shape[-2:]
        padded = F.pad(latents, (0, width % PATCH, 0, height % PATCH))
        grid = (padded.shape[2], padded.shape[3] // PATCH, padded.shape[4] // PATCH)
        rotary = rotary_tables(grid, self.config.dim // self.config.num_heads, latents.device)
        time, modulation = self._embed_time(timestep)
        batch, mine = len(latents), share(math.prod(grid)) if share else None
        bias = text.bias[:, None, None].expand(batch, -1, -1, -1)
        own, meet = (mine.own, mine.attend) if mine else (slice(None), attend)
        rotary = Rotary(*(table[own] for table in rotary))
        x = self._embed(self._patchify(padded)[:, own])
        texts = (
            [rows.expand(batch, -1, -1, -1) for rows in pair]
            for pair in zip(text.keys, text.values, strict=True)
        )
        run = zip(blocks or self.blocks, texts, strict=True)
        chunk, dtype = x.shape[1], text.values[0].dtype if text.values else x.dtype
        if token_chunk is None or token_chunk >= chunk or mine or torch.is_grad_enabled():
            # Zeros, laid out as a block's, so that a compiler sees the first block as it sees the others.
            gate = torch.zeros_like(modulation)[:, -1:]
            change = Change(torch.zeros_like(x, dtype=dtype), gate)
            for block, (key, value) in run:
                x, change = block(x, change, modulation, rotary, key, value, bias, meet)
            x = add_change(x, change)
        else:
            chunk = equal_chunk(chunk, token_chunk)
            room = self._room(x, dtype)
            for block, (key, value) in run:
                block.in_chunks(x, modulation, rotary, key, value, bias, attend, chunk=chunk, room=room)
            del room
        patches = torch.cat([self.head(part, time) for part in x.split(chunk, dim=1)], dim=1)
        if mine:
            patches = mine.gather(patches)
        return self._unpatchify(patches, grid)[..., :height, :width]

    def _room(self, x: Float[Tensor, "B L D"], dtype: torch.dtype) -> Room:
        shape = (*x.shape[:2], self.config.num_heads, -1)
        return Room(*(torch.empty_like(x, dtype=dtype).view(shape) for _ in Room._fields))

    def _embed_time(
        self, timestep: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B 6 D"]]:
        home, half = float64_device(timestep.device), self.config.freq_dim // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=home) / half)
        angle = torch.outer(timestep.to(home, torch.float64), frequency)
        waves = torch.cat((angle.cos(), angle.sin()), dim=-1).to(timestep.device, torch.float32)
        # A handful of rows steers every token: it is worth float32 even where autocast would take it away.
        with torch.autocast(timestep.device.type, enabled=False):
            time = self.time_embedding(waves).float()
            return time, self.time_projection(time).float().unflatten(-1, (6, -1))

    def _patchify(self, latents: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B L patch"]:
        patches = latents.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH))  # B C T h p w q
        return patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)

    def _embed(self, patches: Float[Tensor, "B L patch"]) -> Float[Tensor, "B L D"]:
        # A convolution whose kernel is its stride is a matrix product over patches, and faster as one.
        weight, bias = self.patch_embedding.weight.flatten(1), self.patch_embedding.bias
        return F.linear(patches.to(weight.dtype), weight, bias).float()

    def _unpatchify(
        self, patches: Float[Tensor, "B L patch"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "B C T H W"]:
        cells = patches.unflatten(1, grid).unflatten(-1, (PATCH, PATCH, -1))  # B T h w p q C
        return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

"""Self-attention over the video's tokens, turned by their place in time, rows and columns, and cross-attention to the
text.

Axes: B batch, L tokens (T*H*W of them, ordered T, H, W), S text rows, D model width, N heads, d head width (D = N*d),
P = d/2 pairs.

Precision: matrix products and attention run in the weights' dtype (or autocast's); the normalisation of
queries and keys and their rotation run in float32.
"""

import math
from collections.abc import Callable, Container
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Heads = Float[Tensor, "B N S d"]
Tokens = Float[Tensor, "B _ N d"]

PLAIN_LENGTH = 1024  # The longest attention of which training on a CPU keeps all weights in memory.
CHUNK_BYTES, FEWEST_ROWS = 2**20, 64  # of attention's weights at a time: what stays in a core's cache
THETA = 10_000.0  # of the rotation
CPU = torch.device("cpu")


# --- rotary position embedding ----------------------------------------------------------------------------------------
# In real arithmetic: Su et al., arXiv 2104.09864, as Wan 2.1 and Linum v2 spread it over time, rows and columns.


class Rotary(NamedTuple):
    """The cosine and sine by which each pair of channels of each token turns; one table serves all blocks."""

    cos: Float[Tensor, "L 1 P"]
    sin: Float[Tensor, "L 1 P"]


def float64_device(device: torch.device) -> torch.device:
    """Where float64 arithmetic for `device` can happen: Apple's GPUs have none, so there it is the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def frequencies(head_dim: int, axis: int, device: torch.device = CPU) -> Float[Tensor, "p"]:
    """Radians a token, in float64, of the pairs that turn with time (axis 0), rows (1) or columns (2).

    Of a head's P pairs, the last P//3 turn with the column, those before with the row and the rest with time.
    """
    pairs = head_dim // 2
    share = pairs - 2 * (pairs // 3) if axis == 0 else pairs // 3
    return THETA ** (-torch.arange(share, dtype=torch.float64, device=device) / share)


def nearness(head_dim: int, axes: Container[int], strength: float) -> Float[Tensor, "d"]:
    """What to add to queries and keys alike so that attention falls with the distance along `axes` of the grid.

    Rotation turns the product of this constant with itself into a sum of cosines of the distance; slow pairs, which
    hardly tell neighbours apart, are left out.
    """
    every = [frequencies(head_dim, axis) for axis in range(3)]
    even = torch.cat([strength * float(axis in axes) * (f >= 0.1) for axis, f in enumerate(every)])
    return torch.stack((even, torch.zeros_like(even)), dim=-1).flatten().float()


def rotary_tables(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Rotary:
    """Float32 tables for a (T, H, W) grid of tokens, from angles in float64.

    Only T + H + W rows of angles are ever computed; the rest is broadcasting, cheap enough for every forward.
    """
    pairs, home = head_dim // 2, float64_device(device)

    def spread(axis: int) -> Float[Tensor, "T H W p"]:
        position = torch.arange(grid[axis], dtype=torch.float64, device=home)
        frequency = frequencies(head_dim, axis, home)
        shape = [1, 1, 1, len(frequency)]
        shape[axis] = grid[axis]
        return torch.outer(position, frequency).view(shape)

    angles = [spread(axis) for axis in range(3)]

    def table(values: list[Tensor]) -> Float[Tensor, "L 1 P"]:
        return torch.cat(
            [value.to(device, torch.float32).expand(*grid, -1) for value in values], dim=-1
        ).view(-1, 1, pairs)

    return Rotary(table([a.cos() for a in angles]), table([a.sin() for a in angles]))


def rotate(x: Float[Tensor, "B L N d"], rotary: Rotary) -> Float[Tensor, "B L N d"]:
    """Turn the interleaved channel pairs (2i, 2i+1) of every head.

    Each pair times its cosine, plus the swapped pair times the signed sine: a compiler reads and writes every number
    once this way, where joining the two halves would take a buffer and masked reads.
    """
    cos = torch.stack((rotary.cos, rotary.cos), dim=-1).flatten(-2)
    signed = torch.stack((-rotary.sin, rotary.sin), dim=-1).flatten(-2)
    return x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * signed


# --- attention --------------------------------------------------------------------------------------------------------


class Linear(nn.Linear):
    """A linear layer that casts its input to its weight's dtype.

    So weights may be bfloat16 while norms and the residual stream stay float32; autocast, if on, decides.
    """

    @property
    def dtype(self) -> torch.dtype:
        """In which it multiplies, unless autocast is on."""
        return self.weight.dtype

    def forward(self, input: Float[Tensor, "*B i"]) -> Float[Tensor, "*B o"]:
        return F.linear(input.to(product_dtype(self)), self.weight, self.bias)


@runtime_checkable
class Layer(Protocol):
    """A linear layer, or what stands in its place (see models.lora)."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def dtype(self) -> torch.dtype: ...


def product_dtype(layer: Layer) -> torch.dtype:
    """The dtype in which `layer` multiplies.

    Casting to it once, ahead of several layers that share an input, saves autocast from casting once a layer.
    """
    device = layer.weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.dtype


class GELU(nn.Module):
    """The tanh form of GELU, x * sigmoid(2u) with u = sqrt(2/pi) * (x + 0.044715 x^3).

    Eager torch has a fused kernel for it. A compiler fuses the sigmoid form just as well, and on a CPU an
    exponential takes half the time of a tanh.
    """

    def forward(self, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B i"]:
        if not torch.compiler.is_compiling():
            return F.gelu(x, approximate="tanh")
        wide, slope = x.float(), math.sqrt(8 / math.pi)
        return (wide * torch.sigmoid(slope * wide * (1 + 0.044715 * wide * wide))).to(x.dtype)


class FeedForward(nn.Sequential):
    """A linear layer, GELU and a linear layer, whose names in files are 0 and 2.

    On a CUDA device the first product applies GELU itself, to its float32 sums, so that the hidden layer is written
    once. `fused` = False goes the slow way, which differs by rounding.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(Linear(dim, hidden), GELU(), Linear(hidden, dim))
        self.fused = True

    def forward(self, input: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        first, _, second = self
        kept = torch.is_grad_enabled() or torch.is_autocast_enabled(input.device.type)
        if not self.fused or not input.is_cuda or kept or type(first) is not Linear:
            return super().forward(input)
        rows = input.to(first.dtype).flatten(0, 1)
        hidden = torch.ops.aten._addmm_activation(first.bias, rows, first.weight.t(), use_gelu=True)
        return second(hidden).unflatten(0, input.shape[:2])


def attend(
    query: Float[Tensor, "B N L d"], key: Heads, value: Heads, bias: Float[Tensor, "B 1 1 S"] | None = None
) -> Float[Tensor, "B N L d"]:
    """Softmax attention with scale 1/sqrt(d); `bias` is added to the logits."""
    # On a CPU the fused kernel's backward pass takes two to six times as long as these plain products.
    if query.requires_grad and query.device.type == "cpu" and key.shape[2] <= PLAIN_LENGTH:
        return attend_plainly(query, key, value, bias)
    return F.scaled_dot_product_attention(query, key, value, bias)


def attend_plainly(
    query: Float[Tensor, "B N L d"], key: Heads, value: Heads, bias: Float[Tensor, "B 1 1 S"] | None = None
) -> Float[Tensor, "B N L d"]:
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ value


def attend_chunked(query: Float[Tensor, "B N L d"], key: Heads, value: Heads) -> Float[Tensor, "B N L d"]:
    """Plain products for some rows of a head at a time. In bfloat16 on a CPU this takes two thirds of the fused
    kernel's time."""
    rows = max(FEWEST_ROWS, CHUNK_BYTES // (key.element_size() * key.shape[2]))
    out = query.new_empty(query.shape)
    heads = zip(
        *(x.flatten(0, 1).unbind() for x in (query * query.shape[-1] ** -0.5, key, value)), strict=True
    )
    for head, (queries, keys, values) in zip(out.flatten(0, 1).unbind(), heads, strict=True):
        for first in range(0, len(queries), rows):
            part = slice(first, first + rows)
            head[part] = (queries[part] @ keys.T).softmax(dim=-1) @ values
    return out


Attend = Callable[[Heads, Heads, Heads], Heads]


class Share(Protocol):
    """One process's part of a forward pass that several share (see runtime.parallel)."""

    @property
    def own(self) -> slice:
        """Which of the clip's tokens are this process's."""
        ...

    def attend(self, query: Heads, key: Heads, value: Heads) -> Heads:
        """The own queries to every process's keys and values."""
        ...

    def gather(self, x: Float[Tensor, "B own c"]) -> Float[Tensor, "B L c"]:
        """Every process's tokens, in order."""
        ...


class SelfAttention(nn.Module):
    """Every token attends to every token of its clip."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(dim, eps=1e-6) for _ in range(2))

    @torch.no_grad()
    def look_nearby(self) -> None:
        """Set the biases from which a model that is to be trained learns faster: heads begin with a sense of place.

        Tokens know where they are only by rotation, so from zero biases attention finds its neighbours late (compare
        d'Ascoli et al., arXiv 2103.10697). One head of four looks around in space and time, one at the same place in
        all frames, one at all of its frame, and one anywhere.
        """
        width = len(self.q.bias) // self.num_heads
        kinds = [nearness(width, axes, strength=4.0) for axes in ((0, 1, 2), (1, 2), (0,), ())]
        bias = torch.cat([kinds[head % len(kinds)] for head in range(self.num_heads)])
        self.q.bias.copy_(bias)
        self.k.bias.copy_(bias)

    def forward(
        self, x: Float[Tensor, "B L D"], rotary: Rotary, attend: Attend = attend
    ) -> Float[Tensor, "B L D"]:
        keys_values = self.keys_values(x, rotary)
        return self.o(mix(self.query(x, rotary), *keys_values, attend))

    def query(self, x: Float[Tensor, "B L D"], rotary: Rotary) -> Tokens:
        # The norm spans all D channels, so it comes before the split into heads.
        query = self.norm_q(self.q(x).float()).unflatten(-1, (self.num_heads, -1))
        return rotate(query, rotary).to(product_dtype(self.q))

    def keys_values(self, x: Float[Tensor, "B L D"], rotary: Rotary) -> tuple[Tokens, Tokens]:
        heads = (self.num_heads, -1)
        value = self.v(x).unflatten(-1, heads)
        key = rotate(self.norm_k(self.k(x).float()).unflatten(-1, heads), rotary)
        return key.to(value.dtype), value


def mix(query: Tokens, key: Tokens, value: Tokens, attend: Attend = attend) -> Float[Tensor, "B _ D"]:
    """Attention of tokens that have their heads beside each other, as the model's layers make them."""
    return (
        attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2).flatten(-2)
    )


class CrossAttention(nn.Module):
    """Every token attends to the text, whose keys and values do not change from step to step."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.o = (Linear(dim, dim) for _ in range(2))
        # Without biases a row of zero padding has a key and a value of exactly zero.
        self.k, self.v = (Linear(dim, dim, bias=False) for _ in range(2))
        self.norm_q, self.norm_k = (nn.RMSNorm(dim, eps=1e-6) for _ in range(2))

    def keys_values(self, text: Float[Tensor, "B S D"]) -> tuple[Heads, Heads]:
        """What `forward` needs of the text, once a prompt."""
        heads = (self.num_heads, -1)
        value = self.v(text)
        key = self.norm_k(self.k(text).float()).to(value.dtype)
        return key.unflatten(-1, heads).transpose(1, 2), value.unflatten(-1, heads).transpose(1, 2)

    def forward(
        self, x: Float[Tensor, "B L D"], key: Heads, value: Heads, bias: Float[Tensor, "B 1 1 S"]
    ) -> Float[Tensor, "B L D"]:
        """`bias` is added to the softmax's logits, row by row."""
        query = self.norm_q(self.q(x).float()).to(value.dtype).unflatten(-1, (self.num_heads, -1))
        mixed = attend(query.transpose(1, 2), key, value, bias.to(value.dtype))
        return self.o(mixed.transpose(1, 2).flatten(-2))

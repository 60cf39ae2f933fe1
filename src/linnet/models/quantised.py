"""Linear layers whose weights are stored in 8 bits and made whole at each use: half of bfloat16's memory.

Every output channel has a scale of its own, rounded to bfloat16 before the weights are divided by it, so that it is the
same number in every dtype. Formats: "int8", evenly spaced between the channel's extremes, and "float8" (e4m3), whose
steps shrink towards zero. Which costs less is for measurement; see benchmarks/eight_bits.py.

Only the blocks of a network are stored so. What is left, the embeddings and the head, is small and touches everything.

Axes: i inputs, o outputs.
"""

from typing import TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.catalog import Format
from linnet.models.attention import Linear, product_dtype

M = TypeVar("M", bound=nn.Module)

STORED: dict[Format, torch.dtype] = {"int8": torch.int8, "float8": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
BLOCKS = frozenset({"blocks", "block"})  # what a transformer and T5 call theirs


class QuantisedLinear(Linear):
    """`weight` times `scale`, whose dtype is that of the product, is the weight of a plain layer."""

    def __init__(self, inward: int, outward: int, *, bias: bool, format: Format) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = inward, outward
        weight = torch.empty(outward, inward, dtype=STORED[format])
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(torch.empty(outward, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outward), requires_grad=False) if bias else None

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype

    def forward(self, input: Float[Tensor, "*B i"]) -> Float[Tensor, "*B o"]:
        weight = self.weight.to(self.dtype) * self.scale
        return F.linear(input.to(product_dtype(self)), weight, self.bias)


def quantise(
    weight: Float[Tensor, "o i"], stored: torch.dtype
) -> tuple[Shaped[Tensor, "o i"], Float[Tensor, "o 1"]]:
    """The weight in 8 bits, rounded to nearest, and its scale."""
    wide = weight.float()
    scale = (wide.abs().amax(dim=1, keepdim=True) / LARGEST[stored]).bfloat16()
    scale = scale.where(scale > 0, 1.0)  # a silent channel
    wide = wide / scale
    if stored == torch.int8:
        wide = wide.round_()
    return wide.clamp_(-LARGEST[stored], LARGEST[stored]).to(stored), scale


def store_in(format: Format, module: M) -> M:
    """`module`, on the meta device and without weights yet, with room for 8-bit ones in its blocks' linear layers."""
    for path, layer in list(module.named_modules()):
        *parents, name = path.split(".")
        if type(layer) is Linear and BLOCKS.intersection(parents):
            room = QuantisedLinear(
                layer.in_features, layer.out_features, bias=layer.bias is not None, format=format
            )
            setattr(module.get_submodule(".".join(parents)), name, room)
    return module

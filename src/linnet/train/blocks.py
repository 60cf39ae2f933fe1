"""A transformer's blocks as training runs them in little memory.

Only what goes into a block is kept for the backward pass, which computes the rest again (gradient checkpointing, Chen
et al., arXiv 1604.06174). Frozen weights may wait in main memory: they come to the device for the time of their block,
once in the forward pass and once in the backward pass.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from linnet.loaded_model import LoadedModel
from linnet.models.attention import CrossAttention, Heads
from linnet.models.transformer import Block, Transformer
from linnet.plan.training import is_resident
from linnet.runtime.transfer import locked
from linnet.weights.files import FLOAT32_PARTS, TRANSFORMER_PREFIX
from linnet.weights.load import fill


class TrainedBlock(Block):
    """Stands for a block, as it is called and asked for the keys and values of its cross-attention. `checkpointed`
    False keeps all that the backward pass needs; `random`: there is dropout, whose numbers have to repeat."""

    def __init__(
        self, block: Block, device: torch.device, *, checkpointed: bool, random: bool = False
    ) -> None:
        nn.Module.__init__(self)  # it has no weights of its own
        self.block, self.device = block, device
        self.checkpointed, self.random = checkpointed, random
        self.text = KeysValues(block.cross_attn)
        self.cross_attn = cast(CrossAttention, AsCrossAttention(self))

    def forward(self, *given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] (handed on as it is)
        return self._run(self.block, *given)

    def keys_values(self, text: Tensor) -> tuple[Heads, Heads]:
        return self._run(self.text, text)

    def _run(self, module: nn.Module, *given: Any) -> Any:
        if not (self.checkpointed and torch.is_grad_enabled()):
            return self._with_weights(module, *given)
        return checkpoint(
            self._with_weights, module, *given, use_reentrant=False, preserve_rng_state=self.random
        )

    def _with_weights(self, module: nn.Module, *given: Any) -> Any:
        absent = self._arriving(module)
        return functional_call(module, absent, given) if absent else module(*given)

    def _arriving(self, module: nn.Module) -> dict[str, Tensor]:
        """The weights that wait elsewhere, on the device."""
        return {
            name: tensor.to(self.device, non_blocking=True)
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
            if tensor.device.type != self.device.type
        }


class AsCrossAttention:
    """What the transformer asks of a block's cross-attention."""

    def __init__(self, block: "TrainedBlock") -> None:
        self.keys_values = block.keys_values


class KeysValues(nn.Module):
    """The part of cross-attention that sees the text, once for all tokens."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, text: Tensor) -> tuple[Heads, Heads]:
        return self.attention.keys_values(text)


def trained_blocks(
    model: Transformer, device: torch.device, *, checkpointed: bool = True, random: bool = False
) -> list[TrainedBlock]:
    """`random`: the blocks have dropout, whose numbers have to repeat."""
    return [TrainedBlock(block, device, checkpointed=checkpointed, random=random) for block in model.blocks]


def load_transformer(model: LoadedModel, resident: int | None) -> Transformer:
    """The model's own where all of it stays; else one whose other blocks are in main memory, from where the device
    copies fast."""
    if resident is None:
        return model.transformer
    transformer, headers = model.matched_transformer()
    device, dtype, count = model.device, model.dtype, len(transformer.blocks)
    for name, part in transformer.named_children():
        if name != "blocks":
            kind = torch.float32 if name in FLOAT32_PARTS else dtype
            fill(part, headers, device=device, dtype=kind, prefix=f"{TRANSFORMER_PREFIX}{name}.")
    for index, block in enumerate(transformer.blocks):
        prefix = f"{TRANSFORMER_PREFIX}blocks.{index}."
        if is_resident(index, resident, count):
            fill(block, headers, device=device, dtype=dtype, prefix=prefix)
        else:
            state = fill(block, headers, dtype=dtype, prefix=prefix).state_dict()
            block.load_state_dict({n: locked(w, device) for n, w in state.items()}, assign=True)
    return transformer.eval()

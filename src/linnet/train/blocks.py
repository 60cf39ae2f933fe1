"""A transformer's blocks as training runs them in little memory.

Only what goes into a block is kept for the backward pass, which computes the rest again (gradient checkpointing, Chen
et al., arXiv 1604.06174). Frozen weights may wait in main memory: they come to the device for the time of their block,
once in the forward pass and once in the backward pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from linnet.models.attention import CrossAttention, Heads
from linnet.models.transformer import Block, Transformer


class TrainedBlock:
    """Called as a block is, and asked for keys and values as its cross-attention is. `checkpointed` False keeps all
    that the backward pass needs."""

    def __init__(
        self, block: Block, device: torch.device, *, checkpointed: bool, random: bool = False
    ) -> None:
        self.block, self.device = block, device
        self.checkpointed, self.random = checkpointed, random
        self.text = KeysValues(block.cross_attn)

    @property
    def cross_attn(self) -> "TrainedBlock":
        return self

    def __call__(self, *given: Any) -> Any:
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


class KeysValues(nn.Module):
    """The part of cross-attention that sees the text, once for all tokens."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, text: Tensor) -> tuple[Heads, Heads]:
        return self.attention.keys_values(text)


def trained_blocks(model: Transformer, device: torch.device, *, checkpointed: bool) -> list[TrainedBlock]:
    return [TrainedBlock(block, device, checkpointed=checkpointed) for block in model.blocks]

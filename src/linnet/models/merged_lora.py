"""LoRAs that become part of a model's weights, for good: nothing is computed beside these any more. The sums are
rounded as the weights are stored; in 8 bits most of a LoRA would be lost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from linnet.models.lora import LoraWeights


@torch.no_grad()
def merge_loras_into(model: nn.Module, loras: Sequence[tuple[Mapping[str, LoraWeights], float]]) -> None:
    """Into the weights, for good: each LoRA at its strength and of the weights as they were. In float32, then rounded
    as the weights are, which must not be in 8 bits."""
    modules = dict.fromkeys(name for lora, strength in loras if strength for name in lora)
    for name in modules:
        module = model.get_submodule(name)
        uses = [(lora[name], strength) for lora, strength in loras if name in lora]
        for own in ("weight", "bias", "modulation"):
            if not any(weights.has(own) for weights, _ in uses):
                continue
            before = cast(nn.Parameter, getattr(module, own))
            after = merged_value(own, before, uses).to(before.dtype)
            setattr(module, own, nn.Parameter(after, requires_grad=False))


def merged_value(own: str, before: Tensor, uses: Iterable[tuple[LoraWeights, float]]) -> Tensor:
    """A module's weight, bias or modulation as all of them change it, in float32."""
    whole = before.float()
    change = torch.zeros_like(whole)
    for weights, strength in uses:
        if not weights.has(own):
            continue
        if own == "weight":
            change += weights.to(before.device).merged(before, strength) - whole
        else:
            other = weights.diff_bias if own == "bias" else weights.diff_modulation
            assert other is not None
            change += strength * other.to(before.device).float().reshape(whole.shape)
    return whole + change

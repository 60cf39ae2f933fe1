"""A model with LoRAs computes what one with merged weights does, and without them what it did before."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.catalog import Format
from linnet.errors import InvalidInput
from linnet.models.attention import Linear
from linnet.models.fp8 import Fp8Linear
from linnet.models.lora import (
    LoraLinear,
    LoraShape,
    LoraWeights,
    add_lora,
    apply_lora,
    enable_lora,
    lora_weights,
    remove_lora,
)
from linnet.models.quantised import STORED, QuantisedLinear, quantise
from linnet.models.transformer import Transformer
from tiny_models import LATENTS, SMALL, close, draw, random_model, velocity

RANK = 3
NAMES = ("blocks.0.self_attn.q", "blocks.1.cross_attn.v", "blocks.0.ffn.0", "blocks.1.ffn.2", "head.head")


def low_rank(weight: Tensor, seed: int) -> LoraWeights:
    o, i = weight.shape
    return LoraWeights(draw(RANK, i, seed=seed) * 0.3, draw(o, RANK, seed=seed + 1) * 0.3, alpha=1.5)


def with_lengths(weight: Tensor, seed: int) -> LoraWeights:
    plain = low_rank(weight, seed)
    return LoraWeights(plain.down, plain.up, plain.alpha, dora_scale=weight.norm(dim=1) * 1.2)


def kronecker(weight: Tensor, seed: int) -> LoraWeights:
    o, i = weight.shape
    return LoraWeights(factors=(draw(4, 2, seed=seed) * 0.2, draw(o // 4, i // 2, seed=seed + 1) * 0.2))


def dense(weight: Tensor, seed: int) -> LoraWeights:
    return LoraWeights(diff=0.1 * draw(*weight.shape, seed=seed))


KINDS: list[Callable[[Tensor, int], LoraWeights]] = [low_rank, with_lengths, kronecker, dense]


def layer_of(model: Transformer, name: str) -> Linear:
    return cast(Linear, model.get_submodule(name))


def lora_of(kind: Callable[[Tensor, int], LoraWeights], seed: int = 5) -> dict[str, LoraWeights]:
    model = random_model()
    return {name: kind(layer_of(model, name).weight.detach(), seed + 2 * at) for at, name in enumerate(NAMES)}


def merged(model: Transformer, lora: dict[str, LoraWeights], strength: float) -> Transformer:
    with torch.no_grad():
        for name, weights in lora.items():
            weight = layer_of(model, name).weight
            weight.copy_(weights.merged(weight, strength))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, -0.4])
def test_the_forward_pass_is_that_of_merged_weights(kind: Callable, strength: float) -> None:
    lora, model = lora_of(kind), random_model()
    apply_lora(model, lora, strength)
    expected = velocity(merged(random_model(), lora, strength))
    close(velocity(model), expected)
    assert (expected - velocity(random_model())).norm() > 0.01 * expected.norm()


def test_several_add_up() -> None:
    model, first, second = random_model(), lora_of(low_rank), lora_of(with_lengths, seed=40)
    apply_lora(model, first, 0.5)
    apply_lora(model, second, 0.7)
    reference = random_model()
    with torch.no_grad():
        for name in NAMES:
            weight = layer_of(reference, name).weight
            other = second[name].merged(weight, 0.7) - weight
            weight.copy_(first[name].merged(weight, 0.5) + other)
    close(velocity(model), velocity(reference))


def test_without_strength_switched_off_or_removed_the_bytes_are_as_before() -> None:
    before, lora = velocity(random_model()), lora_of(low_rank)
    lora["blocks.0"] = LoraWeights(diff_modulation=draw(1, 6, SMALL.dim))
    lora["blocks.1.norm1"] = LoraWeights(diff=draw(SMALL.dim), diff_bias=draw(SMALL.dim))
    model = random_model()
    apply_lora(model, lora, 0.0)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert torch.equal(velocity(model), before)
    apply_lora(model, lora)
    assert not torch.equal(velocity(model), before)
    remove_lora(model)
    assert torch.equal(velocity(model), before)
    assert model.state_dict().keys() == random_model().state_dict().keys()
    apply_lora(model, lora_of(low_rank))
    enable_lora(model, False)
    assert torch.equal(velocity(model), before)


def test_norms_biases_modulation_and_the_convolution_are_changed_as_a_whole() -> None:
    model, reference = random_model(), random_model()
    conv = reference.patch_embedding
    down, up = draw(2, *conv.weight.shape[1:]), draw(SMALL.dim, 2, 1, 1, 1, seed=2)
    changes = {
        "blocks.0": LoraWeights(diff_modulation=draw(1, 6, SMALL.dim)),
        "blocks.1.norm1": LoraWeights(diff=draw(SMALL.dim), diff_bias=draw(SMALL.dim, seed=2)),
        "blocks.1.self_attn.k": LoraWeights(diff_bias=draw(SMALL.dim, seed=3)),
        "patch_embedding": LoraWeights(down, up, alpha=2.0),
    }
    apply_lora(model, changes, 0.5)
    with torch.no_grad():
        reference.blocks[0].modulation.add_(draw(1, 6, SMALL.dim), alpha=0.5)
        reference.blocks[1].norm1.weight.add_(draw(SMALL.dim), alpha=0.5)
        reference.blocks[1].norm1.bias.add_(draw(SMALL.dim, seed=2), alpha=0.5)
        reference.blocks[1].self_attn.k.bias.add_(draw(SMALL.dim, seed=3), alpha=0.5)
        conv.weight.add_((up.flatten(1) @ down.flatten(1)).view_as(conv.weight), alpha=0.5)
    close(velocity(model), velocity(reference))


@pytest.mark.parametrize("kind", [Fp8Linear, QuantisedLinear])
@pytest.mark.parametrize("format", ["int8", "float8"])
def test_a_base_in_8_bits_keeps_its_weights(kind: type[QuantisedLinear], format: Format) -> None:
    """Merged into 8 bits, so small a LoRA would be rounded away."""
    if kind is Fp8Linear and format == "int8":
        return
    weight, x = draw(12, 8), draw(5, 8, seed=2)
    layer = kind(8, 12, bias=False, format=format)
    layer.weight.data, scale = quantise(weight, STORED[format])
    layer.scale.data = scale.float()
    model = nn.Sequential(layer)
    before, stored, lora = model(x), layer.weight.clone(), {"0": low_rank(weight, seed=7)}
    apply_lora(model, lora, 1e-3)
    change = lora["0"].change()
    assert change is not None
    close(model(x) - before, 1e-3 * F.linear(x, change), 1e-3)  # a small difference of large numbers
    assert torch.equal(layer.weight, stored)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dora", [False, True])
def test_a_lora_that_is_trained_begins_as_nothing_and_learns_alone(dora: bool) -> None:
    model, plain = random_model(), random_model()
    model.requires_grad_(False)
    trained = add_lora(model, LoraShape(rank=2, dora=dora), torch.Generator().manual_seed(1))
    close(velocity(model), velocity(plain), 1e-6)
    for _ in range(2):  # the first step moves `up` alone: `down` sees it as zero
        text = model.encode_text([draw(3, SMALL.text_dim)])
        optimiser = torch.optim.SGD(trained, lr=0.1)
        loss = (model(LATENTS, torch.tensor([900.0, 17.5]), text) - draw(*LATENTS.shape)).square().mean()
        loss.backward()
        optimiser.step()
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in trained)
    taught = lora_weights(model)
    assert [weights.rank for weights in taught.values()] == 20 * [2]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if ".adapters." in name
    }
    apply_lora(plain, taught)
    close(velocity(plain), velocity(model))


def test_targets_are_whole_names_of_layers() -> None:
    model = random_model()
    add_lora(model, LoraShape(rank=1, targets=("cross_attn.q", "ffn")))
    assert sorted(lora_weights(model)) == [
        f"blocks.{block}.{name}" for block in (0, 1) for name in ("cross_attn.q", "ffn.0", "ffn.2")
    ]
    with pytest.raises(InvalidInput, match='targets "attn"'):
        add_lora(random_model(), LoraShape(targets=("attn",)))

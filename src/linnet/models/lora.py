"""LoRA: what a transformer's layers compute, changed by a few numbers, while their own weights stay as they are.

A layer's product W x becomes W x + strength * scale * up (down x), scale = alpha / rank (Hu et al., arXiv 2106.09685).
So the weights may be stored in any way, in 8 bits too. DoRA (Liu et al., arXiv 2402.09353) further gives each output
channel of the changed weight a length of its own. LoKr (Yeh et al., arXiv 2309.14859) has a Kronecker product in the
place of up and down. A file may also change a parameter as a whole: a norm, a bias, a modulation, a convolution.

Axes: i inputs, o outputs, r rank.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.errors import InvalidInput
from linnet.models.attention import Linear, product_dtype
from linnet.models.quantised import QuantisedLinear
from linnet.wording import choices

NONE = nn.ModuleList()
TARGETS = ("q", "k", "v", "o", "ffn")


@dataclass(frozen=True)
class LoraWeights:
    """What a LoRA has for one module.

    `down` and `up` come together, of a convolution with its kernel's axes; so do LoKr's two `factors`, whose scale is
    multiplied in already. `dora_scale` are the lengths of the changed weight's rows. `diff`, `diff_bias` and
    `diff_modulation` are added to the module's weight, bias and modulation.
    """

    down: Float[Tensor, "r *i"] | None = None
    up: Float[Tensor, "o *r"] | None = None
    alpha: float = 1.0
    dora_scale: Float[Tensor, " o"] | None = None
    diff: Tensor | None = None
    diff_bias: Float[Tensor, " o"] | None = None
    diff_modulation: Tensor | None = None
    factors: tuple[Tensor, Tensor] | None = None

    @property
    def rank(self) -> int:
        """0 where there is nothing of low rank."""
        return 0 if self.down is None else len(self.down)

    @property
    def scale(self) -> float:
        return self.alpha / max(1, self.rank)

    def has(self, own: str) -> bool:
        """Whether it changes the module's weight, bias or modulation."""
        if own == "weight":
            return self.rank > 0 or self.factors is not None or self.diff is not None
        return (self.diff_bias if own == "bias" else self.diff_modulation) is not None

    def to(self, device: torch.device) -> Self:
        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(moved, value))
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(self, **{name: moved(value) for name, value in vars(self).items()})

    def change(self) -> Tensor | None:
        """What is added to the module's weight at strength 1, in float32, before DoRA; a convolution's as a matrix."""
        parts: list[Tensor] = []
        if self.down is not None and self.up is not None:
            parts.append(self.scale * self.up.float().flatten(1) @ self.down.float().flatten(1))
        if self.factors is not None:
            first, second = (factor.float() for factor in self.factors)
            parts.append(torch.kron(first, second.flatten(1)))
        if self.diff is not None:
            parts.append(as_matrix(self.diff.float()))
        return sum(parts[1:], parts[0]) if parts else None

    def merged(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """The weight as the LoRA changes it, in float32."""
        wide = as_matrix(weight.float())
        if (change := self.change()) is None:
            return weight.float()
        if self.dora_scale is None:
            return (wide + strength * change).view_as(weight)
        whole = wide + change
        whole *= (self.dora_scale.float() / lengths_of_rows(whole))[:, None]
        return wide.lerp(whole, strength).view_as(weight)


@dataclass(frozen=True, kw_only=True)
class LoraShape:
    """What is to be trained. `alpha` None: as large as the rank. `targets` are names of layers in the blocks, such as
    "q" of both attentions, "cross_attn.q" or "ffn"."""

    rank: int = 32
    alpha: float | None = None
    dropout: float = 0.0
    dora: bool = False
    targets: tuple[str, ...] = TARGETS


class Adapter(nn.Module):
    """One LoRA's change of one layer, at its strength; without strength it does nothing."""

    strength: float

    def product(self, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B o"]:
        """The change times `x`, at strength 1."""
        raise NotImplementedError

    def add(self, y: Float[Tensor, "*B o"], x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B o"]:
        """The layer's result with the change; in the memory of `y` where no gradient needs what was there."""
        change = self.product(x)
        return y + self.strength * change if torch.is_grad_enabled() else y.add_(change, alpha=self.strength)

    def weights(self) -> LoraWeights:
        raise NotImplementedError


class LowRank(Adapter):
    def __init__(
        self, down: Tensor, up: Tensor, *, alpha: float, strength: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.alpha, self.strength, self.dropout = alpha, strength, nn.Dropout(dropout)

    @property
    def scale(self) -> float:
        return self.alpha / len(self.down)

    def product(self, x: Tensor) -> Tensor:
        return F.linear(self.scale * self._inner(x), self.up.to(x.dtype))

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        scale = self.strength * self.scale
        rows, inner, up = y.flatten(0, -2), self._inner(x).flatten(0, -2), self.up.to(x.dtype).t()
        if torch.is_grad_enabled():
            return torch.addmm(rows, inner, up, alpha=scale).view_as(y)
        return rows.addmm_(inner, up, alpha=scale).view_as(y)

    def _inner(self, x: Tensor) -> Tensor:
        return F.linear(self.dropout(x), self.down.to(x.dtype))

    def weights(self) -> LoraWeights:
        return LoraWeights(self.down.detach(), self.up.detach(), self.alpha)


class Kronecker(Adapter):
    """Of the first factor [p, m] and the second [q, n] for a weight [p*q, m*n]: never made whole."""

    def __init__(self, first: Tensor, second: Tensor, *, strength: float = 1.0) -> None:
        super().__init__()
        self.first, self.second, self.strength = nn.Parameter(first), nn.Parameter(second), strength

    def product(self, x: Tensor) -> Tensor:
        grid = x.unflatten(-1, (self.first.shape[1], self.second.shape[1]))
        inner = F.linear(grid, self.second.to(x.dtype))
        return (self.first.to(x.dtype) @ inner).flatten(-2)

    def weights(self) -> LoraWeights:
        return LoraWeights(factors=(self.first.detach(), self.second.detach()))


class Dense(Adapter):
    def __init__(self, diff: Tensor, *, strength: float = 1.0) -> None:
        super().__init__()
        self.diff, self.strength = nn.Parameter(diff), strength

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.diff.to(x.dtype))

    def weights(self) -> LoraWeights:
        return LoraWeights(diff=self.diff.detach())


class Decomposed(Adapter):
    """DoRA: rows of the changed weight have the lengths `magnitude`. Their lengths without it are found anew at each
    product while it is trained; no gradient flows through them. `freeze` finds them once."""

    def __init__(self, inner: Adapter, magnitude: Float[Tensor, " o"]) -> None:
        super().__init__()
        self.inner, self.magnitude, self.strength = inner, nn.Parameter(magnitude), inner.strength
        inner.strength = 1.0
        self.lengths: Tensor | None
        self.register_buffer("lengths", None, persistent=False)

    @torch.no_grad()
    def row_lengths(self, base: Linear) -> Float[Tensor, " o"]:
        change = self.inner.weights().change()
        assert change is not None
        return lengths_of_rows(whole_weight(base) + change)

    def freeze(self, base: Linear) -> None:
        self.lengths = self.row_lengths(base)

    def add_to(self, y: Tensor, plain: Tensor, x: Tensor, base: Linear) -> Tensor:
        """`y` with what it adds to the layer's own result, `plain`, which stays as it is."""
        lengths = self.row_lengths(base) if self.lengths is None else self.lengths
        factor = self.magnitude / lengths
        own, change = self.strength * (factor - 1), (self.strength * factor).to(plain.dtype)
        total = torch.addcmul(y, plain, own.to(plain.dtype))
        if base.bias is not None:
            shift = (own * base.bias.float()).to(plain.dtype)
            total = total - shift if torch.is_grad_enabled() else total.sub_(shift)
        product = self.inner.product(x)
        if torch.is_grad_enabled():
            return torch.addcmul(total, product, change)
        return total.addcmul_(product, change)

    def weights(self) -> LoraWeights:
        return replace(self.inner.weights(), dora_scale=self.magnitude.detach())


class LoraLinear(nn.Module):
    """A linear layer with what LoRAs add to its result, each to that of the layer itself. `enabled` False: as without
    them, bit for bit."""

    def __init__(self, base: Linear, adapters: Iterable[Adapter] = ()) -> None:
        super().__init__()
        self.base, self.adapters, self.enabled = base, nn.ModuleList(), True
        for adapter in adapters:
            self.append(adapter)

    def append(self, adapter: Adapter) -> None:
        """Those that look at the layer's own result come first: others may write into its memory."""
        at = 0 if isinstance(adapter, Decomposed) else len(self.adapters)
        self.adapters.insert(at, adapter)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def forward(self, input: Float[Tensor, "*B i"]) -> Float[Tensor, "*B o"]:
        if not self.enabled:
            return self.base(input)
        x = input.to(product_dtype(self.base))
        y = plain = self.base(x)
        for adapter in self.adapters:
            if isinstance(adapter, Decomposed):
                y = adapter.add_to(y, plain, x, self.base)
            elif cast(Adapter, adapter).strength:
                y = cast(Adapter, adapter).add(y, x)
        return y


# --- into a model and out of it ---------------------------------------------------------------------------------------


def add_lora(
    model: nn.Module, shape: LoraShape, generator: torch.Generator | None = None
) -> list[nn.Parameter]:
    """Put a LoRA to be trained on the layers that the shape targets; at first it changes nothing. Its parameters,
    float32 and on the device of their layers. `generator` is one of the CPU."""
    trained: list[nn.Parameter] = []
    for name, layer in targets_in(model, shape.targets):
        outward, inward = layer.weight.shape
        bound = inward**-0.5  # as PEFT and kohya's trainers begin
        down = (2 * torch.rand(shape.rank, inward, generator=generator) - 1) * bound
        alpha = float(shape.rank) if shape.alpha is None else shape.alpha
        weights = LoraWeights(down, torch.zeros(outward, shape.rank), alpha)
        if shape.dora:
            weights = replace(weights, dora_scale=lengths_of_rows(whole_weight(layer)))
        adapter = adapter_of(weights, strength=1.0, dropout=shape.dropout)
        assert adapter is not None
        adapter.to(layer.weight.device)
        wrapped(model, name).append(adapter)
        trained += adapter.parameters()
    return trained


def targets_in(model: nn.Module, targets: Iterable[str]) -> list[tuple[str, Linear]]:
    """The linear layers of the blocks that one of the targets names, each as a whole part of its name."""
    layers = {name: layer for name, layer in linear_layers(model) if "blocks" in name.split(".")}
    chosen: dict[str, Linear] = {}
    for target in targets:
        hit = {name: layer for name, layer in layers.items() if f".{target}." in f".{name}."}
        if not hit:
            known = sorted({".".join(name.split(".")[2:]) for name in layers} | set(TARGETS))
            raise InvalidInput("targets", target, "names no layer of the blocks", choices(target, known))
        chosen |= hit
    return [(name, layer) for name, layer in layers.items() if name in chosen]


def linear_layers(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    """Every linear layer under its own name, whether LoRAs are on it or not."""
    inner = {id(module.base) for module in model.modules() if isinstance(module, LoraLinear)}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module.base
        elif isinstance(module, Linear) and id(module) not in inner:
            yield name, module


def adapter_of(weights: LoraWeights, *, strength: float, dropout: float = 0.0) -> Adapter | None:
    """For a linear layer; None where nothing of its weight is changed."""
    adapters: list[Adapter] = []
    if weights.down is not None and weights.up is not None:
        down, up = weights.down, weights.up
        adapters.append(LowRank(down, up, alpha=weights.alpha, strength=strength, dropout=dropout))
    if weights.factors is not None:
        adapters.append(Kronecker(*weights.factors, strength=strength))
    if weights.diff is not None:
        adapters.append(Dense(weights.diff, strength=strength))
    if not adapters:
        return None
    if len(adapters) > 1:  # of one file: no trainer writes such
        change = weights.change()
        assert change is not None
        adapters = [Dense(change, strength=strength)]
    return adapters[0] if weights.dora_scale is None else Decomposed(adapters[0], weights.dora_scale)


@torch.no_grad()
def apply_lora(model: nn.Module, lora: Mapping[str, LoraWeights], strength: float = 1.0) -> None:
    """Let the model compute as the LoRA of these modules says, beside those that it has already. It is in the dtype of
    each layer's products, on its device. At strength 0 the model stays as it is."""
    if strength == 0:
        return
    for name, weights in lora.items():
        module = model.get_submodule(name)
        linear = isinstance(module, Linear | LoraLinear)
        if linear and (adapter := adapter_of(weights, strength=strength)):
            layer = wrapped(model, name)
            adapter.to(layer.weight.device, layer.dtype).requires_grad_(False)
            if isinstance(adapter, Decomposed):
                adapter.magnitude.data = adapter.magnitude.data.float()
                adapter.freeze(layer.base)
            layer.append(adapter)
        for parameter, change in parameter_changes(weights, linear=linear):
            change_parameter(model, f"{name}.{parameter}", strength * change)


def parameter_changes(weights: LoraWeights, *, linear: bool) -> Iterator[tuple[str, Tensor]]:
    """Names of a module's parameters and what is added to them at strength 1."""
    if not linear and (change := weights.change()) is not None:
        yield "weight", change
    if weights.diff_bias is not None:
        yield "bias", weights.diff_bias
    if weights.diff_modulation is not None:
        yield "modulation", weights.diff_modulation


def change_parameter(model: nn.Module, name: str, change: Tensor) -> None:
    """Add to a parameter, which is kept as it was for `remove_lora`."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    module = module.base if isinstance(module, LoraLinear) else module
    before = cast(nn.Parameter, getattr(module, own))
    originals = cast(Any, module).__dict__.setdefault("lora_originals", {})
    originals.setdefault(own, before)
    after = (before.float() + change.to(before.device).float().reshape(before.shape)).to(before.dtype)
    setattr(module, own, nn.Parameter(after, requires_grad=before.requires_grad))


def changed_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Those that LoRAs changed as a whole, which stay so: what they were is forgotten."""
    changed: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        for own in module.__dict__.pop("lora_originals", {}):
            changed[f"{name}.{own}" if name else own] = cast(nn.Parameter, getattr(module, own)).detach()
    return changed


def part_of(lora: Mapping[str, LoraWeights], name: str) -> dict[str, LoraWeights]:
    """What a LoRA has for the modules in one part of a model, by their names in it."""
    parts = {module: module.removeprefix(name).removeprefix(".") for module in lora}
    return {own: lora[module] for module, own in parts.items() if f"{module}.".startswith(f"{name}.")}


def lora_weights(model: nn.Module) -> dict[str, LoraWeights]:
    """The LoRA that is being trained, by the names of its modules. The tensors are the parameters' own memory."""
    return {
        name: adapter.weights()
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
        for adapter in cast(Iterable[Adapter], module.adapters)
        if any(parameter.requires_grad for parameter in adapter.parameters())
    }


def take_adapters(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Every layer as it is without LoRAs, and what was on each, by its name. Parameters stay changed."""
    taken = {name: layer.adapters for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}
    for name in taken:
        put(model, name, cast(LoraLinear, model.get_submodule(name)).base)
    return taken


def set_adapters(model: nn.Module, adapters: Mapping[str, nn.ModuleList]) -> None:
    """In the place of those that the model's layers have."""
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            layer.adapters = adapters.get(name, NONE)


def remove_lora(model: nn.Module) -> None:
    """Every layer and every parameter as before the first LoRA."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            put(model, name, module.base)
    for module in model.modules():
        for own, before in module.__dict__.pop("lora_originals", {}).items():
            setattr(module, own, before)


def enable_lora(model: nn.Module, enabled: bool = True) -> None:
    """Whether the layers compute as LoRAs say; parameters that were changed as a whole stay so."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.enabled = enabled


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """While inside, the layers compute as if no LoRA were there."""
    enable_lora(model, False)
    try:
        yield
    finally:
        enable_lora(model, True)


def wrapped(model: nn.Module, name: str) -> LoraLinear:
    """The layer of this name, with room for adapters from now on."""
    layer = model.get_submodule(name)
    if isinstance(layer, LoraLinear):
        return layer
    room = LoraLinear(cast(Linear, layer)).train(layer.training)
    put(model, name, room)
    return room


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def as_matrix(weight: Tensor) -> Tensor:
    """A convolution's kernel as the matrix that it is of patches; a vector stays one."""
    return weight.flatten(1) if weight.ndim > 1 else weight


def lengths_of_rows(weight: Float[Tensor, "o i"]) -> Float[Tensor, " o"]:
    return weight.norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)


def whole_weight(layer: Linear) -> Float[Tensor, "o i"]:
    """In float32, whatever it is stored in."""
    weight = layer.weight.detach().float()
    return weight * layer.scale.float() if isinstance(layer, QuantisedLinear) else weight

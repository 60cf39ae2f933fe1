"""Optimisers by their usual names. Those that other packages bring are imported where they are asked for."""

from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from linnet.errors import InvalidInput
from linnet.models.lora import LowRank
from linnet.runtime.compile import compiler_lacks
from linnet.train.config import LoopConfig


class Elsewhere(NamedTuple):
    """A class of another package, and what it is given beside the parameters."""

    package: str
    module: str
    name: str
    settings: dict[str, Any]


ELSEWHERE = {
    "adamw8bit": Elsewhere("torchao", "torchao.optim", "AdamW8bit", {}),
    "prodigy": Elsewhere(
        "prodigyopt", "prodigyopt", "Prodigy", {"use_bias_correction": True, "safeguard_warmup": True}
    ),
    "came": Elsewhere("came-pytorch", "came_pytorch", "CAME", {}),
}


def make_optimisers(model: nn.Module, config: LoopConfig) -> list[Optimizer]:
    """For the parameters that learn: one optimiser for all, or Muon for the hidden matrices (Jordan et al. 2024) and
    AdamW for the rest.

    A hidden matrix is a linear layer's in the transformer's stack of blocks, or one of the two that a LoRA has there:
    inputs, outputs, embeddings, norms and the text encoder stay with AdamW. Prodigy has one rate for all, whatever is
    to be `slower`. InvalidInput where an optimiser's package is not installed.
    """
    hidden = [
        p
        for name, module in model.named_modules()
        if config.optimiser == "muon" and isinstance(module, nn.Linear | LowRank) and "blocks." in name
        for p in module.parameters(recurse=False)
        if p.requires_grad and p.ndim == 2
    ]
    chosen = {id(p) for p in hidden}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in chosen:
            slower = config.slower if config.optimiser != "prodigy" else ()
            factor = next((f for prefix, f in slower if name.startswith(prefix)), 1.0)
            decay = config.weight_decay if p.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(p)
    rows = [
        {"params": params, "lr": config.learning_rate * factor, "weight_decay": decay}
        for (factor, decay), params in groups.items()
    ]
    optimisers = [named(config.optimiser, rows, config)] if rows else []
    if hidden:
        optimisers.append(
            torch.optim.Muon(hidden, lr=config.muon_learning_rate, weight_decay=config.weight_decay)
        )
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return optimisers


def check_optimiser(name: str, device: str) -> None:
    """InvalidInput where its package is not installed, or nothing is there that compiles it."""
    if name in ELSEWHERE:
        optimiser_class(name)
    if name == "adamw8bit" and device != "cpu" and (missing := compiler_lacks(device)):
        problem = f"is compiled when it runs, which needs {missing}"
        raise InvalidInput("optimiser", name, problem, "install it, or use adamw")


def optimiser_class(name: str) -> Callable[..., Optimizer]:
    package, module, kind, _ = ELSEWHERE[name]
    try:
        return getattr(import_module(module), kind)
    except ImportError:
        problem = f"is in the package {package}, which is not installed"
        raise InvalidInput("optimiser", name, problem, f"run `pip install {package}`, or use adamw") from None


def not_compiled(kind: Any) -> Callable[..., Optimizer]:
    """The same optimiser, whose step runs as it is written. torchao compiles it, and for a CPU with AVX2 alone torch
    2.13 makes code of it that leaves a quarter of the 8-bit numbers beside bfloat16 weights unwritten."""

    class NotCompiled(kind):
        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    return NotCompiled


def named(name: str, rows: Iterable[dict[str, Any]], config: LoopConfig) -> Optimizer:
    if name in ("adamw", "muon"):
        return torch.optim.AdamW(rows, betas=config.betas)
    make, settings = optimiser_class(name), ELSEWHERE[name].settings
    if name == "came":
        settings = {**settings, "betas": (*config.betas, 0.9999), "lr": config.learning_rate}
    else:
        settings = {**settings, "betas": config.betas}
    rows = list(rows)
    numbers = [p for row in rows for p in row["params"]]
    bfloat16 = any(p.dtype == torch.bfloat16 for p in numbers)
    if name == "adamw8bit" and all(p.device.type == "cpu" for p in numbers):
        make = not_compiled(make)
    if name == "adamw8bit" and bfloat16:
        settings["bf16_stochastic_round"] = True  # otherwise small steps are rounded away
    with redirect_stdout(None):  # Prodigy greets
        return make(rows, **settings)

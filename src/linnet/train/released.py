"""Steps of the optimisers within the backward pass: each parameter's as soon as its gradient is whole. The gradient is
then gone, so that all of them never exist at once (Lv et al., arXiv 2306.09782).

The numbers are those of steps after the backward pass. What needs all gradients at once does not go together with it:
clipping by their common norm, accumulation, sums over several processes, and Prodigy, which estimates one rate for all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@contextmanager
def steps_in_backward(optimisers: Sequence[Optimizer]) -> Iterator[list[Tensor]]:
    """While inside, a backward pass takes the optimisers' steps. What it yields fills with the gradients' norms."""
    norms: list[Tensor] = []
    hooks = [
        p.register_post_accumulate_grad_hook(partial(_step, optimiser, group, norms))
        for optimiser in optimisers
        for group in optimiser.param_groups
        for p in group["params"]
    ]
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()


def _step(optimiser: Optimizer, group: dict[str, Any], norms: list[Tensor], p: nn.Parameter) -> None:
    assert p.grad is not None
    norms.append(torch.linalg.vector_norm(p.grad, dtype=torch.float32))
    groups = optimiser.param_groups
    optimiser.param_groups = [{**group, "params": [p]}]
    try:
        optimiser.step()
    finally:
        optimiser.param_groups = groups
    p.grad = None

"""At which noise levels a flow is trained: distributions that trainers know by these names.

Each is given as its quantile function, so that a sample's level follows from one even number between 0 and 1. Such
numbers are drawn at random in training; in validation they are fixed.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.records import read_text
from linnet.sampling.flow import shifted

LEAST, MOST = 1e-4, 1 - 1e-6  # quantiles


@runtime_checkable
class Timesteps(Protocol):
    def __call__(self, quantile: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Noise levels, sigma in 0..1, at these quantiles."""
        ...


class LogitNormal:
    """Esser et al. (arXiv 2403.03206, 3.1), then shifted as in sampling."""

    def __init__(self, shift: float, *, mean: float = 0.0, std: float = 1.0) -> None:
        self.shift, self.mean, self.std = shift, mean, std

    def __call__(self, quantile: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        normal = torch.special.ndtri(quantile.double().clamp(LEAST, MOST))
        return shifted(torch.sigmoid(self.mean + self.std * normal), self.shift).float()


class Uniform:
    """All levels alike."""

    def __call__(self, quantile: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        return quantile.float()


class Weighted:
    """Weights of bins of equal width, from no noise to all noise; even within a bin."""

    def __init__(self, weights: Sequence[float]) -> None:
        total = sum(weights)
        self.sums = torch.tensor([0.0, *(part / total for part in accumulate(weights))], dtype=torch.float64)

    def __call__(self, quantile: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        sums, bins = self.sums.to(quantile.device), len(self.sums) - 1
        wanted = quantile.double().clamp(LEAST, MOST)
        upper = torch.searchsorted(sums, wanted).clamp(1, bins)
        low, high = sums[upper - 1], sums[upper]
        inside = (wanted - low) / (high - low).clamp(min=1e-12)
        return ((upper - 1 + inside) / bins).float()


def timesteps(name: str, *, shift: float) -> Timesteps:
    """ "logit-normal", "uniform", or the name of a file of weights, one number a line from no noise to all noise."""
    if name == "logit-normal":
        return LogitNormal(shift)
    return Uniform() if name == "uniform" else Weighted(read_weights(name))


def read_weights(name: str) -> list[float]:
    path = Path(name)
    if not path.is_file():
        problem = "is neither a distribution nor a file of weights"
        raise InvalidInput("timesteps", name, problem, "use logit-normal, uniform, or the name of a file")
    weights: list[float] = []
    for number, line in enumerate(read_text(path, field="timesteps").replace(",", "\n").split(), 1):
        try:
            weights.append(float(line))
        except ValueError:
            weights.append(math.nan)
        if not (math.isfinite(weights[-1]) and weights[-1] >= 0):
            problem = f'has "{line}" as its number {number}, which is no weight'
            raise InvalidInput("timesteps", name, problem, "write numbers of 0 or more, one a line")
    if not any(weights):
        problem = "holds no weight above 0"
        raise InvalidInput("timesteps", name, problem, "write numbers of 0 or more, one a line")
    return weights

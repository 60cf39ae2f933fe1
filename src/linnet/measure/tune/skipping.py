"""Which steps can do without the model, told from the velocities of a run that asked it in every step.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents; n steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from linnet.sampling.denoise import Step

SAMPLE = 2**18  # numbers of a velocity that stand for all of it
LONGEST_STRETCH = 8  # steps in a row that one velocity serves

Products = list[list[float]]  # n x n: of each two steps' velocities


@dataclass(kw_only=True)
class Velocities:
    """Gathers those of one run's steps, which `levels` are between. Of windows that follow each other it sees the
    first."""

    levels: Float[Tensor, " levels"]
    gathered: list[Float[Tensor, " sample"]] = field(default_factory=list)
    _before: Float[Tensor, "B C T H W"] | None = None

    def see(self, step: Step) -> None:
        index = step.index
        if index + 1 >= len(self.levels):
            return
        after = step.latents[:, :, : step.denoised.shape[2]]
        # The first step is straight, by every solver: what it led to lies on its velocity's line, too.
        latents, level = (
            (after, self.levels[1]) if self._before is None else (self._before, self.levels[index])
        )
        velocity = ((latents - step.denoised) / level).flatten()
        self.gathered.append(velocity[:: -(-len(velocity) // SAMPLE)].float().cpu())
        self._before = after

    def products(self) -> Products:
        """As shares of the mean of those with themselves."""
        every = torch.stack(self.gathered).double()
        products = every @ every.T
        return (products / products.diagonal().mean()).tolist()


def best_skips(
    products: Sequence[Products], levels: Sequence[float], passes: Sequence[int], *, early: float = 0.0
) -> dict[int, list[int]]:
    """For each number of passes through the transformer, of the fewest up: the steps (from 1) to leave out.

    A step that is left out takes the velocity of the last one that is not, so it goes astray by the length of the step
    times the difference of the two: what these add up to is the least that so many passes allow. `products` are of one
    run or several, `passes` of each step that is not left out. `early`: how much more an error counts among noise,
    where little of the clip is there yet: as the share of the clip to the power of minus so much.
    """
    count, mean = len(passes), np.mean(np.array(products), axis=0)

    def astray(last: int, step: int) -> float:
        difference = mean[last, last] + mean[step, step] - 2 * mean[last, step]
        length = (levels[step] - levels[step + 1]) / (1 - levels[step + 1]) ** early
        return length * math.sqrt(max(0.0, difference))

    # By the last step that calls the model and the passes so far: the least error, and which steps call it.
    best: list[dict[int, tuple[float, tuple[int, ...]]]] = [{} for _ in range(count)]
    best[min(1, count - 1)][sum(passes[:2])] = (0.0, tuple(range(min(2, count))))
    for last in range(1, count - 1):
        error = 0.0
        for step in range(last + 1, min(count, last + LONGEST_STRETCH + 1)):
            for so_far, (least, calls) in best[last].items():
                total, candidate = so_far + passes[step], (least + error, (*calls, step))
                if total not in best[step] or candidate < best[step][total]:
                    best[step][total] = candidate
            error += astray(last, step)
    return {
        total: [step + 1 for step in range(count) if step not in calls]
        for total, (_, calls) in sorted(best[count - 1].items())
    }

"""Steps that do without the model: where the velocity changes evenly, it is continued from the last evaluations.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "B C T H W"]
Velocity = Callable[[Latents, Float[Tensor, "B"]], Latents]

WARM_UP = 2  # steps that are always evaluated: less tells nothing of how the velocity changes


class Evaluation(NamedTuple):
    """What the model said, where and when."""

    latents: Latents
    timestep: Float[Tensor, "B"]
    velocity: Latents


@dataclass(kw_only=True)
class CachedVelocity:
    """A velocity that asks `velocity` only where it must: the `velocity` of one run of `denoise`.

    Either `skip` names the steps (from 0) to continue, or, where it is None, each step decides as EasyCache does
    (arXiv 2507.02860): the last evaluations give the rate at which the velocity changes with the latents, so how far
    the latents have moved says how far the velocity has, relative to its size; steps are continued until these changes
    add up to `threshold`. Never the first two nor the last of `count` steps.

    `skipped` is what was decided so far; given as `skip` to another run, it repeats this one. A state's object serves
    one run, and its decisions hold for the whole batch.
    """

    velocity: Velocity
    count: int
    threshold: float = 0.0
    skip: frozenset[int] | None = None
    skipped: list[int] = field(default_factory=list)
    seen: tuple[Evaluation, ...] = ()  # the last two, the newer first
    _index: int = 0
    _drift: float = 0.0
    _before: Latents | None = None

    def __call__(self, latents: Latents, timestep: Float[Tensor, "B"]) -> Latents:
        index, before = self._index, self._before
        self._index, self._before = index + 1, latents
        if self._can_skip(index, latents, before):
            self.skipped.append(index)
            return continued(self.seen, timestep)
        self._drift = 0.0
        velocity = self.velocity(latents, timestep)
        self.seen = (Evaluation(latents, timestep, velocity), *self.seen[:1])
        return velocity

    def _can_skip(self, index: int, latents: Latents, before: Latents | None) -> bool:
        if index < WARM_UP or index == self.count - 1 or before is None or len(self.seen) < 2:
            return False
        if self.skip is not None:
            return index in self.skip
        new, old = self.seen
        rate = (new.velocity - old.velocity).norm() / (new.latents - old.latents).norm()
        self._drift += float(rate * (latents - before).norm() / new.velocity.norm())
        return self._drift < self.threshold


def continued(seen: tuple[Evaluation, ...], timestep: Float[Tensor, "B"]) -> Latents:
    """The velocity at `timestep` on the straight line through the last two (TaylorSeer, arXiv 2503.06923, order 1)."""
    new, old = seen
    distance = (timestep - new.timestep) / (new.timestep - old.timestep)
    return new.velocity + distance.view(-1, 1, 1, 1, 1) * (new.velocity - old.velocity)

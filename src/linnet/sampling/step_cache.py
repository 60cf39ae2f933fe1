"""Steps that do without the model: the velocity of the last evaluation is held, or, where it changes evenly, its change
is continued from the last two.

Axes: B batch, C channels, T frames, H and W rows and columns of the latents.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from linnet.sampling.denoise import Latents, Velocity

WARM_UP = 2  # steps that are always evaluated: less tells nothing of how the velocity changes


class Evaluation(NamedTuple):
    """What the model said, where and when."""

    latents: Latents
    timestep: float
    velocity: Latents


@dataclass(kw_only=True)
class CachedVelocity:
    """A velocity that asks `velocity` only where it must: the `velocity` of one run of `denoise`.

    Either `skip` names the steps (from 0) to continue, or, where it is None, each step decides as EasyCache does
    (arXiv 2507.02860): the last evaluations give the rate at which the velocity changes with the latents, so how far
    the latents have moved says how far the velocity has, relative to its size; steps are continued until these changes
    add up to `threshold`. Never the first two nor the last of `count` steps.

    With `hold` a step takes the last velocity as it is. Guidance with momentum swings from step to step, and over
    several steps in a row a change that is continued is a swing made larger: on seedling, with two steps of three left
    out, the clips were 40 to 50 dB from exact's with held velocities, and 30 to 34 dB with continued ones.

    `skipped` is what was decided so far; given as `skip` to another run, it repeats this one. A state's object serves
    one run, and its decisions hold for the whole batch.
    """

    velocity: Velocity
    count: int
    threshold: float = 0.0
    skip: frozenset[int] | None = None
    hold: bool = False
    skipped: list[int] = field(default_factory=list)
    seen: tuple[Evaluation, ...] = ()  # the last two, the newer first
    _index: int = 0
    _drift: float = 0.0
    _before: Latents | None = None

    def __call__(self, latents: Latents, timestep: float) -> Latents:
        """Nothing is remembered before all is computed: after memory ran out the same call is made again."""
        drift = self._drifted(latents)
        if self._can_skip(drift):
            velocity = self.seen[0].velocity if self.hold else continued(self.seen, timestep)
            self.skipped.append(self._index)
            self._drift = drift
        else:
            velocity = self.velocity(latents, timestep)
            self.seen = (Evaluation(latents, timestep, velocity), *self.seen[:1])
            self._drift = 0.0
        self._index, self._before = self._index + 1, latents
        return velocity

    def _can_skip(self, drift: float) -> bool:
        if self._index < WARM_UP or self._index == self.count - 1 or len(self.seen) < 2:
            return False
        return drift < self.threshold if self.skip is None else self._index in self.skip

    def _drifted(self, latents: Latents) -> float:
        """By which share of it the velocity may have changed since it was last asked for; 0 where nobody asks.

        Only the device knows: each step that decides for itself waits for it once."""
        if self.skip is not None or self._index < WARM_UP or self._before is None or len(self.seen) < 2:
            return 0.0
        new, old = self.seen
        rate = (new.velocity - old.velocity).norm() / (new.latents - old.latents).norm()
        return self._drift + float(rate * (latents - self._before).norm() / new.velocity.norm())


def continued(seen: tuple[Evaluation, ...], timestep: float) -> Latents:
    """The velocity at `timestep` on the straight line through the last two (TaylorSeer, arXiv 2503.06923, order 1)."""
    new, old = seen
    distance = (timestep - new.timestep) / (new.timestep - old.timestep)
    return new.velocity + distance * (new.velocity - old.velocity)

"""What a training run is told, beside nothing else: every number that shapes it stands here and in its recipe."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The loop's own settings; what is learnt, and from what, belongs to the task."""

    steps: int
    learning_rate: float
    optimiser: Literal["adamw", "muon", "adamw8bit", "prodigy", "came"] = "adamw"
    # For hidden matrices, under "muon"; the rest follows AdamW at `learning_rate`.
    muon_learning_rate: float = 0.02
    # (Name prefix, factor on the rate) of parameters that need less.
    slower: tuple[tuple[str, float], ...] = ()
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    # Microbatches whose gradients are averaged before a step is taken.
    accumulation: int = 1
    # After the rise: "wsd" (warm-up, stable, decay) stays and then falls linearly in `cooldown`; "linear" falls from
    # there on, "cosine" along half a wave; "constant" stays.
    schedule: Literal["wsd", "linear", "cosine", "constant"] = "wsd"
    warmup: int = 200  # steps of linear rise
    cooldown: float = 0.3  # share of the run, at its end, in which the rate falls linearly to zero
    # Steps at which the rate begins anew, to rise and fall until the next (Loshchilov & Hutter, arXiv 1608.03983): each
    # of them ends a run that could have been the last.
    restarts: tuple[int, ...] = ()
    clip_norm: float = 1.0  # 0: gradients are not clipped
    ema: float = (
        0.999  # reached after a warm-up of its own, so that early averages forget the initial weights
    )
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the matrix products; weights stay float32
    log_every: int = 10
    sample_every: int = 500
    checkpoint_every: int = 200
    validate_every: int = 0  # 0: never

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step, 0..1: a rise, a plateau, a fall."""
        ends = (*(step for step in self.restarts if step < self.steps), self.steps)
        end = next((end for end in ends if step < end), self.steps)
        begin = max(start for start in (0, *self.restarts) if start <= step)
        rise = (step - begin + 1) / max(1, self.warmup)
        if self.schedule == "wsd":
            falling = max(1, round((end - begin) * self.cooldown))
            return min(1.0, rise, max(0.0, (end - step) / falling))
        if rise < 1 or self.schedule == "constant":
            return min(1.0, rise)
        left = (end - step) / max(1, end - begin - self.warmup + 1)
        return left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2

    def rate_within(self, step: int, share: float) -> float:
        """The same for a run that ends by the clock: `step` of this run, and the share of its time that is over."""
        falling = (1 - share) / max(self.cooldown, 1e-3)
        return min(1.0, (step + 1) / max(1, self.warmup), max(0.0, falling))

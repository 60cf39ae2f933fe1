"""Which step a share of all of them begins at. Imports no torch, so that a plan counts as the loop does."""

import math


def step_at(share: float, count: int) -> int:
    """The first of `count` steps, from 0, that is not before `share` of them; rounding moves none across it."""
    return math.ceil(share * count - 1e-6)

"""A clip longer than the model's own in one pass, each frame of which attends to those near it.

What a model never saw, frames farther apart than its training clips were long, draws attention away from what it knows,
and the clip blurs, freezes or repeats itself (UltraViCo, arXiv 2511.20123, which weakens that attention; here a weight
of zero takes it away altogether, and the work grows with the length instead of its square).
"""

import math
from typing import cast

import torch

from linnet.models.attention import Attend, Heads, attend

FAR = 0.0  # how much a token outside of the span counts


def local_attention(tokens: int, reach: int, *, inner: Attend = attend, far: float = FAR) -> Attend:
    """A way to attend in which tokens more than `span` latent frames apart count `far` of what they would.

    `tokens` of them make a latent frame. The queries of one frame go at a time, so that nothing of size L x L is ever
    made; `way` is how they do where they count all alike.
    """

    def near(query: Heads, key: Heads, value: Heads) -> Heads:
        length, mixed = key.shape[2], torch.empty_like(query)
        for start in range(0, query.shape[2], tokens):
            first, last = max(0, start - reach * tokens), min(length, start + (reach + 1) * tokens)
            rows = query[:, :, start : start + tokens]
            if far == 0.0 or last - first == length:
                own = inner(rows, key[:, :, first:last], value[:, :, first:last])
            else:
                bias = rows.new_full((len(rows), 1, 1, length), math.log(far))
                bias[..., first:last] = 0
                own = attend(rows, key, value, bias)
            mixed[:, :, start : start + tokens] = own
        return mixed

    return cast("Attend", torch.compiler.disable(near))  # its loop is as long as the clip

"""Which of a device's ways to attend is the fastest: found by measuring at first use, remembered, told in the clip.

All of them compute the same, to rounding. Which is best depends on the card (cuDNN's takes half of flash's time on
Hopper, and longer on Ampere), the library's version, the dtype and the number of tokens, so nothing else than trying
tells. A way that the device cannot go is no candidate; PyTorch's own choice stays unless another is clearly faster.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from linnet.models.attention import Attend, attend, attend_chunked, attend_plainly
from linnet.plan import host
from linnet.runtime.device import circumstances, title

STOCK = "stock"  # PyTorch's own choice
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
CLEARLY = 0.9  # of the stock way's time: what is no better than that may be chance
MOST_TOKENS = {"cuda": 8192, "cpu": 4096}  # measured at; more say the same and take memory
USUAL_TOKENS = 2048
PLAIN_BYTES = 64 * 2**20  # of attention's weights, which plain products hold all at once
# Fewer are attended to plainly; of more, keys and values leave a core's cache as well.
CHUNKED_TOKENS = range(1025, 4096 + 1)
ROUNDS, ENOUGH = 5, 0.2  # runs of each, and seconds of one after which it is not run again
NEVER = float("inf")


class Work(NamedTuple):
    """What is asked of self-attention."""

    batch: int
    heads: int
    tokens: int
    width: int

    def measured(self, device: torch.device) -> "Work":
        """Its class: tokens to a power of two, and no more than it takes to tell."""
        most = MOST_TOKENS.get(device.type, USUAL_TOKENS)
        return self._replace(tokens=min(most, 1 << (self.tokens - 1).bit_length()))


def through(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value)


def candidates(device: torch.device, work: Work) -> Mapping[str, Attend]:
    """By name; whether the device can, only trying tells."""
    backends: dict[str, Attend] = {STOCK: attend}
    if device.type == "cuda":
        backends |= {name: partial(through, backend) for name, backend in BACKENDS.items()}
    if device.type == "cpu":
        if 4 * work.batch * work.heads * work.tokens**2 <= PLAIN_BYTES:
            backends["plain"] = attend_plainly
        if work.tokens in CHUNKED_TOKENS:
            backends["chunked"] = attend_chunked
    return backends


def choose(work: Work, device: torch.device, dtype: torch.dtype) -> str:
    """The name of the fastest, from an earlier measurement if there was one."""
    kind = work.measured(device)
    possible, measured = candidates(device, work), candidates(device, kind)
    ways = {name: attend for name, attend in measured.items() if name in possible}
    if len(ways) == 1:
        return STOCK
    facts = (title(str(device)), circumstances(), str(dtype), f"{torch.get_num_threads()} threads")
    key = ", ".join([*facts, "x".join(map(str, kind))])
    chosen = host.recall("attention", key)
    if chosen not in ways:
        chosen = fastest(ways, kind, device, dtype)
        host.keep("attention", key, chosen)
    return chosen


def fastest(ways: Mapping[str, Attend], work: Work, device: torch.device, dtype: torch.dtype) -> str:
    """By the best time of a few runs, which take turns so that other programs slow all alike."""
    shape = (work.batch, work.tokens, work.heads, work.width)
    # As the model has them: heads beside each other in memory.
    query, key, value = (torch.randn(shape, device=device).to(dtype).transpose(1, 2) for _ in range(3))
    times: dict[str, float] = {}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):  # the first does not count: libraries warm up in it
            for name, attend in ways.items():
                if times.get(name, 0.0) > ENOUGH:
                    continue
                seconds = timed(lambda attend=attend: attend(query, key, value), device)
                if turn or seconds == NEVER:
                    times[name] = min(seconds, times.get(name, NEVER))
    best = min(times, key=lambda name: times[name])
    return best if times[best] < CLEARLY * times[STOCK] else STOCK


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds; for ever where the device cannot."""
    try:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start
    except RuntimeError:
        return NEVER


def way_of(name: str, work: Work, device: torch.device) -> Attend | None:
    """The way of that name, as a clip tells it; None where this device has none of it."""
    return candidates(device, work).get(name)

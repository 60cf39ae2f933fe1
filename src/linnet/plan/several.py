"""How several cards, or processes, share the work of a clip: decided before anything runs."""

from typing import Literal

from linnet.plan.passes import forwards
from linnet.request import Request

# Of a pass that is shared out, what handing keys and values round costs beside its share: an estimate, not measured.
RING = 0.1


def passes(request: Request, count: int, split: Literal["guidance", "tokens"]) -> float:
    """How many whole passes of one card the clip takes as long as."""
    each = forwards(request)
    if split == "tokens":
        return sum(each) * shared(count)
    return len(each) * shared(count // 2)


def shared(count: int) -> float:
    """What a pass takes that so many share, of what it takes alone."""
    return 1.0 if count == 1 else 1 / count + RING


def faster_split(request: Request, count: int) -> Literal["guidance", "tokens"]:
    """Guidance's two passes apart, or all passes' tokens shared out: whichever is the faster. A clip whose windows are
    denoised together has many passes a step, which are shared out one by one."""
    joint = request.window and not request.onward
    if count % 2 or joint:
        return "tokens"
    return min(("guidance", "tokens"), key=lambda split: passes(request, count, split))

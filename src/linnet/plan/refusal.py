"""What does not fit: which memory is short, and what would fit. It is imported where nothing fits."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from linnet.catalog import CATALOG, SEEDLING
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, format_seconds, seconds_of
from linnet.plan.host import Budget, gigabytes
from linnet.plan.plan import Plan, Workload

Fits = Callable[[Workload], bool]  # whether there is a way to run it that fits


class TooLarge(InvalidInput):
    """Nothing fits."""

    least: Plan  # the plan that comes nearest


# --- what does not fit ------------------------------------------------------------------------------------------------


def too_large(workload: Workload, plans: Sequence[Plan], fits: Fits) -> TooLarge:
    """Which memory is short of a workload that fits by none of these plans, which stage is to blame, how much would do,
    and the nearest request that would fit."""
    request, budget, device = workload.request, workload.budget, workload.device
    least = min(plans, key=lambda plan: excess(plan, budget))
    lacking = [name for name, limit in budget.limits.items() if least.peaks[name] > limit]
    limited = [name for name in lacking if name in budget.limited]
    short = (limited or lacking)[0]
    stage = max(least.stages, key=lambda stage: stage.device_bytes if short == "vram" else stage.system_bytes)
    many = f"{workload.clips} clips like " if workload.clips > 1 else ""
    clip = f"{many}a {format_seconds(request.seconds)} s {request.size} clip in {request.dtype}"
    takes = f"the {stage.stage} stage of {clip} takes about {gigabytes(least.peaks[short])} at least"
    places = {"vram": f"on {device}", "ram": "in main memory"}
    if min(plan.peaks[short] for plan in plans) < least.peaks[short]:
        others = {
            name: max(limit, least.peaks[name]) for name, limit in budget.limits.items() if name != short
        }
        takes += "".join(f" beside {gigabytes(size)} {places[name]}" for name, size in others.items())
    change = nearest(workload, fits)
    have = gigabytes(budget.limits[short])
    if limited:
        more = " ".join(f"`{name}={gigabytes(least.peaks[name]).replace(' ', '')}`" for name in limited)
        free = [
            f" with {gigabytes(least.peaks[name])} {places[name]}" for name in lacking if name not in limited
        ]
        words = f"use {more}{''.join(free)}" + (f", or {change}" if change else "")
        error = TooLarge(short, have, f"is too little: {takes}", words)
    else:
        close = "close other programs"
        if short == "vram" and budget.others:
            close += f", which hold {gigabytes(budget.others)} with the driver"
        if workload.spec is not SEEDLING:
            close += ", or use `model=seedling`"
        where = device if short == "vram" else "cpu"
        words = f"use {change}" if change else close
        error = TooLarge("memory", have, f"is free on {where}, and {takes}", words)
    error.least = least
    return error


def excess(plan: Plan, budget: Budget) -> tuple[int, float]:
    """How far a plan is from fitting: the number of memories that are too small, and by which factor at most."""
    limits = budget.limits.items()
    factors = [plan.peaks[name] / max(limit, 1) for name, limit in limits if plan.peaks[name] > limit]
    return len(factors), max(factors, default=0.0)


def nearest(workload: Workload, fits: Fits) -> str | None:
    """The fewest changes that make the request fit, as settings to give; the longest clip if it must be shorter."""
    spec, request, clips = workload.spec, workload.request, workload.clips
    single = replace(workload, clips=1)

    smaller = [("", request)]
    if request.dtype != "bfloat16":
        smaller.append(("`dtype=bfloat16`", replace(request, dtype="bfloat16")))
    for fewer in dict.fromkeys((clips, 1)):
        for words, changed in smaller:
            remedies = [word for word in (words, "one seed at a time" if fewer < clips else "") if word]
            if remedies and fits(replace(workload, clips=fewer, request=changed)):
                return " and ".join(remedies)
    for words, changed in smaller:
        if frames := longest_frames(single.asking(changed), fits, request.frames - FRAMES_PER_LATENT):
            shorter = f"`seconds={format_seconds(seconds_of(frames, spec.fps))}`"
            fewer_seeds = "one seed at a time" if clips > 1 else ""
            return " and ".join(word for word in (words, shorter, fewer_seeds) if word)
    for other in CATALOG.values():
        if other.family == spec.family and other.sizes[0].pixels < request.size.pixels:
            width, height = other.sizes[0]
            changed = replace(request, width=width, height=height, model=other.name)
            model = replace(workload.model, spec=other)
            if fits(replace(single, model=model, request=changed)):
                return f"`model={other.name}`"
    on_cpu = replace(single, device="cpu", budget=replace(workload.budget, device=None))
    if not workload.on_cpu and fits(on_cpu):
        return "`device=cpu`"
    return None


def longest_frames(workload: Workload, fits: Fits, most: int | None = None) -> int | None:
    """Frames of the longest clip that fits, of `most` at the most, or of as many as the model makes at once; None if
    none fits."""
    spec, request = workload.spec, workload.request
    least = spec.least_window if request.loop else spec.min_frames
    lengths = range(least, (spec.max_frames if most is None else most) + 1, FRAMES_PER_LATENT)

    def too_long(frames: int) -> bool:
        return not fits(workload.asking(replace(request, frames=frames)))

    if not lengths or too_long(least):
        return None
    # A clip takes no more than a longer one that is run in the same way: once a length is too long, so are all behind.
    return lengths[bisect_left(lengths, True, lo=1, key=too_long) - 1]

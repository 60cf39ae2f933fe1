"""What a clip shows becomes something else, and its motion stays (see `conditions.Edited`)."""

from dataclasses import replace
from itertools import islice

from linnet.direct.conditions import Conditioning, begins_at, check_whole, fingerprint
from linnet.direct.footage import Source
from linnet.direct.samplers import Edited, Renoised, check_strength
from linnet.pipeline import Pipeline
from linnet.plan.plan import Plan
from linnet.request import no_guidance
from linnet.sampling import flow

STRENGTH = 0.95  # of the steps: nearly all, for not the noise but what differs keeps things in their place


def edit(
    pipeline: Pipeline,
    plan: Plan,
    source: Source,
    shown: str,
    *,
    strength: float = STRENGTH,
    guidance: float | None = None,
    everywhere: bool = False,
) -> Conditioning:
    """By `plan`, the way from what `source` shows, `shown` in words, to what the request's prompt says.

    `guidance` is how closely `shown` is followed: less than the request's own, by default a third. What both prompts
    see alike stays as it is, unless the clip may change `everywhere`.
    """
    request = plan.request
    check_strength(strength)
    check_whole(request, "an edit")
    pipeline.model.follow(plan)
    sigmas = flow.levels_of(request)
    followed = request.guidance / 3 if guidance is None else guidance
    # First, while the transformer is not there yet and takes no memory.
    latents = pipeline.runner.encode_frames(lambda: islice(source.frames(), request.frames))
    velocity = pipeline.runner.velocity(replace(request, prompt=shown, guidance=followed), sigmas)
    plain = None
    if not everywhere:
        unguided = replace(request, guidance=no_guidance(request.guidance_method))
        before = pipeline.runner.velocity(replace(unguided, prompt=shown), sigmas)
        plain = before, pipeline.runner.velocity(unguided, sigmas)
    sampler = Edited(
        clip=latents,
        source=velocity,
        strength=strength,
        seed=request.seed,
        plain=plain,
    )
    direction = {
        "edits": fingerprint(source.path),
        "from": shown,
        "strength": strength,
        "from_guidance": followed,
    } | ({"everywhere": True} if everywhere else {})
    return Conditioning(plan, sampler, direction, source.notes)


def refine(pipeline: Pipeline, plan: Plan, source: Source, *, strength: float) -> Conditioning:
    """The way from a draft, scaled up to the request's size, through the last `strength` of the steps."""
    request = plan.request
    check_strength(strength)
    check_whole(request, "a draft to refine")
    pipeline.model.follow(plan)
    latents = pipeline.runner.encode_frames(lambda: islice(source.frames(), request.frames))
    direction = {"refines": fingerprint(source.path), "strength": strength}
    notes = (*source.notes, begins_at(request, strength))
    return Conditioning(plan, Renoised(clip=latents, strength=strength), direction, notes)

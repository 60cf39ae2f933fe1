"""Where and how each stage of a request runs, decided before it runs: what fits the memory there is, and costs least.

`make_plan` goes through the ways to run, the fastest first, predicts what each takes (`plan/memory.py`) and settles
for the first that fits. All ways that it chooses from give the same clip, to rounding, but one: where nothing else fits
a card, the Wan autoencoder is held in bfloat16, which can be seen, and the plan says so. 8-bit weights are never chosen
unasked. Imports no torch and reads no weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from linnet.catalog import CATALOG, SEEDLING, ModelSpec
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, format_seconds, latent_grid, seconds_of, token_count
from linnet.plan.budget import ALLOWANCES, Allowance, Budget, gigabytes, halved, kind_of
from linnet.plan.cost_model import CostModel
from linnet.plan.execution import ExecutionConfig, Tiling
from linnet.plan.explanations import Choice, Row, Stage, choices
from linnet.plan.memory import (
    BYTES,
    LOADING,
    SMALL_TEXT,
    Shape,
    decode_working,
    denoise_working,
    encode_working,
    glance_working,
    text_weights,
    text_working,
    transformer_weights,
)
from linnet.plan.windows import denoised, latents_at_once
from linnet.request import Request, make_request

NOTHING: Mapping[str, Any] = MappingProxyType({})
STAGES: tuple[Stage, ...] = ("text", "denoise", "decode")

LESS = 0.8  # of what was predicted, where that was too much
TOKEN_CHUNKS = (None, 16_384, 4_096)
TILINGS = (None, Tiling(rows=45, columns=80), Tiling(rows=30, columns=40), Tiling(rows=15, columns=20))


class TooLarge(InvalidInput):
    """Nothing fits."""

    least: "Plan"  # the plan that comes nearest


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Peaks in bytes, allowances included. `seconds` is None where nobody has measured the device."""

    stage: Row
    device_bytes: int
    system_bytes: int
    seconds: float | None
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a request will run. `execution`, `text_resident` (the text encoder stays in memory) and `transformer_stays`
    (while the autoencoder works) are for the pipeline. `pixels`: frames that are given, and encoded first."""

    spec: ModelSpec
    request: Request
    device: str
    clips: int
    budget: Budget
    execution: ExecutionConfig
    text_resident: bool
    stages: tuple[StagePlan, ...]
    transformer_stays: bool = True
    pixels: int = 0
    slower: float | None = None  # by which share than with all in memory; None where nobody has measured

    @property
    def peak_device_bytes(self) -> int:
        """0 on a CPU, where all is in the system's memory."""
        return max(stage.device_bytes for stage in self.stages)

    @property
    def peak_system_bytes(self) -> int:
        return max(stage.system_bytes for stage in self.stages)

    @property
    def peaks(self) -> dict[str, int]:
        """Both, by the names of the budget's limits."""
        return {"vram": self.peak_device_bytes, "ram": self.peak_system_bytes}

    @property
    def peak_bytes(self) -> int:
        """On the device that it runs on."""
        return self.peak_system_bytes if kind_of(self.device) == "cpu" else self.peak_device_bytes

    @property
    def allowance(self) -> Allowance:
        return ALLOWANCES[kind_of(self.device)]

    @property
    def seconds(self) -> float | None:
        """Of the stages that were measured; None if denoising or decoding was not."""
        known = {stage.stage: stage.seconds for stage in self.stages if stage.seconds is not None}
        return sum(known.values()) if {"denoise", "decode"} <= known.keys() else None

    def fits(self, budget: Budget | None = None) -> bool:
        limits = (budget or self.budget).limits
        return all(self.peaks[name] <= limit for name, limit in limits.items())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; bytes and seconds."""
        return {
            "fits": self.fits(),
            "peak_device_bytes": self.peak_device_bytes,
            "peak_system_bytes": self.peak_system_bytes,
            "seconds": self.seconds,
            "slower": self.slower,
            "device": self.device,
            "dtype": self.request.dtype,
            "budget": {"device_bytes": self.budget.device, "system_bytes": self.budget.system},
            "allowance": self.allowance._asdict(),
            "stages": [
                {
                    "stage": stage.stage,
                    "device_bytes": stage.device_bytes,
                    "system_bytes": stage.system_bytes,
                    "seconds": stage.seconds,
                    "choices": [choice._asdict() for choice in stage.choices],
                }
                for stage in self.stages
            ],
        }


def make_plan(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    clips: int = 1,
    pixels: int = 0,
    rates: CostModel | None = None,
    fixed: Mapping[str, Any] = NOTHING,
) -> Plan:
    """The first way to run that fits, of those that cost least; `fixed`: settings that are decided already. The
    request's dtype must be decided.

    TooLarge, with the nearest request that would fit, if there is none.
    """
    way = {"device": device, "budget": budget, "clips": clips, "pixels": pixels, "fixed": fixed}
    found = fitting(spec, shape, request, rates=rates, **way)
    if found is None:
        raise too_large(spec, shape, request, **way)
    return found


def planned(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    pixels: int = 0,
    rates: CostModel | None = None,
) -> Plan:
    """The same, but if nothing fits, the one that needs least (of which the seconds are not told)."""
    found = fitting(spec, shape, request, device=device, budget=budget, pixels=pixels, rates=rates)
    plans = [] if found else every(spec, shape, request, device=device, budget=budget, pixels=pixels)
    return found or min(plans, key=lambda plan: plan.peak_bytes)


def fitting(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    clips: int = 1,
    pixels: int = 0,
    rates: CostModel | None = None,
    fixed: Mapping[str, Any] = NOTHING,
) -> Plan | None:
    """The first way that fits, or None."""
    small = text_weights(shape, request.dtype, ExecutionConfig()) <= SMALL_TEXT
    way = {"device": device, "budget": budget, "clips": clips, "pixels": pixels, "rates": rates}
    for execution in ways(spec, shape, device, fixed):
        predicted = partial(predict, spec, shape, request, execution=execution, **way)
        plan = predicted(text_resident=small, transformer_stays=must_stay(budget))
        if not plan.fits():
            continue
        staying = predicted(text_resident=small)
        plan = staying if staying.fits() else plan
        if small:
            return plan
        # Holding a large encoder saves reading it again for the next prompt: worth half of what is free, no more.
        held = predicted(text_resident=True, transformer_stays=plan.transformer_stays)
        return held if held.fits(halved(budget)) else plan
    return None


def smaller(plan: Plan, shape: Shape, stage: Stage) -> Plan:
    """For a stage that ran out of memory all the same: the first way that takes a fifth less there than `plan` said, or
    the one that takes least. Weights are stored as they were."""

    def taken(plan: Plan) -> int:
        (found,) = (found for found in plan.stages if found.stage == stage)
        if kind_of(plan.device) == "cpu":
            return found.system_bytes - plan.allowance.system
        return found.device_bytes - plan.allowance.device

    kept = {name: getattr(plan.execution, name) for name in ("transformer_format", "text_format")}
    way = {"device": plan.device, "budget": plan.budget, "clips": plan.clips, "pixels": plan.pixels}
    plans = every(plan.spec, shape, plan.request, fixed=kept, **way)
    enough = (one for one in plans if one.fits() and taken(one) <= LESS * taken(plan))
    return next(enough, None) or min(plans, key=taken)


def ways(
    spec: ModelSpec, shape: Shape, device: str, fixed: Mapping[str, Any] = NOTHING
) -> Iterable[ExecutionConfig]:
    """From the fastest to the one that takes the least memory, with these settings fixed."""
    return dict.fromkeys(replace(execution, **fixed) for execution in free_ways(spec, shape, device))


def must_stay(budget: Budget) -> bool:
    """Whether the transformer has to stay while the autoencoder works: only a budget that a person set is worth that
    the next clip reads it again."""
    return not budget.asked


def free_ways(spec: ModelSpec, shape: Shape, device: str) -> Iterator[ExecutionConfig]:
    tilings = TILINGS if spec.autoencoder == "wan" else (None,)
    parts = [None, *(round(shape.layers * eighths / 8) for eighths in range(7, -1, -1))]
    on_cpu = kind_of(device) == "cpu"
    waits = ("file",) if on_cpu else ("memory", "file")
    # The last resort, as it costs more than time. Not every CPU convolves in bfloat16 without copies in float32.
    decoders = ("float32", "bfloat16") if spec.autoencoder == "wan" and not on_cpu else ("float32",)
    for decoder in decoders:
        for stay in dict.fromkeys(parts):
            for source in waits[: 1 if stay is None else None]:
                for chunk in TOKEN_CHUNKS:
                    for tiling in tilings:
                        yield ExecutionConfig(
                            token_chunk=chunk,
                            resident_blocks=stay,
                            blocks_from=source,
                            tiling=tiling,
                            autoencoder_dtype=decoder,
                        )


def predict(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    execution: ExecutionConfig,
    text_resident: bool,
    transformer_stays: bool = True,
    clips: int = 1,
    pixels: int = 0,
    rates: CostModel | None = None,
) -> Plan:
    """What a request takes if it is run in this way, whether it fits or not."""
    dtype, grid = request.dtype, latent_grid(request.frames, request.size)
    seen = denoised(spec, request)
    on_cpu, allowance = kind_of(device) == "cpu", ALLOWANCES[kind_of(device)]
    text = text_weights(shape, dtype, execution)
    kept = text if text_resident else 0
    spoken = text if text_resident else shape.text_block.bytes(execution.text_format or dtype)
    batch = clips * (2 if spec.batched_guidance else 1)
    stay, waiting = transformer_weights(shape, dtype, execution)
    waiting = waiting if execution.blocks_from == "memory" else 0
    forward = denoise_working(
        shape,
        dtype,
        execution,
        tokens=latents_at_once(seen) * token_count(1, request.size) * batch,
        grid=latent_grid(seen.frames, request.size),
        clips=clips,
        text_rows=2 * (spec.max_prompt_tokens + 1),
        fused=not on_cpu,
    )
    decoder, parked = decode_working(spec.autoencoder, execution, grid)
    autoencoder = sum(shape.autoencoder) * BYTES[execution.autoencoder_dtype]
    glance = autoencoder + glance_working(spec.autoencoder, execution, grid) if budget.asked else 0
    beside, behind = (kept + stay, waiting) if transformer_stays else (kept, 0)
    working: dict[Row, int] = {
        "text": spoken + text_working(shape, dtype, execution, spec.max_prompt_tokens),
        "denoise": kept + stay + max(forward, glance),
        "decode": beside + autoencoder + decoder,
    }
    aside: dict[Row, int] = {"text": 0, "denoise": waiting, "decode": behind + parked}
    if pixels:
        encoder = encode_working(spec.autoencoder, execution, grid, pixels)
        working["encode"], aside["encode"] = beside + autoencoder + encoder, behind
    seconds = rates.of(spec, shape, request, execution, clips=clips) if rates else {}
    stages: list[StagePlan] = []
    for stage in (*STAGES, "encode") if pixels else STAGES:
        size = working[stage]
        device_bytes = 0 if on_cpu else allowance.device + size
        system = allowance.system + aside[stage] + (max(size, LOADING) if on_cpu else LOADING)
        stages.append(
            StagePlan(
                stage=stage,
                device_bytes=device_bytes,
                system_bytes=system,
                seconds=seconds.get(stage),
                choices=tuple(choices(stage, shape, request, execution, text_resident, transformer_stays)),
            )
        )
    return Plan(
        spec=spec,
        request=request,
        device=device,
        clips=clips,
        budget=budget,
        execution=execution,
        text_resident=text_resident,
        stages=tuple(stages),
        transformer_stays=transformer_stays,
        pixels=pixels,
        slower=rates.slower(spec, shape, request, execution, clips=clips) if rates else None,
    )


def every(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    clips: int = 1,
    pixels: int = 0,
    fixed: Mapping[str, Any] = NOTHING,
) -> list[Plan]:
    """All ways to run that may take least, whether they fit or not."""
    small = text_weights(shape, request.dtype, ExecutionConfig()) <= SMALL_TEXT
    way = {"device": device, "budget": budget, "clips": clips, "pixels": pixels, "text_resident": small}
    way["transformer_stays"] = must_stay(budget)
    return [
        predict(spec, shape, request, execution=execution, **way)
        for execution in ways(spec, shape, device, fixed)
    ]


# --- what does not fit ------------------------------------------------------------------------------------------------


def too_large(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    clips: int,
    pixels: int,
    fixed: Mapping[str, Any] = NOTHING,
) -> TooLarge:
    """Which memory is short, which stage is to blame, how much would do, and the nearest request that would fit."""
    way = {"device": device, "budget": budget, "clips": clips, "pixels": pixels, "fixed": fixed}
    plans = every(spec, shape, request, **way)
    least = min(plans, key=lambda plan: excess(plan, budget))
    lacking = [name for name, limit in budget.limits.items() if least.peaks[name] > limit]
    asked = [name for name in lacking if name in budget.asked]
    short = (asked or lacking)[0]
    stage = max(least.stages, key=lambda stage: stage.device_bytes if short == "vram" else stage.system_bytes)
    many = f"{clips} clips like " if clips > 1 else ""
    clip = f"{many}a {format_seconds(request.seconds)} s {request.size} clip in {request.dtype}"
    takes = f"the {stage.stage} stage of {clip} takes about {gigabytes(least.peaks[short])} at least"
    places = {"vram": f"on {device}", "ram": "in main memory"}
    if min(plan.peaks[short] for plan in plans) < least.peaks[short]:
        others = {
            name: max(limit, least.peaks[name]) for name, limit in budget.limits.items() if name != short
        }
        takes += "".join(f" beside {gigabytes(size)} {places[name]}" for name, size in others.items())
    change = nearest(spec, shape, request, **way)
    have = gigabytes(budget.limits[short])
    if asked:
        more = " ".join(f"--{name} {gigabytes(least.peaks[name]).replace(' ', '')}" for name in asked)
        free = [
            f" with {gigabytes(least.peaks[name])} {places[name]}" for name in lacking if name not in asked
        ]
        words = f"use {more}{''.join(free)}" + (f", or {change}" if change else "")
        found = TooLarge(short, have, f"is too little: {takes}", words)
    else:
        close = (
            "close other programs" if spec is SEEDLING else "close other programs, or use --model seedling"
        )
        where = device if short == "vram" else "cpu"
        words = f"use {change}" if change else close
        found = TooLarge("memory", have, f"is free on {where}, and {takes}", words)
    found.least = least
    return found


def excess(plan: Plan, budget: Budget) -> tuple[int, float]:
    """How far a plan is from fitting: the number of memories that are too small, and by which factor at most."""
    limits = budget.limits.items()
    factors = [plan.peaks[name] / max(limit, 1) for name, limit in limits if plan.peaks[name] > limit]
    return len(factors), max(factors, default=0.0)


def nearest(
    spec: ModelSpec,
    shape: Shape,
    request: Request,
    *,
    device: str,
    budget: Budget,
    clips: int,
    pixels: int,
    fixed: Mapping[str, Any] = NOTHING,
) -> str | None:
    """The fewest changes that make the request fit, as options to give; the longest clip if it must be shorter."""
    way: dict[str, Any] = {"device": device, "budget": budget, "pixels": pixels, "fixed": fixed}
    smaller = [("", request)]
    if request.dtype != "bfloat16":
        smaller.append(("--dtype bfloat16", replace(request, dtype="bfloat16")))
    for fewer in dict.fromkeys((clips, 1)):
        for words, changed in smaller:
            said = [word for word in (words, "one seed at a time" if fewer < clips else "") if word]
            if said and fitting(spec, shape, changed, clips=fewer, **way):
                return " and ".join(said)
    for words, changed in smaller:
        for frames in range(request.frames - FRAMES_PER_LATENT, spec.min_frames - 1, -FRAMES_PER_LATENT):
            if fitting(spec, shape, replace(changed, frames=frames), **way):
                shorter = f"--seconds {format_seconds(seconds_of(frames, spec.fps))}"
                one = "one seed at a time" if clips > 1 else ""
                return " and ".join(word for word in (words, shorter, one) if word)
    for other in CATALOG.values():
        if other.family == spec.family and other.sizes[0].pixels < request.size.pixels:
            width, height = other.sizes[0]
            changed = replace(request, width=width, height=height, model=other.name)
            if fitting(other, shape, changed, **way):
                return f"--model {other.name}"
    way |= {"device": "cpu", "budget": replace(budget, device=None)}
    if kind_of(device) != "cpu" and fitting(spec, shape, request, **way):
        return "--device cpu"
    return None


def longest(
    spec: ModelSpec, shape: Shape, *, device: str, dtype: str, budget: Budget
) -> tuple[dict[int, int], int | None]:
    """Of clips of the default size: the peak bytes of the shortest and the longest by their frames, and the frames of
    the longest that fits."""
    kind: Any = dtype
    lengths = range(spec.min_frames, spec.max_frames + 1, FRAMES_PER_LATENT)
    plans: dict[int, Plan | None] = {}
    for frames in lengths:
        request = make_request(spec, prompt="any", frames=frames, seed=0, dtype=kind)
        plans[frames] = fitting(spec, shape, request, device=device, budget=budget)
    request = make_request(spec, prompt="any", frames=lengths[0], seed=0, dtype=kind)
    needs = {}
    for frames in (lengths[0], lengths[-1]):
        whole = fitting(spec, shape, replace(request, frames=frames), device=device, budget=Budget())
        needs[frames] = whole.peak_bytes if whole else 0
    return needs, max((frames for frames, plan in plans.items() if plan), default=None)

"""The machine that a plan is made for, and the ways to run a workload there, from the fastest to the one that takes the
least memory: the first that fits is the plan.

The machine is resolved once, by `linnet.runtime.machine`, for Python, the command line and the server alike. All ways
give the same clip, to rounding, but one: where nothing else fits a card, the Wan autoencoder is held in bfloat16, which
can be seen, and the plan says so. 8-bit weights are never chosen unasked.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from linnet.errors import InvalidInput
from linnet.loras import any_merged
from linnet.plan import host
from linnet.plan.execution import (
    NOTHING_FIXED,
    Convolutions,
    ExecutionConfig,
    FixedExecution,
    Pasts,
    Tiling,
    Waits,
)
from linnet.plan.host import Budget, kind_of, share_of
from linnet.plan.memory import Shape
from linnet.plan.passes import is_guided
from linnet.plan.plan import Plan, SizedModel, Stage, Workload
from linnet.request import Dtype, Request

if TYPE_CHECKING:
    from linnet.plan.cost_model import CostModel


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`dtype` is that of matrix products where a request leaves it open. `title`: the hardware's name and all else that
    times depend on; None for a device that is not here, of which no times are known. `compiler`: one for the device's
    kernels is there."""

    device: str
    dtype: Dtype
    threads: int
    budget: Budget
    title: str | None = None
    compiler: bool = False

    def prepare(self, request: Request) -> Request:
        """The request with nothing left for the device to decide."""
        dtype = self.dtype if request.dtype == "auto" else request.dtype
        decoder = dtype if request.decoder_dtype == "auto" else request.decoder_dtype
        return replace(request, dtype=dtype, decoder_dtype=decoder)

    def workload(
        self, model: SizedModel, request: Request, *, clips: int = 1, encoded_frames: int = 0
    ) -> Workload:
        return Workload(
            model=model,
            request=self.prepare(request),
            device=self.device,
            budget=self.budget,
            clips=clips,
            encoded_frames=encoded_frames,
            compiles=self.compiler and model.spec.compiled and kind_of(self.device) == "cuda",
        )

    def plan(
        self,
        model: SizedModel,
        request: Request,
        *,
        clips: int = 1,
        encoded_frames: int = 0,
        fixed: FixedExecution = NOTHING_FIXED,
    ) -> Plan:
        """How the request will run; TooLarge if it does not fit, with what would. `clips` are made in one batch, and
        `encoded_frames` of pixels encoded first; `fixed` settings are decided already."""
        workload = self.workload(model, request, clips=clips, encoded_frames=encoded_frames)
        return choose(workload, self.costs(workload), fixed)

    def plan_or_nearest(self, model: SizedModel, request: Request, *, encoded_frames: int = 0) -> Plan:
        """The same, but where nothing fits, the plan that comes nearest."""
        workload = self.workload(model, request, encoded_frames=encoded_frames)
        return first_fitting(workload, self.costs(workload)) or least(workload)

    def check(
        self,
        model: SizedModel,
        request: Request,
        *,
        encoded_frames: int = 0,
        fixed: FixedExecution = NOTHING_FIXED,
    ) -> None:
        """TooLarge for what does not fit; makes no plan."""
        workload = self.workload(model, request, encoded_frames=encoded_frames)
        choose(workload, fixed=fixed)

    def costs(self, workload: Workload) -> "CostModel | None":
        """What was measured of this machine for such a model; None if nothing was."""
        if self.title is None:
            return None
        key = self.key(workload.model, workload.request.dtype)
        if host.recall(host.RATES, key) is None:
            return None

        from linnet.plan.cost_model import known  # of a machine that was measured

        return known(key)

    def key(self, model: SizedModel, dtype: str) -> str:
        """Under which a cost model is kept."""
        assert self.title is not None  # a machine that is not here is not measured
        return key_of(self.title, dtype, self.threads, model.shape, model.spec.autoencoder)


def key_of(title: str, dtype: str, threads: int, shape: Shape, kind: str) -> str:
    """Under which a cost model is kept; `title` names the hardware and all else that times depend on, `kind` the
    autoencoder."""
    return f"{title}, {dtype}, {threads} threads, {shape.dim}x{shape.ffn_dim}, {kind}"


def choose(
    workload: Workload, costs: "CostModel | None" = None, fixed: FixedExecution = NOTHING_FIXED
) -> Plan:
    """The first way to run that fits, of those that cost least; `fixed` settings are decided already.

    TooLarge, with the nearest request that would fit, if there is none.
    """
    if plan := first_fitting(workload, costs, fixed):
        return plan

    from linnet.plan.refusal import too_large

    raise too_large(workload, list(frugal(workload, fixed)), partial(fits, fixed=fixed))


# --- the ways to run --------------------------------------------------------------------------------------------------


LESS = 0.8  # of what was predicted, where that was too much
TOKEN_CHUNKS = (None, 8_192, 4_096)
TILINGS = (None, Tiling(rows=45, columns=80), Tiling(rows=30, columns=40), Tiling(rows=15, columns=20))
SPARING = 0.9  # of a card's memory: how much may be filled for the sake of what need not be held
# Of free memory that nobody allotted: how much may be filled to hold a large text encoder, which saves reading it again
# for the next prompt. A card is there to be filled; main memory is also the other programs', and the file's own cache.
HELD_TEXT = {True: 0.5, False: 0.9}  # by whether it runs on the CPU


def candidates(workload: Workload, fixed: FixedExecution = NOTHING_FIXED) -> Iterable[ExecutionConfig]:
    """Each once, with the `fixed` settings as they are."""
    ways: Iterable[ExecutionConfig] = free_candidates(workload)
    if fixed:
        ways = dict.fromkeys(replace(execution, **fixed) for execution in ways)
    if any_merged(workload.request.loras):
        return merging(workload, fixed, ways)
    made_8_bit = fixed.get("transformer_format") and not workload.shape.block.narrow
    if not made_8_bit or "blocks_from" in fixed:
        return ways
    # Blocks of a file in 16 or 32 bits would be made 8-bit anew at every step, which no stream of blocks does.
    return [each for each in ways if each.resident_blocks is None or each.blocks_from != "file"]


def can_merge(execution: ExecutionConfig) -> bool:
    """Whether LoRAs can be merged into the weights: not where blocks are read from their file at every step."""
    from_file = execution.resident_blocks is not None and execution.blocks_from == "file"
    return execution.transformer_format is None and not from_file


def merging(
    workload: Workload, fixed: FixedExecution, ways: Iterable[ExecutionConfig]
) -> list[ExecutionConfig]:
    """Those in which LoRAs can be merged; InvalidInput where none is left, whatever the memory."""
    if stored := fixed.get("transformer_format") or workload.shape.block.narrow:
        kind = stored if isinstance(stored, str) else "8 bits"
        problem = f"would round the LoRA away, since the weights are in {kind}"
        remedy = "leave `lora_merge` out, or use weights in bfloat16 or float32"
        raise InvalidInput("lora_merge", "true", problem, remedy)
    if possible := [each for each in ways if can_merge(each)]:
        return possible
    problem = "would be done anew at every step, since blocks are read from their file"
    raise InvalidInput("lora_merge", "true", problem, "leave one of the two out")


def can_batch(workload: Workload) -> bool:
    """Whether both guidance passes in one batch are faster: on a card, which two passes fill better than one."""
    return not workload.on_cpu and not workload.spec.batched_guidance and is_guided(workload.request)


def free_candidates(workload: Workload) -> Iterator[ExecutionConfig]:
    wan = workload.spec.autoencoder == "wan"
    tilings = TILINGS if wan else (None,)
    layers = workload.shape.layers
    parts = [None, *(round(layers * eighths / 8) for eighths in range(7, -1, -1))]
    waits = ("file",) if workload.on_cpu else ("memory", "file")
    # The last resort, as it costs more than time. Not every CPU convolves in bfloat16 without copies in float32.
    decoders = ("float32", "bfloat16") if wan and not workload.on_cpu else ("float32",)
    kinds: tuple[Pasts, ...] = ("exact", "bfloat16") if wan and not workload.on_cpu else ("exact",)
    convolutions: Convolutions = "channels_last" if wan and kind_of(workload.device) == "cuda" else "plain"
    for decoder, pasts in product(decoders, kinds):
        if (decoder, pasts) == ("bfloat16", "bfloat16"):
            continue  # they are in bfloat16 as it is
        for stay in dict.fromkeys(parts):
            for source in waits[: 1 if stay is None else None]:
                for chunk in TOKEN_CHUNKS:
                    for tiling in tilings:
                        execution = ExecutionConfig(
                            token_chunk=chunk,
                            resident_blocks=stay,
                            blocks_from=source,
                            tiling=tiling,
                            pasts=pasts if tiling else "exact",
                            autoencoder_dtype=decoder,
                            convolutions=convolutions,
                            compiled=workload.compiles,
                        )
                        if stay is None and chunk is None and can_batch(workload):  # where memory is plenty
                            yield replace(execution, batched_guidance=True)
                        yield execution


def as_loaded(
    workload: Workload, execution: ExecutionConfig, fixed: FixedExecution = NOTHING_FIXED
) -> Iterator[ExecutionConfig]:
    """The ways to run what is loaded already: guidance passes in one batch or in turn, as a fresh plan would try."""
    plenty = execution.resident_blocks is None and execution.token_chunk is None
    if plenty and can_batch(workload) and fixed.get("batched_guidance", True):
        yield replace(execution, batched_guidance=True)
    yield replace(execution, batched_guidance=fixed.get("batched_guidance", False))


def must_stay(budget: Budget) -> bool:
    """Whether the transformer has to stay while the autoencoder works: only a budget that a person set is worth that
    the next clip reads it again."""
    return not budget.limited


def frugal(workload: Workload, fixed: FixedExecution = NOTHING_FIXED) -> Iterator[Plan]:
    """By each candidate, with no more held than it needs, whether it fits or not; without seconds."""
    for execution in candidates(workload, fixed):
        yield Plan(
            workload=workload,
            execution=execution,
            text_resident=workload.small_text,
            transformer_stays=must_stay(workload.budget),
            autoencoder_waits="file",
        )


def fits(workload: Workload, fixed: FixedExecution = NOTHING_FIXED) -> bool:
    return any(plan.fits() for plan in frugal(workload, fixed))


def first_fitting(
    workload: Workload, costs: "CostModel | None" = None, fixed: FixedExecution = NOTHING_FIXED
) -> Plan | None:
    """By the first candidate that fits, or None."""
    plan = next((plan for plan in frugal(workload, fixed) if plan.fits()), None)
    return plan and with_more_held(replace(plan, costs=costs))


def with_more_held(plan: Plan) -> Plan:
    """`plan`, which fits, with whatever else there is room to hold: it spares reading or copying it."""
    workload, small = plan.workload, plan.workload.small_text

    def holding(text: bool, stays: bool, waits: Waits) -> Plan:
        return replace(plan, text_resident=text, transformer_stays=stays, autoencoder_waits=waits)

    ways: list[tuple[bool, Waits]] = [
        (True, "device"),
        (True, "memory"),
        (False, "device"),
        (False, "memory"),
        (True, "file"),
    ]
    if kind_of(workload.device) != "cuda":
        ways = [choice for choice in ways if choice[1] != "memory"]  # which is the same memory

    def worth_it(candidate: Plan) -> bool:
        """Only a card with room to spare is filled more than it must be."""
        card = workload.budget.device
        most = math.inf if card is None else max(plan.peak_device_bytes, SPARING * card)
        return candidate.fits() and candidate.peak_device_bytes <= most

    best = next(
        (candidate for stays, waits in ways if worth_it(candidate := holding(small, stays, waits))), plan
    )
    if small:
        return best
    resident = holding(True, best.transformer_stays, best.autoencoder_waits)
    return resident if resident.fits(share_of(workload.budget, HELD_TEXT[workload.on_cpu])) else best


def least(workload: Workload, fixed: FixedExecution = NOTHING_FIXED) -> Plan:
    """By the candidate that takes the least memory of the device that it runs on."""
    return min(frugal(workload, fixed), key=lambda plan: plan.peak_bytes)


def smaller(plan: Plan, stage: Stage) -> Plan:
    """For a stage that ran out of memory all the same: the first candidate that takes a fifth less there than `plan`
    said, or the one that takes least. Weights are stored as they were."""

    def taken(plan: Plan) -> int:
        (named,) = (named for named in plan.stages if named.stage == stage)
        if plan.workload.on_cpu:
            return named.system_bytes - plan.allowance.system
        return named.tensor_bytes

    kept = FixedExecution(
        transformer_format=plan.execution.transformer_format,
        text_format=plan.execution.text_format,
        convolutions=plan.execution.convolutions,
        fused_norms=plan.execution.fused_norms,
        compiled=plan.execution.compiled,
        fp8=plan.execution.fp8,
    )
    plans = list(frugal(plan.workload, kept))
    enough = (candidate for candidate in plans if candidate.fits() and taken(candidate) <= LESS * taken(plan))
    return next(enough, None) or min(plans, key=taken)

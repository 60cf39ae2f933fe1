"""What is to be planned, and how it will run: the record that is shown, and that a pipeline follows. What a plan takes
follows from it: peaks of memory and, where the machine was measured, seconds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.geometry import frames_of, latent_grid, token_count
from linnet.loras import numbers_in
from linnet.plan.execution import ExecutionConfig, Waits
from linnet.plan.host import ALLOWANCES, Allowance, Budget, kind_of, slack
from linnet.plan.memory import (
    BYTES,
    LINUM_V2,
    LOADING,
    SMALL_TEXT,
    Shape,
    between_steps,
    decode_working,
    denoise_working,
    encode_working,
    lora_weights,
    preview_working,
    shape_of,
    text_weights,
    text_working,
    transformer_weights,
)
from linnet.plan.passes import denoised, in_one_batch, latents_at_once, window_count
from linnet.request import Request
from linnet.weights.store import ModelFiles

Stage = Literal["text", "denoise", "decode"]  # of a run
Row = Stage | Literal["encode"]  # which only some requests have
STAGES: tuple[Stage, ...] = ("text", "denoise", "decode")


@dataclass(frozen=True, kw_only=True)
class SizedModel:
    """A row of the catalogue, and how large the model's parts are."""

    spec: ModelSpec
    shape: Shape

    @classmethod
    def of(cls, spec: ModelSpec, files: ModelFiles | None) -> Self:
        """By the headers of its files. That of Linum v2 is known without them; InvalidInput for any other model."""
        if files is None and not spec.published:
            problem = "is not here, and its size is in its files"
            raise InvalidInput("model", spec.name, problem, "give the folder of its weights")
        return cls(spec=spec, shape=shape_of(files) if files else LINUM_V2)


@dataclass(frozen=True, kw_only=True)
class ModelOnDevice:
    """A model, where it runs, and how much memory may be used: what making clips and training have in common."""

    model: SizedModel
    device: str
    budget: Budget

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def shape(self) -> Shape:
        return self.model.shape

    @cached_property
    def on_cpu(self) -> bool:
        return kind_of(self.device) == "cpu"

    @cached_property
    def allowance(self) -> Allowance:
        return ALLOWANCES[kind_of(self.device)]

    def beyond_tensors(self, size: int, churn: int = 0) -> int:
        """Bytes of the card beside `size` bytes of tensors, `churn` of which come and go: the driver's, and what the
        allocator takes more."""
        return self.allowance.device + slack(size, self.budget.segments, churn)


@dataclass(frozen=True, kw_only=True)
class Workload(ModelOnDevice):
    """`request` with its dtype decided, `clips` times in one batch; `encoded_frames`: frames that are given, and
    encoded first; `compiles`: the transformer's blocks are compiled, where nobody decides otherwise."""

    request: Request
    clips: int = 1
    encoded_frames: int = 0
    compiles: bool = False

    @cached_property
    def denoised(self) -> Request:
        """What is denoised for the request (see `windows.denoised`)."""
        return denoised(self.spec, self.request)

    @cached_property
    def tokens(self) -> int:
        """The most tokens of a clip that go through the model in one pass."""
        return latents_at_once(self.denoised) * token_count(1, self.request.size)

    @cached_property
    def small_text(self) -> bool:
        """Whether the text encoder is so small that it always stays."""
        return text_weights(self.shape, self.request.dtype, ExecutionConfig()) <= SMALL_TEXT

    def asking(self, request: Request) -> Self:
        """The same for another request."""
        return replace(self, request=request)


if TYPE_CHECKING:
    from linnet.plan.cost_model import CostModel
    from linnet.plan.explanations import Choice


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Peaks in bytes, allowances included; `tensor_bytes`: on the device, without those and without its allocator's
    slack. `seconds` is None where the device was not measured."""

    stage: Row
    tensor_bytes: int
    device_bytes: int
    system_bytes: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Whether it fits or not. `text_resident`: the text encoder stays in memory; `transformer_stays`: while the
    autoencoder works; `autoencoder_waits`: where it is while the transformer works, between two previews. `costs`: what
    was measured of the machine, None if nothing was."""

    workload: Workload
    execution: ExecutionConfig
    text_resident: bool
    transformer_stays: bool = True
    autoencoder_waits: Waits = "device"
    costs: "CostModel | None" = None

    @cached_property
    def stages(self) -> tuple[StagePlan, ...]:
        """What each takes."""
        return tuple(stages_of(self))

    @property
    def slower(self) -> float | None:
        """By which share it takes longer than with all in memory; None if it was not measured."""
        return self.costs.slower(self.workload, self.execution) if self.costs else None

    def choices(self, stage: Row) -> "tuple[Choice, ...]":
        """What was decided for a stage, and why, in words."""
        from linnet.plan.explanations import choices  # where somebody reads them

        decided = self.text_resident, self.transformer_stays, self.autoencoder_waits
        return tuple(choices(stage, self.workload, self.execution, *decided))

    @property
    def spec(self) -> ModelSpec:
        return self.workload.spec

    @property
    def request(self) -> Request:
        return self.workload.request

    @property
    def device(self) -> str:
        return self.workload.device

    @property
    def budget(self) -> Budget:
        return self.workload.budget

    @property
    def clips(self) -> int:
        return self.workload.clips

    @property
    def allowance(self) -> Allowance:
        return self.workload.allowance

    @property
    def peak_device_bytes(self) -> int:
        """0 on a CPU, where all is in the system's memory."""
        return max(stage.device_bytes for stage in self.stages)

    @property
    def classic_device_bytes(self) -> int:
        """What the same would take if PyTorch's allocator had no expandable segments."""
        budget = replace(self.budget, segments="classic")
        return replace(self, workload=replace(self.workload, budget=budget)).peak_device_bytes

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
        return self.peak_system_bytes if self.workload.on_cpu else self.peak_device_bytes

    @property
    def seconds(self) -> float | None:
        """Of the stages that were measured; None if denoising or decoding was not."""
        known = {stage.stage: stage.seconds for stage in self.stages if stage.seconds is not None}
        return sum(known.values()) if {"denoise", "decode"} <= known.keys() else None

    @property
    def windows(self) -> int:
        return window_count(self.workload.denoised)

    @property
    def window_frames(self) -> int:
        """The most frames that the model sees at once."""
        return frames_of(latents_at_once(self.workload.denoised))

    def fits(self, budget: Budget | None = None) -> bool:
        limits = (budget or self.budget).limits
        return all(self.peaks[name] <= limit for name, limit in limits.items())

    def with_seed(self, seed: int) -> Self:
        """The same way for the same clip from other noise."""
        return replace(self, workload=self.workload.asking(replace(self.request, seed=seed)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; bytes and seconds."""
        from linnet.plan.explanations import as_json  # where somebody reads it

        return as_json(self)


# --- what it takes ----------------------------------------------------------------------------------------------------


def stages_of(plan: Plan) -> Iterator[StagePlan]:
    workload, costs = plan.workload, plan.costs
    working, aside, churn = memory_of(plan)
    seconds = costs.of(workload, plan.execution) if costs else {}
    for stage, size in working.items():
        taken = max(size, LOADING) if workload.on_cpu else LOADING
        yield StagePlan(
            stage=stage,
            tensor_bytes=size,
            device_bytes=0 if workload.on_cpu else size + workload.beyond_tensors(size, churn.get(stage, 0)),
            system_bytes=workload.allowance.system + aside[stage] + taken,
            seconds=seconds.get(stage),
        )


def memory_of(plan: Plan) -> tuple[dict[Row, int], dict[Row, int], dict[Row, int]]:
    """Bytes of each stage without allowances: on the device that it runs on; aside, in main memory; and those on the
    device that an autoencoder makes and lets go of, in many sizes."""
    workload, execution = plan.workload, plan.execution
    spec, shape, request = workload.spec, workload.shape, workload.request
    dtype, grid = request.dtype, latent_grid(request.frames, request.size)
    seen = workload.denoised
    text = text_weights(shape, dtype, execution)
    kept = text if plan.text_resident else 0
    encoder = text if plan.text_resident else shape.text_block.bytes(execution.text_format or dtype)
    passes = 2 if in_one_batch(spec, execution) else 1
    batch = workload.clips * passes
    loras = numbers_in(request.loras)
    stay, waiting = transformer_weights(shape, dtype, execution)
    stay += lora_weights(loras, dtype)
    waiting = waiting if execution.blocks_from == "memory" else 0
    latents = latent_grid(seen.frames, request.size)
    rows = 2 * passes * (spec.max_prompt_tokens + 1)  # both texts, and once more as one batch
    forward = denoise_working(
        shape,
        dtype,
        execution,
        tokens=workload.tokens * batch,
        grid=latents,
        clips=workload.clips,
        text_rows=rows,
        fused=not workload.on_cpu and not loras,
    )
    lower = request.decoder_dtype == "bfloat16" and not workload.on_cpu
    decoder, parked = decode_working(spec.autoencoder, execution, grid, lower=lower)
    autoencoder = sum(shape.autoencoder) * BYTES[execution.autoencoder_dtype]
    preview = preview_working(spec.autoencoder, execution, grid) + between_steps(
        shape, dtype, grid=latents, clips=workload.clips, text_rows=rows
    )
    near = autoencoder if plan.autoencoder_waits == "device" else 0
    beside, behind = (kept + stay, waiting) if plan.transformer_stays else (kept, 0)
    working: dict[Row, int] = {
        # The clip before has left what stays.
        "text": beside
        - kept
        + near
        + encoder
        + text_working(shape, dtype, execution, spec.max_prompt_tokens),
        "denoise": kept + stay + max(near + forward, autoencoder + preview),
        "decode": beside + autoencoder + decoder,
    }
    copied = autoencoder if plan.autoencoder_waits == "memory" else 0
    aside: dict[Row, int] = {"text": copied, "denoise": waiting + copied, "decode": behind + parked + copied}
    churn: dict[Row, int] = {"decode": decoder}
    if frames := workload.encoded_frames:
        churn["encode"] = encode_working(spec.autoencoder, execution, grid, frames)
        working["encode"] = beside + autoencoder + churn["encode"]
        aside["encode"] = behind + copied
    return working, aside, churn

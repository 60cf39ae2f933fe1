"""What a workload takes if it is run in a given way: peaks of memory and, where the machine was measured, seconds."""

from linnet.geometry import latent_grid, token_count
from linnet.plan.cost_model import CostModel
from linnet.plan.execution import ExecutionConfig
from linnet.plan.explanations import Row, Stage, choices
from linnet.plan.memory import (
    BYTES,
    LOADING,
    decode_working,
    denoise_working,
    encode_working,
    preview_working,
    text_weights,
    text_working,
    transformer_weights,
)
from linnet.plan.passes import in_one_batch
from linnet.plan.plan import Plan, StagePlan
from linnet.plan.windows import denoised, latents_at_once
from linnet.plan.workload import Workload

STAGES: tuple[Stage, ...] = ("text", "denoise", "decode")


def predict(
    workload: Workload,
    execution: ExecutionConfig,
    *,
    text_resident: bool,
    transformer_stays: bool = True,
    costs: CostModel | None = None,
) -> Plan:
    """Whether it fits or not. `text_resident`: the text encoder stays in memory; `transformer_stays`: while the
    autoencoder works."""
    working, aside = memory_of(workload, execution, text_resident, transformer_stays)
    seconds = costs.of(workload, execution) if costs else {}
    allowance = workload.allowance
    stages: list[StagePlan] = []
    for stage, size in working.items():
        taken = max(size, LOADING) if workload.on_cpu else LOADING
        stages.append(
            StagePlan(
                stage=stage,
                device_bytes=0 if workload.on_cpu else allowance.device + size,
                system_bytes=allowance.system + aside[stage] + taken,
                seconds=seconds.get(stage),
                choices=tuple(choices(stage, workload, execution, text_resident, transformer_stays)),
            )
        )
    return Plan(
        workload=workload,
        execution=execution,
        text_resident=text_resident,
        stages=tuple(stages),
        transformer_stays=transformer_stays,
        slower=costs.slower(workload, execution) if costs else None,
    )


def memory_of(
    workload: Workload, execution: ExecutionConfig, text_resident: bool, transformer_stays: bool
) -> tuple[dict[Row, int], dict[Row, int]]:
    """Bytes of each stage without allowances: on the device that it runs on, and aside, in main memory."""
    spec, shape, request = workload.spec, workload.shape, workload.request
    dtype, grid = request.dtype, latent_grid(request.frames, request.size)
    seen = denoised(spec, request)
    text = text_weights(shape, dtype, execution)
    kept = text if text_resident else 0
    encoder = text if text_resident else shape.text_block.bytes(execution.text_format or dtype)
    together = 2 if in_one_batch(spec, execution) else 1
    batch = workload.clips * together
    stay, waiting = transformer_weights(shape, dtype, execution)
    waiting = waiting if execution.blocks_from == "memory" else 0
    forward = denoise_working(
        shape,
        dtype,
        execution,
        tokens=latents_at_once(seen) * token_count(1, request.size) * batch,
        grid=latent_grid(seen.frames, request.size),
        clips=workload.clips,
        text_rows=2 * together * (spec.max_prompt_tokens + 1),  # both texts, and once more as one batch
        fused=not workload.on_cpu,
    )
    decoder, parked = decode_working(spec.autoencoder, execution, grid)
    autoencoder = sum(shape.autoencoder) * BYTES[execution.autoencoder_dtype]
    budgeted = bool(workload.budget.limited)
    preview = autoencoder + preview_working(spec.autoencoder, execution, grid) if budgeted else 0
    beside, behind = (kept + stay, waiting) if transformer_stays else (kept, 0)
    working: dict[Row, int] = {
        "text": encoder + text_working(shape, dtype, execution, spec.max_prompt_tokens),
        "denoise": kept + stay + max(forward, preview),
        "decode": beside + autoencoder + decoder,
    }
    aside: dict[Row, int] = {"text": 0, "denoise": waiting, "decode": behind + parked}
    if frames := workload.encoded_frames:
        working["encode"] = beside + autoencoder + encode_working(spec.autoencoder, execution, grid, frames)
        aside["encode"] = behind
    return working, aside

"""What a workload takes if it is run in a given way: peaks of memory and, where the machine was measured, seconds."""

from linnet.geometry import latent_grid, token_count
from linnet.loras import numbers_in
from linnet.plan.budget import Segments, slack
from linnet.plan.cost_model import CostModel
from linnet.plan.execution import ExecutionConfig, Waits
from linnet.plan.explanations import Row, Stage, choices
from linnet.plan.memory import (
    BYTES,
    LOADING,
    between_steps,
    decode_working,
    denoise_working,
    encode_working,
    lora_weights,
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
    autoencoder_waits: Waits = "device",
    costs: CostModel | None = None,
) -> Plan:
    """Whether it fits or not. `text_resident`, `transformer_stays` and `autoencoder_waits` as in `Plan`."""
    working, aside, churn = memory_of(
        workload, execution, text_resident, transformer_stays, autoencoder_waits
    )
    seconds = costs.of(workload, execution) if costs else {}
    stages: list[StagePlan] = []
    for stage, size in working.items():
        taken = max(size, LOADING) if workload.on_cpu else LOADING
        stages.append(
            StagePlan(
                stage=stage,
                tensor_bytes=size,
                device_bytes=on_device(workload, size, churn.get(stage, 0), workload.budget.segments),
                classic_bytes=on_device(workload, size, churn.get(stage, 0), "classic"),
                system_bytes=workload.allowance.system + aside[stage] + taken,
                seconds=seconds.get(stage),
                choices=tuple(
                    choices(stage, workload, execution, text_resident, transformer_stays, autoencoder_waits)
                ),
            )
        )
    return Plan(
        workload=workload,
        execution=execution,
        text_resident=text_resident,
        stages=tuple(stages),
        transformer_stays=transformer_stays,
        autoencoder_waits=autoencoder_waits,
        slower=costs.slower(workload, execution) if costs else None,
    )


def on_device(workload: Workload, size: int, churn: int, segments: Segments) -> int:
    """Bytes of the card for tensors of `size` bytes, of which `churn` come and go; none on a CPU."""
    return 0 if workload.on_cpu else workload.allowance.device + size + slack(size, segments, churn)


def memory_of(
    workload: Workload,
    execution: ExecutionConfig,
    text_resident: bool,
    transformer_stays: bool,
    autoencoder_waits: Waits,
) -> tuple[dict[Row, int], dict[Row, int], dict[Row, int]]:
    """Bytes of each stage without allowances: on the device that it runs on; aside, in main memory; and those on the
    device that an autoencoder makes and lets go of, in many sizes."""
    spec, shape, request = workload.spec, workload.shape, workload.request
    dtype, grid = request.dtype, latent_grid(request.frames, request.size)
    seen = denoised(spec, request)
    text = text_weights(shape, dtype, execution)
    kept = text if text_resident else 0
    encoder = text if text_resident else shape.text_block.bytes(execution.text_format or dtype)
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
        tokens=latents_at_once(seen) * token_count(1, request.size) * batch,
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
    near = autoencoder if autoencoder_waits == "device" else 0
    beside, behind = (kept + stay, waiting) if transformer_stays else (kept, 0)
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
    copied = autoencoder if autoencoder_waits == "memory" else 0
    aside: dict[Row, int] = {"text": copied, "denoise": waiting + copied, "decode": behind + parked + copied}
    churn: dict[Row, int] = {"decode": decoder}
    if frames := workload.encoded_frames:
        churn["encode"] = encode_working(spec.autoencoder, execution, grid, frames)
        working["encode"] = beside + autoencoder + churn["encode"]
        aside["encode"] = behind + copied
    return working, aside, churn

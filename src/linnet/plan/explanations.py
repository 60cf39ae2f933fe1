"""What is shown of a plan: what was decided for each stage, and why, in words; all of it in JSON."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from linnet.plan.execution import ExecutionConfig, Waits
from linnet.plan.host import gigabytes
from linnet.plan.memory import Shape, text_weights
from linnet.plan.passes import is_guided
from linnet.plan.plan import Row, Workload

if TYPE_CHECKING:
    from linnet.plan.plan import Plan


class Choice(NamedTuple):
    name: str
    value: str
    reason: str


def choices(
    stage: Row,
    workload: Workload,
    execution: ExecutionConfig,
    text_resident: bool,
    transformer_stays: bool,
    autoencoder_waits: Waits,
) -> Iterator[Choice]:
    """What was decided for a stage, and why."""
    shape, request = workload.shape, workload.request
    if stage == "text":
        yield Choice("weights", *text_place(workload, execution, text_resident))
        return
    if stage == "denoise":
        yield Choice("dtype", request.dtype, "of matrix products; norms and the residual stream are float32")
        yield Choice("weights", *blocks_place(shape, execution))
        chunk = execution.token_chunk
        every = "all tokens at once", "they fit"
        some = f"{chunk:,} tokens at a time" if chunk else "", "all at once do not fit; same result"
        yield Choice("tokens", *(some if chunk else every))
        yield from speed(workload, execution)
        yield Choice("attention", "the fastest here", "found by measuring at first use, in no more memory")
        if autoencoder_waits != "device":
            words = {"memory": "copied from main memory", "file": "read from its file"}[autoencoder_waits]
            yield Choice("previews", f"autoencoder {words} for each", "it does not fit beside a step")
        return
    if stage == "encode":
        yield Choice("frames", "whole frames, four at a time", "they fit, whatever the clip's length")
        return
    dtype = request.dtype if request.decoder_dtype == "auto" else request.decoder_dtype
    if execution.autoencoder_dtype == "bfloat16":
        reason = "float32 does not fit; it can be seen: pixels differ by about one part in 256"
        yield Choice("dtype", "bfloat16", reason)
    elif dtype == "bfloat16":
        yield Choice("dtype", "bfloat16", "of convolutions, as the request says; weights are float32")
    else:
        yield Choice("dtype", "float32", "as trained; it fits")
    if tiling := execution.tiling:
        words = (
            f"tiles of {8 * tiling.columns}x{8 * tiling.rows} pixels, {tiling.chunk} latent frames at a time"
        )
        yield Choice("frames", words, "whole frames do not fit; same result, no seams")
        if execution.pasts == "bfloat16":
            reason = "they do not fit in float32; the clip differs by their rounding"
            yield Choice("past", "of each tile waits in bfloat16", reason)
    else:
        yield Choice(
            "frames", "whole frames, one latent frame at a time", "they fit, whatever the clip's length"
        )
    if execution.convolutions == "searched":
        yield Choice(
            "convolutions", "the fastest of cuDNN's", "as asked; the next clip's may be others, to rounding"
        )
    if execution.fused_norms:
        yield Choice("norms", "each one kernel with its SiLU", "as asked; same result, to rounding")
    if not transformer_stays:
        yield Choice(
            "transformer", "dropped before", "there is no room for both; the next clip reads it again"
        )


def speed(workload: Workload, execution: ExecutionConfig) -> Iterator[Choice]:
    """What makes the transformer faster on a card, or why it is not done."""
    if execution.fp8:
        reason = "as asked; each product is rounded to 8 bits, so the clip differs from one without"
        yield Choice("products", "FP8, scaled by rows", reason)
    if execution.compiled:
        yield Choice(
            "blocks", "compiled", "they read and write less; the first step of each size takes longer"
        )
    elif workload.compiles:
        yield Choice("blocks", "not compiled", "as asked")
    elif workload.spec.compiled and not workload.on_cpu:
        yield Choice("blocks", "not compiled", "no compiler is here: it takes triton and a C compiler")
    if not workload.on_cpu and not workload.spec.batched_guidance and is_guided(workload.request):
        separate = "in turn", "in one batch they do not fit"
        batch = "in one batch", "it fits, and two passes fill the card better than one"
        yield Choice("guidance passes", *(batch if execution.batched_guidance else separate))


def text_place(workload: Workload, execution: ExecutionConfig, resident: bool) -> tuple[str, str]:
    size = gigabytes(text_weights(workload.shape, workload.request.dtype, execution))
    if not resident:
        return "streamed from the file, block by block", f"{size} of weights are needed once a prompt"
    reason = "it is small" if workload.small_text else f"its {size} fit beside all else"
    return "resident", reason


def blocks_place(shape: Shape, execution: ExecutionConfig) -> tuple[str, str]:
    stay = execution.resident_blocks
    if stay is None:
        return "resident", "they fit"
    where = "main memory" if execution.blocks_from == "memory" else "the file"
    words = f"{stay} of {shape.layers} blocks resident, the others streamed from {where}"
    return words, "no more of them fit" + (
        "" if execution.blocks_from == "memory" else ", nor in main memory"
    )


def as_json(plan: "Plan") -> dict[str, Any]:
    """Plain JSON values of what is shown of a plan; bytes and seconds."""
    return {
        "fits": plan.fits(),
        "model": plan.spec.name,
        "size": str(plan.request.size),
        "frames": plan.request.frames,
        "clip_seconds": plan.request.seconds,
        "steps": plan.request.steps,
        "windows": plan.windows,
        "window_frames": plan.window_frames,
        "peak_device_bytes": plan.peak_device_bytes,
        "classic_device_bytes": plan.classic_device_bytes,
        "peak_system_bytes": plan.peak_system_bytes,
        "seconds": plan.seconds,
        "slower": plan.slower,
        "device": plan.device,
        "dtype": plan.request.dtype,
        "budget": {
            "device_bytes": plan.budget.device,
            "system_bytes": plan.budget.system,
            "others_bytes": plan.budget.others,
        },
        "allowance": plan.allowance._asdict(),
        "stages": [
            {
                "stage": stage.stage,
                "device_bytes": stage.device_bytes,
                "system_bytes": stage.system_bytes,
                "seconds": stage.seconds,
                "choices": [choice._asdict() for choice in plan.choices(stage.stage)],
            }
            for stage in plan.stages
        ],
    }

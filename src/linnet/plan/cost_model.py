"""How fast this machine is, measured once and remembered: what a plan's seconds come from.

Passes of the transformer with one block are timed at a few lengths and attention at one, which parts what grows with
the tokens from what grows with their square, and the autoencoder on latent frames of a few sizes. A device that
was not measured has no rates, and a plan then gives no seconds.
"""

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from linnet.geometry import latent_grid, token_count
from linnet.loras import numbers_in
from linnet.plan import host
from linnet.plan.execution import ExecutionConfig, Tiling
from linnet.plan.memory import decode_working, text_weights, transformer_weights
from linnet.plan.passes import forwards, in_one_batch, window_count
from linnet.plan.plan import Row, Workload


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds of one device in one dtype with one number of threads, for one shape of model.

    A block takes `block` + tokens * `token` + tokens^2 * `pair`, and a pass through all of them `call` + tokens *
    `step` more; decoding a latent frame takes `frame` + cells * `cell`, or with convolutions in bfloat16 `low_frame`
    and `low_cell`; a pixel of a file takes `pixel`; encoding the prompts `prompt`, None for an encoder so large that
    reading it takes the time; a byte takes `copy` from main memory to the device, and `read` from a file, None where
    there was none to read.
    """

    call: float
    block: float
    token: float
    pair: float
    step: float
    frame: float
    cell: float
    low_frame: float
    low_cell: float
    pixel: float
    prompt: float | None
    copy: float
    read: float | None

    def of(self, workload: Workload, execution: ExecutionConfig) -> dict[Row, float]:
        """Seconds by stage, of the stages of which they are known."""
        seconds_by_stage: dict[Row, float | None] = {
            "text": self._text(workload),
            "denoise": self._denoise(workload, execution),
            "decode": workload.clips * self._decode(workload, execution),
        }
        return {stage: seconds for stage, seconds in seconds_by_stage.items() if seconds is not None}

    def slower(self, workload: Workload, execution: ExecutionConfig) -> float | None:
        """By which share a clip takes longer than if all weights and frames were held in memory."""
        known = self.of(workload, execution)
        if "denoise" not in known:
            return None
        unlimited = replace(execution, resident_blocks=None, tiling=None)
        ideal = self.of(workload, unlimited) | {"text": self.prompt or 0.0}
        return sum(known.values()) / sum(ideal.values()) - 1

    def _text(self, workload: Workload) -> float | None:
        if self.prompt is not None:
            return self.prompt
        weights = text_weights(workload.shape, workload.request.dtype, ExecutionConfig())
        return None if self.read is None else self.read * weights

    def _denoise(self, workload: Workload, execution: ExecutionConfig) -> float | None:
        """None where blocks come from a file that nobody has read."""
        shape, request, clips = workload.shape, workload.request, workload.clips
        windows, tokens = window_count(workload.denoised), workload.tokens
        near = min(tokens, token_count(2 * request.span + 1, request.size)) if request.span else tokens
        _, absent = transformer_weights(shape, request.dtype, execution)
        rate = self.copy if execution.blocks_from == "memory" else self.read
        if absent and rate is None:
            return None
        brought = absent * (rate or 0.0)  # in one pass, while its blocks compute: see runtime/stream.py
        seconds, batched = 0.0, in_one_batch(workload.spec, execution)
        for passes in forwards(request):
            calls, batch = (1, passes * clips) if batched else (passes, clips)
            token = self.token * (1 + lora_share(workload))
            block = self.block + batch * tokens * (token + near * self.pair)
            around = self.call + batch * tokens * self.step
            seconds += windows * calls * (max(shape.layers * block, brought) + around)
        return seconds

    def _decode(self, workload: Workload, execution: ExecutionConfig) -> float:
        request = workload.request
        grid = latent_grid(request.frames, request.size)
        kind = request.dtype if request.decoder_dtype == "auto" else request.decoder_dtype
        lower = "bfloat16" in (kind, execution.autoencoder_dtype)
        frame, cell = (self.low_frame, self.low_cell) if lower else (self.frame, self.cell)
        seconds = grid.frames * (frame + grid.height * grid.width * cell)
        if execution.tiling:
            _, parked = decode_working(workload.spec.autoencoder, execution, grid, lower=lower)
            chunks = -(-grid.frames // execution.tiling.chunk)
            seconds *= extra_work(grid.height, grid.width, execution.tiling)
            seconds += 2 * chunks * parked * self.copy  # what the tiles remember comes and goes once a chunk
        writing = request.frames * request.size.pixels * self.pixel
        # A card decodes while the processor encodes; on a CPU both share its cores.
        return seconds + writing if workload.on_cpu else max(seconds, writing)


def lora_share(workload: Workload) -> float:
    """What LoRAs add to a token's products: each number of theirs is multiplied once, as each weight is."""
    shape = workload.shape
    return numbers_in(workload.request.loras) / max(
        1, shape.layers * (shape.block.products + shape.block.narrow)
    )


@cache
def extra_work(height: int, width: int, tiling: Tiling) -> float:
    from linnet.plan.tiles import tiling_work, wan_decoder  # which only plans with tiles need

    return tiling_work(wan_decoder(), height, width, tiling)


def known(key: str, folder: Path | None = None) -> CostModel | None:
    """What was measured earlier."""
    try:
        return CostModel(**host.recall(host.RATES, key, folder))
    except TypeError:
        return None


def remember(key: str, rates: CostModel, folder: Path | None = None) -> None:
    """Keep them, if the disk lets it."""
    host.keep(host.RATES, key, asdict(rates), folder)

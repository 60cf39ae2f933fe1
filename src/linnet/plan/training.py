"""What a training run takes, decided before a weight is read: memory for each bucket of clips, and which way fits.

Bytes follow the code of `train/` and `models/`, tensor by tensor, at the moment at which most of them live. They are
checked against steps on a card that is not there (`train.simulate`). Imports no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from linnet.errors import InvalidInput
from linnet.geometry import Size, latent_grid, token_count
from linnet.plan.cost_model import CostModel
from linnet.plan.execution import PREVIEW_TILING, ExecutionConfig
from linnet.plan.host import gigabytes
from linnet.plan.memory import BYTES, HEAD_PAIRS, LOADING, Shape, decode_working, denoise_working
from linnet.plan.plan import ModelOnDevice

Base = Literal["float32", "bfloat16", "int8", "float8"]
Kind = Literal["lora", "full"]
STATE = {"adamw": 2.0, "muon": 1.0, "adamw8bit": 0.51, "prodigy": 4.0, "came": 1.0}  # copies of what learns
TARGETS_OF = {"q": 4, "k": 4, "v": 4, "o": 4}  # of their sides' sum in widths, both attentions together
PLAIN_LENGTH = 1024  # tokens: see models.attention
HEAP = 0.4  # of a step's working bytes on a CPU: gaps in the C library's heap
# Measured on a CPU with Linum v2's widths at 6, 10 and 40 blocks, and with seedling: a pass of training against one
# without gradients, a LoRA's products in float32 against those in bfloat16, and seconds that each block takes more.
PASS, LORA_PRODUCTS, BLOCK_SECONDS = 1.13, 4.0, 0.015
PRODUCTS = 7  # whose inputs a LoRA makes narrow, of a block's ten: keys and values of the text are elsewhere


def is_resident(index: int, resident: int, count: int) -> bool:
    """Whether block `index` is among the `resident` of `count` that stay: spread evenly."""
    return (index + 1) * resident // count > index * resident // count


class Bucket(NamedTuple):
    """So many clips of one size and length."""

    size: Size
    frames: int
    clips: int

    def __str__(self) -> str:
        return f"{self.size}, {self.frames} frame{'s' * (self.frames > 1)}"


@dataclass(frozen=True, kw_only=True)
class TrainingExecution:
    """`base`: numbers of the weights that do not learn, or of all that do. `checkpointed`: inner tensors of blocks are
    computed again in the backward pass. `released`: gradients are let go within the backward pass. `resident_blocks`:
    those that stay on the device; None: all."""

    base: Base = "bfloat16"
    checkpointed: bool = False
    released: bool = False
    resident_blocks: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingWorkload(ModelOnDevice):
    """`base`: as was asked for, or None. `costs`: what was measured of the device, or None. `averaged`: a moving
    average of what learns is kept. `kept`: half of the clips are the model's own, which it also sees without the LoRA.
    `clipped`: gradients are, by their common norm. `processes` share each batch. `preview`: the bucket of the clips
    that are made meanwhile."""

    kind: Kind = "lora"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    buckets: tuple[Bucket, ...]
    batch: int = 1
    rank: int = 32
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn")
    optimiser: str = "adamw"
    accumulation: int = 1
    clipped: bool = True
    processes: int = 1
    averaged: bool = True
    kept: bool = False
    text_tokens: int = 256
    base: Base | None = None
    preview: Bucket | None = None
    costs: CostModel | None = None

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        shape = self.shape
        if self.kind == "full":
            return shape.transformer.products + shape.transformer.others
        return shape.layers * self.rank * sides_of(shape, self.targets)

    @property
    def can_release(self) -> bool:
        """Whether nothing needs all gradients at once. A LoRA's are small."""
        alone = self.accumulation == self.processes == 1
        return self.kind == "full" and alone and not self.clipped and self.optimiser != "prodigy"

    @property
    def copies(self) -> float:
        """Beside the numbers and their gradients: of the optimiser, and the average."""
        return STATE[self.optimiser] + self.averaged


def sides_of(shape: Shape, targets: Sequence[str]) -> int:
    """Inputs and outputs of a block's layers that a LoRA is on, added up."""
    sides = 0
    for target in targets:
        last = target.split(".")[-1]
        if last in TARGETS_OF:
            both = 1 if "." in target else 2
            sides += both * 2 * shape.dim
        elif target == "ffn":
            sides += 2 * (shape.dim + shape.ffn_dim)
        else:
            sides += shape.dim + shape.ffn_dim  # one of the feed-forward net's
    return sides


# --- memory -----------------------------------------------------------------------------------------------------------


def weights_bytes(work: TrainingWorkload, execution: TrainingExecution) -> tuple[int, int]:
    """(On the device, waiting in main memory): the model's own, without their gradients."""
    shape, base = work.shape, execution.base
    plain = "float32" if base == "float32" else "bfloat16"
    block = shape.block.bytes(base)
    rest = shape.transformer.bytes(plain) - shape.layers * shape.block.bytes(plain)
    stay = shape.layers if execution.resident_blocks is None else execution.resident_blocks
    away = shape.layers - stay
    return rest + stay * block, away * block


def learning_bytes(work: TrainingWorkload, execution: TrainingExecution) -> int:
    """Of what learns beside the weights above: a LoRA's own, gradients, optimiser, average."""
    if work.kind == "lora":
        return int(4 * work.trainable * (2 + work.copies))
    products, others = work.shape.transformer.products, work.shape.transformer.others
    return int((products * BYTES[execution.base] + others * 4) * (work.copies + (not execution.released)))


def working_bytes(work: TrainingWorkload, execution: TrainingExecution, bucket: Bucket) -> int:
    """What the forward and backward passes of a batch take at their most.

    At that moment the last block's backward pass is in its feed-forward net, and all that earlier blocks keep is still
    there: of a checkpointed block the residual stream, in float32, and what is to be added to it."""
    shape, item = work.shape, BYTES["float32" if execution.base == "float32" else "bfloat16"]
    dim, hidden, full = shape.dim, shape.ffn_dim, work.kind == "full"
    clip = token_count(bucket.frames, bucket.size)
    tokens, text = work.batch * clip, work.batch * (work.text_tokens + 1)
    narrow = 0 if full else PRODUCTS * item * work.rank
    wide = (
        46 if item == 2 and not full else 52
    )  # bytes for each width, in float32 and in the products' numbers
    if execution.checkpointed:
        kept = shape.layers * tokens * (4 + item) * dim
        inner = tokens * (wide * dim + (4 + full) * item * hidden + narrow)
    else:
        # Factors of norms, modulations and gates, whose gradients need them.
        factors = full * (10 if item == 4 else 24)
        kept = shape.layers * tokens * ((8 + 13 * item + factors) * dim + 3 * item * hidden + narrow)
        inner = tokens * (12 + 4 * item) * dim
    if full:
        inner += item * dim * hidden  # a matrix's gradient beside the sum of those before
    if execution.base in ("int8", "float8") or execution.resident_blocks is not None:
        inner += item * (2 * dim * hidden + dim * dim)  # a feed-forward net's weights, whole and here
    if work.on_cpu:  # attention by plain products, whose weights are kept
        layers = 1 if execution.checkpointed else shape.layers
        seen = work.text_tokens + 1 + (clip if clip <= PLAIN_LENGTH else 0)
        inner += layers * item * work.batch * (dim // 2 // HEAD_PAIRS or 1) * clip * seen
    keys_values = 2 * item * dim * text * shape.layers
    tables = 4 * 2 * HEAD_PAIRS * 4 * clip  # rotations, as they are and spread
    return kept + inner + keys_values + tables + 4 * shape.text_dim * work.batch * work.text_tokens


def preview_bytes(work: TrainingWorkload, execution: TrainingExecution) -> int:
    """What making a preview takes beside what stays: a pass without gradients, or the autoencoder's decoding."""
    bucket, shape = work.preview, work.shape
    if bucket is None:
        return 0
    grid, kind = latent_grid(bucket.frames, bucket.size), work.spec.autoencoder
    decoding = ExecutionConfig(tiling=PREVIEW_TILING if kind == "wan" else None)
    passes = denoise_working(
        shape,
        "float32" if execution.base == "float32" else "bfloat16",
        decoding,
        tokens=token_count(bucket.frames, bucket.size),
        grid=grid,
        clips=1,
        text_rows=work.text_tokens,
    )
    if execution.resident_blocks is not None:
        passes += shape.block.bytes(execution.base)  # of a block that comes from main memory
    return max(passes, shape.autoencoder.bytes("float32") + decode_working(kind, decoding, grid)[0])


# --- the plan ---------------------------------------------------------------------------------------------------------


class BucketPlan(NamedTuple):
    """Bytes at the most in a step, allowances included; seconds of a step, where the device was measured."""

    bucket: Bucket
    bytes: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a run will train. `device_bytes` and `system_bytes`: at the most, allowances included; of a CPU the first
    is 0."""

    workload: TrainingWorkload
    execution: TrainingExecution
    buckets: tuple[BucketPlan, ...]
    preview: int
    device_bytes: int
    system_bytes: int

    @property
    def fits(self) -> bool:
        needed = {"vram": self.device_bytes, "ram": self.system_bytes}
        return all(needed[name] <= limit for name, limit in self.workload.budget.limits.items())

    @property
    def seconds_a_step(self) -> float | None:
        """Over the clips of all buckets."""
        clips = sum(each.bucket.clips for each in self.buckets)
        known = [(each.bucket.clips, each.seconds) for each in self.buckets if each.seconds is not None]
        return sum(n * s for n, s in known) / clips if len(known) == len(self.buckets) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "fits": self.fits,
            "model": self.workload.spec.name,
            "trainable_parameters": self.workload.trainable,
            "device_bytes": self.device_bytes,
            "system_bytes": self.system_bytes,
            "base": self.execution.base,
            "checkpointed": self.execution.checkpointed,
            "gradients_released": self.execution.released,
            "resident_blocks": self.execution.resident_blocks,
            "preview_bytes": self.preview,
            "seconds_a_step": self.seconds_a_step,
            "buckets": [
                {
                    "bucket": str(each.bucket),
                    "clips": each.bucket.clips,
                    "bytes": each.bytes,
                    "seconds": each.seconds,
                }
                for each in self.buckets
            ],
        }


def candidates(work: TrainingWorkload) -> Iterator[TrainingExecution]:
    """Ways to train, the fastest first. Blocks that wait in main memory change no number; 8 bits do, so they come
    last. A full training keeps float32 weights, unless an optimiser rounds at random."""
    if work.kind == "full":
        bases: tuple[Base, ...] = (work.base or "float32",)
    elif work.base is not None:
        bases = (work.base,)
    else:
        bases = ("float32",) if work.dtype == "float32" else ("bfloat16", "int8")
    for base in bases:
        for checkpointed in (False, True):
            for released in (False, True) if work.can_release else (False,):
                yield TrainingExecution(base=base, checkpointed=checkpointed, released=released)
        if not (work.on_cpu or work.kind == "full"):
            for resident in range(work.shape.layers - 1, -1, -1):
                yield TrainingExecution(base=base, checkpointed=True, resident_blocks=resident)


def predict(work: TrainingWorkload, execution: TrainingExecution) -> TrainingPlan:
    here, away = weights_bytes(work, execution)
    stays = here + learning_bytes(work, execution)
    allowance = work.allowance
    preview = preview_bytes(work, execution)

    def whole(working: int) -> int:
        tensors = stays + working
        return tensors + (int(HEAP * working) if work.on_cpu else work.beyond_tensors(tensors))

    buckets = tuple(
        BucketPlan(bucket, whole(working_bytes(work, execution, bucket)), seconds_of(work, execution, bucket))
        for bucket in work.buckets
    )
    most = max([whole(preview), *(each.bytes for each in buckets)])
    return TrainingPlan(
        workload=work,
        execution=execution,
        buckets=buckets,
        preview=whole(preview) if preview else 0,
        device_bytes=0 if work.on_cpu else most,
        system_bytes=allowance.system + away + LOADING + (most if work.on_cpu else 0),
    )


def seconds_of(work: TrainingWorkload, execution: TrainingExecution, bucket: Bucket) -> float | None:
    """Of a step, from passes that were measured without gradients: backward is about as long as forward where weights
    do not learn, and twice as long where they do; a checkpointed block goes forward twice."""
    rates = work.costs
    if rates is None:
        return None
    shape, clip, lora = work.shape, token_count(bucket.frames, bucket.size), work.kind == "lora"
    tokens = work.batch * clip
    slower = LORA_PRODUCTS if work.on_cpu and execution.base != "float32" else 1.0
    added = slower * work.trainable / shape.transformer.products if lora else 0.0
    block = rates.block + tokens * (rates.token + clip * rates.pair)
    around = rates.call + tokens * rates.step
    forward = shape.layers * (block + tokens * rates.token * added) + around
    passes = (2 if lora else 3) + execution.checkpointed
    seconds = PASS * passes * forward + (shape.layers * BLOCK_SECONDS if work.on_cpu else 0.0)
    if work.kept:  # of every other clip
        seconds += (shape.layers * block + around) / 2
    _, away = weights_bytes(work, execution)
    return max(seconds, 2 * away * rates.copy)


def plan_training(work: TrainingWorkload) -> TrainingPlan:
    """The first way that fits; InvalidInput, with what would, where none does."""
    least: TrainingPlan | None = None
    for execution in candidates(work):
        plan = predict(work, execution)
        if plan.fits:
            return plan
        if least is None or peak(plan) < peak(least):
            least = plan
    assert least is not None
    raise too_large(least)


def peak(plan: TrainingPlan) -> int:
    return plan.system_bytes if plan.workload.on_cpu else plan.device_bytes


def too_large(least: TrainingPlan) -> InvalidInput:
    work = least.workload
    needed = {"vram": least.device_bytes, "ram": least.system_bytes}
    name, limit = next((n, size) for n, size in work.budget.limits.items() if needed[n] > size)
    largest = max(least.buckets, key=lambda each: each.bytes).bucket
    what = f"{work.kind} training of {work.spec.name} with clips of {largest}"
    problem = f"is too little for {what}, which takes {gigabytes(needed[name])}"
    return InvalidInput(
        name, gigabytes(limit), problem, " or ".join(ways_to_fit(work)) or "use a larger card"
    )


def ways_to_fit(work: TrainingWorkload) -> Iterator[str]:
    """Changes of which each alone would be enough."""
    if work.batch > 1 and fitting(replace(work, batch=1)):
        yield "use a batch of 1"
    if work.kind == "lora" and work.rank > 8 and fitting(replace(work, rank=8)):
        yield "use rank 8"
    if work.kind == "full":
        with_8_bits = replace(work, optimiser="adamw8bit", base="bfloat16", averaged=False)
        alone = {"accumulation": 1, "clipped": False}  # which lets gradients be released
        if fitting(replace(work, **alone)):
            yield "use `clip_norm=0` and `accumulation=1`"
        if fitting(with_8_bits):
            yield "use `optimiser=adamw8bit`, `base=bfloat16` and `ema=0`"
        elif fitting(replace(with_8_bits, **alone)):
            yield "use `optimiser=adamw8bit`, `base=bfloat16`, `ema=0`, `clip_norm=0` and `accumulation=1`"
        if fitting(replace(work, kind="lora", base=None)):
            yield "train a LoRA"
    longest = max(bucket.frames for bucket in work.buckets)
    for frames in range(longest - 4, 0, -4):
        shorter = tuple(bucket._replace(frames=min(frames, bucket.frames)) for bucket in work.buckets)
        preview = work.preview and work.preview._replace(frames=min(frames, work.preview.frames))
        if fitting(replace(work, buckets=shorter, preview=preview)):
            yield f"use clips of up to {frames} frame{'s' * (frames > 1)}"
            break


def fitting(work: TrainingWorkload) -> bool:
    return any(predict(work, execution).fits for execution in candidates(work))

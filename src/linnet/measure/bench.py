"""How fast a device is, and how much of that each stage of a clip gets out of it.

Weights are random and of the model's true size; time does not depend on what they say. What is too long to run whole
is run in part and multiplied: one block of a large text encoder, one latent frame of the decoder, one forward pass.
Shares are of the least time that the stage's matrix products and its attention would take at the ceilings.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from linnet import __version__
from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.geometry import latent_grid, token_count
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Encoder, t5_xxl
from linnet.models.transformer import Transformer, TransformerConfig, linum_v2
from linnet.models.vae import VAE, VAEConfig
from linnet.plan.machine import Machine
from linnet.plan.passes import denoised, forwards
from linnet.request import Request
from linnet.runtime.text import text_config
from linnet.weights.load import config_as, product_dtypes
from linnet.weights.store import ModelFiles

M = TypeVar("M", bound=nn.Module)

ENOUGH = 0.3  # seconds over which a short run is repeated
LARGE_TEXT = 10**9  # parameters: of larger text encoders one block is run
PROMPT_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """In operations and bytes a second, the best that was seen: products of large matrices, attention of many tokens
    with heads 128 wide, and copies of what no cache holds (bytes read plus bytes written)."""

    product: float
    product_float32: float
    attention: float
    copy: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`seconds` for one of the `times` that a clip takes `part`; `share` of the ceilings; `weight_bytes` of the whole
    model and `working_bytes` beside them at the peak, None where the system does not say."""

    stage: str
    part: str
    seconds: float
    times: float
    share: float
    weight_bytes: int
    working_bytes: int | None

    @property
    def total(self) -> float:
        return self.seconds * self.times


@dataclass(frozen=True, kw_only=True)
class Bench:
    device: str
    dtype: str
    threads: int
    request: Request
    ceilings: Ceilings
    stages: tuple[Stage, ...]

    def to_json(self) -> dict[str, Any]:
        stages = [asdict(stage) | {"total": stage.total} for stage in self.stages]
        return {"linnet": __version__, "torch": torch.__version__, **asdict(self), "stages": stages}


Watch = Callable[[str], None]


def bench(
    spec: ModelSpec,
    request: Request,
    *,
    files: ModelFiles | None,
    machine: Machine,
    layers: int | None = None,
    watch: Watch = lambda stage: None,
) -> Bench:
    """Measure the device, then the stages of `request`. `files` tell the model's shape where they are here; Linum's is
    known without. `layers` of the transformer are run, all when None; their time is counted for all."""
    if files is None and not spec.published:
        raise InvalidInput("model", spec.name, "is not here, and its size is in its files", "give `weights`")
    home, dtype = torch.device(machine.device), getattr(torch, machine.dtype)
    with torch.inference_mode():
        watch("ceilings")
        top = ceilings(home, dtype)
        stages = []
        for name, measure in (("text", text), ("denoise", denoise), ("decode", decode)):
            watch(name)
            stages.append(measure(spec, request, files, home, dtype, top, layers))
    return Bench(
        device=machine.device,
        dtype=machine.dtype,
        threads=torch.get_num_threads(),
        request=request,
        ceilings=top,
        stages=tuple(stages),
    )


# --- the device ---------------------------------------------------------------------------------------------


def ceilings(home: torch.device, dtype: torch.dtype) -> Ceilings:
    side, tokens, heads, numbers = (8192, 16384, 16, 2**30) if home.type == "cuda" else (2048, 2048, 4, 2**26)

    def product(kind: torch.dtype, side: int) -> float:
        left, right = (torch.randn(side, side, device=home).to(kind) for _ in range(2))
        return 2 * side**3 / fastest(lambda: left @ right, home)

    query, key, value = (torch.randn(1, heads, tokens, 128, device=home).to(dtype) for _ in range(3))
    source = torch.zeros(numbers, dtype=torch.uint8, device=home)
    target = torch.zeros_like(source)
    return Ceilings(
        product=product(dtype, side),
        product_float32=product(torch.float32, side // 2),
        attention=4
        * heads
        * tokens**2
        * 128
        / fastest(lambda: F.scaled_dot_product_attention(query, key, value), home),
        copy=2 * numbers / fastest(lambda: target.copy_(source), home),
    )


def fastest(run: Callable[[], object], home: torch.device) -> float:
    """Seconds of the best of a few runs, the first of which does not count."""
    run()
    times: list[float] = []
    while not times or (sum(times) < ENOUGH and len(times) < 20):
        wait(home)
        start = time.perf_counter()
        run()
        wait(home)
        times.append(time.perf_counter() - start)
    return min(times)


def wait(home: torch.device) -> None:
    if home.type in ("cuda", "mps"):
        getattr(torch, home.type).synchronize()


# --- the stages ---------------------------------------------------------------------------------------------


def text(
    spec: ModelSpec, request: Request, files: ModelFiles | None, home: torch.device, dtype: torch.dtype,
    top: Ceilings, layers: int | None,
) -> Stage:  # fmt: skip
    config = text_config(files.text_encoder) if files else t5_xxl()
    whole = sketch(lambda: T5Encoder(config))
    large = sum(weight.numel() for weight in whole.parameters()) > LARGE_TEXT
    run = replace(config, num_layers=1, vocab_size=PROMPT_TOKENS) if large else config
    encoder = invented(lambda: T5Encoder(run), home, dtype)
    ids = torch.arange(min(PROMPT_TOKENS, run.vocab_size), device=home)[None]
    mask = torch.ones_like(ids)
    blocks = config.num_layers // run.num_layers
    return stage(
        "text", f"one of {blocks} blocks" if large else "one prompt", lambda: encoder(ids, mask), home,
        times=2 * blocks, weights=size(whole, dtype), product=top.product, attention=(0, top.attention),
    )  # fmt: skip


def denoise(
    spec: ModelSpec, request: Request, files: ModelFiles | None, home: torch.device, dtype: torch.dtype,
    top: Ceilings, layers: int | None,
) -> Stage:  # fmt: skip
    config = (config_as(TransformerConfig, files.transformer) if files else None) or linum_v2()
    run = config if layers is None else replace(config, num_layers=layers)
    if not 1 <= run.num_layers <= config.num_layers:
        remedy = f"use 1 to {config.num_layers}"
        raise InvalidInput("layers", layers, f"is not a part of {config.num_layers}", remedy)
    model = invented(lambda: Transformer(run), home, dtype)
    batch = 2 if spec.batched_guidance else 1  # both guidance passes at once, as the pipeline does
    context = model.encode_text([torch.randn(PROMPT_TOKENS // 2, config.text_dim, device=home)])
    seen = denoised(spec, request).frames
    latents = torch.randn(batch, config.channels, *latent_grid(seen, request.size), device=home)
    timestep = torch.full((batch,), 500.0, device=home)
    tokens = token_count(seen, request.size)
    looks = 4 * batch * tokens * (tokens + context.bias.shape[1]) * config.dim * run.num_layers
    part = "one pass" if batch == 1 else "one pass of two"
    if run.num_layers < config.num_layers:
        part += f", {run.num_layers} of {config.num_layers} layers"
    return stage(
        "denoise", part, lambda: model(latents, timestep, context), home,
        times=sum(forwards(request)) / batch * config.num_layers / run.num_layers,
        weights=size(sketch(lambda: Transformer(config)), dtype),
        product=top.product, attention=(looks, top.attention),
    )  # fmt: skip


def decode(
    spec: ModelSpec, request: Request, files: ModelFiles | None, home: torch.device, dtype: torch.dtype,
    top: Ceilings, layers: int | None,
) -> Stage:  # fmt: skip
    file = files.autoencoder if files else None

    def build() -> VAE | TAE:
        if spec.autoencoder == "wan":
            return VAE((config_as(VAEConfig, file) if file else None) or VAEConfig())
        return TAE((config_as(TAEConfig, file) if file else None) or TAEConfig())

    decoder = invented(build, home, torch.float32)
    lower = request.decoder_dtype == "bfloat16" or (
        request.decoder_dtype == "auto" and dtype == torch.bfloat16
    )
    count, *sides = latent_grid(request.frames, request.size)
    # The first latent frame differs from all others, which are alike; a tiny autoencoder soon decodes them all.
    some = count if spec.autoencoder == "tiny" else min(count, 2)
    latents = torch.randn(1, 16, some, *sides, device=home)

    def run(frames: int) -> None:
        with torch.autocast(home.type, torch.bfloat16, enabled=lower):
            for _ in decoder.decode_stream(latents[:, :, :frames]):
                pass

    measured = stage(
        "decode", "the clip" if some == count else "two latent frames", lambda: run(some), home, times=1,
        weights=size(decoder, torch.float32), product=top.product if lower else top.product_float32,
        attention=(0, top.attention),
    )  # fmt: skip
    if some == count:
        return measured
    later = measured.seconds - fastest(lambda: run(1), home)
    return replace(measured, times=1 + (count - some) * later / measured.seconds)


def stage(
    name: str, part: str, run: Callable[[], object], home: torch.device, *, times: float, weights: int,
    product: float, attention: tuple[float, float],
) -> Stage:  # fmt: skip
    """Count the operations of one run, time the others, and watch the memory. `attention`: its operations, which no
    counter sees on every device, and its ceiling."""
    before = begin_peak(home)
    with FlopCounterMode(display=False) as counter:
        run()
    seen = counter.get_flop_counts()["Global"]
    products = sum(count for operator, count in seen.items() if "attention" not in str(operator))
    seconds = fastest(run, home)
    least = products / product + attention[0] / attention[1]
    peak = end_peak(home)
    return Stage(
        stage=name,
        part=part,
        seconds=seconds,
        times=times,
        share=least / seconds,
        weight_bytes=weights,
        working_bytes=None if peak is None or before is None else max(0, peak - before),
    )


# --- random weights and memory ------------------------------------------------------------------------------


def sketch(build: Callable[[], M]) -> M:
    with torch.device("meta"):
        return build()


def size(module: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the weights once loaded with products in `dtype`."""
    products = product_dtypes(module, dtype)
    return sum(
        tensor.numel() * products.get(name, torch.float32).itemsize
        for name, tensor in module.state_dict().items()
    )


def invented(build: Callable[[], M], home: torch.device, dtype: torch.dtype) -> M:
    """The module with random weights, each layer keeping the variance of what goes in."""
    module = sketch(build)
    products = product_dtypes(module, dtype)
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(home)

    def fill(name: str, shape: torch.Size) -> Tensor:
        weight = torch.empty(shape, device=home, dtype=products.get(name, torch.float32))
        for start in range(0, weight.numel(), len(noise)):
            part = weight.view(-1)[start : start + len(noise)]
            part.copy_(noise[: len(part)])
        return weight.mul_(1 / math.sqrt(max(1, shape[1:].numel())))

    state = {name: fill(name, tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


def begin_peak(home: torch.device) -> int | None:
    """Bytes in use now, from which `end_peak` tells the highest since."""
    if home.type == "cuda":
        torch.cuda.reset_peak_memory_stats(home)
        return torch.cuda.memory_allocated(home)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return resident("VmRSS")


def end_peak(home: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(home) if home.type == "cuda" else resident("VmHWM")


def resident(field: str) -> int | None:
    """This process's resident bytes, now or at the peak; None elsewhere than on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)

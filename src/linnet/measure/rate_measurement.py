"""How fast this device is, measured with a model's own layers and random weights: the figures of `plan/cost_model.py`.

Takes seconds: passes through one block on few tokens, as the pipeline makes them, attention alone on more, latent
frames of small sizes, a small file. What is measured at several sizes takes turns, so that other programs slow all
alike, and of each the best run counts.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional as F

from linnet import media
from linnet.catalog import ModelSpec
from linnet.geometry import Size
from linnet.models.attention import attend
from linnet.models.tae import STRETCH, TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.models.vae import VAE, VAEConfig
from linnet.plan.cost_model import CostModel, remember
from linnet.plan.machine import Machine
from linnet.plan.memory import SMALL_TEXT, Shape
from linnet.plan.plan import SizedModel
from linnet.runtime import transfer
from linnet.runtime.attention import Work, choose, way_of
from linnet.runtime.machine import occupy
from linnet.weights.files import read_config
from linnet.weights.load import product_dtypes
from linnet.weights.store import ModelFiles

K = TypeVar("K")
Frames = UInt8[np.ndarray, "f H W 3"]

ROUNDS, ENOUGH = 12, 2.0  # runs of each that count, and seconds after which one is not run again
TOKENS = (
    256,
    560,
    1040,
)  # in a pass: those of seedling's short clips, up to where products are as fast as they get
ATTENDED = 2048
SIDES = (8, 12, 16)  # rows and columns of small latent frames
COPIED, READ, PIECE = 2**27, 2**28, 2**23  # bytes
WRITTEN = 25  # frames


def measure_machine(
    machine: Machine,
    model: SizedModel,
    files: ModelFiles | None,
    watch: Callable[[str], object] = str,
) -> CostModel:
    """Of the machine, with its threads, for such a model; remembered from now on. `files`, where they are here, tell
    the tiny autoencoder's widths, and are read from. `watch` hears what is measured next."""
    occupy(machine)
    spec, device, kind = model.spec, machine.device, getattr(torch, machine.dtype)
    tiny, file = (read_config(files.autoencoder), files.transformer) if files else (None, None)
    watch("the autoencoder")
    frame, cell, low_frame, low_cell = decode_rates(spec, device, tiny)
    watch("the transformer")
    denoising = denoise_rates(spec, model.shape, kind, device)
    watch("writing a file, the text encoder, copies and reading")
    costs = CostModel(
        **denoising,
        frame=frame,
        cell=cell,
        low_frame=low_frame,
        low_cell=low_cell,
        pixel=pixel_seconds(partial(write, spec.fps), spec.sizes[0]),
        prompt=prompt_seconds(spec, model.shape, kind, device),
        copy=copy_seconds(device),
        read=read_seconds(file) if file else None,
    )
    remember(machine.key(model, machine.dtype), costs)
    return costs


def write(fps: int, frames: Frames) -> None:
    """Make a file of a clip's frames, and throw it away."""
    _, height, width, _ = frames.shape
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with media.open_writer(path, width=width, height=height, fps=fps, metadata={}) as writer:
            writer.write(frames)


def denoise_rates(spec: ModelSpec, shape: Shape, dtype: torch.dtype, device: str) -> dict[str, float]:
    """Those of the transformer, by their names."""
    model = model_of(shape, dtype, device)
    pair = attention_seconds(model.config, dtype, device) / ATTENDED**2
    clips = 2 if spec.batched_guidance else 1
    passes = pass_seconds(model, clips, dtype, device)
    whole, around = ([passes[part, tokens] for tokens in TOKENS] for part in ("whole", "around"))
    inside = [
        long - short - pair * tokens**2 / clips
        for long, short, tokens in zip(whole, around, TOKENS, strict=True)
    ]
    block, token = line(TOKENS, inside, whole)
    call, step = line(TOKENS, around, around)
    return {"call": call, "block": block, "token": token, "pair": pair, "step": step}


# --- times and lines --------------------------------------------------------------------------------------------------


def in_turns(runs: Mapping[K, Callable[[], float]]) -> dict[K, float]:
    """The best seconds of each; what a first run takes, in which libraries warm up, counts where it is the only one."""
    times: dict[K, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, run in runs.items():
            if not times[name] or sum(times[name]) < ENOUGH:
                times[name].append(run())
    return {name: min(seconds[1:] or seconds) for name, seconds in times.items()}


def clocked(run: Callable[[], object], device: str) -> float:
    with torch.inference_mode():
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter() - start


def fastest(run: Callable[[], object], device: str) -> float:
    return in_turns({"": partial(clocked, run, device)})[""]


def line(sizes: Sequence[int], seconds: Sequence[float], scale: Sequence[float]) -> tuple[float, float]:
    """(Constant, for each of size) of the line that is nearest to the seconds in shares of `scale`; neither below 0."""
    size, took, scale_ = (np.asarray(values, dtype=float) for values in (sizes, seconds, scale))
    (constant, slope), *_ = np.linalg.lstsq(
        np.stack([1 / scale_, size / scale_], 1), took / scale_, rcond=None
    )
    if constant < 0:  # chance has made the slope too steep
        constant, slope = 0.0, max(0.0, float(np.mean(took / size)))
    if slope < 0:
        constant, slope = float(np.mean(took)), 0.0
    return max(0.0, float(constant)), float(slope)


# --- the transformer --------------------------------------------------------------------------------------------------


def model_of(shape: Shape, dtype: torch.dtype, device: str) -> Transformer:
    """The transformer's widths with a single block."""
    heads = max(1, shape.dim // 128) if shape.dim % 128 == 0 and shape.dim > 512 else 4
    config = TransformerConfig(
        dim=shape.dim, ffn_dim=shape.ffn_dim, num_heads=heads, num_layers=1, text_len=256, text_dim=64
    )
    return cast(Transformer(config).initialise().eval(), dtype).to(device)


def cast(module: Any, dtype: torch.dtype) -> Any:
    """In the dtypes that the loader gives."""
    kinds = product_dtypes(module, dtype)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(kinds.get(name, torch.float32))
    return module


def attention_seconds(config: TransformerConfig, dtype: torch.dtype, device: str) -> float:
    shape = (1, config.num_heads, ATTENDED, config.dim // config.num_heads)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    return fastest(lambda: attend(query, key, value), device)


def pass_seconds(
    model: Transformer, clips: int, dtype: torch.dtype, device: str
) -> dict[tuple[str, int], float]:
    """Of a whole pass, and of all around its block, for each number of tokens."""
    config, home = model.config, torch.device(device)
    with torch.inference_mode():
        text = model.encode_text([torch.randn(32, config.text_dim, device=home)])
    none = replace(text, keys=(), values=())
    runs: dict[tuple[str, int], Callable[[], float]] = {}
    for tokens in TOKENS:
        latents = torch.randn(clips, config.channels, 1, 8, tokens // clips // 2, device=home)
        timestep = torch.full((clips,), 500.0, device=home)
        work = Work(clips, config.num_heads, tokens // clips, config.dim // config.num_heads)
        backend = way_of(choose(work, home, dtype), work, home) or attend
        whole = partial(model, latents, timestep, text, attend=backend)
        runs["whole", tokens] = partial(clocked, whole, device)
        around = partial(model, latents, timestep, none)
        runs["around", tokens] = partial(clocked, lambda run=around: run(blocks=iter(())), device)
    return in_turns(runs)


def prompt_seconds(spec: ModelSpec, shape: Shape, dtype: torch.dtype, device: str) -> float | None:
    """Of the prompt and the negative one; None for a large encoder, of which reading takes the time."""
    if sum(shape.text) * 4 > SMALL_TEXT or not shape.text_heads:
        return None
    config = T5Config(
        vocab_size=64,
        d_model=shape.text_dim,
        d_kv=max(1, shape.text_dim // shape.text_heads),
        d_ff=shape.text_ffn,
        num_layers=1,
        num_heads=shape.text_heads,
        gated=True,
    )
    encoder = cast(T5Encoder(config).initialise().eval(), dtype).to(device)
    ids = torch.ones((1, spec.max_prompt_tokens), dtype=torch.int64, device=device)
    layers = shape.text.products / max(1, shape.text_block.products)
    return 2 * layers * fastest(lambda: encoder(ids, torch.ones_like(ids)), device)


# --- frames and files -------------------------------------------------------------------------------------------------


def decode_rates(spec: ModelSpec, device: str, config: Any) -> tuple[float, float, float, float]:
    """Of a latent frame and of each of its cells, in float32 and then in bfloat16."""
    decoder: VAE | TAE
    if spec.autoencoder == "wan":
        decoder, sides = VAE(VAEConfig()).eval().to(device), SIDES[:2]
    else:
        decoder, sides = TAE(TAEConfig.from_json(config) if config else TAEConfig()).eval().to(device), SIDES
    times = in_turns(
        {
            (lower, side): partial(frame_seconds, decoder, side, lower, device)
            for side in sides
            for lower in (False, True)
        }
    )
    cells, rates = [side**2 for side in sides], []
    for lower in (False, True):
        seconds = [times[lower, side] for side in sides]
        rates += line(cells, seconds, seconds)
    return tuple(rates)  # type: ignore[return-value]


def frame_seconds(decoder: VAE | TAE, side: int, lower: bool, device: str) -> float:
    """Of a latent frame that follows others, until its pixels are bytes in main memory; a tiny autoencoder decodes
    small frames several at a time."""
    count = max(1, STRETCH // side**2) if isinstance(decoder, TAE) else 1
    latents, times = torch.randn(1, 16, 3 * count, side, side, device=device), []
    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=lower):
        start = time.perf_counter()
        for frames in decoder.decode_stream(latents):
            frames[0].permute(1, 2, 3, 0).float().clamp(-1, 1).add(1).mul(127.5).round().byte().cpu()
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return min(times[1:]) / count


def pixel_seconds(write: Callable[[Frames], object], size: Size) -> float:
    """Of a pixel of a file: soft shapes that move sideways."""
    coarse = torch.rand(1, 3, -(-size.height // 16), -(-size.width // 16))
    picture = F.interpolate(coarse, size=(size.height, size.width), mode="bilinear")[0].permute(1, 2, 0)
    still = picture.mul(255).byte().numpy()
    frames = np.stack([np.roll(still, 2 * time, axis=1) for time in range(WRITTEN)])
    return fastest(lambda: write(frames), "cpu") / (WRITTEN * size.pixels)


def copy_seconds(device: str) -> float:
    """Of a byte that goes from main memory to the device, if that is another."""
    if device == "cpu":
        return 0.0
    room = torch.empty(COPIED, dtype=torch.uint8, device=device)
    waiting = transfer.reserve(room, torch.device("cpu"), beside=room.device)
    return fastest(lambda: transfer.copy(room, waiting), device) / COPIED


def read_seconds(file: Path) -> float | None:
    """Of a byte that is read from a file, which the system is asked to forget first; None for an empty one."""
    room, size = bytearray(PIECE), 0
    with file.open("rb", buffering=0) as source:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while size < READ and (count := source.readinto(room)):
            size += count
        return (time.perf_counter() - start) / size if size else None

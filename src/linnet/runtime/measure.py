"""How fast this device is, measured with a model's own layers and random weights: the figures of `runtime/rates.py`.

Takes seconds: one block on few tokens, attention alone on more, and latent frames of two small sizes.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from linnet.catalog import ModelSpec
from linnet.models.attention import attend
from linnet.models.tae import STRETCH, TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.models.vae import VAE, VAEConfig
from linnet.runtime.memory import SMALL_TEXT, Shape
from linnet.runtime.rates import Rates
from linnet.weights.load import product_dtypes

REPEATS, LONG = (
    3,
    0.5,
)  # at least so many runs and seconds, of which the fastest run counts: other programs slow it
FEW, MORE = (
    256,
    1024,
)  # tokens; where attention costs little, and where matrix products are as fast as they get
ATTENDED = 2048
CELLS = (8, 16)  # rows and columns of a small latent frame and of a larger one


def measure_rates(
    spec: ModelSpec, shape: Shape, *, dtype: str, device: str, autoencoder: Any = None
) -> Rates:
    """Of the device, here, with as many threads as torch has now. `autoencoder` is the tiny one's configuration."""
    kind = getattr(torch, dtype)
    transformer = model_of(shape, kind, device)
    config = transformer.config
    pair = attention_seconds(config, kind, device) / ATTENDED**2
    blocks, steps = zip(
        *(forward_seconds(transformer, tokens, device) for tokens in (FEW, MORE)), strict=True
    )
    few, more = (seconds - pair * tokens**2 for seconds, tokens in zip(blocks, (FEW, MORE), strict=True))
    token = max(0.0, (more - few) / (MORE - FEW))
    frames = [frame_seconds(spec, side, device, autoencoder) for side in CELLS]
    small, large = (side**2 for side in CELLS)
    cell = max(0.0, (frames[1] - frames[0]) / (large - small))
    return Rates(
        block=max(0.0, few - FEW * token),
        token=token,
        pair=pair,
        step=max(0.0, steps[1]) / MORE,
        frame=max(0.0, frames[0] - small * cell),
        cell=cell,
        prompt=prompt_seconds(spec, shape, kind, device),
    )


def fastest(run: Callable[[], object], device: str) -> float:
    """Seconds of the best of a few runs, after one to warm up."""
    times: list[float] = []
    with torch.inference_mode():
        while len(times) <= REPEATS or sum(times) < LONG:
            start = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return min(times[1:])


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


def forward_seconds(model: Transformer, tokens: int, device: str) -> tuple[float, float]:
    """Of the block, and of all around it."""
    latents = torch.randn(1, model.config.channels, 1, 32, tokens // 8, device=device)
    timestep = torch.full((1,), 500.0, device=device)
    with torch.inference_mode():
        text = model.encode_text([torch.randn(32, model.config.text_dim, device=device)])
    whole = fastest(lambda: model(latents, timestep, text), device)
    blocks, model.blocks = model.blocks, nn.ModuleList()  # type: ignore[assignment]
    none = replace(text, keys=(), values=())
    around = fastest(lambda: model(latents, timestep, none), device)
    model.blocks = blocks
    return whole - around, around


def frame_seconds(spec: ModelSpec, side: int, device: str, config: Any) -> float:
    """Of a latent frame that follows others; small ones are decoded several at a time."""
    if spec.autoencoder == "wan":
        count = 1
        decoder: VAE | TAE = VAE(VAEConfig()).eval().to(device)
    else:
        count = max(1, STRETCH // side**2)
        decoder = TAE(TAEConfig.from_json(config) if config else TAEConfig()).eval().to(device)
    latents = torch.randn(1, 16, 3 * count, side, side, device=device)
    times = []
    with torch.inference_mode():
        start = time.perf_counter()
        for frames in decoder.decode_stream(latents):
            frames.cpu()
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return min(times[1:]) / count


def prompt_seconds(spec: ModelSpec, shape: Shape, dtype: torch.dtype, device: str) -> float | None:
    """Of the prompt and the negative one; None for an encoder that is streamed, at the pace of the disk."""
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

"""What 8-bit weights do to a network's answers, and to its time: the text encoder and the transformer, apart.

    python benchmarks/eight_bits.py [--layers 2] [--tokens 32] [--parts text transformer seedling] [--weights DIR]

Networks of Linum v2's true width with random weights, a few layers deep, one input each. A row a way to store the
blocks' weights: `bytes` of a block, `cosine` and relative `error` against float32 weights, computed in bfloat16 but
for the first row, and `seconds` of one pass. "FP8 products" multiplies in 8 bits, too, as --fp8 does on a card; here
the same numbers are computed in float32, so its time means nothing. The bfloat16 row tells what is rounding anyway.
"seedling" is that model's own text encoder, trained, on one prompt (--weights if it is not in the package). Ends with
one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.catalog import SEEDLING, Format
from linnet.models.fp8 import multiply_in_fp8
from linnet.models.quantised import quantise, store_in
from linnet.models.text import T5Encoder, Tokenizer, t5_xxl
from linnet.models.transformer import Transformer, linum_v2
from linnet.runtime.text import text_config
from linnet.weights.load import EIGHT_BITS, load_into, product_dtypes, scale_of
from linnet.weights.store import resolve

FP8 = "FP8 products"
WAYS: tuple[tuple[str, torch.dtype, Format | None], ...] = (
    ("float32", torch.float32, None),
    ("bfloat16", torch.bfloat16, None),
    ("int8", torch.bfloat16, "int8"),
    ("float8", torch.bfloat16, "float8"),
    (FP8, torch.bfloat16, "float8"),
)
VOCABULARY = 1000


def stored(network: nn.Module, dtype: torch.dtype, format: Format | None) -> nn.Module:
    """The network as the loader would make it of its weights."""
    with torch.device("meta"):
        empty = deepcopy(network).to("meta")
        room = store_in(format, empty) if format else empty
    kinds = product_dtypes(room, dtype)
    state: dict[str, Tensor] = {}
    for name, weight in network.state_dict().items():
        kind = kinds.get(name, torch.float32)
        if kind in EIGHT_BITS:
            state[name], scale = quantise(weight, kind)
            state[scale_of(name)] = scale.to(dtype)
        else:
            state[name] = weight.to(kind)
    room.load_state_dict(state, assign=True)
    return room


def text(layers: int, tokens: int) -> tuple[nn.Module, str, Callable[[Any], Tensor]]:
    """T5-XXL's own width and initial scales, with a smaller vocabulary, which no layer sees."""
    config = replace(t5_xxl(), num_layers=layers, vocab_size=VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, VOCABULARY, (1, tokens), generator=generator)
    encoder = T5Encoder(config).initialise(generator)
    return encoder, "encoder.block.0.", lambda model: model(ids, torch.ones_like(ids))[0]


def transformer(layers: int, tokens: int) -> tuple[nn.Module, str, Callable[[Any], Tensor]]:
    """Linum's width; nothing is silent, as it is not after training."""
    config = replace(linum_v2(), num_layers=layers)
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config).initialise(generator)
    for weight in model.parameters():
        if not weight.any():
            weight.normal_(std=weight.shape[-1] ** -0.5, generator=generator)
    latents = torch.randn(1, 16, 1, 16, tokens // 4, generator=generator)
    states = torch.randn(20, config.text_dim, generator=generator)

    def run(model: Transformer) -> Tensor:
        return model(latents, torch.tensor([700.0]), model.encode_text([states]))

    return model, "blocks.0.", run


def seedling(weights: Path | None) -> tuple[nn.Module, str, Callable[[Any], Tensor]]:
    files = resolve(SEEDLING, weights=weights)
    encoder = load_into(lambda: T5Encoder(text_config(files.text_encoder)), files.text_encoder)
    prompt = "a small red star spins slowly on a blue background"
    ids = torch.tensor([Tokenizer.open(files.tokenizer).encode(prompt, SEEDLING.max_prompt_tokens).ids])
    return encoder, "encoder.block.0.", lambda model: model(ids, torch.ones_like(ids))[0]


@torch.no_grad()
def compare(part: str, layers: int, tokens: int, weights: Path | None) -> list[dict[str, Any]]:
    if part == "seedling":
        network, block, run = seedling(weights)
    else:
        network, block, run = {"text": text, "transformer": transformer}[part](layers, tokens)
    rows: list[dict[str, Any]] = []
    expected: Tensor | None = None
    for name, dtype, format in WAYS:
        if name == FP8 and part != "transformer":
            continue  # of which it is an option
        model = stored(network, dtype, format).eval()
        model = multiply_in_fp8(model) if name == FP8 else model
        held = sum(weight.nbytes for path, weight in model.named_parameters() if path.startswith(block))
        start = time.monotonic()
        out = run(model).float()
        seconds = time.monotonic() - start
        expected = out if expected is None else expected
        near = F.cosine_similarity(out.flatten().double(), expected.flatten().double(), dim=0)
        worst = F.cosine_similarity(
            out.flatten(0, -2).double(), expected.flatten(0, -2).double(), dim=-1
        ).min()
        error = (out - expected).norm() / expected.norm()
        figures = {"cosine": float(near), "worst": float(worst), "error": float(error)}
        rows.append({"part": part, "stored": name, "bytes": held, **figures, "seconds": seconds})
        print(
            f"{part:>12} {name:>12} {held / 1e6:7.1f} MB  cosine {near:.6f} (worst row {worst:.6f})  "
            f"error {error:.4f} {seconds:7.2f} s",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--parts", nargs="+", default=["text", "transformer"])
    parser.add_argument("--weights", type=Path, help="folder of seedling")
    options = parser.parse_args()
    rows = [
        row
        for part in options.parts
        for row in compare(part, options.layers, options.tokens, options.weights)
    ]
    print(json.dumps({"layers": options.layers, "tokens": options.tokens, "rows": rows}))


if __name__ == "__main__":
    main()

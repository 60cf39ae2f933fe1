"""What a LoRA costs: a pass of the transformer with one over a pass without, in turns, on this machine.

    python benchmarks/lora_cost.py --rank 32 --layers 2 --latent-frames 2 --dtype bfloat16

The model is as wide as Linum v2, with random weights and fewer blocks: each block costs what every other does. Times
are of the processor, so that other work on the machine counts little.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch

from linnet.models.lora import Decomposed, LoraLinear, LoraShape, add_lora, enable_lora
from linnet.models.transformer import Transformer, linum_v2

ROWS, COLUMNS = 45, 80  # latent, of 640x360


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--latent-frames", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dora", action="store_true")
    given = parser.parse_args()
    config = replace(linum_v2(), num_layers=given.layers)
    dtype = getattr(torch, given.dtype)
    model = Transformer(config).eval().requires_grad_(False)
    for block in model.blocks:
        for module in block.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(dtype)
    add_lora(model, LoraShape(rank=given.rank, dora=given.dora))
    for module in model.modules():
        for name in ("down", "up"):
            if isinstance(parameter := getattr(module, name, None), torch.nn.Parameter):
                parameter.data = torch.randn_like(parameter).to(dtype) * 0.02
        if isinstance(module, LoraLinear):
            for adapter in module.adapters:
                if isinstance(adapter, Decomposed):
                    adapter.freeze(module.base)
    latents = torch.randn(1, config.channels, given.latent_frames, ROWS, COLUMNS)
    timestep = torch.tensor([500.0])
    with torch.inference_mode():
        text = model.encode_text([torch.randn(100, config.text_dim)])

        def timed(enabled: bool) -> float:
            enable_lora(model, enabled)
            start = time.process_time()
            model(latents, timestep, text)
            return time.process_time() - start

        timed(True)
        timed(False)
        pairs = [(timed(False), timed(True)) for _ in range(given.rounds)]
    ratio = statistics.median(with_lora / without for without, with_lora in pairs)
    least = min(with_lora for _, with_lora in pairs) / min(without for without, _ in pairs)
    print(
        f"{given.dtype}, rank {given.rank}{', DoRA' if given.dora else ''}: {ratio:.3f} times a pass without"
    )
    print(f"fastest with over fastest without: {least:.3f}; pairs of seconds {pairs}")


if __name__ == "__main__":
    main()

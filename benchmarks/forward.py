"""One forward pass of the transformer at Linum v2's width, against a plain implementation run beside it.

    taskset -c 0,1 python benchmarks/forward.py [--threads 2] [--frames 4] [--layers 2] [--runs 5] [--dtype float32]
        [--cpu-time]

The plain one (benchmarks/plain_transformer.py) has float32 weights and runs under bfloat16 autocast, as the published
pipeline does; linnet's has the weights that linnet chooses on this device (bfloat16 where that multiplies faster, else
float32; --dtype overrides it) and runs as it is ("eager") and with its blocks compiled. Same random
weights, a 360p clip of `frames` latent frames (4: 3,680 tokens), a prompt of 24 tokens. Runs alternate, so that what
else the machine does hits all alike; medians. Errors are relative, of the velocity, against the plain one and against
the same in float32. Last, one JSON line. --cpu-time counts this process's CPU seconds, for a machine that is not quiet.
"""

import argparse
import json
import time
from dataclasses import replace
from statistics import median

import torch
from plain_transformer import PlainTransformer
from torch import Tensor

from linnet.models.transformer import Transformer, linum_v2
from linnet.runtime.device import default_dtype
from linnet.weights.load import product_dtypes

PROMPT_TOKENS = 24
TARGET, LARGEST_ERROR = 1.3, 0.02


def distance(out: Tensor, reference: Tensor) -> float:
    return float((out - reference).norm() / reference.norm())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("threads", 2), ("frames", 4), ("layers", 2), ("runs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else default_dtype("cpu")
    clock = time.process_time if arguments.cpu_time else time.perf_counter

    config = replace(linum_v2(), num_layers=arguments.layers)
    plain, eager, compiled = PlainTransformer(config).eval(), Transformer(config), Transformer(config)
    for name, weight in plain.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(weight, std=0.3)
    for model in (eager, compiled):
        model.load_state_dict(plain.state_dict())
        for name, stored in product_dtypes(model, dtype).items():
            weight = model.get_parameter(name)
            weight.data = weight.data.to(stored)
    for block in compiled.blocks:
        block.compile()

    latents = torch.randn(1, config.channels, arguments.frames, 46, 80)
    timestep, prompt = torch.tensor([700.0]), torch.randn(1, PROMPT_TOKENS, config.text_dim)
    with torch.inference_mode():
        text = eager.encode_text(list(prompt))
        exact = plain(latents, timestep, prompt)

        def published() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return plain(latents, timestep, prompt)

        ways = {
            "plain": published,
            "eager": lambda: eager(latents, timestep, text),
            "compiled": lambda: compiled(latents, timestep, text),
        }
        start = clock()
        outputs = {name: run() for name, run in ways.items()}
        first = clock() - start
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.runs):
            for name, run in ways.items():
                start = clock()
                run()
                seconds[name].append(clock() - start)

    tokens, named = arguments.frames * 23 * 40, str(dtype).removeprefix("torch.")
    print(
        f"{tokens} tokens, {config.num_layers} layers of {config.dim} in {named}, {arguments.threads} threads"
    )
    print(f"first call of all three, compilation included: {first:.1f} s")
    result = {}
    for name, times in seconds.items():
        ratio = median(seconds["plain"]) / median(times)
        errors = [distance(outputs[name], other) for other in (outputs["plain"], exact)]
        result[name] = {
            "seconds": median(times),
            "ratio": ratio,
            "error": errors[0],
            "error_float32": errors[1],
        }
        print(
            f"{name:9} {median(times):7.3f} s  {ratio:5.2f}x  error {errors[0]:.2%}, against float32 {errors[1]:.2%}"
        )
    holds = result["compiled"]["ratio"] >= TARGET and result["compiled"]["error"] < LARGEST_ERROR
    print(f"compiled at least {TARGET}x at under {LARGEST_ERROR:.0%}: {'yes' if holds else 'NO'}")
    measured = {"tokens": tokens, "threads": arguments.threads, "torch": torch.__version__, "dtype": named}
    print(json.dumps({**measured, "clock": "cpu" if arguments.cpu_time else "wall", **result}))


if __name__ == "__main__":
    main()

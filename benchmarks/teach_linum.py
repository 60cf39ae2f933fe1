"""A LoRA of a model of Linum v2's size, with random weights, learns from 360p images on this machine.

    python benchmarks/teach_linum.py --steps 3

Makes the transformer in memory (4 GB in bfloat16), plans, takes the steps, writes the file, and reads it again.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from linnet.catalog import find
from linnet.data.buckets import Bucket
from linnet.data.encoded import Encoded
from linnet.geometry import Size
from linnet.models.lora import LoraShape, add_lora, apply_lora, remove_lora
from linnet.models.transformer import Transformer, linum_v2
from linnet.plan import training
from linnet.plan.memory import LINUM_V2
from linnet.plan.plan import SizedModel
from linnet.runtime.machine import resolve_machine
from linnet.train.blocks import trained_blocks
from linnet.train.clips import ClipsConfig, ClipsTask, Learner, Texts
from linnet.train.config import LoopConfig
from linnet.train.loop import train
from linnet.train.lora import LoraFile
from linnet.weights.load import product_dtypes
from linnet.weights.lora import parameter_shapes, read_lora

SIZE = Size(640, 360)


class Images:
    """Four images of random latents."""

    buckets = ("image",) * 4
    training, held_out = tuple(range(4)), ()

    def epoch(self, seed: int, number: int) -> list[int]:
        return list(range(4))

    def sample(self, index: int) -> Encoded:
        latents = torch.randn(16, 1, 45, 80, generator=torch.Generator().manual_seed(index))
        return Encoded(latents=latents, text=None, caption="a" * index, bucket=Bucket(SIZE, 1))

    def text(self, caption: str) -> Tensor:
        raise NotImplementedError


class RandomTexts(Texts):
    def __init__(self) -> None:
        pass

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(captions), 40, 4096, generator=generator), torch.full((len(captions),), 40)


def random_transformer() -> Transformer:
    with torch.device("meta"):
        model = Transformer(linum_v2())
    kinds, generator = product_dtypes(model, torch.bfloat16), torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in model.state_dict().items():
        kind = kinds.get(name, torch.float32)
        plain = torch.ones if "norm" in name and name.endswith("weight") else torch.zeros
        matrix = tensor.ndim > 1 and "modulation" not in name
        state[name] = plain(tensor.shape, dtype=kind)
        if matrix:
            state[name].normal_(std=tensor[0].numel() ** -0.5, generator=generator)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False)


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--ram", default=None)
    options = parser.parse_args()
    machine = resolve_machine("cpu", ram=options.ram)
    torch.set_num_threads(machine.threads)
    work = training.TrainingWorkload(
        model=SizedModel(spec=find("linum-v2-360p"), shape=LINUM_V2),
        device="cpu",
        budget=machine.budget,
        buckets=(training.Bucket(SIZE, 1, 4),),
        rank=options.rank,
        text_tokens=40,
        base="bfloat16",
    )
    plan = training.plan_training(work)
    result: dict[str, Any] = {"plan": plan.to_json()}
    transformer = random_transformer()
    result["weights_gb"] = peak()
    add_lora(transformer, LoraShape(rank=options.rank), torch.Generator().manual_seed(0))
    device = torch.device("cpu")
    blocks = trained_blocks(transformer, device) if plan.execution.checkpointed else None
    learner = Learner(transformer)
    task = ClipsTask(learner, Images(), RandomTexts(), ClipsConfig(shift=3.0), blocks=blocks)
    loop = LoopConfig(
        steps=options.steps,
        learning_rate=1e-4,
        warmup=1,
        precision="float32",
        log_every=1,
        checkpoint_every=10**6,
        sample_every=10**6,
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        seen: list[float] = []
        train(task, loop, Path(folder) / "run", watch=lambda report: seen.append(report.numbers["loss"]))
        result["seconds_a_step"] = round((time.monotonic() - began) / options.steps, 1)
        model = cast(Any, SimpleNamespace(taught=()))
        file = LoraFile(model=model, learner=learner, metadata={}).write(Path(folder) / "linum.safetensors")
        result |= {"losses": seen, "file_mb": round(file.stat().st_size / 1e6, 1), "peak_gb": peak()}
        remove_lora(transformer)
        saved = read_lora(file, parameter_shapes(transformer))
        apply_lora(transformer, saved.weights)
        result["modules"] = len(saved.weights)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""LoRAs into a transformer's file and out of the difference of two: one tensor at a time is in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from linnet.errors import WeightsError
from linnet.filesystem import complete
from linnet.models.lora import LoraWeights
from linnet.models.merged_lora import merged_value
from linnet.weights.files import FLOATS, TRANSFORMER_PREFIX, Header, read_header, write_weights
from linnet.weights.load import read
from linnet.weights.lora import Lora

Watch = Callable[[int, int], None]  # tensors done, and all
OVERSAMPLED, ROUNDS = 8, 4  # of the randomised decomposition (Halko et al., arXiv 0909.4061)


def merge_loras(
    base: Path,
    loras: Sequence[tuple[Lora, float]],
    target: Path,
    *,
    overwrite: bool = False,
    watch: Watch = lambda done, total: None,
) -> None:
    """Write `target`, the transformer in `base` with LoRAs in its weights, each at its strength and of the base alone.
    Its dtypes stay as they are. WeightsError for weights in 8 bits, which would round a LoRA away."""
    header = read_header(base)
    refuse_narrow(header)
    changed = {
        f"{TRANSFORMER_PREFIX}{module}.{own}"
        for lora, _ in loras
        for module, weights in lora.weights.items()
        for own in ("weight", "bias", "modulation")
        if weights.has(own)
    }

    def values() -> Iterator[bytes]:
        for done, (name, tensor) in enumerate(read([header], header.tensors), 1):
            yield raw(merged(name, tensor, loras) if name in changed else tensor)
            watch(done, len(header.tensors))

    with complete(target, overwrite=overwrite) as part:
        write_weights(part, header.tensors, header.metadata, values())


def refuse_narrow(header: Header) -> None:
    for name, entry in header.tensors.items():
        if entry.dtype not in FLOATS:
            problem = f'holds "{name}" as {entry.dtype}, in which a LoRA would be rounded away'
            remedy = "merge into the weights as published, or use the LoRA without merging"
            raise WeightsError("weights", header.path, problem, remedy)


def merged(name: str, tensor: Tensor, loras: Sequence[tuple[Lora, float]]) -> Tensor:
    module, _, own = name.removeprefix(TRANSFORMER_PREFIX).rpartition(".")
    uses = [(lora.weights[module], strength) for lora, strength in loras if module in lora.weights]
    return merged_value(own, tensor, uses).to(tensor.dtype)


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """`kept`: the share of the difference that it holds, by squares, of the layers alone."""

    lora: Lora
    kept: float


def extract_lora(base: Path, tuned: Path, *, rank: int, watch: Watch = lambda done, total: None) -> Extracted:
    """What a fine-tuned transformer differs by, each layer at `rank`; norms, biases and modulation as they are. Layers
    that do not differ are left out."""
    before, after = read_header(base), read_header(tuned)
    for header in (before, after):
        refuse_narrow(header)
    names = [name for name in before.tensors if name.startswith(TRANSFORMER_PREFIX)]
    for name in names:
        if name not in after.tensors or after.tensors[name].shape != before.tensors[name].shape:
            problem = f'is of another model than {base}: its "{name}" differs in shape, or is missing'
            raise WeightsError("weights", tuned, problem, "give two transformers of one model")
    weights: dict[str, LoraWeights] = {}
    whole = left = 0.0
    for done, name in enumerate(names, 1):
        watch(done, len(names))
        (_, old), (_, new) = *read([before], {name}), *read([after], {name})
        difference = new.float() - old.float()
        if not difference.any():
            continue
        module, _, own = name.removeprefix(TRANSFORMER_PREFIX).rpartition(".")
        known = vars(weights.get(module, LoraWeights()))
        if difference.ndim == 2 and own == "weight":
            down, up = low_rank(difference, rank)
            known |= {"down": down, "up": up, "alpha": float(len(down))}
            whole += float(difference.square().sum())
            left += float((difference - up @ down).square().sum())
        else:
            role = {"weight": "diff", "bias": "diff_bias", "modulation": "diff_modulation"}[own]
            known |= {role: difference}
        weights[module] = LoraWeights(**known)
    if not weights:
        raise WeightsError(
            "weights", tuned, f"holds the weights of {base}", "give a model that was trained on"
        )
    return Extracted(lora=Lora(weights=weights), kept=1 - left / whole if whole else 1.0)


def low_rank(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest `up @ down` of that rank, with the sizes shared out evenly."""
    rank = min(rank, *difference.shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(difference, q=min(rank + OVERSAMPLED, *difference.shape), niter=ROUNDS)
    root = s[:rank].sqrt()
    return (v[:, :rank] * root).t().contiguous(), u[:, :rank] * root


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()

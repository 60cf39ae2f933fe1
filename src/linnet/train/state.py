"""All that a run needs to go on as if it had never stopped: one safetensors file, replaced whole or not at all."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from linnet.filesystem import complete, system_errors


def save_state(
    path: Path, *, step: int, model: nn.Module, average: dict[str, Tensor], optimisers: list[Optimizer]
) -> None:
    """Write beside `path`, flush to the disk, then rename: a kill leaves the old or the new file."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for number, optimiser in enumerate(optimisers):
        for index, slots in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{index}.{slot}": torch.as_tensor(v) for slot, v in slots.items()}
    replace_file(path, {name: value.contiguous() for name, value in tensors.items()}, {"step": str(step)})


def load_state(
    path: Path, *, model: nn.Module, average: dict[str, Tensor], optimisers: list[Optimizer]
) -> int:
    """Restore in place what `save_state` wrote; the step to go on with."""
    with safe_open(path, "pt") as file:
        model.load_state_dict({n: file.get_tensor(f"model.{n}") for n in model.state_dict()})
        for name, value in average.items():
            value.copy_(file.get_tensor(f"average.{name}"))
        for number, optimiser in enumerate(optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                kind, *rest = key.split(".")
                if kind == "optimiser" and int(rest[0]) == number:
                    state.setdefault(int(rest[1]), {})[rest[2]] = file.get_tensor(key)
            optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
        return int(file.metadata()["step"])


def saved_step(path: Path) -> int:
    """The step that a run goes on with; 0 where there is no state yet."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def replace_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file that appears complete under its name, or not at all."""
    with complete(path) as part, system_errors():
        save_file(tensors, part, metadata)
        part.chmod(0o644)  # save_file keeps it to its owner


def save_weights(
    path: Path,
    weights: dict[str, Tensor],
    config: dict,
    *,
    dtype: torch.dtype = torch.bfloat16,
    exact: dict[str, Tensor] | None = None,
) -> None:
    """The weights alone, in the layout that `weights.load` reads: `config` travels in the file's metadata.

    Matrices are stored as `dtype`; what has one axis (norms, biases) and everything in `exact` stays float32.
    """
    stored = {n: v.to(dtype if v.ndim > 1 else torch.float32).contiguous() for n, v in weights.items()}
    stored |= {n: v.float().contiguous() for n, v in (exact or {}).items()}
    replace_file(path, stored, {"config": json.dumps(config)})

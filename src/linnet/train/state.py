"""All that a run needs to go on as if it had never stopped: one safetensors file, replaced whole or not at all."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from linnet.filesystem import complete, system_errors

GIVEN = ("lr", "peak", "weight_decay")  # of an optimiser's groups: by the configuration


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: the state without parameters that are frozen."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def save_state(
    path: Path, *, step: int, model: nn.Module, average: dict[str, Tensor], optimisers: list[Optimizer]
) -> None:
    """Write beside `path`, flush to the disk, then rename: a kill leaves the old or the new file."""
    tensors = {f"model.{name}": value for name, value in learnt(model).items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for number, optimiser in enumerate(optimisers):
        for index, slots in optimiser.state_dict()["state"].items():
            for slot, value in slots.items():
                for suffix, part in plain(torch.as_tensor(value)):
                    tensors[f"optimiser.{number}.{index}.{slot}{suffix}"] = part
        for group, counted in enumerate(counts(optimiser)):
            for name, value in counted.items():
                tensors[f"optimiser.{number}.group{group}.{name}"] = torch.tensor(value, dtype=torch.float64)
    replace_file(
        path,
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        {"step": str(step)},
    )


def plain(value: Tensor) -> list[tuple[str, Tensor]]:
    """A tensor, or the ordinary ones inside of one that holds 8-bit numbers and their scales."""
    if type(value) in (Tensor, nn.Parameter):
        return [("", value)]
    names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
    return [(f".{name}", getattr(value, name)) for name in names]


def load_state(
    path: Path, *, model: nn.Module, average: dict[str, Tensor], optimisers: list[Optimizer]
) -> int:
    """Restore in place what `save_state` wrote; the step to go on with."""
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, value in learnt(model).items():
            value.copy_(file.get_tensor(f"model.{name}"))
        for name, value in average.items():
            value.copy_(file.get_tensor(f"average.{name}"))
        for number, optimiser in enumerate(optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                kind, *rest = key.split(".")
                if kind != "optimiser" or int(rest[0]) != number:
                    continue
                value = file.get_tensor(key)
                if rest[1].startswith("group"):
                    group = optimiser.param_groups[int(rest[1].removeprefix("group"))]
                    group[rest[2]] = type(group.get(rest[2], 0.0))(value.item())
                else:
                    state.setdefault(int(rest[1]), {})[".".join(rest[2:])] = value
            restore(optimiser, state)
        return int(file.metadata()["step"])


def counts(optimiser: Optimizer) -> list[dict[str, float]]:
    """Of each of its groups the numbers that an optimiser changes by itself, as Prodigy does with its estimate of the
    rate: those that are not what every group begins with."""
    return [
        {
            name: value
            for name, value in group.items()
            if type(value) in (int, float) and name not in GIVEN and value != optimiser.defaults.get(name)
        }
        for group in optimiser.param_groups
    ]


def restore(optimiser: Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """In the numbers that were saved: those of a parameter may be narrower, and `load_state_dict` would round to
    them."""
    if any("." in slot for slots in state.values() for slot in slots):
        fill_in_place(optimiser, state)
        return
    params = [p for group in optimiser.param_groups for p in group["params"]]
    for index, slots in state.items():
        device = params[index].device
        optimiser.state[params[index]] = {
            slot: value if slot == "step" else value.to(device) for slot, value in slots.items()
        }


@torch.no_grad()
def fill_in_place(optimiser: Optimizer, state: dict[int, dict[str, Tensor]] | None) -> None:
    """For an optimiser whose state is in tensors of its own kinds, which it makes at its first step: one step with a
    rate and gradients of zero makes them. Without a `state` to fill in, they are all that is made."""
    rates = [group["lr"] for group in optimiser.param_groups]
    values = {p: p.clone() for group in optimiser.param_groups for p in group["params"]}
    for group in optimiser.param_groups:
        group["lr"] = 0.0 * group["lr"]
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimiser.step()
    optimiser.zero_grad()
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    for p, value in values.items():
        p.copy_(value)
    if state is None:
        return
    for index, slots in optimiser.state_dict()["state"].items():
        for slot, value in slots.items():
            for suffix, part in plain(value):
                part.copy_(state[index][slot + suffix])


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

"""The training loop, for whatever gives it a loss.

Everything random is drawn from (seed, step), so a run that was killed and resumed repeats the unbroken one number for
number, and the order of the data needs no state of its own.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from linnet.errors import InvalidInput
from linnet.filesystem import check_folder, make_folder, write_text
from linnet.records import read_object, read_object_or_nothing, read_text
from linnet.train.config import LoopConfig
from linnet.train.state import load_state, save_state


@runtime_checkable
class Task(Protocol):
    """What is learnt: a model, a loss for each step, and something to look at now and then."""

    @property
    def model(self) -> nn.Module: ...

    def loss(
        self, step: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch, and named numbers to log beside it. Draw from the two generators only."""
        ...

    def sample(self, folder: Path, step: int) -> None:
        """Write something that a person can judge; the model holds its averaged weights meanwhile."""
        ...


@dataclass(frozen=True)
class Report:
    """Where a run stands: numbers of the last step, throughput and what is left."""

    step: int
    steps: int
    numbers: dict[str, float]
    seconds_a_step: float

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) * self.seconds_a_step


def train(
    task: Task,
    config: LoopConfig,
    folder: Path,
    *,
    device: str = "cpu",
    watch: Callable[[Report], None] = lambda report: None,
    stop_at: int | None = None,
    minutes: float | None = None,
) -> dict[str, Tensor]:
    """Run (or go on) to `config.steps`; the averaged weights.

    `folder` keeps `state.safetensors` (to resume), `log.jsonl` and TensorBoard's events, and `samples/`. A folder that
    was begun with another configuration raises InvalidInput. `stop_at` ends early, with the state saved. With `minutes`
    the run ends when they are over, and the rate rises and falls in that time, whatever the run before it did: such a
    run is not repeated number for number.
    """
    make_folder(folder)
    check_folder(folder)
    _same_config(folder / "config.json", json.loads(json.dumps(asdict(config))))
    model = task.model.to(device).train()
    optimisers = make_optimisers(model, config)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = folder / "state.safetensors"
    first = load_state(state, model=model, average=average, optimisers=optimisers) if state.exists() else 0
    log = _Log(folder, first)
    last = min(config.steps, stop_at or config.steps)
    clock, since = time.monotonic(), first
    spent = _spent(minutes)
    for step in range(first, last):
        share = spent()
        rate = config.rate(step) if minutes is None else config.rate_within(step - first, share)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
        rng, generator = randomness(config.seed, step, device)
        with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss, numbers = task.loss(step, rng, generator)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        update_average(average, model, min(config.ema, (step + 1) / (step + 10)))

        done = step + 1
        ends = done == last or spent() >= 1
        if done % config.log_every == 0 or ends:
            pace = (time.monotonic() - clock) / (done - since)
            numbers = {"loss": loss.item(), **numbers, "gradient": norm.item(), "rate": rate}
            log.write(done, numbers, pace)
            watch(Report(done, config.steps, numbers, pace))
            clock, since = time.monotonic(), done
        if done % config.checkpoint_every == 0 or ends:
            save_state(state, step=done, model=model, average=average, optimisers=optimisers)
        if done % config.sample_every == 0 or done == config.steps or (ends and minutes):
            with averaged(model, average), torch.inference_mode():
                task.sample(folder / "samples", done)
        if ends:
            break
    log.close()
    return average


def _spent(minutes: float | None) -> Callable[[], float]:
    """The share of the minutes that is over, counted from here; always 0 where there is no limit."""
    began = time.monotonic()
    return lambda: (time.monotonic() - began) / (60 * minutes) if minutes else 0.0


def randomness(seed: int, step: int, device: str = "cpu") -> tuple[random.Random, torch.Generator]:
    """Two generators that depend on the seed and the step alone."""
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:7], "big")
    return random.Random(mixed), torch.Generator(device).manual_seed(mixed)


def make_optimisers(model: nn.Module, config: LoopConfig) -> list[Optimizer]:
    """AdamW for all, or Muon for the hidden matrices (Jordan et al. 2024) and AdamW for the rest.

    A hidden matrix is a linear layer's in the transformer's stack of blocks: inputs, outputs, embeddings, norms and
    the text encoder stay with AdamW.
    """
    hidden = [
        module.weight
        for name, module in model.named_modules()
        if config.optimiser == "muon" and isinstance(module, nn.Linear) and "blocks." in name
    ]
    chosen = {id(p) for p in hidden}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if id(p) not in chosen:
            factor = next((f for prefix, f in config.slower if name.startswith(prefix)), 1.0)
            decay = config.weight_decay if p.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(p)
    adamw = [
        {"params": params, "lr": config.learning_rate * factor, "weight_decay": decay}
        for (factor, decay), params in groups.items()
    ]
    optimisers: list[Optimizer] = [torch.optim.AdamW(adamw, betas=(0.9, 0.98))]
    if hidden:
        optimisers.append(
            torch.optim.Muon(hidden, lr=config.muon_learning_rate, weight_decay=config.weight_decay)
        )
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return optimisers


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    values = model.state_dict()
    get_ema_multi_avg_fn(decay)([average[name] for name in values], list(values.values()), 0)


class averaged:
    """While inside, the model holds the averaged weights."""

    def __init__(self, model: nn.Module, average: dict[str, Tensor]) -> None:
        self.model, self.average = model, average

    def __enter__(self) -> None:
        self.own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.load_state_dict(self.own)
        self.model.train()


def _same_config(path: Path, config: dict) -> None:
    """Note the configuration, or check that the run was begun with it."""
    if not path.exists():
        write_text(path, json.dumps(config, indent=1))
        return
    remedy = "name another --output, or put the file back as it was"
    begun = read_object(read_text(path), field="config", value=path, remedy=remedy)
    for name, value in config.items():
        if begun.get(name) != value:
            raise InvalidInput(
                name,
                value,
                f"the run in {path.parent} was begun with {begun.get(name)!r}",
                "use another --output folder",
            )


class _Log:
    """One JSON line a report and the same to TensorBoard; lines after the resumed step are dropped, to be replayed."""

    def __init__(self, folder: Path, first: int) -> None:
        path = folder / "log.jsonl"
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        write_text(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= first))
        self.file = path.open("a")
        self.board = _tensorboard(folder, first)

    def write(self, step: int, numbers: dict[str, float], pace: float) -> None:
        self.file.write(json.dumps({"step": step, **numbers, "seconds_a_step": round(pace, 4)}) + "\n")
        self.file.flush()
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _step_of(line: str) -> float:
    step = read_object_or_nothing(line).get("step")
    return step if isinstance(step, int | float) else float("inf")  # of the line that a kill cut short


def _tensorboard(folder: Path, first: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the [train] extra is not installed
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)

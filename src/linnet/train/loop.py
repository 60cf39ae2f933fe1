"""The training loop, for whatever gives it a loss.

Everything random is drawn from (seed, step), so a run that was killed and resumed repeats the unbroken one number for
number, and the order of the data needs no state of its own.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from linnet.errors import InvalidInput, one_line
from linnet.filesystem import check_folder, make_folder, write_text
from linnet.records import read_object, read_text
from linnet.runtime.device import free_memory, out_of_memory
from linnet.train.config import LoopConfig
from linnet.train.distributed import ALONE, Ranks
from linnet.train.log import Log, lowest
from linnet.train.optimisers import make_optimisers
from linnet.train.released import steps_in_backward
from linnet.train.resources import check_main_memory, memory_now
from linnet.train.sharded import is_sharded, load_sharded, save_sharded, whole
from linnet.train.state import learnt, load_state, save_state


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


@runtime_checkable
class Validated(Protocol):
    """A task that measures itself on samples that it does not learn from."""

    def validate(self) -> dict[str, float]:
        """Named losses; the model holds its averaged weights meanwhile."""
        ...


@dataclass(frozen=True)
class Best:
    """A file of the averaged weights at the lowest held-out loss so far. What that was is in the log, so a run that
    goes on needs no state of its own for it."""

    path: Path
    write: Callable[[Path], object]


REMEDY = "use a smaller batch, fewer frames, a smaller rank, or a lower `vram`, which keeps less in memory"


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
    described: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
    best: Best | None = None,
    released: bool = False,
) -> dict[str, Tensor]:
    """Run (or go on) to `config.steps`; the averaged weights, of parameters that are frozen none.

    `folder` keeps `state.safetensors` (to resume), `log.jsonl` and TensorBoard's events, and `samples/`. A folder that
    was begun with another configuration raises InvalidInput; so does one of another `described`, which says in JSON
    values what else the run depends on. `stop_at` ends early, with the state saved. With `minutes` the run ends when
    they are over, and the rate rises and falls in that time, whatever the run before it did: such a run is not repeated
    number for number. `ranks` train together. `released`: gradients are let go within the backward pass (see there),
    which changes no number.
    """
    make_folder(folder)
    if ranks.main:
        check_folder(folder)
        _same_config(folder / "config.json", config, described or {})
    ranks.wait()
    run = _Run(task, config, folder, device, ranks, best, released)
    log = Log(folder, run.done) if ranks.main else None
    last = min(config.steps, stop_at or config.steps)
    spent, first = _spent(minutes), run.done
    clock, since = time.monotonic(), run.done
    while run.done < last:
        share = spent()
        rate = config.rate(run.done) if minutes is None else config.rate_within(run.done - first, share)
        numbers = run.step(rate)
        done, ends = run.done, run.done == last or spent() >= 1
        final = done == config.steps or (ends and minutes is not None)
        reported = done % config.log_every == 0 or ends
        pace = (time.monotonic() - clock) / (done - since)
        numbers = {name: float(value) for name, value in numbers.items()} if reported else {}
        if config.validate_every and (final or done % config.validate_every == 0):
            numbers |= run.validate()
        if log and numbers:
            log.write(done, numbers, pace)
        if reported and ranks.main:
            watch(Report(done, config.steps, {**numbers, **memory_now(device)}, pace))
        if reported:
            clock, since = time.monotonic(), done
        if done % config.checkpoint_every == 0 or ends:
            run.save()
        if final or done % config.sample_every == 0:
            begun = time.monotonic()
            run.sample()
            clock += time.monotonic() - begun
        if ends:
            break
    if log:
        log.close()
    return run.average or learnt(run.model)


class _Run:
    """What changes from step to step. `done`: the steps that are behind it, those of an earlier process among them."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        device: str,
        ranks: Ranks,
        best: Best | None,
        released: bool,
    ) -> None:
        self.released = released
        self.task, self.config, self.folder, self.device, self.ranks = task, config, folder, device, ranks
        self.model = task.model.to(device).train()
        self.optimisers = make_optimisers(self.model, config)
        self.average: dict[str, Tensor] = {}
        if config.ema:
            self.average = {name: value.detach().clone() for name, value in learnt(self.model).items()}
        self.sharded = is_sharded(self.model)
        self.best, self.lowest = best, float("inf")
        self.state = folder / ("state" if self.sharded else "state.safetensors")
        self.done = 0
        if self.sharded:
            self.done = load_sharded(
                self.state, model=self.model, average=self.average, optimisers=self.optimisers
            )
        elif self.state.exists():
            self.done = load_state(
                self.state, model=self.model, average=self.average, optimisers=self.optimisers
            )

        if best and best.path.exists():
            self.lowest = lowest(folder, "held_out", self.done)

    def step(self, rate: float) -> dict[str, Tensor | float]:
        """One step of the optimisers at this share of their rates; its loss and other numbers."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
        # For what draws from torch's own generator, as optimisers do that round at random.
        torch.manual_seed(randomness(self.config.seed, self.done)[0].getrandbits(60) + self.ranks.rank)
        with self._explained():
            if self.released:
                with steps_in_backward(self.optimisers) as norms:
                    loss, numbers = self._gradients()
                norm = torch.linalg.vector_norm(torch.stack(norms))
            else:
                loss, numbers = self._gradients()
                norm = self._take_step()
        self.done += 1
        if self.average:
            update_average(self.average, self.model, min(self.config.ema, self.done / (self.done + 9)))
        return {"loss": self.ranks.sum(loss), **numbers, "gradient": norm, "rate": rate}

    def _take_step(self) -> Tensor:
        """By all gradients together; their norm before it was clipped."""
        learning = [p for p in self.model.parameters() if p.requires_grad]
        if not self.sharded:
            self.ranks.sum_gradients(learning)
        norm = nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(learning, self.config.clip_norm, norm)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        return whole(norm)

    def _gradients(self) -> tuple[Tensor, dict[str, float]]:
        """Of the step's microbatches, whose losses are averaged; the numbers are the last one's."""
        config, kind = self.config, torch.device(self.device).type
        total, numbers = torch.zeros((), device=self.device), dict[str, float]()
        for index in range(self.done * config.accumulation, (self.done + 1) * config.accumulation):
            rng, generator = randomness(config.seed, index, self.device)
            with torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16"):
                loss, numbers = self.task.loss(index, rng, generator)
            loss = loss / config.accumulation
            loss.backward()
            total += loss.detach()
        return total, numbers

    def save(self) -> None:
        state: dict[str, Any] = {
            "step": self.done,
            "model": self.model,
            "average": self.average,
            "optimisers": self.optimisers,
        }
        if self.sharded:
            save_sharded(self.state, **state, ranks=self.ranks)
        elif self.ranks.main:
            save_state(self.state, **state)
        self.ranks.wait()

    @property
    def takes_part(self) -> bool:
        """In what one process can do alone, unless the model is spread over all."""
        return self.ranks.main or self.sharded

    def validate(self) -> dict[str, float]:
        if not (self.takes_part and isinstance(self.task, Validated)):
            return {}
        with averaged(self.model, self.average), torch.inference_mode(), self._explained():
            numbers = self.task.validate()
            if self.best and numbers and numbers["held_out"] < self.lowest:
                self.lowest = numbers["held_out"]
                self.best.write(self.best.path)
            return numbers

    def sample(self) -> None:
        if self.takes_part:
            with averaged(self.model, self.average), torch.inference_mode(), self._explained():
                self.task.sample(self.folder / "samples", self.done)
        self.ranks.wait()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Memory that runs out, told with the step and what to change; the last saved state stays."""
        check_main_memory(self.done, self.folder)
        try:
            yield
        except Exception as error:
            if not out_of_memory(error):
                raise
            reason = one_line(error)[:120]
        else:
            return
        free_memory(torch.device(self.device))
        problem = (
            f"ran out of memory in step {self.done + 1} ({reason}); the last saved state is in {self.folder}"
        )
        raise InvalidInput("device", self.device, problem, REMEDY)


def _spent(minutes: float | None) -> Callable[[], float]:
    """The share of the minutes that is over, counted from here; always 0 where there is no limit."""
    began = time.monotonic()
    return lambda: (time.monotonic() - began) / (60 * minutes) if minutes else 0.0


def randomness(seed: int, step: int, device: str = "cpu") -> tuple[random.Random, torch.Generator]:
    """Two generators that depend on the seed and the step alone."""
    return drawn_from(f"{seed}/{step}", device)


def drawn_from(key: str, device: str = "cpu") -> tuple[random.Random, torch.Generator]:
    mixed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return random.Random(mixed), torch.Generator(device).manual_seed(mixed)


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    values = learnt(model)
    get_ema_multi_avg_fn(decay)([average[name] for name in values], list(values.values()), 0)


class averaged:
    """While inside, the model holds the averaged weights, or where there is no average, its own; others that are put
    into it meanwhile are gone afterwards."""

    def __init__(self, model: nn.Module, average: dict[str, Tensor]) -> None:
        self.model, self.average = model, average

    def __enter__(self) -> None:
        self.own = {name: value.clone() for name, value in learnt(self.model).items()}
        self._hold(self.average or self.own)
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self._hold(self.own)
        self.model.train()

    @torch.no_grad()
    def _hold(self, values: dict[str, Tensor]) -> None:
        for name, value in learnt(self.model).items():
            value.copy_(values[name])


def _same_config(path: Path, config: LoopConfig, described: Mapping[str, Any]) -> None:
    """Note the configuration, or check that the run was begun with it."""
    now = json.loads(json.dumps({**asdict(config), **described}))
    if not path.exists():
        write_text(path, json.dumps(now, indent=1))
        return
    remedy = "name another --output, or put the file back as it was"
    begun = read_object(read_text(path), field="config", value=path, remedy=remedy)
    usual = json.loads(
        json.dumps({f.name: f.default for f in fields(LoopConfig) if f.default is not MISSING})
    )
    for name, value in now.items():
        if name.endswith("_every"):
            continue  # how often something is written changes no number
        if (before := begun.get(name, usual.get(name))) != value:  # earlier versions wrote fewer fields
            raise InvalidInput(
                name,
                value if isinstance(value, str) else json.dumps(value),
                f"the run in {path.parent} was begun with {json.dumps(before)}",
                "use another --output folder, or the same setting",
            )

"""The transformer's passes on several processes, each with a card of its own, or all on the CPU.

This process does all else: text, sampling, guidance, decoding. The others hold a transformer each and compute the
passes that they are handed (see `linnet.multi_gpu`). What to do goes to them as lines through a pipe, so that they end
with this process however it ends; tensors go by torch.distributed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed as dist

from linnet.errors import DeviceLost, one_line
from linnet.models.transformer import TextContext
from linnet.runtime.parallel import Ring
from linnet.sampling.denoise import GuidedVelocity, Latents, Model

Split = Literal["guidance", "tokens"]
TEXTS = 4  # whose keys and values each process keeps
PATIENCE = timedelta(days=1)  # for a pass; a process that dies is noticed by its pipe
GRACE = 5.0  # seconds that a process has to end by itself


Share = Callable[[int], Any] | None  # a transformer's: which of so many tokens are this process's; None: all
# One pass of the transformer here.
Run = Callable[[Latents, float, TextContext, Share], Latents]


def join(rank: int, size: int, meet: str, device: str) -> None:
    """Meet the other processes; `meet` is a file that they share."""
    kind = "nccl" if device.startswith("cuda") else "gloo"
    if kind == "nccl":
        torch.cuda.set_device(torch.device(device))
    dist.init_process_group(kind, init_method=f"file://{meet}", rank=rank, world_size=size, timeout=PATIENCE)


@dataclass(frozen=True)
class Groups:
    """Who computes which pass. `guidance`: the first half the prompt's, the second half the negative's; within a half,
    or among all, tokens are shared out."""

    split: Split
    halves: tuple[range, ...]
    shares: tuple[Ring | None, ...]

    @classmethod
    def among(cls, size: int, split: Split) -> "Groups":
        """Every process has to call this alike."""
        half = size // 2 if split == "guidance" else size
        halves = tuple(range(start, start + half) for start in range(0, size, half))
        groups: list[Any] = [dist.new_group(half) for half in halves]
        return cls(split, halves, tuple(Ring(group) if half > 1 else None for group in groups))

    def of(self, rank: int) -> int:
        return next(number for number, half in enumerate(self.halves) if rank in half)


@dataclass(kw_only=True)
class Helper:
    """One of the other processes, and the file of what it says beside its answers."""

    process: "subprocess.Popen[str]"
    errors: Path

    def tell(self, **command: Any) -> None:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise self.gone() from None

    def hear(self) -> None:
        """Wait until it has done what it was told last."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self.gone()
        answer = json.loads(line)
        if problem := answer.get("error"):
            raise DeviceLost(
                f"a process of --gpus failed ({one_line(problem)}); run it again, or with fewer gpus"
            )

    def last_words(self) -> DeviceLost:
        """Of a process that has ended: its own, which may lie behind other answers."""
        try:
            while True:
                self.hear()
        except DeviceLost as error:
            return error

    def gone(self) -> DeviceLost:
        self.process.wait()
        last = one_line(self.errors.read_text("utf-8", "replace")[-300:])
        ended = f"ended with status {self.process.returncode}"
        return DeviceLost(f"a process of --gpus {ended} ({last}); run it again, or with fewer gpus")


@dataclass(kw_only=True)
class Processes:
    """This process, the first, and its helpers, which start when they are first needed: `command` gives the words that
    start the one of a rank, told the file to meet at."""

    devices: Sequence[str]
    split: Split
    command: Callable[[int, str], list[str]]
    helpers: list[Helper] = field(default_factory=list)
    groups: Groups | None = None
    _folder: Any = None
    _texts: list[TextContext] = field(default_factory=list)
    _follows: Mapping[str, Any] | None = None

    @property
    def size(self) -> int:
        return len(self.devices)

    def record(self) -> dict[str, Any]:
        """What a clip says of it."""
        return {"count": self.size, "split": self.split}

    def start(self) -> None:
        """Start the helpers, and meet."""
        self._folder = tempfile.TemporaryDirectory(prefix="linnet-")
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are here, also where no name resolves
        meet = str(Path(self._folder.name) / "meet")
        for rank in range(1, self.size):
            errors = Path(self._folder.name) / f"{rank}.txt"
            with errors.open("wb") as file:
                process = subprocess.Popen(
                    self.command(rank, meet),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    start_new_session=True,  # Ctrl-C in a terminal is for this process alone, which ends them
                )
            self.helpers.append(Helper(process=process, errors=errors))
        for helper in self.helpers:
            helper.hear()  # it has imported all, and is about to meet
        join(0, self.size, meet, self.devices[0])
        self.groups = Groups.among(self.size, self.split)

    def follow(self, **plan: Any) -> None:
        """Have each helper read the weights for what comes."""
        if plan == self._follows:
            return
        if self.groups is None:
            self.start()
        for helper in self.helpers:
            helper.tell(do="follow", **plan)
        for helper in self.helpers:
            helper.hear()
        self._follows, self._texts = plan, []

    def close(self) -> None:
        """End the helpers; nothing, if there are none."""
        for helper in self.helpers:
            with suppress(OSError):
                assert helper.process.stdin is not None
                helper.process.stdin.close()  # by which it ends
        for helper in self.helpers:
            try:
                helper.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                helper.process.kill()
                helper.process.wait()
        self.helpers, self.groups, self._follows, self._texts = [], None, None, []
        if dist.is_initialized():
            dist.destroy_process_group()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # --- passes -------------------------------------------------------------------------------------------------------

    def shared(self, alone: Callable[..., Latents], run: Run) -> "SharedPass":
        """The transformer as a model whose passes are shared; `alone` runs one that is not, and may try again."""

        def either(latents: Latents, timestep: float, text: TextContext, share: Share) -> Latents:
            return alone(latents, timestep, text) if share is None else run(latents, timestep, text, share)

        return SharedPass(self, either)

    def apart(self, model: Model, **parts: Any) -> "ApartVelocity | None":
        """Guidance whose two passes run at the same time, where that is how they are shared out; `parts` as for
        GuidedVelocity."""
        if isinstance(model, SharedPass) and self.split == "guidance":
            return ApartVelocity(model=model, **parts, shared=model)
        return None

    def single_pass(self, run: Run, latents: Latents, timestep: float, text: TextContext) -> Latents:
        """A single pass: its tokens are shared out among this process's half, or among all."""
        assert self.groups is not None
        share = self.groups.shares[0]
        if share is None:
            return run(latents, timestep, text, None)
        with self._explained():
            self._hand_out(latents, timestep, [text])
            result = run(latents, timestep, text, share)
            self._heard(range(1, len(self.groups.halves[0])))
            return result

    def pair(
        self,
        run: Run,
        latents: Latents,
        timestep: float,
        prompt: TextContext,
        negative: TextContext,
    ) -> tuple[Latents, Latents]:
        """The prompt's pass and the negative's, at the same time."""
        assert self.groups is not None
        if len(self.groups.halves) == 1:
            return self.single_pass(run, latents, timestep, prompt), self.single_pass(
                run, latents, timestep, negative
            )
        with self._explained():
            self._hand_out(latents, timestep, [prompt, negative])
            cond = run(latents, timestep, prompt, self.groups.shares[0])
            self._heard(range(1, self.size))
            uncond = torch.empty_like(cond)
            dist.recv(uncond, src=self.groups.halves[1].start)
            return cond, uncond

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What torch says of a connection that broke becomes what its process said, or how that ended."""
        try:
            yield
        except RuntimeError as error:
            for helper in self.helpers:
                with suppress(subprocess.TimeoutExpired):
                    helper.process.wait(1.0)
                    raise helper.last_words() from error
            raise

    def _hand_out(self, latents: Latents, timestep: float, texts: Sequence[TextContext]) -> None:
        """The pass of texts[0] to the first half, of texts[1], if there is one, to the second."""
        for text in texts:
            self._know(text)
        numbers = [next(n for n, known in enumerate(self._texts) if known is text) for text in texts]
        given = {"latents": list(latents.shape), "timestep": timestep}
        for helper in self.helpers:
            helper.tell(do="pass", texts=numbers, **given)
        dist.broadcast(latents.float().contiguous(), src=0)

    def _know(self, text: TextContext) -> None:
        """Send a text's keys and values to all, once; the oldest is forgotten."""
        if any(known is text for known in self._texts):
            return
        tensors = [*text.keys, *text.values, text.bias]
        shapes = [[list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for tensor in tensors]
        for helper in self.helpers:
            helper.tell(do="text", shapes=shapes)
        for tensor in tensors:
            dist.broadcast(tensor.contiguous(), src=0)
        self._texts = [*self._texts, text][-TEXTS:]

    def _heard(self, ranks: range) -> None:
        for rank in ranks:
            self.helpers[rank - 1].hear()


@dataclass(frozen=True)
class SharedPass:
    """A model, as sampling sees one, whose passes are shared by all processes."""

    processes: Processes
    run: Run

    def __call__(self, latents: Latents, timestep: float, text: TextContext) -> Latents:
        return self.processes.single_pass(self.run, latents, timestep, text)


@dataclass(kw_only=True)
class ApartVelocity(GuidedVelocity):
    """Guided by two passes at the same time."""

    shared: SharedPass

    def _in_turn(self, latents: Latents, timestep: float) -> tuple[Latents, Latents]:
        return self.shared.processes.pair(self.shared.run, latents, timestep, self.prompt, self.negative)

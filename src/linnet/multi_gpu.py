"""Several cards for one clip: the helpers' side, and how a pipeline gets them.

Run as `python -m linnet.multi_gpu JSON`, it is a helper: it reads what to do from its standard input, a line each, and
ends when that ends.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnet.catalog import find
from linnet.errors import InvalidInput, one_line
from linnet.pipeline import Pipeline
from linnet.plan.execution import ExecutionConfig
from linnet.plan.plan import Plan
from linnet.plan.several import faster_split
from linnet.request import Request
from linnet.runtime.device import resolve_device
from linnet.runtime.processes import TEXTS, Groups, Processes, Split, join
from linnet.weights.store import ModelFiles
from linnet.wording import format_bytes, format_count


def check_gpus(count: int, device: str | None, *, field: str = "gpus") -> list[str]:
    """The devices of so many processes, from the asked one on; InvalidInput if there are not so many. Only where the
    CPU is asked for by name they are processes that share it."""
    import torch

    if count < 1:
        raise InvalidInput(field, count, "is not a number of GPUs", "use 1 or more")
    on_cpu = "add `device=cpu` to try it with processes"
    name = resolve_device(device or "auto")
    kind, _, index = name.partition(":")
    if kind == "cpu" and (count == 1 or device == "cpu"):
        cores = os.cpu_count() or 1
        if count > cores:
            raise InvalidInput(
                field, count, f"the CPU has {format_count(cores, 'core')}", f"use {cores} or fewer"
            )
        return ["cpu"] * count
    if kind == "cpu":
        raise InvalidInput(field, count, "this machine has no GPU", f"leave it out, or {on_cpu}")
    first, there = int(index or 0), torch.cuda.device_count() if kind == "cuda" else 1
    if first + count > there:
        have = format_count(there - first, "GPU")
        problem = f"this machine has {have}{f' from {name} on' if first else ''}"
        raise InvalidInput(field, count, problem, f"use {there - first} or fewer, or {on_cpu}")
    return [f"{kind}:{first + number}" for number in range(count)] if count > 1 else [name]


def attach(pipeline: Pipeline, count: int, plan: Plan, *, device: str | None) -> str:
    """Let helpers share the passes of a pipeline, in the way that is the faster for the plan's request. They start with
    its first clip, and its `unload` ends them. `device` is what was asked for. A note for the person."""
    machine, model = pipeline.machine, pipeline.model
    devices = check_gpus(count, device)
    system = plan.budget.system
    if plan.workload.on_cpu and system is not None and count * plan.peak_system_bytes > system:
        problem = f"need {format_bytes(count * plan.peak_system_bytes)} of main memory: each has the model"
        raise InvalidInput("gpus", count, problem, f"use {max(1, system // plan.peak_system_bytes)}")
    split = faster_split(plan.request, count)
    settings = {
        "size": count,
        "split": split,
        "model": pipeline.spec.name,
        "files": {name: str(path) for name, path in vars(model.files).items()},
        "lora_folder": str(model.lora_folder) if model.lora_folder else None,
        "dtype": machine.dtype,
        "threads": max(1, machine.threads // count) if machine.device == "cpu" else machine.threads,
    }

    def command(rank: int, meet: str) -> list[str]:
        own = {"rank": rank, "device": devices[rank], "meet": meet}
        return [sys.executable, "-m", "linnet.multi_gpu", json.dumps(settings | own)]

    pipeline.runner.processes = Processes(devices=devices, split=split, command=command)
    what = "processes share the CPU, which makes nothing faster" if devices[0] == "cpu" else "GPUs"
    how = "a guided step's two passes apart" if split == "guidance" else "the tokens of each pass shared out"
    return f"note: {count} {what}: {how}"


# --- a helper ---------------------------------------------------------------------------------------------------------


class PassHelper:
    """Computes passes with a transformer of its own."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from linnet.runtime.machine import resolve_machine

        self.settings, self.rank = settings, int(settings["rank"])
        self.spec = find(settings["model"])
        self.files = ModelFiles(**{name: Path(path) for name, path in settings["files"].items()})
        self.machine = resolve_machine(
            settings["device"], dtype=settings["dtype"], threads=settings["threads"]
        )
        self.pipeline: Pipeline | None = None
        self.texts: list[Any] = []

    def meet(self) -> None:
        join(self.rank, self.settings["size"], self.settings["meet"], self.settings["device"])
        split: Split = self.settings["split"]
        self.groups = Groups.among(self.settings["size"], split)

    def follow(self, request: Mapping[str, Any], execution: Mapping[str, Any], attention: str) -> None:
        """Read the weights for passes of such requests."""
        if self.pipeline is not None:
            self.pipeline.unload()
        self.pipeline = Pipeline.open(
            self.spec,
            self.files,
            self.machine,
            cache=False,
            execution=ExecutionConfig(**execution),
            attention=attention,
        )
        own = Request.from_json(request)
        folder = self.settings["lora_folder"]
        self.pipeline.model.lora_folder = Path(folder) if folder else None
        self.pipeline.model.use_loras(own.loras)
        self.run = self.pipeline.runner.forward(own)
        _ = self.pipeline.model.transformer
        self.texts = []

    def text(self, shapes: list[Any]) -> None:
        import torch
        from torch import distributed as dist

        from linnet.models.transformer import TextContext

        tensors = []
        for shape, dtype in shapes:
            tensors.append(torch.empty(shape, dtype=getattr(torch, dtype), device=self.machine.device))
            dist.broadcast(tensors[-1], src=0)
        half = (len(tensors) - 1) // 2
        text = TextContext(tuple(tensors[:half]), tuple(tensors[half:-1]), tensors[-1])
        self.texts = [*self.texts, text][-TEXTS:]

    def forward(self, texts: list[int], latents: list[int], timestep: float) -> bool:
        """Whether it had a part in the pass; its result is sent by `send`."""
        import torch
        from torch import distributed as dist

        given = torch.empty(latents, device=self.machine.device)
        dist.broadcast(given, src=0)
        group = self.groups.of(self.rank)
        if group >= len(texts):
            return False
        with torch.inference_mode():
            text, share = self.texts[texts[group]], self.groups.shares[group]
            self.result = self.run(given, timestep, text, share)
        return True

    def send(self) -> None:
        """To the first process, if that has no part in this half."""
        from torch import distributed as dist

        half = self.groups.halves[self.groups.of(self.rank)]
        if 0 not in half and self.rank == half.start:
            dist.send(self.result.contiguous(), dst=0)


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def main() -> None:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the first process is gone, whatever this one is at

    threading.Thread(target=listen, daemon=True).start()
    try:
        helper = PassHelper(json.loads(sys.argv[1]))
        say(ready=True)
        helper.meet()
        while True:
            command = json.loads(lines.get())
            do = command.pop("do")
            if do == "follow":
                helper.follow(**command)
                say(done=do)
            elif do == "text":
                helper.text(**command)
            elif helper.forward(**command):
                say(done=do)
                helper.send()
    except BaseException as error:
        say(error=f"{type(error).__name__}: {one_line(error)[:300]}")
        os._exit(1)


if __name__ == "__main__":
    main()

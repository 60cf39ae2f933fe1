"""The rows of gpu_evidence.py, each measured in a process of its own."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from linnet import media
from linnet.catalog import CATALOG, SEEDLING
from linnet.errors import InvalidInput
from linnet.models.fp8 import product_in_fp8, scaled_rows
from linnet.models.norm_silu import norm_silu, slow
from linnet.pipeline import Pipeline
from linnet.plan.execution import ExecutionConfig
from linnet.plan.host import ALLOWANCES, Budget, host_memory
from linnet.plan.machine import Machine
from linnet.plan.passes import forwards
from linnet.plan.plan import SizedModel
from linnet.request import HOLD, Request, make_request
from linnet.runtime.attention import NEVER, Work, candidates, timed
from linnet.runtime.device import check_fp8, limit_memory
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import ModelFiles, resolve

PROMPT = "a linnet lands on a stalk of flax"
GB = 1_000_000_000
TEXT_ROWS = 20  # of made-up text states
STEADY = 5  # latent frames after which decoding takes no more memory
ROUNDS = 3
SMALL, LARGE = "linum-v2-360p", "linum-v2-720p"
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "plain": {"convolutions": "plain"},
    "weights with channels last": {"convolutions": "channels_last"},
    "the fastest of cuDNN's": {"convolutions": "searched"},
    "and norms fused": {"convolutions": "searched", "fused_norms": True},
}
# Of 50 steps those that ask the model, from 0: ten guided ones, of two passes each, and ten that are not guided.
ASKED = (0, 1, 4, 6, 9, 12, 14, 17, 20, 22, 25, 28, 30, 33, 36, 38, 41, 44, 46, 49)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`says` is what its seconds are of."""

    name: str
    what: str
    says: str
    model: str = SMALL
    seconds: float = 2
    settings: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    vram: int | None = None


def fast(steps: int = 50) -> dict[str, Any]:
    """Half of the steps guided, and a frozen list of the steps that do without the model."""
    skipped = sorted(set(range(steps)) - set(ASKED)) if steps == 50 else [steps - 2]
    return {
        "steps": steps,
        "guidance_until": 0.5,
        "reuse": HOLD + ",".join(str(step + 1) for step in skipped),
    }


class Bench:
    """`rehearse`: with seedling, or the model in `folder`, and small, on any device."""

    def __init__(
        self, case: Case, folder: Path | None, device: str, *, rehearse: bool, dumps: Path | None = None
    ) -> None:
        self.case, self.device, self.rehearse, self.dumps = case, device, rehearse, dumps
        self.cuda = device.startswith("cuda")
        self.spec = SEEDLING if rehearse else CATALOG[case.model]
        self.files: ModelFiles = resolve(self.spec, weights=folder)
        settings: dict[str, Any] = {"seconds": case.seconds, **case.settings}
        if rehearse:
            settings = {"seconds": 0.5, **(fast(4) if case.settings else {"steps": 4})}
        self.request: Request = make_request(self.spec, prompt=PROMPT, seed=1, dtype="bfloat16", **settings)

    def machine(self, budget: Budget | None = None) -> Machine:
        found = resolve_machine(self.device, dtype="bfloat16")
        return replace(found, budget=budget) if budget else found

    def open(self, *, budget: Budget | None = None, **execution: Any) -> Pipeline:
        """With made-up text states, so that no text encoder is needed; `execution` as settings that are decided."""
        if execution and self.cuda:
            execution = {"compiled": True, "convolutions": "channels_last", **execution}
        fixed = ExecutionConfig(**execution) if execution else None
        pipeline = Pipeline.open(self.spec, self.files, self.machine(budget), execution=fixed)
        model, made = pipeline.model, torch.Generator().manual_seed(0)
        states = torch.randn(TEXT_ROWS, model.transformer_config.text_dim, generator=made).to(model.device)
        model.text_states = lambda *prompts, **more: [states.to(model.dtype)] * len(prompts)  # type: ignore[method-assign]
        return pipeline

    def wait(self) -> float:
        """The time, once the device has done all it was told."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> int | None:
        return torch.cuda.max_memory_reserved() if self.cuda else None

    # --- rows -----------------------------------------------------------------------------------------------------

    def micro(self) -> dict[str, Any]:
        """Attention, products and convolutions at Linum's shapes; TFLOP/s, or None where the device cannot."""
        start, dtype = self.wait(), torch.bfloat16
        found: dict[str, Any] = {"attention": [], "products": [], "convolutions": []}
        for tokens in (64, 96) if self.rehearse else (11_960, 28_520, 46_800, 111_600):
            for batch in (1, 2):
                work = Work(batch, 13, tokens, 128)
                shape = (batch, tokens, 13, 128)
                heads = [
                    torch.randn(shape, device=self.device, dtype=dtype).transpose(1, 2) for _ in range(3)
                ]
                flops = 4 * batch * 13 * 128 * tokens**2
                ways = {
                    name: self.rate(flops, lambda way=way, heads=heads: way(*heads))
                    for name, way in candidates(torch.device(self.device), work).items()
                }
                found["attention"].append({"tokens": tokens, "batch": batch, **ways})
        rows = 64 if self.rehearse else 11_960
        for inward, outward in ((1664, 1664), (1664, 8192), (8192, 1664)):
            x, weight = (torch.randn(size, inward, device=self.device).to(dtype) for size in (rows, outward))
            flops = 2 * rows * inward * outward
            plain = self.rate(flops, lambda x=x, weight=weight: x @ weight.t())
            narrow, scale = scaled_rows(weight)

            def eight(x: torch.Tensor = x, narrow: Any = narrow, scale: Any = scale) -> object:
                return product_in_fp8(*scaled_rows(x), narrow, scale, None)

            fp8 = self.rate(flops, eight) if self.can_fp8() else None
            found["products"].append({"size": f"{inward}x{outward}", "bfloat16": plain, "fp8": fp8})
        side = (9, 16) if self.rehearse else (360, 640)
        for kind in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last_3d):
                conv = torch.nn.Conv3d(96, 96, 3, padding=(0, 1, 1), device=self.device, dtype=kind)
                conv.weight.data = conv.weight.data.contiguous(memory_format=layout)
                x = torch.randn(1, 96, 6, *side, device=self.device, dtype=kind).to(memory_format=layout)
                flops = 2 * 27 * 96 * 96 * 4 * side[0] * side[1]
                name = f"{str(kind).removeprefix('torch.')}, {str(layout).removeprefix('torch.')}"
                found["convolutions"].append(
                    {"what": name, "rate": self.rate(flops, lambda c=conv, x=x: c(x))}
                )
        found["norm_silu_ms"] = self.norm_silu(side)
        return {"seconds": self.wait() - start, **found}

    def norm_silu(self, side: tuple[int, int]) -> dict[str, float | None]:
        """Milliseconds of the autoencoder's norm and SiLU on four frames, by torch and as one kernel."""
        x = torch.randn(1, 96, 4, *side, device=self.device, dtype=torch.bfloat16)
        x, gamma = x.to(memory_format=torch.channels_last_3d), torch.ones(96, 1, 1, 1, device=self.device)
        found: dict[str, float | None] = {}
        for name, run in (("torch", slow), ("kernel", norm_silu)):
            times = [
                timed(lambda run=run: run(x, gamma), torch.device(self.device)) for _ in range(1 + ROUNDS)
            ]
            best = min(times[1:])
            found[name] = None if best == NEVER else round(1e3 * best, 3)
        return found

    def rate(self, flops: float, run: Callable[[], object]) -> float | None:
        """TFLOP/s, the best of a few after one."""
        times = [timed(run, torch.device(self.device)) for _ in range(1 + ROUNDS)]
        best = min(times[1:])
        return None if best == NEVER else round(flops / best / 1e12, 3)

    def can_fp8(self) -> bool:
        try:
            check_fp8(torch.device(self.device))
        except InvalidInput:
            return False
        return True

    def load(self) -> dict[str, Any]:
        parts = (self.files.transformer, self.files.autoencoder)
        for path in parts:
            with path.open("rb", buffering=0) as file:  # into the page cache
                while file.read(2**26):
                    pass
        size, start = sum(path.stat().st_size for path in parts), self.wait()
        pipeline = self.open()
        _ = pipeline.model.transformer, pipeline.model.autoencoder
        seconds = self.wait() - start
        return {"seconds": seconds, "bytes": size, "rate": size / seconds / 1e9, "peak_bytes": self.peak()}

    def encoder(self) -> dict[str, Any]:
        """A fixed clip of soft shapes that move, as the frames of random weights are noise, which takes x264 longer."""
        width, height = self.request.size
        wave = (
            np.sin(np.linspace(0, 9, width))[None, :, None] * np.cos(np.linspace(0, 7, height))[:, None, None]
        )
        still = ((wave + np.array([1.0, 1.2, 1.4])) * 60).astype(np.uint8)
        frames = np.stack([np.roll(still, 3 * i, axis=1) for i in range(self.request.frames)])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            start = time.perf_counter()
            with media.open_writer(path, width=width, height=height, fps=24, metadata={}) as writer:
                writer.write(frames)
            return {"seconds": time.perf_counter() - start, "file_bytes": path.stat().st_size}

    def decoding(self) -> dict[str, Any]:
        """The same few latent frames by each way to run the autoencoder, the best of a few after one."""
        start, ways, frames = self.wait(), dict[str, float](), 0
        width, height = self.request.size
        latents = torch.randn(1, 16, STEADY, height // 8, width // 8, device=self.device)
        for name, settings in AUTOENCODERS.items():
            pipeline, times = self.open(**settings), []
            for _ in range(1 + ROUNDS):
                before = self.wait()
                frames = sum(len(part) for part in pipeline.runner.decode(latents))
                times.append(self.wait() - before)
            ways[name] = round(min(times[1:]), 4)
            pipeline.unload()
        return {"seconds": self.wait() - start, "frames": frames, "ways": ways, "peak_bytes": self.peak()}

    def clip(self) -> dict[str, Any]:
        pipeline = self.open(**self.case.execution)
        # Every size that the clip needs is compiled and every library warm: guided steps, and one that is not.
        warm = replace(self.request, steps=4, guidance_until=0.5 if self.case.settings else 1.0, reuse="none")
        with tempfile.TemporaryDirectory() as folder:
            pipeline.generate(warm, Path(folder) / "warm.mp4")
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            clip = pipeline.generate(self.request, Path(folder) / "clip.mp4")
        row = {
            "seconds": sum(clip.seconds.values()) - clip.seconds["text"],
            "stages": clip.seconds,
            "overlapped": clip.overlapped,
            "steps": self.request.steps,
            "passes": sum(forwards(self.request)),
            "choices": clip.choices,
            "peak_bytes": self.peak(),
        }
        if self.case.name == "exact batched":
            row["profile"] = self.profiled(pipeline)
        return row

    def profiled(self, pipeline: Pipeline) -> list[dict[str, Any]]:
        """What one step's time went to, by kernel on a card, and by operator on a CPU."""
        steps = pipeline.runner.sample(self.request)
        next(steps)
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        with profile(activities=kinds) as seen:
            next(steps)
            self.wait()
        steps.close()  # pyright: ignore[reportAttributeAccessIssue]

        def own(event: Any) -> float:
            return event.self_device_time_total if self.cuda else event.self_cpu_time_total

        events = sorted(seen.key_averages(), key=own, reverse=True)
        total = sum(map(own, events)) or 1.0
        return [
            {
                "kernel": event.key[:80],
                "ms": own(event) / 1e3,
                "share": own(event) / total,
                "calls": event.count,
            }
            for event in events[:15]
        ]

    def step(self) -> dict[str, Any]:
        pipeline = self.open()
        pipeline.model.follow(pipeline.plan(self.request))
        times, last = [], self.wait()
        for step in pipeline.runner.sample(self.request):
            now = self.wait()
            times.append(now - last)
            last = now
            if step.index == 1:
                break
        return {
            "seconds": times[1],
            "steps_of_a_clip": self.spec.steps,
            "choices": pipeline.choices(),
            "peak_bytes": self.peak(),
        }

    def limit(self) -> dict[str, Any]:
        kind = "cuda" if self.cuda else "cpu"
        allowance, vram = ALLOWANCES[kind], self.case.vram or 0
        budget = Budget(device=vram if self.cuda else None, system=host_memory())
        plan = self.machine(budget).plan(SizedModel.of(self.spec, self.files), self.request)
        limit_memory(self.device, vram - allowance.device)
        pipeline = self.open(budget=budget)
        pipeline.model.follow(plan)
        with self.watched() as seen:
            start, latents = self.wait(), None
            for step in pipeline.runner.sample(self.request):
                latents = step.latents
                if step.index == 1:
                    break
            seconds = self.wait() - start
            assert latents is not None
            frames = sum(len(part) for part in pipeline.runner.decode(latents[:1, :, :STEADY]))
        peak = self.peak()
        return {
            "seconds": seconds,
            "planned_bytes": plan.peak_device_bytes,
            "peak_bytes": None if peak is None else peak + allowance.device,
            "decoded_frames": frames,
            "knobs": plan.execution.record() | {"resident_blocks": plan.execution.resident_blocks},
            "shrunk": pipeline.choices().get("shrunk"),
            **seen,
        }

    @contextmanager
    def watched(self) -> Iterator[dict[str, Any]]:
        """The retries of the allocator, and the most that was taken of the card by anyone, sampled; a dump of what was
        held when goes beside. Nothing of it where there is no card."""
        seen: dict[str, Any] = {}
        if not self.cuda:
            yield seen
            return
        done, free = threading.Event(), [torch.cuda.mem_get_info()[0]]
        before = free[0]

        def look() -> None:
            while not done.wait(0.02):
                free.append(torch.cuda.mem_get_info()[0])

        torch.cuda.memory._record_memory_history(max_entries=200_000)
        looker = threading.Thread(target=look)
        looker.start()
        try:
            yield seen
        finally:
            done.set()
            looker.join()
            seen["least_free_bytes"], seen["taken_bytes"] = min(free), before - min(free)
            seen["alloc_retries"] = torch.cuda.memory_stats()["num_alloc_retries"]
            if self.dumps:
                dump = self.dumps / f"{self.case.name.replace(' ', '_')}.pickle"
                torch.cuda.memory._dump_snapshot(str(dump))
                seen["dump"] = dump.name


def write_files(folder: Path) -> None:
    """Linum v2 of its true size with random weights; the text encoder's file has its header alone."""
    from linum_cpu import write_weights

    write_weights(folder, text=False)
    large = folder / CATALOG[LARGE].transformer_file  # the same network, for larger frames
    if not large.exists():
        large.symlink_to(Path(CATALOG[SMALL].transformer_file).name)

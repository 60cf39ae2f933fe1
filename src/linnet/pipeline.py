"""A request becomes a clip: text states, latents, frames, file, each stage handing a small record to the next."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from linnet import __version__, media
from linnet.catalog import ModelSpec
from linnet.clip import Clip, Image, Progress, Watch, ignore
from linnet.filesystem import StrPath, as_path
from linnet.loaded_model import LoadedModel
from linnet.model_runner import Frames, Latents, ModelRunner, after
from linnet.plan.execution import NOTHING_FIXED, ExecutionConfig, as_asked
from linnet.plan.machine import Machine
from linnet.plan.plan import Plan
from linnet.request import Request
from linnet.runtime.device import free_memory, out_of_memory
from linnet.runtime.machine import check_asked, occupy, resolve_machine
from linnet.sampling.denoise import Sampler, Step, denoise
from linnet.weights.store import ModelFiles


class Denoised(NamedTuple):
    """Clean latents, of each clip the steps (from 1) that did without the model, and the seconds of each stage."""

    latents: Latents
    skipped: list[list[int]]
    seconds: dict[str, float]


class Pipeline:
    """Makes clips with a loaded model."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner, self.model = runner, runner.model
        self.profile: Mapping[str, Any] | None = None  # the record of the one that the clips are made with

    @classmethod
    def open(
        cls,
        spec: ModelSpec,
        files: ModelFiles,
        machine: Machine | None = None,
        *,
        cache: bool = True,
        execution: ExecutionConfig | None = None,
        compiled: bool | None = None,
        fp8: bool | None = None,
        attention: str = "",
    ) -> Self:
        """Read the tokenizer and the headers of the weights; `machine` None: the CPU, in float32.

        `execution`: how to run, which is otherwise planned. `compiled`: whether the transformer's blocks are compiled
        when they first run; None: as planned, which is so on a card where it pays. `fp8`: whether their products are in
        FP8; None: no. InvalidInput where the device cannot do what is asked. WeightsError if the files do not hold
        exactly this model, known before a weight is read."""
        machine = machine or resolve_machine("cpu", dtype="float32")
        occupy(machine)
        fixed = as_asked(NOTHING_FIXED, compiled=compiled, fp8=fp8)
        check_asked(machine, as_asked(execution.fixed() if execution else fixed, compiled=compiled, fp8=fp8))
        model = LoadedModel(spec, files, machine, cache=cache, execution=execution, fixed=fixed)
        model.check_files()
        return cls(ModelRunner(model, attention=attention))

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def machine(self) -> Machine:
        return self.model.machine

    @property
    def model_hash(self) -> str:
        """A fingerprint of all weight files."""
        return self.model.model_hash

    def settled(self, request: Request) -> Request:
        """The request as a clip records it, with nothing left for the device to decide."""
        return self.model.settled(request)

    def plan(self, request: Request, *, clips: int = 1, encoded_frames: int = 0) -> Plan:
        """How the request will run (see `LoadedModel.plan`); InvalidInput if it does not fit."""
        return self.model.plan(request, clips=clips, encoded_frames=encoded_frames)

    def unload(self) -> None:
        """Free the model's memory. Its weights are read again when they are needed."""
        if self.runner.processes is not None:
            self.runner.processes.close()
        self.model.unload()

    def choices(self) -> dict[str, Any]:
        """What was decided here and changes a clip's bits, if only the last ones."""
        model = self.model
        execution = model.execution.record()
        return {
            "device": model.device.type,
            "threads": torch.get_num_threads(),
            "attention": self.runner.attention_used,
            **({"compiled": True} if model.execution.compiled else {}),
            **({"processes": self.runner.processes.record()} if self.runner.processes else {}),
            **({"profile": dict(self.profile)} if self.profile else {}),
            **({"knobs": execution} if execution else {}),
            **({"shrunk": model.shrunk} if model.shrunk else {}),
        }

    # --- the whole way --------------------------------------------------------------------------------------------

    def generate(
        self,
        request: Request,
        output: StrPath,
        *,
        overwrite: bool = False,
        watch: Watch = ignore,
        sampler: Sampler = denoise,
        direction: Mapping[str, Any] | None = None,
    ) -> Clip:
        """Make the request's clip at `output`, which appears there when it is complete.

        Another `sampler` than plain denoising is said in `direction`, for the clip's record (see direct.samplers).
        """
        (clip,) = self.generate_batch(
            request,
            {request.seed: output},
            overwrite=overwrite,
            watch=watch,
            sampler=sampler,
            direction=direction,
        )
        return clip

    def generate_batch(
        self,
        request: Request,
        outputs: Mapping[int, StrPath],
        *,
        overwrite: bool = False,
        watch: Watch = ignore,
        sampler: Sampler = denoise,
        direction: Mapping[str, Any] | None = None,
    ) -> list[Clip]:
        """One clip for each seed of `outputs`, denoised together: faster than one by one where they are small."""
        for path in outputs.values():
            media.check_target(as_path(path, "output"), size=request.size, overwrite=overwrite)
        plan = self.plan(request, clips=len(outputs))
        return self.run(plan, outputs, overwrite=overwrite, watch=watch, sampler=sampler, direction=direction)

    def run(
        self,
        plan: Plan,
        outputs: Mapping[int, StrPath],
        *,
        overwrite: bool = False,
        watch: Watch = ignore,
        sampler: Sampler = denoise,
        direction: Mapping[str, Any] | None = None,
    ) -> list[Clip]:
        """Make the clips of a plan, one for each seed of `outputs`, in the way that it says."""
        request = plan.request
        paths = {seed: as_path(path, "output") for seed, path in outputs.items()}
        for path in paths.values():
            media.check_target(path, size=request.size, overwrite=overwrite)
        made = self.latents(plan, seeds=list(paths), sampler=sampler, watch=watch)
        clips = []
        for index, (seed, path) in enumerate(paths.items()):
            own, latents = replace(request, seed=seed), made.latents[index : index + 1]
            clip = self.record(path, own, direction=direction, seconds=made.seconds)
            if request.reuse != "none":
                clip.choices["reused"] = made.skipped[index]
            frames = partial(self.runner.decoded, own, latents, watch)
            clips.append(self.save(clip, frames, overwrite=overwrite, watch=watch))
        return clips

    def frames(
        self, plan: Plan, *, watch: Watch = ignore, sampler: Sampler = denoise
    ) -> Generator[Image, None, None]:
        """The frames of a plan's clip, one by one as they are decoded; no file is written. Nothing runs before the
        first is asked for."""
        given = 0
        made = self.latents(plan, sampler=sampler, watch=watch)
        stream: Iterator[Frames] | None = None

        def following() -> Frames | None:
            """The next ones. If memory runs out, decoding begins again by a smaller plan, after those `given`."""
            nonlocal stream
            stream = (
                after(given, self.runner.decoded(plan.request, made.latents, watch))
                if stream is None
                else stream
            )
            try:
                return next(stream, None)
            except BaseException:
                stream = None
                raise

        while (frames := self.model.retry_on_oom("decode", following, watch)) is not None:
            given += len(frames)
            yield from frames

    def latents(
        self,
        plan: Plan,
        *,
        seeds: Sequence[int] | None = None,
        sampler: Sampler = denoise,
        steps: Callable[[], Iterator[Step]] | None = None,
        prompts: Sequence[str] = (),
        watch: Watch = ignore,
    ) -> Denoised:
        """Follow a plan up to the clean latents: of one clip for each seed (the request's own when None), which
        `sampler` takes from noise to clip; or those that `steps` lead to, which see `prompts` too."""
        model, request, seconds = self.model, plan.request, dict[str, float]()
        model.on_load = watch
        model.follow(plan)
        prompts = (request.prompt, request.negative, *prompts)
        with timed(seconds, "text"):
            watch(Progress("text", 0, 1))
            model.retry_on_oom("text", lambda: model.text_states(*prompts, watch=watch), watch)
            watch(Progress("text", 1, 1))

        def sample(group: Sequence[int], skipped: list[int]) -> Iterator[Step]:
            return steps() if steps else self.runner.sample(request, group, skipped, watch, sampler)

        with timed(seconds, "denoise"):
            latents, skipped = self._denoise(request, sample, seeds or [request.seed], watch)
        return Denoised(latents, skipped, seconds)

    def _denoise(
        self,
        request: Request,
        sample: Callable[[Sequence[int], list[int]], Iterator[Step]],
        seeds: Sequence[int],
        watch: Watch,
    ) -> tuple[Latents, list[list[int]]]:
        """Each seed's clean latents, and the steps (from 1) of it that did without the model."""
        # Clips that decide for themselves which steps to leave out go one by one: none decides for its neighbours.
        groups = [[seed] for seed in seeds] if request.step_cache.adaptive else [list(seeds)]
        total, denoised, skipped, model = request.steps * len(groups), [], [], self.model
        model.offload_autoencoder()
        model.retry_on_oom(
            "denoise", lambda: model.transformer, watch
        )  # before denoising is said to have begun
        watch(Progress("denoise", 0, total))
        shape = request.size, request.window or request.frames, len(groups[0])
        compiles = model.execution.compiled and shape not in model.compiled_shapes
        if compiles:
            watch(Progress("compile", 0, 1))
        for number, group in enumerate(groups):
            left_out: list[int] = []
            latents = None
            for step in sample(group, left_out):
                latents = step.latents
                if compiles:
                    compiles = False
                    model.compiled_shapes.add(shape)
                    watch(Progress("compile", 1, 1))
                self.tell(step, watch, before=number * step.count, count=len(groups) * step.count)
            assert latents is not None  # a request has at least one step
            denoised.append(latents)
            skipped += [[step + 1 for step in left_out]] * len(group)
        return torch.cat(denoised), skipped

    def record(
        self,
        path: Path,
        request: Request,
        *,
        direction: Mapping[str, Any] | None = None,
        seconds: Mapping[str, float],
        version: str = __version__,
    ) -> Clip:
        """That of a clip which is about to be saved."""
        return Clip(
            path=path,
            request=request,
            model_hash=self.model_hash,
            version=version,
            direction=dict(direction or {}),
            seconds=dict(seconds),
        )

    def save(
        self, clip: Clip, frames: Callable[[], Iterable[Frames]], *, overwrite: bool, watch: Watch
    ) -> Clip:
        """Write a clip's file with its whole record (see `write`)."""

        start = time.monotonic()
        writer = self.write(
            clip.path,
            clip.request,
            frames,
            lambda: self.complete(clip).metadata(),
            overwrite=overwrite,
            watch=watch,
        )
        clip.seconds.update(decode=time.monotonic() - start - writer.waited, write=writer.waited)
        clip.overlapped.update(encoder=writer.encoding)
        return self.complete(clip)

    def complete(self, clip: Clip) -> Clip:
        """With what was decided here, the clip's own choices after it."""
        return replace(clip, choices={**self.choices(), **clip.choices})

    def write(
        self,
        path: Path,
        request: Request,
        frames: Callable[[], Iterable[Frames]],
        metadata: Callable[[], dict[str, Any]],
        *,
        overwrite: bool,
        watch: Watch,
    ) -> media.ThreadedWriter:
        """Encode frames of the request's size into a file, which appears at `path` when it is complete. If memory runs
        out, both functions are called again, for a new file by a smaller plan. The writer knows how long it took."""

        def attempt() -> media.ThreadedWriter:
            with media.open_writer(
                path,
                width=request.width,
                height=request.height,
                fps=request.fps,
                metadata=metadata(),
                overwrite=overwrite,
            ) as writer:
                for batch in frames():
                    writer.write(batch)
            return writer

        return self.model.retry_on_oom("decode", attempt, watch)

    def tell(self, step: Step, watch: Watch, *, before: int = 0, count: int | None = None) -> None:
        """That one more step is done, of `count`, and what it looks like, unless memory has no room for a picture."""
        done, count = before + step.index + 1, count or step.count
        try:
            watch(Progress("denoise", done, count, lambda: self.runner.preview(step)))
            return
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Here, since the error held all that the picture had made.
        self.model.free_autoencoder()
        free_memory(self.model.device)
        watch(Progress("denoise", done, count))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start

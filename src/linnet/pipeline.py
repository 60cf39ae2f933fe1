"""A request becomes a clip: text states, noise, denoising, frames, file, each stage handing a small record to the next.

Axes: B clips, C latent channels, T latent frames, H and W latent rows and columns, f decoded frames.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from linnet import __version__, media
from linnet.clip import Clip
from linnet.errors import InvalidInput
from linnet.filesystem import StrPath, as_path
from linnet.geometry import FRAMES_PER_LATENT, latent_grid, latents_in, token_count
from linnet.models.attention import Attend, attend
from linnet.models.transformer import TextContext
from linnet.models.vae import VAE
from linnet.parts import Parts
from linnet.plan.execution import GLANCE, Tiling
from linnet.plan.plan import Plan
from linnet.plan.windows import denoised, latents_at_once, windows_of
from linnet.progress import Image, Progress, Watch, ignore
from linnet.request import Request
from linnet.runtime.attention import Work, choose, way_of
from linnet.runtime.finite import finite_steps, is_finite, not_finite
from linnet.runtime.pixels import arriving
from linnet.runtime.recover import let_go, out_of_memory
from linnet.runtime.tiles import decode_tiled
from linnet.sampling import flow
from linnet.sampling.autoregressive import autoregressive
from linnet.sampling.denoise import (
    Guidance,
    GuidedVelocity,
    Model,
    Sampler,
    Step,
    Velocity,
    denoise,
    levels_between,
)
from linnet.sampling.keep_frames import KeptFrames
from linnet.sampling.local_attention import local_attention
from linnet.sampling.solvers import MULTISTEP, SOLVERS
from linnet.sampling.step_cache import CachedVelocity
from linnet.sampling.windows import Windowed, free_noise

Latents = Float[Tensor, "B C T H W"]
Frames = UInt8[np.ndarray, "f H W 3"]

LOOP_LEAD = 4  # latent frames from a loop's end that its decoder sees before the first


class Pipeline(Parts):
    """A model that is ready to make clips: its parts, and the way through them."""

    # --- latents --------------------------------------------------------------------------------------------------

    def _attend(self, request: Request) -> Attend:
        """How tokens attend to each other: as was asked, where this device can, else the fastest way."""
        config = (self._transformer or self._matched_transformer()[0]).config
        batch = 2 if self.spec.batched_guidance else 1
        tokens = latents_at_once(request) * token_count(1, request.size)
        work = Work(batch, config.num_heads, tokens, config.dim // config.num_heads)
        asked = way_of(self._attention_asked, work, self.device)
        # Anew for each request: what an earlier one chose must not change this one's bytes.
        self.attention = self._attention_asked if asked else choose(work, self.device, self.dtype)
        way = asked or way_of(self.attention, work, self.device) or attend
        if not request.span:
            return way
        return local_attention(token_count(1, request.size), request.span // FRAMES_PER_LATENT, way=way)

    def noise(self, request: Request, seeds: Sequence[int]) -> Latents:
        """Each seed's own noise, whatever its neighbours."""
        grid, windows = latent_grid(request.frames, request.size), windows_of(request)
        frames = windows.frames if windows else grid.frames
        together = request.window and not request.onward
        seen = min(frames, latents_in(request.window)) if together else frames
        shape = (self.transformer.config.channels, seen, grid.height, grid.width)
        shift = max(1, seen - request.window_overlap // FRAMES_PER_LATENT)
        each = ((flow.noise(seed, shape, self.device), seed) for seed in seeds)
        return torch.stack([free_noise(noise, frames, shift, seed) for noise, seed in each])

    def contexts(self, *prompts: str, watch: Watch = ignore) -> list[TextContext]:
        """Each prompt as the transformer's blocks see it."""
        states = self.text_states(*prompts)

        def contexts() -> list[TextContext]:
            with torch.inference_mode():
                model = self.transformer
                return [model.encode_text([state], blocks=self._blocks) for state in states]

        return self._sparing("denoise", contexts, watch)

    def model(self, request: Request, watch: Watch = ignore) -> Model:
        """The transformer, run as the plan says: for clips or windows of the request's length."""
        way = self._attend(request)

        def ask(latents: Latents, timestep: Float[Tensor, "B"], text: TextContext) -> Latents:
            model, chunk = self.transformer, self.execution.token_chunk
            return model(latents, timestep, text, blocks=self._blocks, token_chunk=chunk, attend=way)

        def whole(latents: Latents, timestep: Float[Tensor, "B"], text: TextContext) -> Latents:
            return self._sparing("denoise", partial(ask, latents, timestep, text), watch)

        return whole

    def velocity(self, request: Request, sigmas: Float[Tensor, " levels"], watch: Watch = ignore) -> Velocity:
        """What the request's prompts, guidance and reuse make of the transformer, for one run over `sigmas`."""
        return self.velocities(request, sigmas, watch)()

    def velocities(
        self, request: Request, sigmas: Float[Tensor, " levels"], watch: Watch = ignore
    ) -> Callable[[], Velocity]:
        """A new one for each run: of the whole clip, or, where windows follow each other, of one of them."""
        prompt, negative = self.contexts(request.prompt, request.negative, watch=watch)
        model, windows = self.model(request, watch), windows_of(request)
        if windows and not request.onward:
            model = Windowed(model, windows)
        batched = self.spec.batched_guidance
        return partial(self.steered, request, sigmas, model, prompt, negative, batched=batched, watch=watch)

    def steered(
        self,
        request: Request,
        sigmas: Float[Tensor, " levels"],
        model: Model,
        prompt: TextContext,
        negative: TextContext,
        *,
        batched: bool,
        watch: Watch = ignore,
    ) -> Velocity:
        """`model` under the request's guidance and reuse."""
        guided = GuidedVelocity(
            model=model,
            prompt=prompt,
            negative=negative,
            guidance=Guidance(
                method=request.guidance_method,
                scale=request.guidance,
                rescale=request.apg_rescale,
                momentum=request.apg_momentum,
                eta=request.apg_eta,
                levels=levels_between(sigmas, request.guidance_from, request.guidance_until),
                steady=self.steady(request),
            ),
            batched=batched,
        )
        cache, spared = request.step_cache, self._spared("denoise", guided, watch)
        if cache.skip:
            return CachedVelocity(velocity=spared, count=request.steps, skip=cache.skip)
        return (
            CachedVelocity(velocity=spared, count=request.steps, threshold=cache.threshold)
            if cache.adaptive
            else spared
        )

    def steady(self, request: Request) -> bool:
        """Whether APG's momentum has to be at its limit throughout (see sampling.guidance.steady_state)."""
        always = (request.guidance_from, request.guidance_until) == (0.0, 1.0)
        return request.solver in MULTISTEP or (always and request.steps < self.spec.momentum_steps)

    def sample(
        self,
        request: Request,
        seeds: Sequence[int] | None = None,
        skipped: list[int] | None = None,
        watch: Watch = ignore,
        course: Sampler = denoise,
    ) -> Iterator[Step]:
        """Denoise one clip for each seed (the request's own when None), all in one batch.

        A clip that is shorter than those that the model knows is the first frames of one that it does know.
        `skipped`, if given, is filled with the steps (from 0) that did without the model; `watch` hears only of what
        the steps do not tell; `course` goes the way from noise to clip.
        """
        seeds = [request.seed] if seeds is None else seeds
        if self.machine.budget.asked:
            self._autoencoder = None  # whatever used it so far: the plan counts it while decoding alone
        sigmas = flow.levels_of(request)
        solver = self._spared("denoise", SOLVERS[request.solver], watch)
        whole, shown = denoised(self.spec, request), latents_in(request.frames)
        fresh, windows = self.velocities(whole, sigmas, watch), windows_of(whole)
        noise = self.noise(whole, seeds)
        runs: list[Velocity] = []

        def run() -> Velocity:
            runs.append(fresh())
            return runs[-1]

        if windows and request.onward:
            held = held_by(course)
            kept: dict[str, Any] = {"given": held.frames, "turns": held.turns, "seed": request.seed}
            steps = autoregressive(run, noise, sigmas, solver, windows, **kept)
        else:
            steps = course(run(), noise, sigmas, solver)
        for step in finite_steps(steps, self.files.transformer):
            yield replace(step, latents=step.latents[:, :, :shown], clean=step.clean[:, :, :shown])
        if skipped is not None:
            own = (
                (number * request.steps, run)
                for number, run in enumerate(runs)
                if isinstance(run, CachedVelocity)
            )
            skipped += [before + index for before, run in own for index in run.skipped]

    # --- pixels ---------------------------------------------------------------------------------------------------

    def encode_frames(
        self, frames: Callable[[], Iterable[Image]], watch: Watch = ignore
    ) -> Float[Tensor, "1 C T h w"]:
        """The latents of 4k+1 frames, read a few at a time: the first stands for the first frame alone.

        `frames` gives them anew for each try: memory may run out here, too.
        """

        def encode() -> Float[Tensor, "1 C T h w"]:
            self._make_room()
            model = self.autoencoder
            self.told(Progress("encode", 0, 1))
            pixels = (
                torch.tensor(frame, device=self.device).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
                for frame in frames()
            )
            with torch.inference_mode():
                latents = torch.cat(list(model.encode_stream(pixels)), 2).float()
                if not is_finite(latents):
                    raise not_finite("in encoding the given frames", self.files.autoencoder)
                self.told(Progress("encode", 1, 1))
                return self.latent_space.enter(latents)

        return self._sparing("decode", encode, watch)  # the stage that the autoencoder belongs to

    def decode(self, latents: Float[Tensor, "1 C T H W"], *, lower: bool = False) -> Iterator[Frames]:
        """One clip's frames, a few at a time; the whole video never exists at once. `lower`: convolved in bfloat16."""
        self._make_room()
        yield from self._frames(latents, self.execution.tiling, lower=lower)

    def _frames(
        self, latents: Float[Tensor, "1 C T H W"], tiling: Tiling | None, *, lower: bool = False
    ) -> Iterator[Frames]:
        with torch.inference_mode():
            z = self.latent_space.leave(latents)
        model = self.autoencoder
        stream = (
            decode_tiled(model, z, tiling) if tiling and isinstance(model, VAE) else model.decode_stream(z)
        )
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled=lower)

        def decoded() -> Iterator[Float[Tensor, "1 3 f h w"]]:
            while True:
                with torch.inference_mode(), precision:  # not across the yield, which would lend them on
                    frames = next(stream, None)
                if frames is None:
                    return
                yield frames

        for pixels, finite in arriving(decoded()):
            if not finite:
                raise not_finite("in the decode stage", self.files.autoencoder, self.files.transformer)
            yield pixels

    def decode_loop(self, latents: Float[Tensor, "1 C T H W"], *, lower: bool = False) -> Iterator[Frames]:
        """The frames of a clip whose last latent frame meets its first: four for every latent frame.

        The decoder, which looks back in time, first sees the end of the loop, and those frames are dropped.
        """
        lead = min(LOOP_LEAD, latents.shape[2])
        late = FRAMES_PER_LATENT * (lead - 1) + 1
        yield from after(late, self.decode(torch.cat([latents[:, :, -lead:], latents], 2), lower=lower))

    # --- the whole way --------------------------------------------------------------------------------------------

    def generate(
        self,
        request: Request,
        output: StrPath,
        *,
        overwrite: bool = False,
        watch: Watch = ignore,
        course: Sampler = denoise,
        direction: Mapping[str, Any] | None = None,
    ) -> Clip:
        """Make the request's clip at `output`, which appears there when it is complete.

        Another `course` than plain denoising is said in `direction`, for the clip's record (see direct.samplers).
        """
        (clip,) = self.generate_batch(
            request,
            {request.seed: output},
            overwrite=overwrite,
            watch=watch,
            course=course,
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
        course: Sampler = denoise,
        direction: Mapping[str, Any] | None = None,
    ) -> list[Clip]:
        """One clip for each seed of `outputs`, denoised together: faster than one by one where they are small."""
        for path in outputs.values():
            media.check_target(as_path(path, "output"), size=request.size, overwrite=overwrite)
        plan = self.plan(request, clips=len(outputs))
        return self.run(plan, outputs, overwrite=overwrite, watch=watch, course=course, direction=direction)

    def run(
        self,
        plan: Plan,
        outputs: Mapping[int, StrPath],
        *,
        overwrite: bool = False,
        watch: Watch = ignore,
        course: Sampler = denoise,
        direction: Mapping[str, Any] | None = None,
    ) -> list[Clip]:
        """Make the clips of a plan, one for each seed of `outputs`, in the way that it says."""
        request = plan.request
        paths = {seed: as_path(path, "output") for seed, path in outputs.items()}
        for path in paths.values():
            media.check_target(path, size=request.size, overwrite=overwrite)
        seconds: dict[str, float] = {}
        latents, skipped = self._latents(plan, list(paths), seconds, watch, course)

        clips = []
        for index, (seed, path) in enumerate(paths.items()):
            own = replace(request, seed=seed)

            def write(own: Request = own, path: Path = path, index: int = index) -> Clip:
                clip = Clip(
                    path=path,
                    request=own,
                    model_hash=self.model_hash,
                    version=__version__,
                    choices={
                        **self.choices(),
                        **({} if request.reuse == "none" else {"reused": skipped[index]}),
                    },
                    direction=dict(direction or {}),
                    seconds=dict(seconds),
                )
                self._write(clip, latents[index : index + 1], overwrite, watch)
                return clip

            clips.append(self._sparing("decode", write, watch))
        return clips

    def frames(
        self, plan: Plan, *, watch: Watch = ignore, course: Sampler = denoise
    ) -> Generator[Image, None, None]:
        """The frames of a plan's clip, one by one as they are decoded; no file is written. Nothing runs before the
        first is asked for."""
        request, given = plan.request, 0
        latents, _ = self._latents(plan, [request.seed], {}, watch, course)
        stream: Iterator[Frames] | None = None

        def following() -> Frames | None:
            """The next ones. If memory runs out, decoding begins again by a smaller plan, after those `given`."""
            nonlocal stream
            stream = after(given, self._decoded(request, latents, watch)) if stream is None else stream
            try:
                return next(stream, None)
            except BaseException:
                stream = None
                raise

        while (frames := self._sparing("decode", following, watch)) is not None:
            given += len(frames)
            yield from frames

    def _latents(
        self, plan: Plan, seeds: Sequence[int], seconds: dict[str, float], watch: Watch, course: Sampler
    ) -> tuple[Latents, list[list[int]]]:
        """The way of a plan up to each seed's clean latents, and the steps (from 1) of it that did without the model.
        `seconds` is filled with the time of each stage."""
        request = plan.request
        self.told = watch
        self.follow(plan)
        with timed(seconds, "text"):
            watch(Progress("text", 0, 1))
            prompts = request.prompt, request.negative
            self._sparing("text", lambda: self.text_states(*prompts, watch=watch), watch)
            watch(Progress("text", 1, 1))
        with timed(seconds, "denoise"):
            return self._denoise(request, seeds, watch, course)

    def _denoise(
        self, request: Request, seeds: Sequence[int], watch: Watch, course: Sampler = denoise
    ) -> tuple[Latents, list[list[int]]]:
        """Each seed's clean latents, and the steps (from 1) of it that did without the model."""
        # Clips that decide for themselves which steps to leave out go one by one: none decides for its neighbours.
        groups = [[seed] for seed in seeds] if request.step_cache.adaptive else [list(seeds)]
        total, found, skipped = request.steps * len(groups), [], []
        if self.machine.budget.asked:
            self._autoencoder = None  # as in `sample`
        self._sparing("denoise", lambda: self.transformer, watch)  # before denoising is said to have begun
        watch(Progress("denoise", 0, total))
        shape = request.size, request.window or request.frames, len(groups[0])
        compiles = self.compiled and shape not in self._compiled_for
        if compiles:
            watch(Progress("compile", 0, 1))
        for number, group in enumerate(groups):
            left_out: list[int] = []
            latents = None
            for step in self.sample(request, group, left_out, watch, course):
                latents = step.latents
                if compiles:
                    compiles = False
                    self._compiled_for.add(shape)
                    watch(Progress("compile", 1, 1))
                self.tell(step, watch, before=number * step.count, count=len(groups) * step.count)
            assert latents is not None  # a request has at least one step
            found.append(latents)
            skipped += [[step + 1 for step in left_out]] * len(group)
        return torch.cat(found), skipped

    def _write(self, clip: Clip, latents: Latents, overwrite: bool, watch: Watch) -> None:
        request, start = clip.request, time.monotonic()
        with media.open_writer(
            clip.path,
            width=request.width,
            height=request.height,
            fps=request.fps,
            metadata=clip.metadata(),
            overwrite=overwrite,
        ) as writer:
            for frames in self._decoded(request, latents, watch):
                writer.write(frames)
        waited = writer.waited
        clip.seconds.update(decode=time.monotonic() - start - waited, write=waited)
        clip.overlapped.update(encoder=writer.encoding)

    def _decoded(self, request: Request, latents: Latents, watch: Watch) -> Iterator[Frames]:
        """One clip's frames, a few at a time, of which `watch` is told when they are used."""
        self._make_room()
        _ = self.autoencoder  # which is read before decoding is said to have begun
        done = 0
        watch(Progress("decode", done, request.frames))
        decode = self.decode_loop if request.loop else self.decode
        for frames in decode(latents, lower=request.decoder_dtype == "bfloat16"):
            yield frames
            done += len(frames)
            watch(Progress("decode", done, request.frames))

    def tell(self, step: Step, watch: Watch, *, before: int = 0, count: int | None = None) -> None:
        """That one more step is done, of `count`, and what it looks like, unless memory has no room for a picture."""
        done, count = before + step.index + 1, count or step.count
        try:
            watch(Progress("denoise", done, count, lambda: self.preview(step)))
            return
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Here, since the error held all that the picture had made.
        self._autoencoder = None
        let_go(self.device)
        watch(Progress("denoise", done, count))

    def preview(self, step: Step) -> Image:
        """The first frame of what the model expects at this step."""
        first = step.clean[:1, :, :1]
        if not self.machine.budget.asked:
            return next(self._frames(first, self.execution.tiling))[0]
        try:
            return next(self._frames(first, GLANCE))[0]
        finally:
            self._autoencoder = None  # for which the plan has no room beside a step


def held_by(course: Sampler) -> KeptFrames:
    """What windows that follow each other have to keep of a course's; InvalidInput if it is of another kind."""
    if isinstance(course, KeptFrames):
        return course
    if course is denoise:
        return KeptFrames(frames={}, seed=0)
    problem = "is a way to make a clip from noise, not from another clip"
    raise InvalidInput("onward", "true", problem, "make its windows together")


def after(count: int, stream: Iterable[Frames]) -> Iterator[Frames]:
    """What is left of a stream of frames behind the first `count`."""
    for frames in stream:
        kept, count = frames[count:], max(0, count - len(frames))
        if len(kept):
            yield kept


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start

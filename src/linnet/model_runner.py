"""A loaded model at work on one request: noise becomes latents, latents become frames, frames become latents.

It knows no files: `pipeline` makes clips of what it yields.
Axes: B clips, C latent channels, T latent frames, H and W latent rows and columns, f decoded frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from linnet.clip import Image, Progress, Watch, ignore
from linnet.geometry import FRAMES_PER_LATENT, frames_of, latent_grid, latents_in, token_count
from linnet.loaded_model import LoadedModel
from linnet.models.attention import Attend, attend
from linnet.models.transformer import TextContext
from linnet.plan.execution import PREVIEW_TILING, Tiling
from linnet.plan.passes import denoised, in_one_batch, latents_at_once, windows_of
from linnet.request import Request
from linnet.runtime.attention import Work, choose, way_of
from linnet.runtime.device import searched
from linnet.runtime.outputs import arriving, finite_steps, is_finite, not_finite
from linnet.sampling import flow
from linnet.sampling.denoise import (
    Guidance,
    GuidedVelocity,
    Model,
    Retrying,
    Sampler,
    Step,
    Velocity,
    denoise,
    levels_between,
    per_clip,
)
from linnet.sampling.solvers import MULTISTEP, SOLVERS

if TYPE_CHECKING:
    from linnet.runtime.processes import Processes, Share

Latents = Float[Tensor, "B C T H W"]
Frames = UInt8[np.ndarray, "f H W 3"]

LOOP_LEAD = 4  # latent frames from a loop's end that its decoder sees before the first


class ModelRunner:
    """Runs a loaded model by the plan that it follows. `attention` is the way to attend that an earlier clip records;
    without it, the fastest is chosen for each request."""

    def __init__(self, model: LoadedModel, *, attention: str = "") -> None:
        self.model = model
        self.attention = attention
        self.attention_used = ""  # for the last request
        self.processes: Processes | None = None  # that share the transformer's passes (see multi_gpu)

    # --- latents --------------------------------------------------------------------------------------------------

    def attend(self, request: Request) -> Attend:
        """How tokens attend to each other: as an earlier clip did, where this device can, else the fastest way."""
        config, device = self.model.transformer_config, self.model.device
        batch = 2 if in_one_batch(self.model.spec, self.model.execution) else 1
        tokens = latents_at_once(request) * token_count(1, request.size)
        work = Work(batch, config.num_heads, tokens, config.dim // config.num_heads)
        recorded = way_of(self.attention, work, device)
        # Anew for each request: what an earlier one chose must not change this one's bytes.
        self.attention_used = self.attention if recorded else choose(work, device, self.model.dtype)
        attend_whole = recorded or way_of(self.attention_used, work, device) or attend
        if not request.span:
            return attend_whole

        from linnet.sampling.local_attention import local_attention

        return local_attention(
            token_count(1, request.size), request.span // FRAMES_PER_LATENT, inner=attend_whole
        )

    def noise(self, request: Request, seeds: Sequence[int]) -> Latents:
        """Each seed's own noise, whatever its neighbours."""
        grid, windows = latent_grid(request.frames, request.size), windows_of(request)
        frames = windows.frames if windows else grid.frames
        joint = request.window and not request.onward
        seen = min(frames, latents_in(request.window)) if joint else frames
        shape = (self.model.transformer_config.channels, seen, grid.height, grid.width)
        shift = max(1, seen - request.window_overlap // FRAMES_PER_LATENT)
        noises = [flow.noise(seed, shape, self.model.device) for seed in seeds]
        if seen < frames:
            from linnet.sampling.windows import free_noise

            pairs = zip(noises, seeds, strict=True)
            noises = [free_noise(noise, frames, shift, seed) for noise, seed in pairs]
        return torch.stack(noises)

    def contexts(self, *prompts: str, watch: Watch = ignore) -> list[TextContext]:
        """Each prompt as the transformer's blocks see it."""
        states = self.model.text_states(*prompts)

        def contexts() -> list[TextContext]:
            with torch.inference_mode():
                transformer = self.model.transformer
                return [transformer.encode_text([state], blocks=self.model.blocks) for state in states]

        return self.model.retry_on_oom("denoise", contexts, watch)

    def denoiser(self, request: Request, watch: Watch = ignore) -> Model:
        """The transformer, run as the plan says: for clips or windows of the request's length."""
        run, model = self.forward(request), self.model
        alone = model.retrying("denoise", run, watch)
        if self.processes is None:
            return alone
        self.processes.follow(
            request=self.model.settled(request).to_json(),
            execution=vars(replace(model.execution, tiling=None)),
            attention=self.attention_used,
        )
        return self.processes.shared(alone, run)

    def forward(self, request: Request) -> Callable[..., Latents]:
        """One pass of the transformer on this device, a `Run` whose last argument may be left out."""
        attention, model = self.attend(request), self.model

        def run(latents: Latents, timestep: float, text: TextContext, share: "Share" = None) -> Latents:
            transformer, chunk = model.transformer, model.execution.token_chunk
            return transformer(
                latents,
                per_clip(timestep, latents),
                text,
                blocks=model.blocks,
                token_chunk=chunk,
                share=share,
                attend=attention,
            )

        return run

    def velocity(self, request: Request, sigmas: Float[Tensor, " levels"], watch: Watch = ignore) -> Velocity:
        """What the request's prompts, guidance and reuse make of the transformer, for one run over `sigmas`."""
        return self.velocities(request, sigmas, watch)()

    def velocities(
        self, request: Request, sigmas: Float[Tensor, " levels"], watch: Watch = ignore
    ) -> Callable[..., Velocity]:
        """A new one for each run: of the whole clip, or, where windows follow each other, of one of them. Its argument
        is `skipped`, of `steered`."""
        prompt, negative = self.contexts(request.prompt, request.negative, watch=watch)
        model, windows = self.denoiser(request, watch), windows_of(request)
        if windows and not request.onward:
            from linnet.sampling.windows import Windowed

            model = Windowed(model, windows)
        return partial(self.steered, request, sigmas, model, prompt, negative, watch=watch)

    def steered(
        self,
        request: Request,
        sigmas: Float[Tensor, " levels"],
        model: Model,
        prompt: TextContext,
        negative: TextContext,
        *,
        batched: bool = True,
        skipped: list[int] | None = None,
        watch: Watch = ignore,
    ) -> Velocity:
        """`model` under the request's guidance and reuse; `batched`: both passes may go through it in one batch.
        `skipped`, if given, is filled with the steps (from 0) that do without the model."""
        guidance = Guidance(
            method=request.guidance_method,
            scale=request.guidance,
            rescale=request.apg_rescale,
            momentum=request.apg_momentum,
            eta=request.apg_eta,
            levels=levels_between(sigmas, request.guidance_from, request.guidance_until),
            steady=self.steady(request),
        )
        parts: dict[str, Any] = {"prompt": prompt, "negative": negative, "guidance": guidance}
        apart = self.processes.apart(model, **parts) if self.processes else None
        guided = apart or GuidedVelocity(model=model, **parts)

        def steer(latents: Latents, timestep: float) -> Latents:
            # Asked each time: since memory ran out, a smaller plan may be followed.
            guided.batched = batched and not apart and in_one_batch(self.model.spec, self.model.execution)
            return guided(latents, timestep)

        cache, velocity = request.step_cache, steer
        if cache.skip or cache.adaptive:
            from linnet.sampling.step_cache import CachedVelocity

            velocity = CachedVelocity(
                velocity=steer,
                count=request.steps,
                threshold=cache.threshold,
                skip=cache.skip or None,
                hold=cache.hold,
                skipped=[] if skipped is None else skipped,
            )
        return self.model.retrying("denoise", velocity, watch)

    def steady(self, request: Request) -> bool:
        """Whether APG's momentum has to be at its limit throughout (see sampling.denoise.steady_state)."""
        always = (request.guidance_from, request.guidance_until) == (0.0, 1.0)
        return request.solver in MULTISTEP or (always and request.steps < self.model.spec.momentum_steps)

    def retrying(self, watch: Watch = ignore) -> Retrying:
        """For samplers: what runs out of memory is tried again by a smaller plan."""
        return partial(self.model.retrying, "denoise", watch=watch)

    def sample(
        self,
        request: Request,
        seeds: Sequence[int] | None = None,
        skipped: list[int] | None = None,
        watch: Watch = ignore,
        sampler: Sampler = denoise,
    ) -> Iterator[Step]:
        """Denoise one clip for each seed (the request's own when None), all in one batch.

        A clip that is shorter than those that the model knows is part of one that it does know: its first frames where
        `sampler` holds some, such as a first image; otherwise its last ones, which `decoded` cuts out.
        `skipped`, if given, is filled with the steps (from 0) that did without the model; `watch` hears only of what
        the steps do not tell; `sampler` goes the way from noise to clip.
        """
        seeds = [request.seed] if seeds is None else seeds
        self.model.offload_autoencoder()  # whatever used it so far
        sigmas = flow.levels_of(request)
        solver, retrying = SOLVERS[request.solver], self.retrying(watch)
        whole, shown = denoised(self.model.spec, request), latents_in(request.frames)
        fresh, windows = self.velocities(whole, sigmas, watch), windows_of(whole)
        noise = retrying(self.noise)(whole, seeds)
        runs: list[list[int]] = []  # the steps that each of them left out

        def run() -> Velocity:
            runs.append([])
            return fresh(skipped=runs[-1])

        if windows and request.onward:
            from linnet.sampling.autoregressive import autoregressive, kept_by

            kept_frames = kept_by(sampler)
            kept: dict[str, Any] = {
                "given": kept_frames.frames,
                "resampling_steps": kept_frames.resampling_steps,
                "seed": request.seed,
                "retrying": retrying,
            }
            steps = autoregressive(run, noise, sigmas, solver, windows, **kept)
        else:
            steps = sampler(run(), noise, sigmas, solver, retrying)
        for step in finite_steps(steps, self.model.files.transformer):
            if sampler is not denoise:
                step = replace(step, latents=step.latents[:, :, :shown], denoised=step.denoised[:, :, :shown])
            yield step
        if skipped is not None:
            skipped += [number * request.steps + step for number, run in enumerate(runs) for step in run]

    # --- pixels ---------------------------------------------------------------------------------------------------

    def encode_frames(
        self, frames: Callable[[], Iterable[Image]], watch: Watch = ignore
    ) -> Float[Tensor, "1 C T h w"]:
        """The latents of 4k+1 frames, read a few at a time: the first stands for the first frame alone.

        `frames` gives them anew for each try: memory may run out here, too.
        """

        model = self.model

        def encode() -> Float[Tensor, "1 C T h w"]:
            model.make_room_for_autoencoder()
            autoencoder = model.autoencoder
            model.on_load(Progress("encode", 0, 1))
            pixels = (
                torch.tensor(frame, device=model.device).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
                for frame in frames()
            )
            with torch.inference_mode(), searched(model.execution.convolutions == "searched"):
                latents = torch.cat(list(autoencoder.encode_stream(pixels)), 2).float()
                if not is_finite(latents):
                    raise not_finite("in encoding the given frames", model.files.autoencoder)
                model.on_load(Progress("encode", 1, 1))
                return model.latent_space.enter(latents)

        return model.retry_on_oom("decode", encode, watch)  # the stage that the autoencoder belongs to

    def decode(self, latents: Float[Tensor, "1 C T H W"], *, lower: bool = False) -> Iterator[Frames]:
        """One clip's frames, a few at a time; the whole video never exists at once. `lower`: convolved in bfloat16."""
        self.model.make_room_for_autoencoder()
        yield from self._frames(latents, self.model.execution.tiling, lower=lower)

    def _frames(
        self, latents: Float[Tensor, "1 C T H W"], tiling: Tiling | None, *, lower: bool = False
    ) -> Iterator[Frames]:
        with torch.inference_mode():
            z = self.model.latent_space.leave(latents)
        stream, files = self._decoding(z, tiling), self.model.files
        precision = torch.autocast(self.model.device.type, torch.bfloat16, enabled=lower)
        search = self.model.execution.convolutions == "searched"

        def decoded() -> Iterator[Float[Tensor, "1 3 f h w"]]:
            while True:
                # Not across the yield, which would lend them on.
                with torch.inference_mode(), precision, searched(search):
                    frames = next(stream, None)
                if frames is None:
                    return
                yield frames

        for pixels, finite in arriving(decoded()):
            if not finite:
                raise not_finite("in the decode stage", files.autoencoder, files.transformer)
            yield pixels

    def _decoding(
        self, z: Float[Tensor, "1 C T H W"], tiling: Tiling | None
    ) -> Iterator[Float[Tensor, "1 3 f h w"]]:
        autoencoder = self.model.autoencoder
        if tiling is None or self.model.spec.autoencoder != "wan":
            return autoencoder.decode_stream(z)

        from linnet.models.vae import VAE
        from linnet.runtime.tiles import decode_tiled

        assert isinstance(autoencoder, VAE)
        return decode_tiled(autoencoder, z, tiling, pasts=self.model.execution.pasts)

    def decode_loop(self, latents: Float[Tensor, "1 C T H W"], *, lower: bool = False) -> Iterator[Frames]:
        """The frames of a clip whose last latent frame meets its first: four for every latent frame.

        The decoder, which looks back in time, first sees the end of the loop, and those frames are dropped.
        """
        lead = min(LOOP_LEAD, latents.shape[2])
        late = FRAMES_PER_LATENT * (lead - 1) + 1
        yield from after(late, self.decode(torch.cat([latents[:, :, -lead:], latents], 2), lower=lower))

    def decoded(
        self,
        request: Request,
        latents: Latents,
        watch: Watch = ignore,
        *,
        skip: int = 0,
        total: int | None = None,
    ) -> Iterator[Frames]:
        """One clip's frames after the first `skip`, a few at a time, of which `watch` is told when they are used.
        `total` counts the frames of the clip, where they are not the request's alone. Of latents that hold more, the
        last frames are taken."""
        self.model.make_room_for_autoencoder()
        _ = self.model.autoencoder  # which is read before decoding is said to have begun
        total = total or request.frames
        done, count = 0, total - skip
        watch(Progress("decode", done, count))
        decode = self.decode_loop if request.loop else self.decode
        more = 0 if request.loop else frames_of(latents.shape[2]) - total
        for frames in after(more + skip, decode(latents, lower=request.decoder_dtype == "bfloat16")):
            yield frames
            done += len(frames)
            watch(Progress("decode", done, count))

    def preview(self, step: Step) -> Image:
        """The first frame of what the model expects at this step."""
        first = step.denoised[:1, :, :1]
        try:
            return next(self._frames(first, PREVIEW_TILING))[0]
        finally:
            self.model.offload_autoencoder()


def after(count: int, stream: Iterable[Frames]) -> Iterator[Frames]:
    """What is left of a stream of frames behind the first `count`."""
    for frames in stream:
        kept, count = frames[count:], max(0, count - len(frames))
        if len(kept):
            yield kept

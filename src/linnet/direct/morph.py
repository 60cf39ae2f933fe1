"""Shots that become one another: denoised as one clip, each under its own prompt, both prompts where they overlap.

Each shot is a window of the whole (see sampling.windows). Astride each overlap lies one more, whose text is both
shots' at equal weight; the average of the velocities leads from the one through both to the other.

Axes: B clips, C latent channels, T latent frames of the whole, t of one shot, H and W latent rows and columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.clip import Watch, ignore
from linnet.geometry import latents_in
from linnet.model_runner import ModelRunner
from linnet.models.transformer import TextContext
from linnet.plan.passes import Windows, windows_of
from linnet.request import Request
from linnet.runtime.outputs import finite_steps
from linnet.sampling import flow
from linnet.sampling.denoise import Model, Sampler, Step, denoise
from linnet.sampling.solvers import SOLVERS
from linnet.sampling.windows import Windowed


def sample(
    runner: ModelRunner,
    requests: Sequence[Request],
    overlaps: Sequence[int],
    sampler: Sampler = denoise,
    watch: Watch = ignore,
) -> Iterator[Step]:
    """Denoise shots of which each shares `overlaps[i]` frames, 4k + 1, with the next; the requests differ in prompts,
    seed and length alone. `sampler` goes the way from noise to clip."""
    request = requests[0]
    if len(requests) == 1:
        yield from runner.sample(request, watch=watch, sampler=sampler)
        return
    shared = [latents_in(overlap) for overlap in overlaps]
    sigmas = flow.levels_of(request)
    scenes = scenes_of([places_of(each) for each in requests], shared)
    prompts = runner.contexts(*(each.prompt for each in requests), watch=watch)
    negatives = runner.contexts(*(each.negative for each in requests), watch=watch)
    retrying = runner.retrying(watch)
    velocity = runner.steered(
        request,
        sigmas,
        Scenes(runner.denoiser(max(requests, key=lambda each: each.frames), watch), scenes),
        retrying(texts_of)(scenes, prompts),
        retrying(texts_of)(scenes, negatives),
        batched=False,
        watch=watch,
    )
    noises = [retrying(runner.noise)(each, [each.seed]) for each in requests]
    noise = retrying(joined_noise)(noises, shared)
    steps = sampler(velocity, noise, sigmas, SOLVERS[request.solver], retrying)
    yield from finite_steps(steps, runner.model.files.transformer)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The latent frames of one shot, or those astride an overlap, and the shots (from 0) whose prompts hold there."""

    frames: range
    shots: tuple[int, ...]


def places_of(request: Request) -> list[range]:
    """The windows in which the model sees a shot alone: one, unless it is long."""
    windows = windows_of(request)
    if windows is None:
        return [range(latents_in(request.frames))]
    return [range(window[0], window[-1] + 1) for window in windows.places]


def scenes_of(shots: Sequence[Sequence[range]], overlaps: Sequence[int]) -> list[Scene]:
    """For shots in their own windows, of which each shares `overlaps[i]` latent frames with the next."""
    scenes, spans, start = [], [], 0
    for number, windows in enumerate(shots):
        start -= overlaps[number - 1] if number else 0
        scenes += [
            Scene(frames=range(start + window.start, start + window.stop), shots=(number,))
            for window in windows
        ]
        spans.append(range(start, start + windows[-1].stop))
        start = spans[-1].stop
    for number, (before, after) in enumerate(pairwise(spans)):
        half = min(len(window) for windows in shots[number : number + 2] for window in windows) // 2
        middle = (after.start + before.stop) // 2
        frames = range(max(before.start, middle - half), min(after.stop, middle + half))
        scenes.append(Scene(frames=frames, shots=(number, number + 1)))
    return scenes


def texts_of(scenes: Sequence[Scene], prompts: Sequence[TextContext]) -> TextContext:
    """One row for each scene."""
    rows = [
        prompts[scene.shots[0]]
        if len(scene.shots) == 1
        else prompts[scene.shots[0]].blend(prompts[scene.shots[1]], 0.5)
        for scene in scenes
    ]
    text = rows[0]
    for row in rows[1:]:
        text = text.join(row)
    return text


class Scenes(Windowed):
    """A model of single scenes as a model of them all; row i of the text belongs to scene i."""

    def __init__(self, model: Model, scenes: Sequence[Scene]) -> None:
        frames = max(scene.frames.stop for scene in scenes)
        super().__init__(model, Windows(frames=frames, places=tuple(tuple(scene.frames) for scene in scenes)))

    def text_of(self, window: int, text: TextContext) -> TextContext:
        return text.row(window)


def joined_noise(
    noises: Sequence[Float[Tensor, "1 C _ H W"]], overlaps: Sequence[int]
) -> Float[Tensor, "1 C T H W"]:
    """Each shot's own noise; where two overlap, from the one slowly to the other, always of variance 1."""
    whole = noises[0]
    for noise, overlap in zip(noises[1:], overlaps, strict=True):
        share = torch.arange(1, overlap + 1, device=noise.device)[:, None, None] / (overlap + 1)
        shared = (1 - share).sqrt() * whole[:, :, -overlap:] + share.sqrt() * noise[:, :, :overlap]
        whole = torch.cat((whole[:, :, :-overlap], shared, noise[:, :, overlap:]), 2)
    return whole

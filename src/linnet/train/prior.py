"""Clips of the model's own, which it sees again while it learns from others, so that it forgets nothing (prior
preservation: Ruiz et al., DreamBooth, arXiv 2208.12242). What a LoRA is to make of them: see ClipsTask.

They are kept as latents, made once before training, each from a prompt and a seed of its own.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from linnet.catalog import ModelSpec
from linnet.data.buckets import Bucket
from linnet.data.encoded import Encoded
from linnet.data.synthetic import caption, sample_scene
from linnet.errors import InvalidInput
from linnet.filesystem import make_folder
from linnet.pipeline import Pipeline
from linnet.records import read_text
from linnet.request import Request, make_request
from linnet.train.clips import Clips
from linnet.train.state import replace_file

Tell = Callable[[str, int, int], object]


def prior_prompts(spec: ModelSpec, count: int, file: Path | None, seed: int) -> list[str]:
    """Lines of a file, else what the model of the synthetic dataset was trained on, else the model's examples."""
    if file is not None:
        lines = [line.strip() for line in read_text(file, field="prior_prompts").splitlines() if line.strip()]
        if not lines:
            raise InvalidInput("prior_prompts", file, "holds no prompt", "write one prompt a line")
        return [lines[number % len(lines)] for number in range(count)]
    if spec.closed_vocabulary and spec.world == "synthetic":
        draws = (random.Random(f"prior {seed} {number}") for number in range(count))
        return [caption(sample_scene(rng), rng) for rng in draws]
    return [spec.examples[number % len(spec.examples)] for number in range(count)]


def prior_latents(
    pipeline: Pipeline, prompts: Sequence[str], bucket: Bucket, folder: Path, seed: int, tell: Tell
) -> list[Path]:
    """Of each prompt a file, which is made where it is not there yet."""
    make_folder(folder)
    spec, paths = pipeline.spec, []
    profile = "fast" if "fast" in spec.profiles else None
    tell("prior", 0, len(prompts))
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:04}.safetensors"
        request = make_request(
            spec,
            prompt=prompt,
            seed=seed + number,
            size=str(bucket.size),
            frames=bucket.frames,
            profile=profile,
        )
        if not is_of(path, request):
            *_, last = pipeline.runner.sample(pipeline.settled(request))
            tensors = {"latents": last.latents[0, :, -bucket.latents :].to("cpu", torch.float16).contiguous()}
            replace_file(path, tensors, origin(request))
        paths.append(path)
        tell("prior", number + 1, len(prompts))
    return paths


def origin(request: Request) -> dict[str, str]:
    return {"prompt": request.prompt, "seed": str(request.seed), "frames": str(request.frames)}


def is_of(path: Path, request: Request) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return origin(request).items() <= (file.metadata() or {}).items()


class WithPrior:
    """A dataset, after it prior clips, and after these their first frames as images. An epoch shows a prior clip for
    each of the dataset's clips, and one of these images for each of its images."""

    def __init__(self, clips: Clips, prompts: Sequence[str], paths: Sequence[Path], bucket: Bucket) -> None:
        self.clips, self.prompts, self.paths, self.bucket = clips, prompts, paths, bucket
        self.first = len(clips.buckets)
        self.training, self.held_out = clips.training, clips.held_out
        still = Bucket(bucket.size, 1)
        self.buckets = [*clips.buckets, *[bucket] * len(paths), *[still] * len(paths)]
        self.stills = {index for index, each in enumerate(clips.buckets) if each == still}

    def epoch(self, seed: int, number: int) -> list[int]:
        own = self.clips.epoch(seed, number)
        rng = random.Random(f"{seed}/{number}/prior")
        count = len(self.paths)
        prior = [self.first + rng.randrange(count) + count * (index in self.stills) for index in own]
        both = [*own, *prior]
        rng.shuffle(both)
        return both

    def sample(self, index: int) -> Encoded:
        if index < self.first:
            return self.clips.sample(index)
        still, number = divmod(index - self.first, len(self.paths))
        with safe_open(self.paths[number], "pt") as file:
            latents = file.get_tensor("latents").float()
        if still:
            latents = latents[:, :1]
        return Encoded(latents=latents, text=None, caption=self.prompts[number], bucket=self.buckets[index])

    def text(self, caption: str) -> Float[Tensor, "_ M"]:
        return self.clips.text(caption)


def with_prior(
    pipeline: Pipeline,
    clips: Clips,
    prompts: Sequence[str],
    bucket: Bucket,
    folder: Path,
    *,
    seed: int,
    tell: Tell,
) -> Clips:
    if not prompts:
        return clips
    return WithPrior(clips, prompts, prior_latents(pipeline, prompts, bucket, folder, seed, tell), bucket)

"""Latents of synthetic clips, encoded once and kept on disk for the many epochs of the generator's training.

Axes: N clips, T latent frames, C channels, h and w latent rows and columns.
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from linnet.data.synthetic import LATER, LATER_ELSEWHERE, Scene, moment, render, sample_scene
from linnet.filesystem import complete, make_folder, system_errors
from linnet.models.tae import TAE

SHARD = 250  # clips a file


class LatentCache:
    """Scenes, the frame of each at which its clip begins, and the clips' latents.

    The encoder is causal: a clip's first latent frames are those of its first frames.
    """

    def __init__(self, scenes: list[Scene], moments: list[int], latents: Float[Tensor, "N C T h w"]) -> None:
        self.scenes, self.moments, self.latents = scenes, moments, latents

    def __len__(self) -> int:
        return len(self.scenes)

    def statistics(self) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
        """Mean and standard deviation of each channel."""
        every = self.latents[:: max(1, len(self) // 500)].float().movedim(1, 0).flatten(1)
        return every.mean(1), every.std(1)


def cached_latents(
    autoencoder: TAE,
    fingerprint: str,
    folder: Path,
    *,
    clips: int,
    frames: int,
    seed: int,
    device: str = "cpu",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> LatentCache:
    """Clip i of `seed`, for i below `clips`: from the files in `folder` where they fit, else encoded and added.

    A shard appears whole or not at all, so a run that was stopped goes on where it was; one that was made by another
    autoencoder (by `fingerprint`), length or seed is made again.
    """
    make_folder(folder)
    later = json.dumps([LATER, LATER_ELSEWHERE])
    origin = {"autoencoder": fingerprint, "frames": str(frames), "seed": str(seed), "later": later}
    scenes: list[Scene] = []
    parts = []
    for first in range(0, clips, SHARD):
        path = folder / f"latents-{first:06d}.safetensors"
        wanted = range(first, min(first + SHARD, clips))
        if _origin(path) != origin or _held(path) < len(wanted):
            _encode_shard(autoencoder, path, origin, wanted, frames, seed, device, watch, clips)
        with safe_open(path, "pt") as file:
            scenes += [Scene(**scene) for scene in json.loads(file.metadata()["scenes"])]
            parts.append(file.get_tensor("latents"))
    moments = [begins(seed, index, scene) for index, scene in enumerate(scenes[:clips])]
    return LatentCache(scenes[:clips], moments, torch.cat(parts)[:clips])


def begins(seed: int, index: int, scene: Scene) -> int:
    """The frame of clip `index`'s scene at which the clip begins."""
    return moment(random.Random(f"{seed}/{index}/moment"), scene)


def _origin(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return {name: value for name, value in file.metadata().items() if name != "scenes"}


def _held(path: Path) -> int:
    """How many clips; a run for a quick look has fewer."""
    with safe_open(path, "pt") as file:
        return file.get_slice("latents").get_shape()[0]


def _encode_shard(
    autoencoder: TAE,
    path: Path,
    origin: dict[str, str],
    clips: range,
    frames: int,
    seed: int,
    device: str,
    watch: Callable[[int, int], None],
    total: int,
) -> None:
    scenes, latents = [], []
    for index in clips:
        scene = sample_scene(random.Random(f"{seed}/{index}"))
        pixels = torch.from_numpy(render(scene, frames, start=begins(seed, index, scene))).to(device)
        video = pixels.permute(0, 3, 1, 2)[None].float() / 255
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            encoded = autoencoder.encode(video, lead=3)[0].transpose(0, 1)
        scenes.append(scene)
        latents.append(encoded.to("cpu", torch.float16).contiguous())
        watch(index + 1, total)
    metadata = origin | {"scenes": json.dumps([asdict(scene) for scene in scenes])}
    with complete(path) as part, system_errors():
        save_file({"latents": torch.stack(latents)}, part, metadata)

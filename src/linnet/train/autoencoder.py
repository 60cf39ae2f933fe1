"""Training the tiny autoencoder on the synthetic dataset: small crops around the object, where all the detail is."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from linnet.data import synthetic
from linnet.models.tae import TAE, TAEConfig


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    model: TAEConfig
    batch: int = 16
    frames: int = 17  # 4k + 1
    crop: int = 56  # pixels a side, a multiple of 8
    object_weight: float = 4.0  # an object's pixel counts this much more than the background's
    edge_weight: float = 1.0  # of the differences between neighbours, which is where blur hides
    noise: float = (
        0.05  # added to the latents, so that the decoder forgives what a generator gets slightly wrong
    )
    latent_weight: float = 1e-3  # keeps latents near unit size


class AutoencoderTask:
    """Encode, decode, compare: the loss sees pixels, their neighbours' differences, and the size of the latents."""

    def __init__(self, config: AutoencoderConfig, *, seed: int = 0) -> None:
        self.config = config
        self.model = TAE(config.model).initialise(torch.Generator().manual_seed(seed))

    def loss(
        self, step: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        video, weight = self.batch(rng, str(generator.device))
        latents = self.model.encode(video, lead=3)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        out = self.model.reconstruct(latents + config.noise * noise).float()
        pixels = (weight * (out - video).abs()).mean()
        edges = sum((_difference(out, axis) - _difference(video, axis)).abs().mean() for axis in (-1, -2))
        size = latents.float().square().mean()
        loss = pixels + config.edge_weight * edges + config.latent_weight * size
        error = (out.detach() - video).square().mean()
        return loss, {"psnr": (-10 * error.log10()).item(), "latent": size.detach().sqrt().item()}

    def batch(
        self, rng: random.Random, device: str
    ) -> tuple[Float[Tensor, "B F 3 H W"], Float[Tensor, "B F 1 H W"]]:
        """Crops that hold the object, and the weight of each pixel (background pixels weigh 1)."""
        clips, weights = [], []
        for _ in range(self.config.batch):
            scene = synthetic.sample_scene(rng)
            start = rng.randrange(0, 97)
            clip = synthetic.render(scene, self.config.frames, start=start)
            rows, columns = self.window(scene, start, rng)
            clips.append(clip[:, rows, columns])
            apart = (
                np.abs(clip[:, rows, columns] - synthetic.backdrop(scene.background)[rows, columns]).max(-1)
                > 12
            )
            weights.append(1 + self.config.object_weight * apart)
        video = torch.from_numpy(np.stack(clips)).to(device).permute(0, 1, 4, 2, 3).float() / 255
        return video, torch.from_numpy(np.stack(weights)).to(device, torch.float32)[:, :, None]

    def window(self, scene: synthetic.Scene, start: int, rng: random.Random) -> tuple[slice, slice]:
        """Where to cut: near the object's place in the middle of the clip, inside the frame."""
        x, y, _, _ = synthetic.pose(scene, (start + self.config.frames // 2) / synthetic.FPS)
        crop = self.config.crop

        def cut(centre: float, length: int) -> slice:
            low = round(centre + rng.uniform(-0.3, 0.3) * crop - crop / 2)
            low = min(max(low, 0), length - crop)
            return slice(low, low + crop)

        return cut(y, synthetic.HEIGHT), cut(x, synthetic.WIDTH)

    def sample(self, folder: Path, step: int) -> None:
        """A sheet of true frames above their reconstructions."""
        folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(1)
        device = next(self.model.parameters()).device
        rows: list[UInt8[np.ndarray, "H W 3"]] = []
        for _ in range(4):
            clip = synthetic.render(synthetic.sample_scene(rng), 17)
            video = torch.from_numpy(clip).to(device).permute(0, 3, 1, 2)[None].float() / 255
            out = self.model.decode(self.model.encode(video, lead=3))[0].permute(0, 2, 3, 1)
            again = (out * 255).round().byte().cpu().numpy()
            rows += [np.concatenate([source[f] for f in (0, 4, 9, 16)], 1) for source in (clip, again)]
        Image.fromarray(np.concatenate(rows)).save(folder / f"{step:06d}.png")


def _difference(video: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    return video.diff(dim=axis)

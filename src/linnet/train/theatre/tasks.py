"""What is learnt on the theatre: first to copy it through a small latent, then to make those latents from captions.

Axes: B clips, C latent channels, F frames, T latent frames, H W pixels, h w latent rows and columns.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from linnet.data.theatre import HEIGHT, WIDTH
from linnet.data.theatre.render import Scenery, View, pictures, presence, render, whole
from linnet.data.theatre.sheet import labelled
from linnet.data.theatre.stage import Stage, set_stage
from linnet.geometry import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from linnet.models.latents import LatentSpace
from linnet.models.tae import TAE
from linnet.models.text import Tokenizer
from linnet.models.transformer import TextContext
from linnet.sampling import flow
from linnet.sampling.denoise import Guidance, GuidedVelocity, Latents, denoise, per_clip
from linnet.train.autoencoder import AutoencoderConfig, AutoencoderTask
from linnet.train.flow import ALMOST_NOISE, FlowConfig, FlowModel, known_frames, squared_error
from linnet.train.theatre.batches import Batch, SceneBatches, from_step, tokenized
from linnet.train.theatre.config import FOREVER, TheatreConfig

Draw = Callable[[Scenery, Stage, View], Float[Tensor, "B F 3 H W"]]
SHOWN = (  # each sheet's captions; the last four are combinations that are never trained on
    "a fox runs through a snowy forest at night",
    "a red car drives on a street",
    "a dog chasing a cat in a meadow",
    "a whale swims in the sea at sunset",
    "a football bounces on a beach",
    "a rocket rises in space",
    "a blue star spins on a yellow background",
    "a penguin passes behind a tree in the snow",
    "two elephants walk in the desert",
    "an apple grows in a room",
    "a fox runs on a beach",
    "a fox walks in a room",
    "a fox waits in the mountains",
    "a fox walks in a city in the rain",
)


class TheatreAutoencoder(AutoencoderTask):
    """The loss sees crops about a thing, mostly; the rest shows that sky and rain are copied too."""

    ELSEWHERE = 0.25

    def __init__(self, theatre: TheatreConfig, scenery: Scenery, *, seed: int = 0) -> None:
        config = AutoencoderConfig(
            model=theatre.autoencoder,
            batch=theatre.crops,
            frames=theatre.crop_frames,
            crop=theatre.crop,
            object_weight=theatre.thing_weight,
        )
        super().__init__(config, seed=seed)
        self.scenery, self.theatre = scenery, theatre

    def batch(
        self, rng: random.Random, device: str
    ) -> tuple[Float[Tensor, "B F 3 H W"], Float[Tensor, "B F 1 H W"]]:
        config = self.config
        scenes = [self.theatre.scene(rng) for _ in range(config.batch)]
        stage = set_stage(scenes, [rng.randint(0, 48) for _ in scenes], config.frames)
        corners = torch.tensor([self.corner(stage, row, rng) for row in range(config.batch)])
        stage = stage.to(device)
        left, top = corners.to(device).unbind(1)
        view = View(left, top, config.crop, config.crop)
        video = render(self.scenery, stage, view)
        return video, 1 + config.object_weight * presence(self.scenery, stage, view)[:, :, None]

    def corner(self, stage: Stage, row: int, rng: random.Random) -> tuple[float, float]:
        """Where a crop begins: about one of the scene's things, inside the frame."""
        slots = [slot for slot, sprite in enumerate(stage.sprites[row]) if sprite >= 0]
        x, y = stage.poses[row, rng.choice(slots), self.config.frames // 2, :2].tolist()
        if rng.random() < self.ELSEWHERE:
            x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        crop = self.config.crop

        def cut(centre: float, length: int) -> float:
            low = round(centre + rng.uniform(-0.4, 0.4) * crop - crop / 2)
            return float(min(max(low, 0), length - crop))

        return cut(x, WIDTH), cut(y - 0.2 * crop, HEIGHT)

    def sample(self, folder: Path, step: int) -> None:
        """A sheet of true frames, each row above what became of it."""
        device, rng = self.scenery.sprites.device, random.Random(1)
        rows = []
        for _ in range(6):
            stage = set_stage([self.theatre.scene(rng)], [0], 17).to(device)
            video = render(self.scenery, stage)
            again = self.model.decode(self.model.encode(video, lead=3))
            rows += [np.concatenate(pictures(clip)[0, [0, 8, 16]], 1) for clip in (video, again)]
        save_sheet(folder, step, rows)


class TheatreFlow:
    def __init__(
        self,
        theatre: TheatreConfig,
        scenery: Scenery,
        autoencoder: TAE,
        space: LatentSpace,
        tokenizer: Tokenizer,
        batches: SceneBatches,
        *,
        words: int,
        workers: int = 0,
        draw: Draw = render,
        seed: int = 0,
    ) -> None:
        self.theatre, self.scenery, self.autoencoder, self.space = theatre, scenery, autoencoder, space
        self.tokenizer, self.batches, self.workers, self.draw = tokenizer, batches, workers, draw
        self.config = FlowConfig(
            transformer=theatre.transformer(), text=theatre.text(words), shift=theatre.shift
        )
        self.model = FlowModel(self.config, seed=seed)
        self.ahead: Iterator[Batch] = iter(())
        self.expected = -1
        self.clips = self.video_frames = 0  # trained on so far, by this process

    def loss(
        self, step: int, rng: random.Random, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        return self.loss_of(self.next(step, pin=generator.device.type == "cuda"), generator)

    def next(self, step: int, *, pin: bool) -> Batch:
        if step != self.expected:
            self.draw_ahead(step, pin=pin)
        self.expected = step + 1
        return next(self.ahead)

    def draw_ahead(self, step: int, *, pin: bool) -> None:
        """Let the other processes begin with a step's batch. They are forked: before anything is compiled, which runs
        threads that a fork would leave behind half done."""
        self.ahead = from_step(self.batches, step, FOREVER, self.workers, pin=pin)
        self.expected = step

    def loss_of(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        theatre, device = self.theatre, generator.device
        stage = batch.stage.to(device)
        data = encoded(self.autoencoder, self.scenery, stage, theatre.encoded, self.draw)
        data = self.space.enter(data)
        count = len(data)
        noise = torch.randn(data.shape, generator=generator, device=device)
        sigma = flow.sample_sigmas(count, shift=theatre.shift, std=theatre.spread, generator=generator)
        begins, where, conditioning_noise = torch.rand(3, count, generator=generator, device=device)
        sigma = torch.where(begins < theatre.almost_noise, 1 - ALMOST_NOISE * where, sigma)
        known = known_frames(batch.given.tolist(), data.shape[2]).to(device)
        ids, lengths = (x.to(device, non_blocking=True) for x in (batch.ids, batch.lengths))
        context = self.model.context(ids, lengths)
        error = squared_error(
            self.model.transformer, context, data, noise, sigma, known, conditioning_noise
        ).mean(1)
        weight = 1 + theatre.thing_weight * things_in(self.scenery, stage, theatre.encoded)
        weight = weight * ~known[:, :, None, None]
        self.clips += count
        self.video_frames += count * stage.seconds.shape[1]
        return (error * weight).sum() / weight.sum(), {"latent_frames": float(data.shape[2])}

    def sample(self, folder: Path, step: int) -> None:
        """A row for each caption: five moments of a clip, or three stills from different noise."""
        length = max(length for length, _, _ in self.batches.mix)
        rows = []
        for text in SHOWN:
            clips = self.made([text] * (3 if length == 1 else 1), length)
            moments = np.linspace(0, clips.shape[1] - 1, 5).round().astype(int)
            frames = [clip[0] for clip in clips] if length == 1 else [clips[0, at] for at in moments]
            rows.append(labelled(frames, text))
        save_sheet(folder, step, rows)

    def made(self, texts: Sequence[str], length: int, *, seed: int = 0) -> UInt8[np.ndarray, "B F H W 3"]:
        """Clips of captions, by the weights that the model holds."""
        device = self.scenery.sprites.device
        shape = (self.theatre.autoencoder.latent_channels, length)
        shape = (*shape, HEIGHT // PIXELS_PER_LATENT, WIDTH // PIXELS_PER_LATENT)
        noise = torch.stack([flow.noise(seed + n, shape, device) for n in range(len(texts))])
        torch.compiler.set_stance("force_eager")  # compiling for this one batch would take longer than it
        try:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
                both = (tokenized(self.tokenizer, words) for words in (list(texts), [""] * len(texts)))
                prompt, negative = (
                    self.model.context(ids.to(device), lengths.to(device)) for ids, lengths in both
                )

                def run(latents: Latents, timestep: float, text: TextContext) -> Latents:
                    return self.model.transformer(latents, per_clip(timestep, latents), text)

                guided = GuidedVelocity(
                    model=run,
                    prompt=prompt,
                    negative=negative,
                    guidance=Guidance(method="cfg", scale=self.theatre.guidance),
                )
                *_, last = denoise(guided, noise, flow.sigmas(self.theatre.sample_steps, self.theatre.shift))
                clips = self.autoencoder.decode(self.space.leave(last.latents).transpose(1, 2))
        finally:
            torch.compiler.set_stance("default")
        return pictures(clips.float())


@torch.no_grad()
def encoded(
    autoencoder: TAE, scenery: Scenery, stage: Stage, most: int, draw: Draw = render
) -> Float[Tensor, "B C T h w"]:
    """The autoencoder's latents of scenes, drawn `most` frames at a time."""
    latents = []
    most = max(1, most // stage.seconds.shape[1])
    for first in range(0, len(stage.seconds), most):
        part = stage.part(slice(first, first + most))
        latents.append(autoencoder.encode(draw(scenery, part, whole(part)), lead=3).transpose(1, 2))
    return torch.cat(latents).float()


@torch.no_grad()
def things_in(scenery: Scenery, stage: Stage, most: int) -> Float[Tensor, "B T h w"]:
    """1 where a thing is in a latent cell in any of the frames that it stands for, else 0."""
    cells = []
    most = max(1, most // stage.seconds.shape[1])
    for first in range(0, len(stage.seconds), most):
        part = stage.part(slice(first, first + most))
        here = presence(scenery, part, whole(part), PIXELS_PER_LATENT)
        # Latent frame 0 stands for frame 0 alone: as many copies of it go in front as fill up its four.
        here = torch.cat((here[:, :1].expand(-1, FRAMES_PER_LATENT - 1, -1, -1), here), 1)
        cells.append(here.unflatten(1, (-1, FRAMES_PER_LATENT)).any(2))
    return torch.cat(cells).float()


def measured_space(
    autoencoder: TAE, scenery: Scenery, theatre: TheatreConfig, *, seed: int = 0
) -> LatentSpace:
    """The space in which each channel of the theatre's latents has mean 0 and deviation 1."""
    rng = random.Random(f"{seed}/space")
    scenes = [theatre.scene(rng) for _ in range(theatre.measured)]
    frames = FRAMES_PER_LATENT * (max(length for length, _, _ in theatre.clips) - 1) + 1
    stage = set_stage(scenes, [0] * len(scenes), frames).to(scenery.sprites.device)
    latents = encoded(autoencoder, scenery, stage, theatre.encoded).movedim(1, 0).flatten(1)
    mean, std = latents.mean(1).cpu(), latents.std(1).cpu()
    return LatentSpace(1 / std, -mean / std)


def save_sheet(folder: Path, step: int, rows: Sequence[UInt8[np.ndarray, "row all 3"]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(folder / f"{step:06d}.png")

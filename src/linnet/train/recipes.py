"""What `linnet train NAME` runs: each recipe is one function, and all its numbers stand here.

Every recipe can be stopped at any moment and started again with the same folder.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linnet import __version__
from linnet.data import synthetic
from linnet.data.cache import cached_latents
from linnet.data.vocabulary import write_tokenizer
from linnet.filesystem import write_text
from linnet.geometry import Size, token_count
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, Tokenizer
from linnet.models.transformer import TransformerConfig
from linnet.sampling import flow
from linnet.sampling.denoise import Guidance, GuidedVelocity, denoise, per_clip
from linnet.train.autoencoder import AutoencoderConfig, AutoencoderTask
from linnet.train.config import LoopConfig
from linnet.train.flow import FlowConfig, FlowTask
from linnet.train.loop import Report, train
from linnet.train.state import save_weights
from linnet.train.synthetic import SyntheticFlow
from linnet.weights.files import LATENT_BIAS, LATENT_SCALE, TRANSFORMER_PREFIX, fingerprint, read_config
from linnet.weights.load import load_into

Watch = Callable[[str, Report], None]

CLIPS = 12_000
TOKENS = 5600  # of a step's batch
MOST_A_STEP = TOKENS // token_count(1, Size(synthetic.WIDTH, synthetic.HEIGHT))  # clips, if each is one frame
TINY = TAEConfig(encoder_width=24, decoder_widths=(96, 64, 32, 24))
SHOWN = (  # captions of the sample clips; the last three are held out of training
    "a red star spins on a blue background",
    "a large yellow moon moves right on a black background",
    "a small green triangle bounces on a white background",
    "a large red star grows on a gray background",
    "a small blue heart moves up on a brown background",
    "a large green square spins on a brown background",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where a run writes and on what it runs."""

    folder: Path
    device: str = "cpu"
    steps: int | None = None  # fewer than the recipe's own, for a quick look


def autoencoder(recipe: Recipe, watch: Watch) -> Path:
    """Seedling's autoencoder: 3,000 small crops' worth, under an hour on one modern core."""
    task = AutoencoderTask(
        AutoencoderConfig(model=TINY, batch=12, frames=13, crop=48),
    )
    loop = LoopConfig(
        steps=recipe.steps or 3000,
        learning_rate=8e-4,
        warmup=100,
        log_every=20,
        sample_every=250,
        checkpoint_every=250,
    )
    folder = recipe.folder / "autoencoder"
    weights = train(task, loop, folder, device=recipe.device, watch=lambda r: watch("autoencoder", r))
    path = recipe.folder / "autoencoder.safetensors"
    save_weights(path, weights, asdict(TINY))
    write_recipe(recipe.folder / "autoencoder.json", "autoencoder", task.config, loop)
    return path


def seedling(recipe: Recipe, watch: Watch) -> Path:
    """The small model that ships with linnet: autoencoder, latents, then text encoder and transformer together."""
    folder = recipe.folder
    autoencoder_path = folder / "autoencoder.safetensors"
    if not autoencoder_path.exists():
        autoencoder(recipe, watch)
    tiny = TAEConfig.from_json(read_config(autoencoder_path) or {})
    decoder = load_into(lambda: TAE(tiny), autoencoder_path, device=recipe.device).eval()

    clips = CLIPS if recipe.steps is None else min(CLIPS, recipe.steps * MOST_A_STEP)
    cache = cached_latents(
        decoder,
        fingerprint([autoencoder_path]),
        folder / "latents",
        clips=clips,
        frames=97,
        seed=1,
        device=recipe.device,
        watch=paced(lambda report: watch("latents", report)),
    )
    tokenizer_path = folder / "tokenizer.json"
    words = write_tokenizer(tokenizer_path)
    shape = FlowConfig(
        transformer=TransformerConfig(
            dim=256, ffn_dim=1024, num_heads=4, num_layers=8, text_len=32, text_dim=128
        ),
        text=T5Config(
            vocab_size=words, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, gated=True
        ),
        tokens=TOKENS,
        lengths=(
            (0, ((1, 0.3), (4, 0.4), (7, 0.3))),
            (500, ((1, 0.1), (4, 0.2), (7, 0.5), (13, 0.2))),
            (1500, ((1, 0.05), (7, 0.4), (13, 0.55))),
            (22_400, ((1, 0.05), (7, 0.2), (13, 0.75))),
        ),
        shift=12.0,
        spread=1.5,
        focus_from=9800,
        onward_from=22_400,
    )
    loop = LoopConfig(
        steps=recipe.steps or 27_200,
        restarts=(3600, 9600, 22_400),
        learning_rate=1e-3,
        optimiser="muon",
        muon_learning_rate=0.02,
        slower=(("text.", 0.3),),  # T5's queries are small by design, and the same rate moves them more
        warmup=100,
        cooldown=0.7,
        ema=0.997,
        log_every=10,
        sample_every=500,
        checkpoint_every=100,
    )
    task = SampledFlow(shape, cache, Tokenizer.open(tokenizer_path), decoder)
    compiled(task, recipe.device)
    weights = train(task, loop, folder / "flow", device=recipe.device, watch=lambda r: watch("flow", r))
    export(task, weights, folder)
    write_recipe(folder / "recipe.json", "seedling", {"clips": clips, **asdict(shape)}, loop)
    return folder


def paced(watch: Callable[[Report], None]) -> Callable[[int, int], None]:
    """Reports with the seconds that each part took so far; those that were there before count for nothing."""
    begun: list[tuple[float, int]] = []

    def look(done: int, total: int) -> None:
        begun[:] = begun or [(time.monotonic(), done)]
        start, before = begun[0]
        watch(Report(done, total, {}, (time.monotonic() - start) / max(1, done - before)))

    return look


class SampledFlow(SyntheticFlow):
    """The flow task with an autoencoder at hand, so that a person can look at what it has learnt."""

    def __init__(
        self, config: FlowConfig, cache, tokenizer: Tokenizer, autoencoder: TAE, *, seed: int = 0
    ) -> None:
        super().__init__(config, cache, tokenizer, seed=seed)
        self.autoencoder = autoencoder

    def sample(self, folder: Path, step: int) -> None:
        """A sheet: a row for each caption, six moments of a two-second clip from left to right."""
        folder.mkdir(parents=True, exist_ok=True)
        _, channels, _, height, width = self.cache.latents.shape
        frames = max(length for length, _ in self.config.lengths[-1][1])
        device = self.model.transformer.patch_embedding.weight.device
        noise = torch.stack(
            [flow.noise(i, (channels, frames, height, width), device) for i in range(len(SHOWN))]
        )
        ids, lengths = (x.to(device) for x in self.tokenize(list(SHOWN)))
        nothing = (x.to(device) for x in self.tokenize([""] * len(SHOWN)))
        torch.compiler.set_stance("force_eager")  # compiling for this one batch would take longer than it
        transformer = self.model.transformer
        guided = GuidedVelocity(
            model=lambda latents, timestep, text: transformer(latents, per_clip(timestep, latents), text),
            prompt=self.model.context(ids, lengths),
            negative=self.model.context(*nothing),
            guidance=Guidance(method="cfg", scale=3.0),
        )
        with torch.autocast(device.type, torch.bfloat16):
            *_, last = denoise(guided, noise, flow.sigmas(20, self.config.shift))
        torch.compiler.set_stance("default")
        scale, bias = (x.view(-1, 1, 1, 1).to(device) for x in (self.scale, self.bias))
        rows = []
        for latents in (last.latents - bias) / scale:
            clip = self.autoencoder.decode(latents.transpose(0, 1)[None])[0]
            chosen = clip[:: clip.shape[0] // 6][:6].permute(0, 2, 3, 1)
            rows.append(np.concatenate((chosen * 255).round().byte().cpu().numpy(), 1))
        Image.fromarray(np.concatenate(rows)).save(folder / f"{step:06d}.png")


def compiled(task: FlowTask, device: str) -> None:
    """Fuse each block's small operations; on a CPU this needs a C++ compiler, and training goes on without."""
    import shutil

    if device == "cuda" or shutil.which("g++") or shutil.which("clang++"):
        for block in task.model.transformer.blocks:
            block.compile(dynamic=False)


@runtime_checkable
class Exported(Protocol):
    """What the two networks' files say beside their weights."""

    @property
    def config(self) -> FlowConfig: ...

    @property
    def scale(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor: ...


def export(task: Exported, weights: dict[str, Tensor], folder: Path) -> None:
    """The two networks as `weights.load` reads them; the transformer's file also says how latents are scaled."""
    parts = {
        part: {name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(f"{part}.")}
        for part in ("text", "transformer")
    }
    save_weights(folder / "text_encoder.safetensors", parts["text"], asdict(task.config.text))
    save_weights(
        folder / "transformer.safetensors",
        {TRANSFORMER_PREFIX + name: w for name, w in parts["transformer"].items()},
        asdict(task.config.transformer),
        exact={LATENT_SCALE: task.scale, LATENT_BIAS: task.bias},
    )


def write_recipe(path: Path, name: str, config: object, loop: LoopConfig) -> None:
    """What made the weights beside it."""
    shape = config if isinstance(config, dict) else asdict(config)  # pyright: ignore[reportArgumentType]
    record = {
        "recipe": name,
        "linnet": __version__,
        "torch": torch.__version__,
        "task": shape,
        "loop": asdict(loop),
    }
    write_text(path, json.dumps(record, indent=1) + "\n")


RECIPES: dict[str, Callable[[Recipe, Watch], Path]] = {"autoencoder": autoencoder, "seedling": seedling}

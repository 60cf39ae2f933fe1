"""All numbers of seedling's training on the theatre, at the size that ships and at one for a rehearsal."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from linnet.data.theatre.places import PLACES
from linnet.data.theatre.scene import Scene, sample_scene
from linnet.data.theatre.things import THINGS
from linnet.models.tae import TAEConfig
from linnet.models.text import T5Config
from linnet.models.transformer import TransformerConfig
from linnet.train.config import LoopConfig

TEXT_LENGTH = 48  # tokens of the longest captions, their pieces included
FOREVER = 10**7  # steps: runs on the theatre end by the clock


@dataclass(frozen=True, kw_only=True)
class TheatreConfig:
    """`words` of the tokenizer are filled in by the run. Lengths are in latent frames, batches in clips."""

    autoencoder: TAEConfig
    dim: int
    layers: int
    heads: int
    text_dim: int
    text_layers: int
    # Clips a batch by their length, and how often a batch is of that length, for each phase.
    stills: tuple[tuple[int, int, float], ...]
    clips: tuple[tuple[int, int, float], ...]
    encoded: int  # frames that are drawn and encoded at a time
    crops: int  # a batch of the autoencoder
    crop: int = 96  # pixels a side
    crop_frames: int = 9
    measured: int  # clips from which the latents' statistics are taken
    things: tuple[str, ...] = tuple(THINGS)
    places: tuple[str, ...] = tuple(PLACES)
    # As in the recipe of seedling: most training goes to high noise, where a caption decides what there will be.
    shift: float = 8.0
    spread: float = 1.4
    almost_noise: float = 0.05  # share of the samples that stand where sampling begins
    dropped_captions: float = 0.1
    thing_weight: float = 4.0  # a cell with a thing in it counts so much more than the background's
    continued: float = 0.15  # share of the clips that go on from given frames
    most_given: int = 7
    sample_steps: int = 20
    guidance: float = 3.0
    loops: Mapping[str, LoopConfig] = field(default_factory=dict)

    def scene(self, rng: random.Random, *, still: bool = False) -> Scene:
        return sample_scene(rng, still=still, things=self.things, places=self.places)

    def transformer(self) -> TransformerConfig:
        return TransformerConfig(
            dim=self.dim,
            ffn_dim=4 * self.dim,
            num_heads=self.heads,
            num_layers=self.layers,
            text_len=TEXT_LENGTH,
            text_dim=self.text_dim,
        )

    def text(self, words: int) -> T5Config:
        return T5Config(
            vocab_size=words,
            d_model=self.text_dim,
            d_kv=self.text_dim // 4,
            d_ff=2 * self.text_dim,
            num_layers=self.text_layers,
            num_heads=4,
            gated=True,
        )


AUTOENCODER_LOOP = LoopConfig(
    steps=FOREVER,
    learning_rate=8e-4,
    warmup=100,
    log_every=20,
    sample_every=FOREVER,
    checkpoint_every=400,
    ema=0.998,
)
FLOW_LOOP = LoopConfig(
    steps=FOREVER,
    learning_rate=1e-3,
    optimiser="muon",
    muon_learning_rate=0.02,
    slower=(("text.", 0.3),),
    warmup=60,
    ema=0.997,
    log_every=20,
    sample_every=FOREVER,
    checkpoint_every=400,
)
LOOPS = {"autoencoder": AUTOENCODER_LOOP, "flow": FLOW_LOOP}

FULL = TheatreConfig(
    autoencoder=TAEConfig(encoder_width=24, decoder_widths=(96, 64, 32, 24)),
    dim=256,
    layers=8,
    heads=4,
    text_dim=192,
    text_layers=3,
    stills=((1, 768, 1.0),),
    clips=((13, 96, 0.85), (1, 768, 0.15)),
    encoded=32 * 49,
    crops=48,
    measured=96,
    loops=LOOPS,
)
SMALL = TheatreConfig(  # learns nothing to speak of: it shows that every part works
    autoencoder=TAEConfig(encoder_width=8, decoder_widths=(16, 12, 8, 8)),
    dim=48,
    layers=2,
    heads=2,
    text_dim=32,
    text_layers=1,
    stills=((1, 4, 1.0),),
    clips=((4, 1, 0.7), (1, 4, 0.3)),
    encoded=26,
    crops=2,
    crop=48,
    crop_frames=5,
    measured=2,
    sample_steps=2,
    loops=LOOPS,
)
FEW_THINGS = (
    *(
        "dog",
        "cat",
        "horse",
        "cow",
        "elephant",
        "rabbit",
        "fox",
        "frog",
        "penguin",
        "turtle",
        "bird",
        "bee",
        "rocket",
    ),
    *(
        "whale",
        "fish",
        "car",
        "bus",
        "tractor",
        "sailboat",
        "football",
        "basketball",
        "sunflower",
        "apple",
        "banana",
    ),
    *("pumpkin", "balloon", "sun", "moon", "star", "heart"),
)
FEW = replace(  # for days on a CPU instead of minutes on a card: 30 things in 6 places, small batches
    FULL,
    things=FEW_THINGS,
    places=("meadow", "forest", "snow", "sea", "street", "plain"),
    stills=((1, 24, 1.0),),
    clips=((13, 2, 0.6), (7, 4, 0.25), (1, 24, 0.15)),
    encoded=2 * 49,  # more at a time takes 15 GB of memory
    crops=6,
    crop=64,
)
SIZES = {"full": FULL, "few": FEW, "small": SMALL}

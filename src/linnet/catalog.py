"""The models that linnet knows: what each can make, its defaults, and where its files are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from linnet.errors import InvalidInput
from linnet.geometry import FPS, FRAMES_PER_LATENT, Size
from linnet.wording import choices

WIDEST_ASPECT = 2.5
Format = Literal["int8", "float8"]  # 8-bit storage of weights
FORMATS: tuple[Format, ...] = ("int8", "float8")


class Published(NamedTuple):
    """A setting of a request that others published for models of this kind, and where."""

    setting: str
    value: Any
    source: str


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One row of the catalogue.

    `sizes` are the ones the model was trained on, the default first. `size_multiple` > 0 also allows any
    size whose sides are multiples of it, with half to all of the largest trained size's pixels and neither
    side over 2.5 times the other; 0 allows `sizes` alone. Paths are relative to `repository` on the Hub
    or, when `source` is "package", to the folder inside the package that is named after the model; when it is "own",
    to a folder that the user trained and names.
    Models of one `family` have the same architecture and widths; their sizes differ.
    `batched_guidance`: both guidance passes go through the transformer as one batch, which pays where a step is so
    short that launching it costs; elsewhere one after the other, which takes less memory.
    `compiled`: the transformer's blocks are compiled on a CUDA card, where a compiler is there, since its steps are so
    long that this pays.
    `closed_vocabulary`: the model knows the words that it was trained on, and no others. `world` is what its captions
    describe, and decides what becomes of other words: of the "synthetic" dataset they are refused; of the "theatre"
    they are named, and the model goes on with the rest, if that names something to draw.
    `warm_up`: the model is so small that a worker makes a frame before its first job.
    `examples` are prompts that it draws well.
    A clip over `max_frames` is made in windows of `window` frames that share `overlap`: each from the one before it
    (`autoregressive_windows`, see sampling.autoregressive), or all jointly (see sampling.windows).
    `shortest_lengths` rise: the lengths in frames at which a short clip is made. It is a part of the least of them that
    is no shorter than it (see `denoised_frames`, `ModelRunner.sample`).
    `momentum_steps`: with fewer, each of them guided, APG's momentum is at its limit from the first on, whatever the
    solver: its swings do not even out in so few.
    `least_steps` says by solver with how few steps a clip is as asked; fewer are refused (docs/performance.md).
    `profiles` are settings of a request that trade fidelity for time; the model's other defaults are "exact".
    `literature`: settings that stand in for a profile which was not measured, on request alone.
    `floor`: PSNR to exact, in dB, that `linnet tune` asks of a fast profile by default.
    `default_profile` is the one of a request that names none.
    `teaching`: settings of `linnet train lora` that suit it, where they are not as usual.
    """

    name: str
    title: str
    sizes: tuple[Size, ...]
    size_multiple: int
    min_frames: int
    max_frames: int
    default_frames: int
    window: int
    overlap: int
    autoregressive_windows: bool = True
    fps: int = FPS
    steps: int
    guidance: float
    apg_rescale: float
    apg_momentum: float
    apg_eta: float
    shift: float
    max_prompt_tokens: int
    licence: str
    source: Literal["package", "hub", "own"]
    family: str
    batched_guidance: bool = False
    compiled: bool = False
    closed_vocabulary: bool = False
    world: Literal["synthetic", "theatre"] = "synthetic"
    warm_up: bool = False
    examples: tuple[str, ...]
    repository: str | None
    transformer_file: str
    autoencoder_file: str
    text_encoder_dir: str
    tokenizer_dir: str
    download_bytes: int
    autoencoder: Literal["wan", "tiny"]
    shortest_lengths: tuple[int, ...] = ()
    momentum_steps: int = 1
    least_steps: Mapping[str, int]
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    literature: Mapping[str, tuple[Published, ...]] = field(default_factory=dict)
    floor: float = 24.0
    default_profile: Literal["exact", "fast", "draft"] = "exact"
    teaching: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ships(self) -> bool:
        """Whether its files come with linnet; others are downloaded."""
        return self.source == "package"

    @property
    def published(self) -> bool:
        """Whether it can be downloaded, and its size is known before."""
        return self.source == "hub"

    def denoised_frames(self, frames: int) -> int:
        """How many frames are denoised for a clip of so many: more, where the model does not know such short ones."""
        return next((length for length in self.shortest_lengths if length >= frames), frames)

    @property
    def least_window(self) -> int:
        """Of the windows of a long clip, the shortest; a frame alone is none."""
        return self.denoised_frames(max(self.min_frames, FRAMES_PER_LATENT + 1))

    def allows(self, size: Size) -> bool:
        """Whether the model can make frames of this size."""
        if size in self.sizes:
            return True
        if not self.size_multiple or size.width % self.size_multiple or size.height % self.size_multiple:
            return False
        most = max(trained.pixels for trained in self.sizes)
        return most <= 2 * size.pixels <= 2 * most and max(size) <= WIDEST_ASPECT * min(size)

    def check_size(self, size: Size) -> None:
        """Refuse a size the model cannot do, with the sizes that it can."""
        if self.allows(size):
            return
        remedy = f"use {', '.join(map(str, self.sizes))}"
        if step := self.size_multiple:
            rounded = Size(*(max(step, step * round(side / step)) for side in size))
            most = max(trained.pixels for trained in self.sizes)
            near = f"{rounded} is the nearest; " if self.allows(rounded) else ""
            remedy = (
                f"{near}{remedy}, or sides that are multiples of {step} with {most // 2} to {most} pixels "
                f"in all, neither side over {WIDEST_ASPECT} times the other"
            )
        raise InvalidInput("size", size, f"is not a size that {self.name} can make", remedy)


def linum(lines: int, size: Size) -> ModelSpec:
    """A Linum v2 repository as published, whose name and transformer file give the size in `lines`."""
    return ModelSpec(
        name=f"linum-v2-{lines}p",
        title=f"Linum v2, {size.width}x{size.height}, 2 to 5 seconds (2.0 billion parameters)",
        sizes=(size,),
        size_multiple=16,
        min_frames=49,
        max_frames=121,
        default_frames=49,
        window=121,
        overlap=60,
        steps=50,
        guidance=10.0,
        apg_rescale=20.0,
        apg_momentum=-0.75,
        apg_eta=0.0,
        shift=3.0,
        max_prompt_tokens=256,
        licence="Apache-2.0",
        source="hub",
        family="linum-v2",
        compiled=True,
        examples=(
            "a red fox runs through a snowy forest at dawn, the camera follows low and close",
            "waves break on black sand under a low sun, seen from above, slowly drifting",
            "a paper boat sails down a rainy gutter, close to the water, reflections of street lamps",
        ),
        repository=f"Linum-AI/linum-v2-{lines}p",
        transformer_file=f"dit/{lines}p.safetensors",
        autoencoder_file="vae/vae.safetensors",
        text_encoder_dir="t5/text_encoder",
        tokenizer_dir="t5/tokenizer",
        download_bytes=20_000_000_000,  # as published, rounded; `linnet pull` asks the Hub for the exact sum
        autoencoder="wan",
        # Not measured. By their order: ten steps of the second order are as near as about twenty of the first.
        least_steps={"dpm++": 10, "unipc": 10},
        literature={
            "fast": (
                Published(
                    "guidance_until",
                    0.5,
                    "Adaptive Guidance, arXiv 2312.12487, for images; Step AG, arXiv 2506.08351, for videos too",
                ),
                Published("reuse", "0.05", "EasyCache, arXiv 2507.02860, for Wan 2.1"),
            )
        },
    )


SEEDLING = ModelSpec(
    name="seedling",
    title="Coloured shapes that move, 128x72; ships with linnet",
    sizes=(Size(128, 72),),
    size_multiple=0,
    min_frames=1,
    max_frames=49,  # as it was trained
    default_frames=49,
    window=49,
    overlap=24,
    steps=20,
    guidance=3.0,
    apg_rescale=0.0,
    apg_momentum=-0.5,
    apg_eta=0.0,
    shift=12.0,
    max_prompt_tokens=32,
    licence="Apache-2.0",
    source="package",
    family="seedling",
    batched_guidance=True,
    closed_vocabulary=True,
    warm_up=True,
    examples=(
        "a red star spins on a blue background",
        "a small white moon bounces on a green background",
        "a large green heart grows on a black background",
        "a yellow triangle moves left on a brown background",
        "a pink square shrinks on a white background",
    ),
    repository=None,
    transformer_file="transformer.safetensors",
    autoencoder_file="autoencoder.safetensors",
    text_encoder_dir="text_encoder.safetensors",
    tokenizer_dir="tokenizer.json",
    download_bytes=0,
    autoencoder="tiny",
    # It was trained on clips of 1, 25 and 49 frames. At 9 and 13 what moves sideways breaks in the middle.
    shortest_lengths=(1, 25),
    momentum_steps=20,  # of 50 clips in 6 steps 26 were right with the swings
    least_steps={"dpm++": 8, "unipc": 10},
    # Euler: its few long last steps, at this shift, are where the multistep solvers overshoot. Guidance where forms get
    # their points: in 0.3 to 0.6 of the steps more small stars become pentagons (182 of 200 clips were right so, 188
    # in 0.5 to 0.8, 186 with that at shift 5); over the last steps it spoils colours, and in the first it costs steps
    # that forms need more. Two steps cannot spare one for the last twentieth of the noise.
    profiles={
        "fast": {
            "steps": 10,
            "shift": 8.0,
            "guidance_from": 0.5,
            "guidance_until": 0.8,
            "decoder_dtype": "auto",
        },
        "draft": {
            "steps": 2,
            "shift": 8.0,
            "spacing": "trailing",
            "guidance_until": 0.5,
            "decoder_dtype": "auto",
        },
    },
    teaching={"steps": 400, "batch": 4, "learning_rate": 1e-3, "prior": 32, "stills": 9},
    floor=32.0,  # another shape is told by SSIM; the PSNR says whether things are where they were
)

THEATRE = replace(
    SEEDLING,
    name="theatre",
    title="Everyday things that move over painted places, 256x144",
    sizes=(Size(256, 144),),
    shift=8.0,
    max_prompt_tokens=48,
    source="own",
    family="theatre",
    world="theatre",
    examples=(
        "a fox runs through a snowy forest at night",
        "a red car drives on a street in the rain",
        "a whale swims in the sea at sunset",
        "a football bounces on a beach",
        "two elephants walk in the desert",
    ),
    shortest_lengths=(1, 49),  # stills and whole clips are what it is trained on
    floor=24.0,
    default_profile="fast",
)
"""What `python -m linnet.train.theatre --export` writes (docs/theatre.md). It takes seedling's place once its weights
ship; until then it runs with `--model theatre --weights FOLDER`, and no list of models shows it."""

CATALOG: dict[str, ModelSpec] = {
    spec.name: spec for spec in (SEEDLING, linum(360, Size(640, 360)), linum(720, Size(1280, 720)))
}


def find(name: str) -> ModelSpec:
    """The model of that name; an unknown one is refused with the name most like it."""
    known = CATALOG | {THEATRE.name: THEATRE}
    if spec := known.get(name.strip().lower()):
        return spec
    raise InvalidInput("model", name, "there is no such model", choices(name, CATALOG))

"""What a person may choose of a training run, checked where it enters. What is None follows from the model's row of
the catalogue, or from the dataset. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.plan.execution import FORMATS
from linnet.wording import choices, format_number

Kind = Literal["lora", "full"]
Optimiser = Literal["adamw", "muon", "adamw8bit", "prodigy", "came"]
Schedule = Literal["wsd", "linear", "cosine", "constant"]
Keep = Literal["last", "best"]
Task = Literal["text-to-video", "image-to-video"]
TARGETS = ("q", "k", "v", "o", "ffn")
NAMED = {
    "optimiser": get_args(Optimiser),
    "schedule": get_args(Schedule),
    "task": get_args(Task),
    "base": ("bfloat16", *FORMATS),
    "keep": get_args(Keep),
}
# (least, most), both allowed
RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 1024),
    "alpha": (1e-6, 1e6),
    "dropout": (0.0, 0.9),
    "steps": (1, 10_000_000),
    "batch": (1, 4096),
    "accumulation": (1, 4096),
    "learning_rate": (1e-9, 10.0),
    "weight_decay": (0.0, 1.0),
    "warmup": (0, 1_000_000),
    "ema": (0.0, 0.99999),
    "clip_norm": (0.0, 1e6),
    "caption_dropout": (0.0, 1.0),
    "first_frame": (0.0, 1.0),
    "stills": (0, 1000),
    "crops": (0, 100),
    "held_out": (0.0, 0.9),
    "prior": (0, 10_000),
    "seed": (0, 2**32 - 1),
    "preview_every": (1, 10_000_000),
    "checkpoint_every": (1, 10_000_000),
    "validate_every": (0, 10_000_000),
}
STEPS_A_CLIP, LEAST_STEPS, MOST_STEPS = 100, 500, 3000


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """`rank` to `targets` are a LoRA's alone. `base`: in which numbers its frozen weights are kept; None: as fits.
    `first_frame`: of image-to-video, the share of samples whose first frame is given. `stills`: how many
    frames of each clip are trained on as images, too. `crops`: how many crops of each clip and image are trained on,
    too. `prior`: how many clips of the model's own it sees again meanwhile (see train.prior), of prompts that
    `prior_prompts` holds, one a line. `keep`: best keeps the file at the lowest held-out loss, too."""

    kind: Kind = "lora"
    rank: int = 32
    alpha: float | None = None
    dropout: float = 0.0
    dora: bool = False
    targets: tuple[str, ...] = TARGETS
    base: Literal["bfloat16", "int8", "float8"] | None = None
    steps: int | None = None
    batch: int | None = None
    accumulation: int = 1
    learning_rate: float | None = None
    optimiser: Optimiser = "adamw"
    schedule: Schedule = "wsd"
    warmup: int | None = None
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.99
    timesteps: str = "logit-normal"
    caption_dropout: float | None = None
    task: Task = "text-to-video"
    first_frame: float | None = None
    stills: int | None = None
    crops: int | None = None
    held_out: float | None = None
    prior: int | None = None
    prior_prompts: Path | None = None
    seed: int = 0
    previews: tuple[str, ...] = ()
    preview_every: int | None = None
    checkpoint_every: int | None = None
    validate_every: int | None = None
    keep: Keep = "last"

    def __post_init__(self) -> None:
        for name, known in NAMED.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InvalidInput(name, value, "is not known", choices(str(value), known))
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            whole = "int" in str(self.__dataclass_fields__[name].type)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidInput(name, value, "is not a number", "write it in digits, such as 2")
            if whole and value != int(value):
                raise InvalidInput(name, value, "is not a whole number", "write it without a point")
            if not least <= value <= most:
                bounds = f"{format_number(least)} to {format_number(most)}"
                raise InvalidInput(name, value, "is out of range", f"use {bounds}")
        if self.first_frame and self.task != "image-to-video":
            remedy = "add `task=image-to-video`"
            raise InvalidInput("first_frame", self.first_frame, "is of image-to-video training", remedy)
        if self.kind == "full" and self.base in FORMATS:
            problem = "keeps weights in 8 bits, which cannot learn"
            raise InvalidInput("base", self.base, problem, "use bfloat16, or train a LoRA")

    def for_clips(self, spec: ModelSpec, clips: int) -> Self:
        """With nothing left open that the model and the number of clips decide."""
        own: Mapping[str, Any] = spec.teaching if self.kind == "lora" else {}
        if self.optimiser == "prodigy":  # which finds the rate itself: this is a factor on it
            own = {**own, "learning_rate": 1.0}
        steps = self.steps or own.get("steps", min(max(STEPS_A_CLIP * clips, LEAST_STEPS), MOST_STEPS))
        usual: dict[str, Any] = {
            "batch": 1,
            "learning_rate": 1e-4 if self.kind == "lora" else 1e-5,
            "alpha": float(self.rank),
            "warmup": min(100, steps // 10),
            "caption_dropout": 0.1,
            "prior": 0,
            "stills": 0,
            "crops": 0,
            "first_frame": 0.5 if self.task == "image-to-video" else 0.0,
            "preview_every": max(1, steps // 4),
            "checkpoint_every": max(1, min(100, steps // 4)),
            "validate_every": max(1, steps // 10),
            **own,
            "steps": steps,
        }
        return type(self)(**{**self.given(), **{n: v for n, v in usual.items() if getattr(self, n) is None}})

    def given(self) -> Mapping[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

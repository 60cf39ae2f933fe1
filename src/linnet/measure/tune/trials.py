"""Clips of exact and of other settings, made and measured one by one, and kept so that a stopped run goes on.

Everything lies in one folder: what exact made (latents and frames) and a small JSON file for each clip of other
settings. Each file appears when it is complete.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linnet.filesystem import complete, make_folder, sweep, write_text
from linnet.measure.tune.fidelity import Fidelity, clip_psnr, compare, relative_error, worst_tenth
from linnet.measure.tune.skipping import Products, Velocities
from linnet.pipeline import Pipeline
from linnet.records import read_object_or_nothing
from linnet.request import Request, make_request
from linnet.sampling.flow import levels_of

Clip = UInt8[np.ndarray, "T H W 3"]

HOPELESS = 0.7  # relative error of the latents from which on a clip shows something else; it is not decoded
WARM_UP = 2  # steps of a clip that does not count: libraries warm up, and the compiler compiles, in it
WIDEST = 480  # pixels, of a clip on the page
GAP, PAPER = 12, (252, 252, 250)  # pixels between the two, in the page's colour
FRAME_MS = 1000 / 24


class Pair(NamedTuple):
    """A clip to make."""

    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings of a request that differ from exact, and how the transformer runs: `compiled` None as planned,
    `attention` "" the fastest."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool | None = None
    fp8: bool = False
    attention: str = ""

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def __hash__(self) -> int:
        return hash(self.key)

    def with_settings(self, **settings: Any) -> "Candidate":
        return replace(self, settings={**self.settings, **settings})

    def __str__(self) -> str:
        settings = {name.replace("_", " "): value for name, value in self.settings.items()}
        words = []
        if "guidance until" in settings:
            start, stop = settings.pop("guidance from", 0.0), settings.pop("guidance until")
            words.append(f"guidance interval {start}:{stop}")
        if "reuse" in settings:
            settings["step cache"] = settings.pop("reuse")
        words += [f"{name} {value}" for name, value in settings.items()]
        words += [] if self.compiled is None else ["compiled" if self.compiled else "not compiled"]
        words += ["products in FP8"] if self.fp8 else []
        return ", ".join(words) or "exact"


EXACT = Candidate()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What exact made, in seconds from the text states to the last frame, and by which way to attend."""

    seconds: float
    attention: str
    latents: Float[Tensor, "1 C t h w"]
    frames: Clip


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One clip of a candidate beside exact's. `fidelity` is None where the latents alone were too far away.
    `skipped`: the steps (from 1) that did without the model. `products` of its steps' velocities are there where none
    did (see tune.skipping)."""

    seconds: float
    exact_seconds: float
    latent_error: float
    skipped: list[int]
    products: Products
    fidelity: Fidelity | None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Trial":
        seen = record["fidelity"]
        return cls(**{**record, "fidelity": None if seen is None else Fidelity(**seen)})


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Over several clips: medians, and the worst tenth of all frames. `each` has the PSNR of each clip."""

    clips: int
    faster: float
    latent_error: float
    psnr: float
    psnr_worst: float
    ssim: float
    ssim_worst: float
    motion: float
    flicker: float
    brightness: float
    saturation: float
    each: list[float]

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> "Figures | None":
        """None where a clip was too far away to be decoded."""
        seen = [trial.fidelity for trial in trials if trial.fidelity]
        if len(seen) < len(trials):
            return None
        each = [fmean(fidelity.psnr) for fidelity in seen]
        return cls(
            clips=len(trials),
            faster=median(trial.exact_seconds / trial.seconds for trial in trials),
            latent_error=median(trial.latent_error for trial in trials),
            psnr=median(each),
            psnr_worst=worst_tenth([value for fidelity in seen for value in fidelity.psnr]),
            ssim=median(fmean(fidelity.ssim) for fidelity in seen),
            ssim_worst=worst_tenth([value for fidelity in seen for value in fidelity.ssim]),
            motion=median(fidelity.motion for fidelity in seen),
            flicker=median(fidelity.flicker for fidelity in seen),
            brightness=fmean(abs(fidelity.brightness) for fidelity in seen),
            saturation=fmean(abs(fidelity.saturation) for fidelity in seen),
            each=each,
        )


class Made(NamedTuple):
    """A clip as it was made; no frames where the latents are hopeless."""

    seconds: float
    latents: Float[Tensor, "1 C t h w"]
    frames: Clip | None
    skipped: list[int]
    products: Products


Kind = Literal["exact", "trial"]
Open = Callable[[Candidate], Pipeline]


class Trials:
    """Makes each clip once. `request` is exact, of any prompt and seed; `open_pipeline` gives a pipeline that runs as a
    candidate says; `made` hears of every clip that was made now."""

    def __init__(
        self,
        folder: Path,
        request: Request,
        open_pipeline: Open,
        *,
        made: Callable[[Kind, str], object] = lambda kind, what: None,
    ) -> None:
        self.folder, self.request, self.open_pipeline, self.made = folder, request, open_pipeline, made
        self._pipeline: Pipeline | None = None
        self._runs_as: tuple[object, ...] | None = None
        self._warm: set[str] = set()
        for name in ("exact", "trials", "pictures"):
            make_folder(folder / name, field="state")
            sweep(folder / name)

    def close(self) -> None:
        """Give the model's memory back."""
        if self._pipeline is not None:
            self._pipeline.unload()
        self._pipeline = self._runs_as = None

    # --- clips --------------------------------------------------------------------------------------------------------

    def exact(self, pair: Pair, *, attention: str = "") -> Reference:
        """The exact clip, with another way to attend for `attention`."""
        candidate = replace(EXACT, attention=attention)
        path = self.folder / "exact" / f"{name_of(pair, candidate)}.safetensors"
        if (kept := read_reference(path)) is not None:
            return kept
        made = self._make(candidate, pair, None)
        latents, frames = made.latents, made.frames
        assert frames is not None
        used = self.pipeline(candidate).runner.attention_used
        tensors = {"latents": latents.cpu().contiguous(), "frames": torch.from_numpy(frames)}
        with complete(path, field="state") as part:
            save_file(tensors, part, {"seconds": repr(made.seconds), "attention": used})
        self.made("exact", pair.prompt)
        return Reference(seconds=made.seconds, attention=used, latents=latents.cpu(), frames=frames)

    def trial(self, candidate: Candidate, pair: Pair, *, picture: bool = False) -> Trial:
        """The candidate's clip beside the exact one. With `picture` the two are kept as a moving picture."""
        path = self.folder / "trials" / f"{name_of(pair, candidate)}.json"
        shown = self.picture(candidate, pair)
        if path.exists() and (shown.exists() or not picture):
            try:
                return Trial.from_json(read_object_or_nothing(path.read_text("utf-8")))
            except (KeyError, TypeError):
                pass  # spoilt: it is made again
        exact = self.exact(pair)
        made = self._make(candidate, pair, exact.latents)
        if made.frames is not None and picture:
            write_pictures(shown, exact.frames, made.frames)
        trial = Trial(
            seconds=made.seconds,
            exact_seconds=exact.seconds,
            latent_error=relative_error(made.latents.cpu(), exact.latents),
            skipped=made.skipped,
            products=made.products,
            fidelity=None if made.frames is None else compare(made.frames, exact.frames),
        )
        write_text(path, json.dumps(asdict(trial)), field="state")
        self.made("trial", str(candidate))
        return trial

    def timed(self, candidate: Candidate, pair: Pair) -> float:
        """How many times faster than exact: both are made now, one after the other, and not kept."""
        exact = self._make(EXACT, pair, None)
        return exact.seconds / self._make(candidate, pair, None).seconds

    def picture(self, candidate: Candidate, pair: Pair) -> Path:
        return self.folder / "pictures" / f"{name_of(pair, candidate)}.webp"

    def alike(self, pair: Pair, other: Pair) -> float:
        """PSNR of two exact clips."""
        return clip_psnr(self.exact(pair).frames, self.exact(other).frames)

    # --- runs ---------------------------------------------------------------------------------------------------------

    def pipeline(self, candidate: Candidate) -> Pipeline:
        """The one that runs so; another one's memory is given back first."""
        runs_as = (candidate.compiled, candidate.fp8, candidate.attention)
        if self._pipeline is None or self._runs_as != runs_as:
            self.close()
            self._warm.clear()
            self._pipeline, self._runs_as = self.open_pipeline(candidate), runs_as
        return self._pipeline

    def request_of(self, candidate: Candidate, pair: Pair) -> Request:
        """What makes the candidate's clip."""
        settings: dict[str, Any] = {"prompt": pair.prompt, "seed": pair.seed, **candidate.settings}
        pipeline = self.pipeline(candidate)
        return pipeline.settled(make_request(pipeline.spec, like=self.request, **settings))

    def _make(self, candidate: Candidate, pair: Pair, exact: Tensor | None) -> Made:
        pipeline, request = self.pipeline(candidate), self.request_of(candidate, pair)
        self._warm_up(pipeline, request)
        pipeline.model.follow(pipeline.plan(request))
        pipeline.model.text_states(request.prompt, request.negative)  # the same for all, so it is not timed
        clock = clock_of(pipeline)
        start, skipped = clock(), list[int]()
        velocities = Velocities(levels=levels_of(request)) if request.reuse == "none" else None
        latents = None
        for step in pipeline.runner.sample(request, skipped=skipped):
            latents = step.latents
            if velocities and exact is not None:
                velocities.see(step)
        assert latents is not None  # a request has a step
        frames = None
        if exact is None or relative_error(latents.cpu(), exact) <= HOPELESS:
            lower = request.decoder_dtype == "bfloat16"
            frames = np.concatenate(list(pipeline.runner.decode(latents, lower=lower)))
        return Made(
            seconds=clock() - start,
            latents=latents,
            frames=frames,
            skipped=[step + 1 for step in skipped],
            products=velocities.products() if velocities and velocities.gathered else [],
        )

    def _warm_up(self, pipeline: Pipeline, request: Request) -> None:
        """Read the weights and run everything once that a clip with such settings runs."""
        if request.decoder_dtype in self._warm:
            return
        # Half of it guided: both kinds of step are seen.
        short = replace(request, steps=WARM_UP, reuse="none", guidance_from=0.0, guidance_until=1 / WARM_UP)
        pipeline.model.follow(pipeline.plan(short))
        for step in pipeline.runner.sample(short):
            if step.index == WARM_UP - 1:
                for _ in pipeline.runner.decode(step.latents, lower=request.decoder_dtype == "bfloat16"):
                    pass
        self._warm.add(request.decoder_dtype)


def clock_of(pipeline: Pipeline) -> Callable[[], float]:
    """On a CPU its own seconds of work, which other programs do not change; on a card those of the clock, once it has
    done all that it was given."""
    if pipeline.model.device.type == "cpu":
        return lambda: time.process_time() / pipeline.machine.threads

    def now() -> float:
        getattr(torch, pipeline.model.device.type).synchronize()
        return time.perf_counter()

    return now


def name_of(pair: Pair, candidate: Candidate) -> str:
    clip = hashlib.sha256(f"{pair.seed} {pair.prompt}".encode()).hexdigest()[:12]
    return f"{clip}-{candidate.key}"


def read_reference(path: Path) -> Reference | None:
    """None where there is none, or a spoilt one."""
    try:
        with safe_open(path, "pt") as file:
            return Reference(
                seconds=float(file.metadata()["seconds"]),
                attention=file.metadata()["attention"],
                latents=file.get_tensor("latents"),
                frames=file.get_tensor("frames").numpy(),
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def write_pictures(path: Path, exact: Clip, fast: Clip) -> None:
    """Both clips beside each other, moving, small enough for a page."""
    height, width = exact.shape[1:3]
    small = (min(width, WIDEST), round(height * min(width, WIDEST) / width))
    gap = max(1, GAP * small[0] // WIDEST)
    frames = []
    for left, right in zip(exact, fast, strict=True):
        frames.append(Image.new("RGB", (2 * small[0] + gap, small[1]), PAPER))
        frames[-1].paste(Image.fromarray(left).resize(small), (0, 0))
        frames[-1].paste(Image.fromarray(right).resize(small), (small[0] + gap, 0))
    with complete(path, field="state") as part:
        frames[0].save(
            part,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=round(FRAME_MS),
            loop=0,
            quality=80,
        )

"""What every worker does, wherever it runs: hold a model, make a clip and its pictures, show it meanwhile."""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from linnet.api import load
from linnet.clip import BEFORE, Progress
from linnet.direct.conditions import Conditions
from linnet.errors import InvalidInput
from linnet.inputs.reader import Tick, nothing
from linnet.media import plainly, probe, read_frames
from linnet.multi_gpu import attach
from linnet.pipeline import Pipeline, timed
from linnet.prepare import prepare_loaded
from linnet.profiles import record_of
from linnet.request import Request, check_dtype, make_request
from linnet.serve.jobs import InputReference
from linnet.serve.uploads import check_clip

Frame = UInt8[np.ndarray, "H W 3"]
Report = Callable[[str, int, int, bytes | None], None]

PREVIEW_EVERY = 0.25  # seconds
PREVIEW_SHARE = 0.1  # at most, of the time that rendering takes
SHEET = (4, 4)  # tiles of a sprite sheet, across and down
TILE = 320  # pixels, at most, of a tile's or thumbnail's longer side


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """How to render. `weights` is the folder of `model` where that is not in its usual place. `watched`: with previews,
    a thumbnail and a spritesheet. `vram` and `ram`: bytes that may be used, of the card and of main memory. `gpus`: how
    many share the work, from `device` on. `loras`: the folder in which requests name theirs; None: they name files."""

    model: str
    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    vram: int | None = None
    ram: int | None = None
    gpus: int = 1
    loras: str | None = None
    watched: bool = True


class Renderer:
    """One device's. It keeps the model of its last job loaded."""

    def __init__(self, settings: RenderSettings) -> None:
        self.settings = settings
        self._pipeline: Pipeline | None = None

    def pipeline(self, model: str) -> Pipeline:
        if self._pipeline is None or self._pipeline.spec.name != model:
            if self._pipeline is not None:
                self._pipeline.unload()
            self._pipeline = None  # before the next is read
            settings = self.settings
            self._pipeline = load(
                model,
                weights=settings.weights if model == settings.model else None,
                device=settings.device,
                dtype=check_dtype(settings.dtype),
                threads=settings.threads,
                vram=settings.vram,
                ram=settings.ram,
            )
            self._pipeline.model.lora_folder = Path(settings.loras) if settings.loras else None
            if settings.gpus > 1:
                usual = make_request(self._pipeline.spec, prompt="a", seed=0)
                plan = self._pipeline.plan(usual)
                attach(self._pipeline, settings.gpus, plan, device=settings.device)
        return self._pipeline

    def warm(self) -> tuple[Request, dict[str, float]] | None:
        """Read what the first job would wait for. A small model makes one frame, so that all is in its place, and then
        a clip of its usual length in one step: that one's request and the seconds of its stages are returned.

        What the settings do not allow is for each job to say.
        """
        with suppress(InvalidInput):
            spec = self.pipeline(self.settings.model).spec
            if spec.warm_up:
                first = make_request(spec, prompt="a", seed=0, frames=1, steps=1)
                usual = make_request(spec, prompt="a", seed=0, steps=1)
                with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
                    self.make(first, Path(folder) / "first.mp4", lambda *what: None)
                    _, seconds = self.make(usual, Path(folder) / "usual.mp4", lambda *what: None)
                return usual, seconds
        return None

    def make(
        self, request: Request, path: Path, report: Report, given: InputReference | None = None
    ) -> tuple[dict[str, bytes], dict[str, float]]:
        """The clip at `path`, from what is `given` on; its pictures by variant, and the seconds of each stage.

        `report` gets the stage, what is done, of how much, and now and then a preview; what it raises ends the work.
        """
        watched, pipeline = self.settings.watched, self.pipeline(request.model)
        watch = previewing(report) if watched else plain(report)
        with (
            naming_input_reference(given),
            conditions_of(given, lambda: report("text", 0, 1, None)) as conditions,
        ):
            pipeline.profile = record_of(
                pipeline.spec, request, files=pipeline.model.files, device=pipeline.machine.device
            )
            ready = prepare_loaded(pipeline, request, conditions)
            clip = ready.make(ready.plans[0], path, overwrite=True, watch=watch, tell=lambda line: None)
        report("finish", 0, 1, None)
        seconds: dict[str, float] = {}
        with timed(seconds, "finish"):
            made = pictures(path) if watched else {}
        return made, clip.seconds | seconds


@contextmanager
def conditions_of(given: InputReference | None, tick: Tick = nothing) -> Iterator[Conditions | None]:
    """What a clip begins from, in a file while it is used. `tick` is called while a clip is checked, and may raise."""
    if given is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
        path = Path(folder) / "input_reference"
        with plainly(path):
            path.write_bytes(given.content)
        if given.kind == "video":
            check_clip(path, tick)
        files: dict[str, Any] = {given.kind: path}
        yield Conditions(**files, strength=given.strength, fit=given.fit)


@contextmanager
def naming_input_reference(given: InputReference | None) -> Iterator[None]:
    """InvalidInput of the file that was sent names the field of the API."""
    try:
        yield
    except InvalidInput as error:
        if given is None or error.field not in ("image", "video", "file"):
            raise
        raise InvalidInput("input_reference", given.kind, error.problem, error.remedy) from None


def plain(report: Report) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.stage == "encode":
            report(
                "text", 0, 1, None
            )  # a heartbeat while a file is read; it raises where the job was cancelled
        elif not progress.note and progress.stage not in BEFORE:
            report(progress.stage, progress.done, progress.total, None)

    return watch


def previewing(report: Report) -> Callable[[Progress], None]:
    """A `watch` for the pipeline that reports a preview, too, as often as those cost little."""
    began = time.monotonic()
    spent = shown = 0.0

    def watch(progress: Progress) -> None:
        nonlocal spent, shown
        if progress.note:
            print(progress.note, file=sys.stderr, flush=True)
            return
        if progress.stage == "encode":
            report("text", 0, 1, None)  # as above
            return
        if progress.stage in BEFORE:
            return
        now, image = time.monotonic(), None
        due = shown == 0.0 or (now - shown >= PREVIEW_EVERY and spent <= PREVIEW_SHARE * (now - began))
        if progress.preview and due:
            image = encoded(progress.preview(), "WEBP", quality=80)
            shown = time.monotonic()
            spent += shown - now
        report(progress.stage, progress.done, progress.total, image)

    return watch


def pictures(clip: Path) -> dict[str, bytes]:
    """The thumbnail, a frame from the middle, and the spritesheet, frames from first to last."""
    frames, (across, down) = probe(clip).frames, SHEET
    wanted = [round(i * (frames - 1) / (across * down - 1)) for i in range(across * down)]
    tiles: dict[int, Image.Image] = {}
    for index, frame in enumerate(read_frames(clip)):
        if index in wanted or index == frames // 2:
            tile = Image.fromarray(frame)
            tile.thumbnail((TILE, TILE))
            tiles[index] = tile
    width, height = tiles[0].size
    sheet = Image.new("RGB", (across * width, down * height))
    for number, index in enumerate(wanted):
        sheet.paste(tiles[index], (number % across * width, number // across * height))
    return {
        "thumbnail": encoded(np.asarray(tiles[frames // 2]), "WEBP", quality=85),
        "spritesheet": encoded(np.asarray(sheet), "JPEG", quality=85),
    }


def encoded(frame: Frame, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **settings)
    return buffer.getvalue()

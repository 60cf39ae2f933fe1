"""The process that renders: it claims a job, makes its files, says so, and takes the next.

It is started by the service and ends with it: its standard input is a pipe that closes when the service dies, however
it dies. A line on that pipe asks it to finish what it does and go.
"""

import io
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from linnet.catalog import find
from linnet.errors import InvalidInput
from linnet.media import flush, flush_folder, plainly, probe, read_frames, remove
from linnet.pipeline import Pipeline, Progress
from linnet.serve.queue import Job, NotThis, Queue
from linnet.weights.store import resolve

Frame = UInt8[np.ndarray, "H W 3"]

BEAT = 1.0  # seconds between two signs of life
IDLE = 0.05  # seconds between two looks at an empty queue
PREVIEW_EVERY = 0.25  # seconds
PREVIEW_SHARE = 0.1  # at most, of the time that rendering takes
SHEET = (4, 4)  # tiles of a sprite sheet, across and down
TILE = 320  # pixels, at most, of a tile's or thumbnail's longer side
KINDS = {"video": ".mp4", "thumbnail": ".webp", "spritesheet": ".jpg"}


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Where the data are, and how to render. `weights` is the folder of a model that is not in its usual place."""

    data: str
    model: str
    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None


def clips_folder(data: Path) -> Path:
    return data / "clips"


def file_of(data: Path, job: str, variant: str = "video") -> Path:
    """Where a job's file of that variant is, or will be."""
    return clips_folder(data) / f"{job}{KINDS[variant]}"


def remove_files(data: Path, job: str) -> None:
    for variant in KINDS:
        file_of(data, job, variant).unlink(missing_ok=True)


class Worker:
    """One device's. It keeps the model of its last job loaded."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self.settings, self.name = settings, name
        self.data = Path(settings.data)
        self.queue = Queue(self.data)
        self.ready = self.leaving = False
        self._pipeline: Pipeline | None = None

    # --- signs of life --------------------------------------------------------------------------------------------

    def beat_for_ever(self) -> None:
        while True:
            with suppress(sqlite3.OperationalError):  # a full disk, say; the next may be luckier
                self.queue.beat(self.name, ready=self.ready, memory=resident_bytes())
            time.sleep(BEAT)

    def listen(self) -> None:
        """A line asks to leave after this job; the end of the pipe means that the service is gone."""
        for _ in sys.stdin:
            self.leaving = True
        os._exit(0)  # whoever comes next puts the job back

    # --- rendering ------------------------------------------------------------------------------------------------

    def pipeline(self, model: str) -> Pipeline:
        import torch

        from linnet.runtime.device import default_dtype, default_threads, resolve_device

        if self._pipeline is None or self._pipeline.spec.name != model:
            self._pipeline = None  # before the next is read
            settings, spec = self.settings, find(model)
            own = settings.weights is not None and model == settings.model
            device = resolve_device(settings.device)
            self._pipeline = Pipeline.open(
                spec,
                resolve(spec, weights=Path(settings.weights) if own and settings.weights else None),
                device=device,
                dtype=default_dtype(device) if settings.dtype == "auto" else getattr(torch, settings.dtype),
                threads=settings.threads or default_threads(),
            )
        return self._pipeline

    def run(self) -> None:
        """Work until asked to leave."""
        clips_folder(self.data).mkdir(exist_ok=True)
        for part in clips_folder(self.data).glob(".*.part"):  # of workers that were killed
            remove(part)
        warm = self.pipeline(self.settings.model)
        if warm.spec.source == "package":
            _ = warm.transformer, warm.autoencoder, warm.model_hash
        self.ready = True
        while not self.leaving:
            job = self.queue.claim(self.name)
            if job is None:
                time.sleep(IDLE)
            else:
                self.render(job)

    def render(self, job: Job) -> None:
        """Bring a job to its end. An error that is not the request's own goes up, and with it the process: another
        starts afresh, and the job has another try."""
        try:
            output = file_of(self.data, job.id)
            clip = self.pipeline(job.request.model).generate(
                job.request, output, overwrite=True, watch=self.watching(job)
            )
            self.queue.report(job, "finish", 0, 1)
            begun = time.monotonic()
            write_pictures(self.data, job.id)
            seconds = clip.seconds | {"finish": time.monotonic() - begun}
            size = sum(file_of(self.data, job.id, variant).stat().st_size for variant in KINDS)
            self.queue.complete(job, size=size, seconds=seconds)
        except NotThis:
            self.forget(job)
        except (InvalidInput, sqlite3.OperationalError) as error:
            code, words = told(error)
            if not code:
                raise
            remove_files(self.data, job.id)  # first, since saying so takes room, too
            self.insist(lambda: self.queue.fail(job, code, words))

    def insist(self, say: Callable[[], None]) -> None:
        """Until there is room to say it, or nobody to hear it."""
        while not self.leaving:
            try:
                say()
                return
            except NotThis:
                return
            except sqlite3.OperationalError:
                time.sleep(BEAT)

    def forget(self, job: Job) -> None:
        """Remove what a job that came to nothing left, unless another worker is at it."""
        now = self.queue.get(job.id)
        if now is None or now.status == "failed":
            remove_files(self.data, job.id)

    def watching(self, job: Job) -> Callable[[Progress], None]:
        """Reports progress, and previews as often as they cost little."""
        began = time.monotonic()
        spent = shown = 0.0

        def watch(progress: Progress) -> None:
            nonlocal spent, shown
            now, image = time.monotonic(), None
            due = shown == 0.0 or (now - shown >= PREVIEW_EVERY and spent <= PREVIEW_SHARE * (now - began))
            if progress.preview and due:
                image = encoded(progress.preview(), "WEBP", quality=80)
                shown = time.monotonic()
                spent += shown - now
            self.queue.report(job, progress.stage, progress.done, progress.total, image)

        return watch


def told(error: InvalidInput | sqlite3.OperationalError) -> tuple[str, str]:
    """The code and the words of a failure that another try would not mend; no code for any other."""
    if "disk is full" in str(error):  # media's words and SQLite's
        return "disk_full", "the disk is full; make room and ask again"
    return (f"invalid_{error.field}", str(error)) if isinstance(error, InvalidInput) else ("", "")


def write_pictures(data: Path, job: str) -> None:
    """The thumbnail, a frame from the middle, and a sheet of frames from first to last, each complete or not there."""
    clip = file_of(data, job)
    footage = probe(clip)
    across, down = SHEET
    wanted = [round(i * (footage.frames - 1) / (across * down - 1)) for i in range(across * down)]
    tiles: dict[int, Image.Image] = {}
    for index, frame in enumerate(read_frames(clip)):
        if index in wanted or index == footage.frames // 2:
            tile = Image.fromarray(frame)
            tile.thumbnail((TILE, TILE))
            tiles[index] = tile
    width, height = tiles[0].size
    sheet = Image.new("RGB", (across * width, down * height))
    for place, index in enumerate(wanted):
        sheet.paste(tiles[index], (place % across * width, place // across * height))
    put(file_of(data, job, "thumbnail"), encoded(np.asarray(tiles[footage.frames // 2]), "WEBP", quality=85))
    put(file_of(data, job, "spritesheet"), encoded(np.asarray(sheet), "JPEG", quality=85))


def put(path: Path, content: bytes) -> None:
    """A file that is complete under its name, and on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with plainly(path):
            part.write_bytes(content)
            flush(part)
            part.replace(path)
    finally:
        remove(part)
    flush_folder(path.parent)


def encoded(frame: Frame, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **settings)
    return buffer.getvalue()


def resident_bytes() -> int:
    """Memory of this process, 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    settings = WorkerSettings(**json.loads(sys.argv[1]))
    worker = Worker(settings, sys.argv[2])
    for task in (worker.listen, worker.beat_for_ever):
        threading.Thread(target=task, daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()

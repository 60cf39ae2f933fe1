"""The process that renders: it claims a job, makes its files, says so, and takes the next.

It is started by the service and ends with it: its standard input is a pipe that closes when the service dies, however
it dies. A line on that pipe asks it to finish what it does and go.
"""

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from linnet.errors import InvalidInput, one_line
from linnet.serve.clips import file_of, files_bytes, forget, is_full, make_folder, put, remove_files, told
from linnet.serve.jobs import Job, NotThis
from linnet.serve.queue import Queue
from linnet.serve.render import Renderer, RenderSettings

BEAT = 1.0  # seconds between two signs of life
IDLE = 0.05  # seconds between two looks at an empty queue


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(RenderSettings):
    """And where the data are."""

    data: str


class Worker:
    """One device's."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self.name = name
        self.data = Path(settings.data)
        self.queue = Queue(self.data)
        self.renderer = Renderer(settings)
        self.ready = self.leaving = False
        # When it last got on with something, on the steady clock; None while it waits for a job.
        self.busy: float | None = self.queue.clock.steady()

    # --- signs of life --------------------------------------------------------------------------------------------

    def beat_for_ever(self) -> None:
        while True:
            with suppress(sqlite3.OperationalError):  # a full disk, say; the next may be luckier
                self.beat()
            time.sleep(BEAT)

    def beat(self) -> None:
        memory, reserved = resident_bytes(), reserved_bytes()
        self.queue.beat(self.name, ready=self.ready, memory=memory, reserved=reserved, busy=self.busy)

    def listen(self) -> None:
        """A line asks to leave after this job; the end of the pipe means that the service is gone."""
        for _ in sys.stdin:
            self.leaving = True
        os._exit(0)  # whoever comes next puts the job back

    # --- rendering ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until asked to leave."""
        make_folder(self.data)
        if made := self.renderer.warm():
            self.queue.note_first_pace(*made)
        self.ready = True
        while not self.leaving:
            try:
                job = self.queue.claim(self.name)
            except sqlite3.OperationalError as error:  # no room to say so: the job waits
                if not is_full(error):
                    raise
                time.sleep(BEAT)
                continue
            self.busy = self.queue.clock.steady() if job else None
            if job is None:
                time.sleep(IDLE)
            else:
                self.render(job)

    def run_or_say(self) -> None:
        """As `run`; what goes wrong is left in the queue for the one who looks after us, before it ends us."""
        try:
            self.run()
        except Exception as error:
            with suppress(sqlite3.Error):
                self.queue.last_words(self.name, cause(error))
            raise

    def render(self, job: Job) -> None:
        """Bring a job to its end. An error that is not the request's own goes up, and with it the process: another
        starts afresh, and the job has another try."""
        try:
            make_folder(self.data)  # somebody may have moved it away
            pictures, seconds = self.renderer.make(
                job.request,
                file_of(self.data, job.id),
                partial(self.report, job),
                self.queue.given(job.id),
            )
            for variant, picture in pictures.items():
                put(file_of(self.data, job.id, variant), picture)
            self.queue.complete(job, size=files_bytes(self.data, job.id), seconds=seconds)
        except NotThis:
            forget(self.data, self.queue, job.id)
        except (InvalidInput, sqlite3.OperationalError) as error:
            code, words = told(error)
            if not code:
                raise
            remove_files(self.data, job.id)  # first, since saying so takes room, too
            self.insist(lambda: self.queue.fail(job, code, words))

    def report(self, job: Job, *what: Any) -> None:
        self.busy = self.queue.clock.steady()
        self.queue.report(job, *what)

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


def cause(error: BaseException) -> str:
    """An error's kind, a colon and its words, which are cut short."""
    return f"{type(error).__name__}: {one_line(error)[:300]}"


def resident_bytes() -> int:
    """Memory of this process, 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def reserved_bytes() -> int | None:
    """Memory of cards that this process holds; None if it uses none."""
    import torch  # which is there already: the renderer's

    if not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.memory_reserved(card) for card in range(torch.cuda.device_count()))


def main() -> None:
    settings = WorkerSettings(**json.loads(sys.argv[1]))
    worker = Worker(settings, sys.argv[2])
    for task in (worker.listen, worker.beat_for_ever):
        threading.Thread(target=task, daemon=True).start()
    worker.run_or_say()


if __name__ == "__main__":
    main()

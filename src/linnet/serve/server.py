"""The service as processes: one answers, and looks after a worker for each device.

A worker that dies, falls silent or gets nowhere is ended, its job put back, and another started. SIGTERM drains:
nothing new is accepted, what runs may finish within a grace time, what does not is put back for the next start.
"""

import fcntl
import json
import logging
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn

from linnet.errors import InvalidInput
from linnet.media import remove
from linnet.serve.app import Service, create_app
from linnet.serve.models import Models
from linnet.serve.queue import Limits, Queue
from linnet.serve.worker import KINDS, WorkerSettings, clips_folder

log = logging.getLogger("linnet.serve")

LOOK = 0.1  # seconds between two looks at a worker
TIDY = 30.0  # seconds between two looks for clips that are past their time
WEARY = (0.1, 30.0)  # seconds before another start: at first, and at most, doubling while workers die young
YOUNG = 30.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`devices`: a worker each. Seconds: `silence` without a sign of life, or `stall` without progress, and a worker is
    ended; `grace` for a job to finish when the service stops. `keep_days` and `quota_bytes` bound what is kept."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "seedling"
    weights: Path | None = None
    devices: tuple[str, ...] = ("auto",)
    dtype: str = "auto"
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    longest_seconds: float | None = None
    keep_days: float | None = None
    quota_bytes: int | None = None
    reserve_bytes: int = 200 * 2**20
    silence: float = 30.0
    stall: float = 3600.0
    grace: float = 30.0


def serve(settings: Settings) -> None:
    """Until SIGTERM or Ctrl-C."""
    settings.data.mkdir(parents=True, exist_ok=True)
    local = is_local(settings.host)
    with alone(settings.data):
        queue = Queue(settings.data)
        if not local and not any(key["revoked"] is None for key in queue.all_keys()):
            remedy = f"make a key with `linnet keys add NAME --data {settings.data}`, or listen on 127.0.0.1"
            raise InvalidInput("host", settings.host, "can be reached by others, and there is no key", remedy)
        models = Models(settings.model, settings.weights, settings.devices[0])
        queue.recover()
        tidy(settings.data, queue)
        service = Service(
            data=settings.data,
            queue=queue,
            models=models,
            limits=settings.limits,
            local=local,
            longest_seconds=settings.longest_seconds,
            keep_seconds=settings.keep_days * 86400 if settings.keep_days else None,
            quota_bytes=settings.quota_bytes,
            reserve_bytes=settings.reserve_bytes,
        )
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=30,
        )
        Server(config, service, [Keeper(settings, service, device) for device in settings.devices]).run()


class Server(uvicorn.Server):
    """uvicorn's, that waits for its workers at the end. A second signal does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service, keepers: list["Keeper"]) -> None:
        super().__init__(config)
        self.service, self.keepers = service, keepers

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.should_exit:  # the port is taken
            return
        for keeper in self.keepers:
            keeper.start()
        threading.Thread(target=self.make_room_for_ever, daemon=True).start()
        address = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        port = self.servers[0].sockets[0].getsockname()[1] if self.servers else self.config.port
        print(f"linnet serves http://{address}:{port}", flush=True)

    def make_room_for_ever(self) -> None:
        while not self.service.stopping:
            try:
                self.service.make_room()
            except Exception:
                log.exception("could not make room")
            time.sleep(TIDY)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining or sig == signal.SIGINT:
            for keeper in self.keepers:
                keeper.hurry.set()
        if not self.service.draining:
            self.service.draining = True
            threading.Thread(target=self.drain, daemon=True).start()

    def drain(self) -> None:
        for keeper in self.keepers:
            keeper.leave.set()
        for keeper in self.keepers:
            keeper.join()
        self.service.stopping = True
        self.should_exit = True


class Keeper(threading.Thread):
    """Looks after the worker of one device."""

    def __init__(self, settings: Settings, service: Service, device: str) -> None:
        super().__init__(daemon=True)
        self.settings, self.service, self.device = settings, service, device
        self.leave, self.hurry = threading.Event(), threading.Event()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        pause = WEARY[0]
        while not self.leave.is_set():
            begun = time.monotonic()
            reason = self.keep_one()
            if reason is None:
                return
            log.warning("the worker for %s %s; starting another", self.device, reason)
            pause = WEARY[0] if time.monotonic() - begun > YOUNG else min(2 * pause, WEARY[1])
            self.leave.wait(pause)

    def keep_one(self) -> str | None:
        """Start a worker and stay until it is gone; why, or None if it was asked to go."""
        settings, name = self.settings, secrets.token_hex(8)
        work = WorkerSettings(
            data=str(settings.data.absolute()),
            model=settings.model,
            weights=str(settings.weights.absolute()) if settings.weights else None,
            device=self.device,
            dtype=settings.dtype,
            threads=settings.threads,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "linnet.serve.worker", json.dumps(asdict(work)), name],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the service alone
        )
        self.process = process
        begun = time.monotonic()
        asked: float | None = None
        reason = None
        while (status := process.poll()) is None:
            if self.leave.is_set() and asked is None:
                asked = time.monotonic()
                with suppress(OSError):
                    assert process.stdin is not None
                    process.stdin.write(b"leave\n")
                    process.stdin.flush()
            late = asked is not None and time.monotonic() - asked > settings.grace
            reason = None if asked else self.trouble(name, begun)
            if late or self.hurry.is_set() or reason:
                process.kill()
                process.wait()
                break
            time.sleep(LOOK)
        if asked is None and reason is None:
            reason = died(status or 0)
        while True:
            try:
                self.service.queue.release(name, f"the worker {reason or 'was stopped'}", blame=asked is None)
                break
            except Exception:  # a full disk: nothing else to do until there is room
                log.exception("could not put back a job")
                time.sleep(1)
        for part in clips_folder(settings.data).glob(f".*.{process.pid}.part"):
            remove(part)
        return reason if asked is None else None

    def trouble(self, name: str, begun: float) -> str | None:
        """What is wrong with a worker that still runs."""
        queue, now = self.service.queue, time.time()
        worker = queue.workers().get(name)
        silent = now - worker["beat"] if worker else time.monotonic() - begun - 60  # to import and begin
        if silent > self.settings.silence:
            return f"gave no sign of life for {self.settings.silence:g} s"
        if (idle := queue.seconds_without_progress(name)) and idle > self.settings.stall:
            return f"got nowhere for {self.settings.stall:g} s"
        return None


def died(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (out of memory?)"
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"


def is_local(host: str) -> bool:
    """Whether only this machine can reach a service that listens there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def tidy(data: Path, queue: Queue) -> None:
    """Remove what nobody will ask for: files half-written when all was killed, and files of deleted jobs."""
    folder = clips_folder(data)
    folder.mkdir(exist_ok=True)
    known = {f"{job}{ending}" for job in queue.ids() for ending in KINDS.values()}
    for path in folder.iterdir():
        if path.name not in known and (path.name.startswith((".video_", "video_"))):
            remove(path)


@contextmanager
def alone(data: Path) -> Iterator[None]:
    """Only one service may use a folder; the lock goes with the process, however it ends."""
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            problem = "is in use by another linnet serve"
            raise InvalidInput("data", data, problem, "stop that one, or give another folder") from None
        data.chmod(0o700)
        yield

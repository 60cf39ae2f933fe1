"""The service as processes: one answers, and looks after a worker for each device, here or on the nodes of a cluster.

SIGTERM drains: nothing new is accepted, what runs may finish within a grace time, what does not is put back for the
next start.
"""

import asyncio
import errno
import logging
import math
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from linnet.errors import InvalidInput
from linnet.serve.app import create_app
from linnet.serve.clips import clips_folder, log_error, strangers, tidy
from linnet.serve.connections import ConnectionLimits, Connections, most_connections
from linnet.serve.database import explained
from linnet.serve.jobs import Limits
from linnet.serve.journal import Journal
from linnet.serve.lock import is_open_to_others, lock
from linnet.serve.models import Models
from linnet.serve.queue import Queue
from linnet.serve.recover import Recovered, adopt, check_present, recover
from linnet.serve.reserve import Reserve
from linnet.serve.service import Service
from linnet.serve.supervisor import Member
from linnet.serve.webhook import Teller, open_webhook
from linnet.serve.worker_pool import WorkerPool

log = logging.getLogger("linnet.serve")

TIDY = 30.0  # seconds between two looks for clips that are past their time


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`name`: that of the proxy in front. `webhook`: where to tell of jobs that ended. `fetches`: images that clients
    name by their address are fetched. `keep_days` and `quota_bytes` bound what is kept. `adopt_files`: clips that the
    database does not know are taken into it. `log_prompts`: the log
    tells what was asked. `client_timeout`: seconds that a client is waited for, see ConnectionLimits."""

    data: Path
    pool: WorkerPool
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    webhook: str | None = None
    fetches: bool = False
    log_prompts: bool = False
    limits: Limits = field(default_factory=Limits)
    longest_seconds: float | None = None
    job_seconds: float | None = None
    keep_days: float | None = None
    adopt_files: bool = False
    quota_bytes: int | None = None
    reserve_bytes: int = 200 * 2**20
    client_timeout: float = 30.0


def serve(settings: Settings) -> None:
    """Until SIGTERM or Ctrl-C."""
    local = is_local(settings.host) and settings.name is None
    name = None if settings.name is None else plain_name(settings.name)
    speak()
    with lock(settings.data), explained(settings.data / "linnet.db"), ExitStack() as doors:
        queue = open_queue(settings.data, adopting=settings.adopt_files)
        if not local and not any(key["revoked"] is None for key in queue.all_keys()):
            remedy = f"make a key with `linnet keys add NAME --data {settings.data}`, or listen on 127.0.0.1"
            field, value = ("name", name) if name else ("host", settings.host)
            raise InvalidInput(field, value, "can be reached by others, and there is no key", remedy)
        sockets = [doors.enter_context(listener) for listener in listening(settings.host, settings.port)]
        pool = settings.pool
        pool.check_budget()
        budget: dict[str, int | None] = (
            {} if pool.ray else {"vram": pool.vram, "ram": pool.ram}
        )  # a node's is not this machine's
        others: dict[str, Any] = {
            "threads": pool.threads,
            "elsewhere": pool.ray is not None,
            "loras": pool.loras,
        }
        models = Models(pool.model, pool.weights, pool.devices[0], **budget, **others)
        queue.recover()
        tidy(settings.data, queue)
        if settings.webhook is not None:
            Teller(open_webhook(settings.data, settings.webhook), queue).start()
        most = most_connections(workers=len(pool.devices))
        connections = Connections(ConnectionLimits(most=most, timeout=settings.client_timeout))
        service = Service(
            data=settings.data,
            queue=queue,
            models=models,
            limits=settings.limits,
            local=local,
            host=settings.host,
            name=name,
            notices=settings.webhook is not None,
            fetches=settings.fetches,
            journal=Journal(queue, prompts=settings.log_prompts),
            longest_seconds=settings.longest_seconds,
            job_seconds=settings.job_seconds,
            keep_seconds=settings.keep_days * 86400 if settings.keep_days else None,
            quota_bytes=settings.quota_bytes,
            reserve_bytes=settings.reserve_bytes,
            connections=connections,
        )
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            http=connections.make,  # type: ignore[arg-type]
            ws="none",
            log_level="error",  # what a client does wrong is told to that client
            server_header=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=math.ceil(settings.client_timeout),
        )
        Server(config, service, pool.members(settings.data, queue)).run(sockets)


class Server(uvicorn.Server):
    """uvicorn's, that waits for its workers at the end. A second signal does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service, members: Sequence[Member]) -> None:
        super().__init__(config)
        self.service, self.members = service, members

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for member in self.members:
            member.start()
        self.sweeping = asyncio.create_task(self.service.connections.sweep_for_ever())
        threading.Thread(target=self.make_room_for_ever, daemon=True).start()
        if self.service.journal is not None:
            self.service.journal.start()
        address = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        port = self.servers[0].sockets[0].getsockname()[1] if self.servers else self.config.port
        print(f"linnet serves http://{address}:{port}", flush=True)

    def make_room_for_ever(self) -> None:
        while not self.service.stopping:
            try:
                self.service.make_room()
                self.service.queue.shrink()
                self.service.queue.reserve.keep()
            except Exception as error:
                log_error(log, "could not make room", error)
            time.sleep(TIDY)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining or sig == signal.SIGINT:
            for member in self.members:
                member.hurry.set()
        if not self.service.draining:
            self.service.draining = True
            threading.Thread(target=self.drain, daemon=True).start()

    def drain(self) -> None:
        for member in self.members:
            member.leave.set()
        for member in self.members:
            member.join()
        if self.service.journal is not None:
            with suppress(sqlite3.Error):
                self.service.journal.look()
        self.service.stopping = True
        self.should_exit = True


def open_queue(data: Path, *, adopting: bool) -> Queue:
    """The folder's, in order. InvalidInput where it is damaged, or missing beside clips that are not adopted."""
    reserve = Reserve(data)
    reserve.release()
    if not adopting:
        check_present(data)
    elif not (data / "linnet.db").exists():
        tell(recover(data), data)
    queue = Queue(data)
    queue.refuse_damage()
    queue.make_log()
    reserve.keep()
    if adopting:
        tell(adopt(data, queue), data)
    elif unknown := strangers(data, queue.ids() | queue.deleted()):
        words = (
            "%d files in %s belong to no job and are left alone; --adopt-files takes in those that are clips"
        )
        log.warning(words, len(unknown), clips_folder(data))
    if is_open_to_others(data):
        log.warning("others on this machine can look into %s; `chmod 700` keeps them out", data)
    return queue


def tell(recovered: Recovered, data: Path) -> None:
    if recovered.clips or recovered.left:
        log.warning(
            "%d clips of %s have jobs again; %d files were left", recovered.clips, data, len(recovered.left)
        )


def plain_name(name: str) -> str:
    """As clients write it; InvalidInput for what is more than a name, and would match none."""
    if not re.fullmatch(r"[a-z0-9._-]+", name.lower()):
        remedy = "give it alone, such as linnet.example, without scheme, port or path"
        raise InvalidInput("name", name, "is not the name of a machine", remedy)
    return name.lower()


def listening(host: str, port: int) -> list[socket.socket]:
    """At every address of the host that this machine has; InvalidInput if there is none, or it is taken."""
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in addresses:
            try:
                sockets.append(socket.create_server(address[:2], family=family))
            except OSError as error:
                absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # IPv6, say
                if not absent or (address == addresses[-1][4] and not sockets):
                    raise
    except (OSError, UnicodeError) as error:
        for opened in sockets:
            opened.close()
        if isinstance(error, socket.gaierror | UnicodeError):
            raise InvalidInput("host", host, "is not known here", "give an address of this machine") from None
        problem = f"cannot be had at {host}: {os.strerror(error.errno or 0).lower()}"
        raise InvalidInput("port", port, problem, "choose another, or stop who has it") from None
    return sockets


def speak() -> None:
    """The service's log, jobs that end included, goes to standard error, each line with its time."""
    if not log.hasHandlers():
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)


def is_local(host: str) -> bool:
    """Whether only this machine can reach a service that listens there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False

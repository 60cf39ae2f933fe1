"""What all of the service shares while it runs: the queue, the models, its limits, and how far it has come."""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from linnet.catalog import find
from linnet.errors import InvalidInput
from linnet.request import Request
from linnet.serve.clips import remove_files
from linnet.serve.connections import ConnectionLimits, Connections
from linnet.serve.eta import EtaEstimator
from linnet.serve.expiry import Expiry
from linnet.serve.jobs import InputReference, Limits
from linnet.serve.journal import Journal
from linnet.serve.keys import find_owner, find_session
from linnet.serve.models import Models
from linnet.serve.queue import Queue
from linnet.serve.responses import OpenFiles
from linnet.serve.schemas import Refused
from linnet.wording import format_duration


class Credentials(NamedTuple):
    """What somebody came with: a key, or the token of a session."""

    key: str | None = None
    session: str | None = None


@dataclass(kw_only=True)
class Service:
    """What the handlers share. `local`: only this machine can reach us, so names for us other than that of the `host`
    on which we listen are a trick; behind a proxy, so are others than `name`. `notices`: the end of each job is to be
    told. `fetches`: images that a client names by their address are fetched. `longest_seconds` of a clip, and
    `job_seconds` that making it may take."""

    data: Path
    queue: Queue
    models: Models
    limits: Limits = field(default_factory=Limits)
    local: bool = True
    host: str = "127.0.0.1"
    name: str | None = None
    notices: bool = False
    fetches: bool = False
    journal: Journal | None = None
    body_bytes: int = 8 * 2**20
    longest_seconds: float | None = None
    job_seconds: float | None = None
    keep_seconds: float | None = None
    quota_bytes: int | None = None
    reserve_bytes: int = 200 * 2**20
    draining: bool = False
    stopping: bool = False
    open_files: OpenFiles = field(default_factory=OpenFiles)
    streams: Counter[str] = field(default_factory=Counter)  # of events that are followed, by owner
    connections: Connections = field(default_factory=lambda: Connections(ConnectionLimits()))
    etas: EtaEstimator = field(init=False)
    expiry: Expiry = field(init=False)

    def __post_init__(self) -> None:
        self.etas = EtaEstimator(self.queue)
        self.expiry = Expiry(self.queue.clock)

    def owner(self, given: Credentials) -> str | None:
        """Whose the key is, or the session; None is nobody. While no key is valid, and listening is local, everybody is
        the one owner "", whatever they come with: some clients must send some key."""
        owner = find_owner(self.queue, given.key) if given.key else None
        if owner is None and given.session:
            owner = find_session(self.queue, given.session)
        if owner is None and self.local and all(known["revoked"] for known in self.queue.all_keys()):
            return ""
        return owner

    def seconds_of(self, request: Request, given: InputReference | None) -> tuple[float | None, bool]:
        """What a clip takes here, None where that is unknown, and whether just such a one was made."""
        if pace := self.queue.speed(request, given):
            return pace
        # What was measured without a clip is of all steps.
        return None if given else self.models.plan(request).seconds, False

    def check_time(self, request: Request, given: InputReference | None) -> None:
        """InvalidInput for what would keep a worker longer than is allowed, as far as that is known beforehand."""
        if self.job_seconds is None:
            return
        took, _ = self.seconds_of(request, given)
        if took is None or took <= self.job_seconds:
            return
        share = self.job_seconds / took
        seconds, steps = int(request.seconds * share), int(request.steps * share)
        smaller = any(size.pixels < request.size.pixels for size in find(request.model).sizes)
        less = [
            *([f"up to {seconds} s"] if seconds else []),
            *([f"up to {steps} steps"] if steps else []),
            *(["a smaller size"] if smaller else []),
        ]
        need, most = format_duration(took), format_duration(self.job_seconds)
        problem = f"would take about {need} to make, and this server allows {most}"
        remedy = f"ask for {' or '.join(less) or 'fewer steps and seconds'}"
        raise InvalidInput("seconds", request.seconds, problem, remedy)

    def ready(self) -> bool:
        """A worker has its model loaded and sent a heartbeat lately."""
        return not self.draining and self.queue.ready_workers() > 0

    def make_room(self) -> None:
        """Drop jobs that ended too long ago, and the oldest that take room while all together are over the quota; none
        whose clip somebody read just now."""
        over = self.queue.stored_bytes() - self.quota_bytes if self.quota_bytes else 0
        if self.keep_seconds is None and over <= 0:
            return
        jobs, late = self.queue.ended(), set[str]()
        if self.keep_seconds is not None:
            late = self.expiry.late([(job, ended) for job, ended, _ in jobs], self.keep_seconds)
        for job, _, size in jobs:
            if job not in late and not (over > 0 and size):
                continue
            with self.open_files.keep_out(job) as free:
                if free:
                    self.queue.delete(job)
                    remove_files(self.data, job)
                    over -= size

    def check_room(self) -> None:
        if self.quota_bytes and self.queue.stored_bytes() >= self.quota_bytes:
            self.make_room()
            if self.queue.stored_bytes() >= self.quota_bytes:
                raise Refused(
                    507, "quota_full", "the videos take all the room that they may have; delete some"
                )
        if shutil.disk_usage(self.data).free < self.reserve_bytes:
            raise Refused(507, "disk_full", "the server's disk is nearly full; delete some videos")

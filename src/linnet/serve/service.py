"""What all of the service shares while it runs: the queue, the models, its limits, and how far it has come."""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from linnet.serve.clips import remove_files
from linnet.serve.connections import ConnectionLimits, Connections
from linnet.serve.expiry import Expiry
from linnet.serve.journal import Journal
from linnet.serve.keys import find_owner
from linnet.serve.models import Models
from linnet.serve.outlook import Outlook
from linnet.serve.queue import Limits, Queue
from linnet.serve.readers import Readers
from linnet.serve.schemas import Refused


@dataclass(kw_only=True)
class Service:
    """What the handlers share. `local`: only this machine can reach us, so names for us other than that of the `host`
    on which we listen are a trick; behind a proxy, so are others than `name`. `notices`: the end of each job is to be
    told. `fetches`: images that a client names by their address are fetched."""

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
    keep_seconds: float | None = None
    quota_bytes: int | None = None
    reserve_bytes: int = 200 * 2**20
    draining: bool = False
    stopping: bool = False
    readers: Readers = field(default_factory=Readers)
    streams: Counter[str] = field(default_factory=Counter)  # of events that are followed, by owner
    connections: Connections = field(default_factory=lambda: Connections(ConnectionLimits()))
    outlook: Outlook = field(init=False)
    expiry: Expiry = field(init=False)

    def __post_init__(self) -> None:
        self.outlook = Outlook(self.queue)
        self.expiry = Expiry(self.queue.clock)

    def who(self, key: str | None) -> str | None:
        """The owner whose key it is; None is nobody. While no key is valid, and listening is local, everybody is the
        one owner "", without a key."""
        if key:
            return find_owner(self.queue, key)
        demanded = not self.local or any(known["revoked"] is None for known in self.queue.all_keys())
        return None if demanded else ""

    def ready(self) -> bool:
        """A worker has its model loaded and gave a sign of life lately."""
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
            with self.readers.keep_out(job) as free:
                if free:
                    self.queue.delete(job)
                    remove_files(self.data, job)
                    over -= size

    def check_room(self) -> None:
        if self.quota_bytes and self.queue.stored_bytes() >= self.quota_bytes:
            self.make_room()
            if self.queue.stored_bytes() >= self.quota_bytes:
                raise Refused(
                    507, "quota_full", "the clips take all the room that they may have; delete some"
                )
        if shutil.disk_usage(self.data).free < self.reserve_bytes:
            raise Refused(507, "disk_full", "the server's disk is nearly full; delete some clips")

"""What a job is, and what may go wrong with one."""

import json
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from linnet.errors import LinnetError
from linnet.request import Request

Status = Literal["queued", "in_progress", "completed", "failed"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """`done` of `total` parts of `stage`; `code` and `message` say why it failed; `bytes` of its files. `claimed`,
    `stage_started` and `reported` are on the steady clock; `ending` counts the jobs that ended before it, and it."""

    number: int
    id: str
    owner: str
    status: Status
    request: Request
    remixed_from: str | None
    created: float
    started: float | None
    ended: float | None
    tries: int
    worker: str | None
    code: str | None
    message: str | None
    stage: str | None
    stage_started: float | None
    reported: float | None
    done: int
    total: int
    bytes: int
    claimed: float | None = None
    ending: int | None = None


class InputReference(NamedTuple):
    """An image to begin from, or a clip to follow in the last `strength` of the steps, which an image has none of.
    `fit`: how one of another shape is brought to the clip's; None: not at all."""

    content: bytes
    fit: Literal["crop", "pad"] | None = None
    strength: float | None = None

    @property
    def kind(self) -> Literal["image", "video"]:
        return "image" if self.strength is None else "video"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many jobs may wait or run: all together, and of one owner."""

    jobs: int = 1000
    jobs_per_owner: int = 100


class QueueFull(LinnetError):
    """One of the limits is reached."""


class KeyReused(LinnetError):
    """The idempotency key was used before, for another request."""


class NotThis(LinnetError):
    """The job is no longer the worker's: it was cancelled, deleted, or given back."""


def as_job(row: sqlite3.Row | dict[str, Any]) -> Job:
    return Job(**{**dict(row), "request": request_of(row["request"])})


@lru_cache(maxsize=4096)
def request_of(record: str) -> Request:
    """A job's request from its row. Clients ask for the same jobs again and again; checking one takes 0.3 ms."""
    return Request.from_json(json.loads(record))

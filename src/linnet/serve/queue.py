"""The jobs, in one SQLite file: what was asked, by whom, how far it is, how it ended.

Every process that has to do with jobs opens the same file; each method is one transaction. A job that runs belongs to
one worker, by the name that the worker claimed it under. Whatever a worker writes about a job counts only while the
job is still its own: one that was cancelled, deleted or given to another worker is so for its old worker, too.

When a job was created, started and ended is for people: seconds since 1970. What is measured goes by the steady clock.
"""

import json
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from linnet.request import Request
from linnet.serve.database import count, surely
from linnet.serve.heartbeats import Heartbeats
from linnet.serve.jobs import InputReference, Job, KeyReused, Limits, NotThis, QueueFull, as_job, request_of
from linnet.serve.keys import KeyTable
from linnet.serve.pace import PaceTable, passes

ROOM = 16 * 2**20  # bytes that must be free before a job is begun
TRIES = 3  # of a job whose worker dies


class Queue(Heartbeats, PaceTable, KeyTable):
    """The jobs in the folder's file; beside them what its other tables hold."""

    def _jobs(self, query: str, *values: Any) -> list[Job]:
        return [as_job(row) for row in self._rows(f"SELECT * FROM jobs {query}", *values)]

    # --- asking ---------------------------------------------------------------------------------------------------

    def add(
        self,
        request: Request,
        *,
        owner: str = "",
        limits: Limits = Limits(),
        remixed_from: str | None = None,
        repeat_key: str | None = None,
        digest: str = "",
        notice: bool = False,
        given: InputReference | None = None,
    ) -> Job:
        """A new job, on the disk when this returns; or the one that `repeat_key` already stands for.

        `notice`: its end is to be told, see `due_notices`. QueueFull at a limit; KeyReused if the key stands for a
        request of another `digest`.
        """
        with self._writing() as db:
            if repeat_key is not None and (job_before := self.repeated(owner, repeat_key, digest)):
                return job_before
            if self.unfinished() >= limits.jobs:
                raise QueueFull(f"the queue is full ({limits.jobs} jobs); try again later")
            if self.unfinished(owner) >= limits.jobs_per_owner:
                raise QueueFull(f"{limits.jobs_per_owner} of your jobs are waiting; try again later")
            values = (
                f"video_{secrets.token_hex(16)}",
                owner,
                json.dumps(request.to_json()),
                remixed_from,
                self.clock.wall(),
            )
            row = db.execute(
                "INSERT INTO jobs (id, owner, status, request, remixed_from, created) "
                "VALUES (?, ?, 'queued', ?, ?, ?) RETURNING *",
                values,
            ).fetchone()
            if repeat_key is not None:
                db.execute("INSERT INTO repeats VALUES (?, ?, ?, ?)", (owner, repeat_key, digest, row["id"]))
            if given is not None:
                query = "INSERT INTO images (job, content, fit, strength) VALUES (?, ?, ?, ?)"
                db.execute(query, (row["id"], *given))
            if notice:
                db.execute("INSERT INTO notices (job) VALUES (?)", (row["id"],))
            count(db, "jobs_accepted", request.model)
            return as_job(row)

    def repeated(self, owner: str, key: str, digest: str) -> Job | None:
        """The job that this idempotency key stands for; KeyReused if that is of a request of another `digest`."""
        rows = self._rows(
            "SELECT jobs.*, digest FROM repeats JOIN jobs ON jobs.id = job WHERE repeats.owner = ? AND key = ?",
            owner,
            key,
        )
        if not rows:
            return None
        record = dict(rows[0])
        if record.pop("digest") != digest:
            raise KeyReused("this Idempotency-Key was used for another request; use a new key")
        return as_job(record)

    def unfinished(self, owner: str | None = None) -> int:
        """How many jobs wait or run: the owner's, or all."""
        query = "SELECT COUNT(*) AS count FROM jobs WHERE status IN ('queued', 'in_progress')"
        rows = self._rows(query) if owner is None else self._rows(f"{query} AND owner = ?", owner)
        return rows[0]["count"]

    def get(self, job: str, *, owner: str | None = None) -> Job | None:
        """The job of that id, if it is `owner`'s (anybody's when None)."""
        jobs = self._jobs("WHERE id = ?", job)
        return jobs[0] if jobs and owner in (None, jobs[0].owner) else None

    def page(
        self, *, owner: str, after: int | None = None, limit: int = 20, order: Literal["asc", "desc"] = "desc"
    ) -> Sequence[Job]:
        """An owner's jobs in the order in which they were made, or the reverse, from the one behind number `after`."""
        sign = ">" if order == "asc" else "<"
        start = after if after is not None else (0 if order == "asc" else 2**62)
        return self._jobs(
            f"WHERE owner = ? AND number {sign} ? ORDER BY number {order} LIMIT ?", owner, start, limit
        )

    def number(self, job: str, *, owner: str) -> int | None:
        """Its place among all jobs, whether it is there or one of the last that were deleted."""
        rows = self._rows(
            "SELECT number FROM jobs WHERE id = ? AND owner = ? UNION "
            "SELECT number FROM former WHERE job = ? AND owner = ?",
            *(job, owner, job, owner),
        )
        return rows[0]["number"] if rows else None

    def line(self) -> list[tuple[str, Request, InputReference | None]]:
        """The jobs that wait, by id, with what `begins` tells of them, in the order in which they will start."""
        rows = self._rows(
            """WITH waiting AS (
                SELECT id, number, owner, request, ROW_NUMBER() OVER (PARTITION BY owner ORDER BY number) AS round
                FROM jobs WHERE status = 'queued'
            ) SELECT id, request, job, fit, strength FROM waiting LEFT JOIN turns USING (owner)
            LEFT JOIN images ON job = id ORDER BY round, COALESCE(served, 0), number"""
        )
        return [
            (
                row["id"],
                request_of(row["request"]),
                InputReference(b"", row["fit"], row["strength"]) if row["job"] else None,
            )
            for row in rows
        ]

    def running(self) -> list[Job]:
        return self._jobs("WHERE status = 'in_progress'")

    def preview(self, job: str, after: int = 0) -> tuple[int, bytes] | None:
        """The number and the image of the newest preview, if there is one behind number `after`."""
        rows = self._rows("SELECT number, image FROM previews WHERE job = ? AND number > ?", job, after)
        return (rows[0]["number"], rows[0]["image"]) if rows else None

    def given(self, job: str) -> InputReference | None:
        """What its clip begins from; without content once the job has failed, since that is kept for no one."""
        rows = self._rows("SELECT content, fit, strength FROM images WHERE job = ?", job)
        return InputReference(*rows[0]) if rows else None

    def begins(self, job: str) -> InputReference | None:
        """The same without its content, for a client that asks only for its kind."""
        rows = self._rows("SELECT x'', fit, strength FROM images WHERE job = ?", job)
        return InputReference(*rows[0]) if rows else None

    @surely
    def cancel(self, job: str) -> bool:
        """Whether there was something to stop. The worker learns of it at its next report."""
        with self._writing() as db:
            stopped = db.execute(
                "UPDATE jobs SET status = 'failed', code = 'cancelled', message = 'cancelled by the user', "
                "ended = ?, ending = ?, reported = ?, worker = NULL "
                "WHERE id = ? AND status IN ('queued', 'in_progress')",
                (*self._end(db), job),
            ).rowcount
            if stopped:
                drop_pictures(db, job)
                count(db, "jobs_failed", "cancelled")
        return bool(stopped)

    @surely
    def delete(self, job: str) -> bool:
        """Forget a job; its files are the caller's. What a worker leaves of it is removed at the next
        start."""
        with self._writing() as db:
            if not db.execute("DELETE FROM jobs WHERE id = ?", (job,)).rowcount:
                return False
            db.execute("INSERT OR IGNORE INTO deleted VALUES (?)", (job,))
            return True

    def deleted(self) -> set[str]:
        """Jobs that are forgotten, and of whose files some may be there."""
        return {row["job"] for row in self._rows("SELECT job FROM deleted")}

    @surely
    def bury(self, jobs: Iterable[str]) -> None:
        """None of their files is there any more, and no worker that could make one."""
        with self._writing() as db:
            db.executemany("DELETE FROM deleted WHERE job = ?", [(job,) for job in jobs])

    def restore(
        self,
        job: str,
        request: Request,
        *,
        owner: str,
        remixed_from: str | None,
        times: tuple[float, float, float],
        size: int,
        begins: InputReference | None,
    ) -> None:
        """A completed job whose clip is there, though its record was lost. `times`: created, started, ended."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO jobs (id, owner, status, request, remixed_from, created, started, ended, ending, bytes) "
                "VALUES (?, ?, 'completed', ?, ?, ?, ?, ?, ?, ?)",
                (job, owner, json.dumps(request.to_json()), remixed_from, *times, self._end(db)[1], size),
            )
            if begins is not None:
                query = "INSERT INTO images (job, content, fit, strength) VALUES (?, ?, ?, ?)"
                db.execute(query, (job, *begins))

    # --- working --------------------------------------------------------------------------------------------------

    def claim(self, worker: str) -> Job | None:
        """The next job, now `worker`'s: of the owner whose turn was longest ago, the oldest. None while the disk has no
        room for its clip: the jobs wait, rather than fail one by one."""
        waiting = "SELECT 1 FROM jobs WHERE status = 'queued' LIMIT 1"
        if not self._rows(waiting):  # without taking the right to write
            return None
        if shutil.disk_usage(self.folder).free < ROOM:
            return None
        now = self.clock.steady()
        with self._writing() as db:
            row = db.execute(
                """UPDATE jobs SET status = 'in_progress', worker = ?, started = ?, stage = 'text',
                    claimed = ?, stage_started = ?, reported = ?, done = 0, total = 1
                WHERE number = (
                    SELECT number FROM jobs LEFT JOIN turns USING (owner) WHERE status = 'queued'
                    ORDER BY COALESCE(served, 0), number LIMIT 1
                ) RETURNING *""",
                (worker, self.clock.wall(), now, now, now),
            ).fetchone()
            if row is None:
                return None
            db.execute("DELETE FROM previews WHERE job = ?", (row["id"],))  # of an earlier try
            db.execute(
                "INSERT INTO turns VALUES (?, (SELECT COALESCE(MAX(served), 0) + 1 FROM turns)) "
                "ON CONFLICT DO UPDATE SET served = excluded.served",
                (row["owner"],),
            )
            return as_job(row)

    def report(self, job: Job, stage: str, done: int, total: int, preview: bytes | None = None) -> None:
        """How far it is; NotThis if the job is no longer `job.worker`'s."""
        now = self.clock.steady()
        with self._writing() as db:
            changed = db.execute(
                """UPDATE jobs SET stage_started = CASE WHEN stage = ? THEN stage_started ELSE ? END,
                    reported = ?, stage = ?, done = ?, total = ?
                WHERE id = ? AND worker = ? AND status = 'in_progress'""",
                (stage, now, now, stage, done, total, job.id, job.worker),
            ).rowcount
            if not changed:
                raise NotThis(f"{job.id} is no longer this worker's")
            if preview is not None:
                db.execute(
                    "INSERT INTO previews VALUES (?, 1, ?) "
                    "ON CONFLICT DO UPDATE SET number = number + 1, image = excluded.image",
                    (job.id, preview),
                )

    @surely
    def complete(self, job: Job, *, size: int, seconds: dict[str, float]) -> None:
        """Its files, `size` bytes, stand complete; `seconds` each stage took. NotThis as in `report`."""
        request = job.request
        with self._writing() as db:
            changed = db.execute(
                "UPDATE jobs SET status = 'completed', ended = ?, ending = ?, reported = ?, worker = NULL, bytes = ?, "
                "message = NULL WHERE id = ? AND worker = ? AND status = 'in_progress'",
                (*self._end(db), size, job.id, job.worker),
            ).rowcount
            if not changed:
                raise NotThis(f"{job.id} is no longer this worker's")
            db.execute("DELETE FROM previews WHERE job = ?", (job.id,))
            count(db, "jobs_completed", request.model)
            count(db, "steps", request.model, request.steps)
            for stage, spent in seconds.items():
                count(db, "stage_seconds", stage, spent)
            self.note_pace(db, request, passes(request, self.begins(job.id)), seconds)

    @surely
    def fail(self, job: Job, code: str, message: str) -> None:
        """It cannot be done. NotThis as in `report`."""
        with self._writing() as db:
            if not self._failed(db, [job.id], code, message, worker=job.worker):
                raise NotThis(f"{job.id} is no longer this worker's")

    @surely
    def release(self, worker: str, reason: str, *, blame: bool = True) -> None:
        """Put back what a worker that is gone left behind. With `blame` that was one of the job's tries."""
        with self._writing() as db:
            rows = db.execute("SELECT id, tries FROM jobs WHERE worker = ?", (worker,)).fetchall()
            spent = [row["id"] for row in rows if blame and row["tries"] + 1 >= TRIES]
            self._failed(db, spent, "worker_died", f"{reason}, {TRIES} times")
            db.execute(
                "UPDATE jobs SET status = 'queued', worker = NULL, tries = tries + ?, message = ? "
                "WHERE worker = ? AND status = 'in_progress'",
                (int(blame), reason, worker),
            )
            db.execute("DELETE FROM workers WHERE name = ?", (worker,))
            if blame:
                count(
                    db, "worker_restarts", reason.partition(":")[0]
                )  # few kinds; what is behind the colon varies

    @surely
    def recover(self) -> None:
        """Put back what ran when the whole service was stopped. Only for who knows that no worker is left."""
        with self._writing() as db:
            db.execute("UPDATE jobs SET status = 'queued', worker = NULL WHERE status = 'in_progress'")
            db.execute("DELETE FROM workers")

    def _failed(
        self, db: sqlite3.Connection, jobs: Sequence[str], code: str, message: str, worker: str | None = None
    ) -> int:
        changed = 0
        for job in jobs:
            changed += db.execute(
                "UPDATE jobs SET status = 'failed', code = ?, message = ?, ended = ?, ending = ?, reported = ?, "
                "worker = NULL WHERE id = ? AND status = 'in_progress' AND worker = COALESCE(?, worker)",
                (code, message, *self._end(db), job, worker),
            ).rowcount
            drop_pictures(db, job)
            count(db, "jobs_failed", code)
        return changed

    def _end(self, db: sqlite3.Connection) -> tuple[float, int, float]:
        """When a job ends that does so now, the number of its end, and when that is on the steady clock."""
        return self.clock.wall(), int(count(db, "endings", "")), self.clock.steady()

    # --- telling --------------------------------------------------------------------------------------------------

    def due_notices(self) -> list[tuple[Job, int]]:
        """Jobs that have ended and whose end is to be told now, with how often that was tried in vain."""
        rows = self._rows(
            "SELECT jobs.*, notices.tries AS told FROM jobs JOIN notices ON job = id "
            "WHERE status IN ('completed', 'failed') AND wait <= ? ORDER BY ending LIMIT 100",
            self.clock.steady(),
        )
        records = [dict(row) for row in rows]
        tries = [record.pop("told") for record in records]
        return [(as_job(record), count) for record, count in zip(records, tries, strict=True)]

    @surely
    def told(self, job: str) -> None:
        """Its end is told, or nobody wants to hear of it."""
        with self._writing() as db:
            db.execute("DELETE FROM notices WHERE job = ?", (job,))

    @surely
    def tell_later(self, job: str, pause: float) -> None:
        """It was tried in vain; again after so many seconds."""
        with self._writing() as db:
            query = "UPDATE notices SET tries = tries + 1, due = ?, wait = ? WHERE job = ?"
            db.execute(query, (self.clock.wall() + pause, self.clock.steady() + pause, job))

    @surely
    def resume_notices(self, longest: float) -> None:
        """At a start, when the steady clock may be another one. The wall clock says how long is still to be waited:
        `longest` seconds at most."""
        with self._writing() as db:
            query = "UPDATE notices SET wait = ? + MIN(MAX(due - ?, 0), ?)"
            db.execute(query, (self.clock.steady(), self.clock.wall(), longest))

    # --- looking --------------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """For /metrics: jobs by status, the age of the oldest that waits, and the sums."""
        jobs = self._rows(
            "SELECT status, COUNT(*) AS count, MIN(created) AS oldest FROM jobs GROUP BY status"
        )
        sums = self._rows("SELECT name, label, value FROM sums")
        oldest = next((row["oldest"] for row in jobs if row["status"] == "queued"), None)
        return {
            "jobs": {row["status"]: row["count"] for row in jobs},
            "oldest_seconds": max(0.0, self.clock.wall() - oldest) if oldest else 0.0,
            "sums": {(row["name"], row["label"]): row["value"] for row in sums},
        }

    def endings(self) -> int:
        """How many jobs have ended, ever."""
        rows = self._rows("SELECT value FROM sums WHERE name = 'endings'")
        return int(rows[0]["value"]) if rows else 0

    def ended_after(self, ending: int) -> list[Job]:
        """Jobs that ended after the one of that number, the first to end first."""
        return self._jobs("WHERE ending > ? ORDER BY ending", ending)

    def kept(self) -> list[Job]:
        """Completed jobs, the oldest first."""
        return self._jobs("WHERE status = 'completed' ORDER BY ending")

    def ended(self) -> list[tuple[str, float, int]]:
        """Jobs that are completed or failed, by id, the first to end first: when, and the bytes of the clip and of what
        it begins from."""
        rows = self._rows(
            "SELECT id, ended, bytes + COALESCE(LENGTH(content), 0) FROM jobs LEFT JOIN images ON job = id "
            "WHERE status IN ('completed', 'failed') ORDER BY ending"
        )
        return [tuple(row) for row in rows]

    def stored_bytes(self) -> int:
        """Of all clips, and of the images and clips that they begin from."""
        return self._rows(
            "SELECT (SELECT COALESCE(SUM(bytes), 0) FROM jobs) + "
            "(SELECT COALESCE(SUM(LENGTH(content)), 0) FROM images) AS sum"
        )[0]["sum"]

    def ids(self) -> set[str]:
        return {row["id"] for row in self._rows("SELECT id FROM jobs")}


def drop_pictures(db: sqlite3.Connection, job: str) -> None:
    """Of a job that failed: its preview, and the content of what it was to begin from."""
    db.execute("DELETE FROM previews WHERE job = ?", (job,))
    db.execute("UPDATE images SET content = x'' WHERE job = ?", (job,))

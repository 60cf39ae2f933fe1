"""One SQLite file that several processes write to, and the steps that bring an older one up to date."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from linnet.errors import InvalidInput, LinnetError
from linnet.serve.clock import Clock
from linnet.serve.reserve import Reserve

Done = TypeVar("Done")
Taken = ParamSpec("Taken")
Own = TypeVar("Own", bound="Database")

LOG = 4 * 2**20  # bytes, about what SQLite lets the log of writes have before it uses it again from its start
SPARE = 256  # empty pages, of 4 kB, that the file may keep for what comes
WAIT = 20.0  # seconds for another process to finish its transaction

# Each entry brings the file from the version before to the next; a released entry never changes.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'failed')),
            request TEXT NOT NULL,
            remixed_from TEXT,
            created REAL NOT NULL,
            started REAL,
            ended REAL,
            tries INTEGER NOT NULL DEFAULT 0,
            worker TEXT,
            code TEXT,
            message TEXT,
            stage TEXT,
            stage_started REAL,
            reported REAL,
            done INTEGER NOT NULL DEFAULT 0,
            total INTEGER NOT NULL DEFAULT 1,
            bytes INTEGER NOT NULL DEFAULT 0
        )""",
        "CREATE INDEX jobs_by_status ON jobs (status, owner, number)",
        "CREATE INDEX jobs_by_owner ON jobs (owner, number)",
        # What the first frame looks like so far; `number` counts the previews of a job.
        """CREATE TABLE previews (
            job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            image BLOB NOT NULL
        )""",
        """CREATE TABLE repeats (
            owner TEXT NOT NULL,
            key TEXT NOT NULL,
            digest TEXT NOT NULL,
            job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            PRIMARY KEY (owner, key)
        )""",
        "CREATE INDEX repeats_by_job ON repeats (job)",
        # When each owner's turn last was, in turns.
        "CREATE TABLE turns (owner TEXT PRIMARY KEY, served INTEGER NOT NULL)",
        "CREATE TABLE workers (name TEXT PRIMARY KEY, beat REAL NOT NULL, ready INTEGER NOT NULL, memory INTEGER)",
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            hash BLOB NOT NULL UNIQUE,
            created REAL NOT NULL,
            revoked REAL
        )""",
        # Sums that outlive the jobs and the processes, for /metrics.
        "CREATE TABLE sums (name TEXT, label TEXT, value REAL NOT NULL, PRIMARY KEY (name, label))",
        # The last clip of each kind: what it took here.
        """CREATE TABLE speeds (
            model TEXT, width INTEGER, height INTEGER, frames INTEGER,
            step REAL NOT NULL, rest REAL NOT NULL, at REAL NOT NULL,
            PRIMARY KEY (model, width, height, frames)
        )""",
    ),
    (
        # Who is to be told of a job's end, from its beginning: so none is forgotten, whoever dies when.
        """CREATE TABLE notices (
            job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
            tries INTEGER NOT NULL DEFAULT 0,
            due REAL NOT NULL DEFAULT 0
        )""",
    ),
    (
        # The image that a clip begins from, as it was sent: nobody has looked into it yet.
        """CREATE TABLE images (
            job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
            content BLOB NOT NULL,
            fit TEXT CHECK (fit IN ('crop', 'pad'))
        )""",
    ),
    (
        "ALTER TABLE workers ADD COLUMN reserved INTEGER",  # of a card's memory
        "ALTER TABLE workers ADD COLUMN words TEXT",  # the last ones of a worker that is about to die
        "ALTER TABLE speeds ADD COLUMN decode REAL",
        "ALTER TABLE speeds ADD COLUMN finish REAL",
        "CREATE INDEX jobs_by_end ON jobs (ended)",
    ),
    (
        # When a worker last got on with what it is at, which nobody may want any more; none while it waits for a job.
        "ALTER TABLE workers ADD COLUMN busy REAL",
    ),
    (
        # Of a clip that is to be followed, for so much of the steps; none of an image, whose table it was alone.
        "ALTER TABLE images ADD COLUMN strength REAL CHECK (strength > 0 AND strength <= 1)",
        # Clips of one size may be made in many or few steps, guided or not: what takes the time is a pass of the model.
        """CREATE TABLE paces (
            model TEXT, width INTEGER, height INTEGER, frames INTEGER, steps INTEGER, passes INTEGER,
            pass REAL NOT NULL, rest REAL NOT NULL, at REAL NOT NULL, decode REAL, finish REAL,
            PRIMARY KEY (model, width, height, frames, steps, passes)
        )""",
        # In how many steps the earlier ones were made was not kept; each of them was guided, which takes two passes.
        "INSERT INTO paces SELECT model, width, height, frames, 0, 0, step / 2, rest, at, decode, finish FROM speeds",
        "DROP TABLE speeds",
    ),
    (
        # The wall clock may jump. So the ends of jobs are counted, which gives their order, and the times from which
        # something is reckoned (claimed, stage_started, reported, beat, busy) are on the steady clock, as is `wait`.
        "ALTER TABLE jobs ADD COLUMN claimed REAL",
        "ALTER TABLE jobs ADD COLUMN ending INTEGER",
        """UPDATE jobs SET ending = place FROM (
            SELECT id AS job, ROW_NUMBER() OVER (ORDER BY ended, number) AS place FROM jobs WHERE ended IS NOT NULL
        ) WHERE job = id""",
        "INSERT INTO sums SELECT 'endings', '', COUNT(*) FROM jobs WHERE ended IS NOT NULL",
        "DROP INDEX jobs_by_end",
        "CREATE INDEX jobs_by_ending ON jobs (ending)",
        "ALTER TABLE notices ADD COLUMN wait REAL NOT NULL DEFAULT 0",
        # Jobs that were deleted since the service started, whose files may be still to be removed.
        "CREATE TABLE deleted (job TEXT PRIMARY KEY)",
    ),
    (
        # Where the last jobs that were deleted stood in the list, for clients that go on from one of them.
        "CREATE TABLE former (job TEXT PRIMARY KEY, owner TEXT NOT NULL, number INTEGER NOT NULL)",
        "CREATE INDEX former_by_number ON former (number)",
        """CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
            INSERT OR REPLACE INTO former VALUES (OLD.id, OLD.owner, OLD.number);
            DELETE FROM former WHERE number <= (SELECT MAX(number) FROM former) - 10000;
        END""",
        # Of browsers that were signed in with a key.
        """CREATE TABLE sessions (
            hash BLOB PRIMARY KEY, key TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE, begun REAL NOT NULL
        )""",
    ),
)


def surely(method: Callable[Concatenate[Own, Taken], Done]) -> Callable[Concatenate[Own, Taken], Done]:
    """For a method of one transaction that must work on a full disk, too: it has the reserve then."""

    @wraps(method)
    def call(self: Own, /, *given: Taken.args, **more: Taken.kwargs) -> Done:
        try:
            return method(self, *given, **more)
        except sqlite3.OperationalError as error:
            if not lacks_room(error):
                raise
            with self.reserve.released():
                return method(self, *given, **more)

    return call


def lacks_room(error: sqlite3.Error) -> bool:
    """Whether a full disk may be behind it: SQLite does not always know."""
    kind = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


class Database:
    """May be used from several threads and processes; opening it brings the file up to date."""

    def __init__(self, folder: Path, clock: Clock = Clock()) -> None:
        self.folder, self.clock = folder, clock
        self.path = folder / "linnet.db"
        self.reserve = Reserve(folder)
        self._own = threading.local()
        with explained(self.path):
            migrate(self._connection, self.path)

    @property
    def _connection(self) -> sqlite3.Connection:
        """Each thread's own."""
        if not hasattr(self._own, "connection"):
            self._own.connection = connect(self.path)
        return self._own.connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when it ends."""
        with transaction(self._connection) as connection:
            yield connection

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._connection.execute(query, values).fetchall()

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; nothing, one hopes."""
        problems = [row[0] for row in self._rows("PRAGMA integrity_check")]
        return [line for line in problems if line != "ok"] + [
            f"{row[0]} refers to nothing" for row in self._rows("PRAGMA foreign_key_check")
        ]

    def make_log(self) -> None:
        """Let the log of writes have its room on the disk now, as far as there is some: what is written later, and soon
        moved from there into the file, then needs no more."""
        with suppress(sqlite3.OperationalError):
            with self._writing() as db:
                db.execute("INSERT INTO sums VALUES ('room', '', zeroblob(?))", (LOG,))
                db.execute("DELETE FROM sums WHERE name = 'room'")
            self.shrink()
            self._rows("PRAGMA wal_checkpoint(RESTART)")

    def refuse_damage(self) -> None:
        """InvalidInput if a page of it cannot be read, or does not fit the others."""
        with explained(self.path):
            verdict = self._rows("PRAGMA quick_check(1)")[0][0]
        if verdict != "ok":
            raise damaged(self.path, verdict)

    def shrink(self) -> None:
        """Give room that deleted jobs had back to the disk, once it is worth it. A file of before this was done is
        written anew, once, which takes as much room again meanwhile."""
        db = self._connection
        if not db.execute("PRAGMA auto_vacuum").fetchone()[0]:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("VACUUM")
        elif (free := db.execute("PRAGMA freelist_count").fetchone()[0]) > SPARE:
            # Some stay, for what is written on a full disk. A script steps on; `execute` would free one page.
            db.executescript(f"PRAGMA incremental_vacuum({free - SPARE // 2})")

    def close(self) -> None:
        """This thread's connection."""
        self._connection.close()
        del self._own.connection

    def backup(self, target: Path) -> None:
        """A copy of one moment, while others write."""
        copy = sqlite3.connect(target)
        try:
            self._connection.backup(copy)
        finally:
            copy.close()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What SQLite says of the file, said in one line: InvalidInput, or LinnetError for what may pass by itself."""
    try:
        yield
    except sqlite3.Error as error:
        kind = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # without the details above it
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise damaged(path, str(error)) from error
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            remedy = "check the permissions of the file and its folder, or give another folder"
            raise InvalidInput("data", path, f"cannot be written ({error})", remedy) from error
        if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise LinnetError(f'data "{path}": {error}; make room on its disk, or check the disk') from error
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LinnetError(f'data "{path}": is in use by another program; try again later') from error
        raise


def damaged(path: Path, how: str) -> InvalidInput:
    remedy = (
        f"restore a backup, or run `linnet serve recover {path.parent}`, which rebuilds it from the clips"
    )
    return InvalidInput("data", path, f"is damaged ({how})", remedy)


def connect(path: Path) -> sqlite3.Connection:
    """Readers never wait; a writer waits for the one before it; what is committed survives a power cut."""
    if new := not path.exists():
        path.touch(mode=0o600)  # which what SQLite puts beside it takes over
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for setting in (
        *(("auto_vacuum = INCREMENTAL",) if new else ()),
        "journal_mode = WAL",
        "foreign_keys = ON",
        "synchronous = FULL",
    ):
        connection.execute(f"PRAGMA {setting}")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version_of(path: Path) -> int:
    """Without bringing it up to date."""
    with explained(path), closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file from its version to ours, one step a transaction; a file of a later linnet is refused."""
    while (version := connection.execute("PRAGMA user_version").fetchone()[0]) < len(MIGRATIONS):
        with transaction(connection):
            if connection.execute("PRAGMA user_version").fetchone()[0] != version:
                continue  # another process was faster
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
    if version > len(MIGRATIONS):
        raise InvalidInput("data", path, "was written by a later linnet", "update linnet")


def count(db: sqlite3.Connection, name: str, label: str, amount: float = 1) -> float:
    """Add to one of the sums that /metrics shows; the sum after that."""
    return db.execute(
        "INSERT INTO sums VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value RETURNING value",
        (name, label, amount),
    ).fetchone()["value"]

"""The data folder: what linnet did not make, or cannot account for, is never deleted or changed, and what was lost is
rebuilt or said in one line."""

import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from linnet import __version__
from linnet.catalog import SEEDLING
from linnet.clip import Clip
from linnet.errors import InvalidInput
from linnet.filesystem import sweep, temporary_name
from linnet.media import open_writer
from linnet.request import make_request
from linnet.serve import lock as locks
from linnet.serve.backup import backup
from linnet.serve.clips import KINDS, clips_folder, file_of, make_folder, remove_half_written, tidy
from linnet.serve.jobs import InputReference
from linnet.serve.keys import find_owner, make_key
from linnet.serve.lock import is_used, lock
from linnet.serve.queue import Queue
from linnet.serve.recover import adopt, check_present, recover
from linnet.serve.server import open_queue

REQUEST = make_request(SEEDLING, prompt="a red star", frames=1, seed=3)
Everything = dict[str, tuple[bytes, int, int]]


def everything(folder: Path) -> Everything:
    """Each file's contents, mode and time."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def draw(path: Path, direction: dict[str, object] | None = None) -> None:
    """A clip as linnet writes it."""
    clip = Clip(path=path, request=REQUEST, model_hash="x", version=__version__, direction=direction or {})
    with open_writer(path, width=128, height=72, fps=24, metadata=clip.metadata()) as writer:
        writer.write(np.zeros((1, 72, 128, 3), np.uint8))


def made(data: Path, queue: Queue, owner: str = "", given: InputReference | None = None) -> str:
    """A completed job with its files."""
    make_folder(data)
    queue.add(REQUEST, owner=owner, given=given)
    job = queue.claim("w")
    assert job is not None
    draw(file_of(data, job.id), {"image": "x", "fit": "crop"} if given else None)
    for variant in ("thumbnail", "spritesheet"):
        file_of(data, job.id, variant).write_bytes(b"picture")
    queue.complete(job, size=1, seconds={})
    return job.id


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[], Everything]:
    """Files that a person keeps in the folders of linnet, under all kinds of names; how they are now."""
    folder = tmp_path / "clips"
    folder.mkdir()
    names = ("video_holiday.mov", ".video_holiday.mov", ".video_holiday.mp4.part", "video_.mp4", "notes.txt",
             f"video_{'a' * 32}.mp4", f".video_{'b' * 32}.mp4.12.part", f".video_{'c' * 21}.12.0123abcd.part",
             "video_folder/video_a.mp4", f"video_{'d' * 32}.webp/a.mp4")  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)

    def now() -> Everything:
        return {name: found for name, found in everything(folder).items() if name in names}

    return now


def test_a_start_removes_what_is_known_to_be_dead_and_nothing_else(
    tmp_path: Path, foreign: Callable[[], Everything]
) -> None:
    before = foreign()
    queue = Queue(tmp_path)
    kept, gone = made(tmp_path, queue), made(tmp_path, queue)
    queue.delete(gone)  # and the service was killed before it removed the files
    parts = [temporary_name(file_of(tmp_path, job, variant)) for job in (kept, gone) for variant in KINDS]
    for part in parts:
        part.write_text("half")
    tidy(tmp_path, Queue(tmp_path))
    assert foreign() == before
    assert {path.name for path in clips_folder(tmp_path).iterdir() if kept in path.name} == {
        f"{kept}{ending}" for ending in KINDS.values()
    }
    assert not any(gone[:20] in path.name for path in clips_folder(tmp_path).iterdir())
    assert not any(part.exists() for part in parts)
    assert queue.deleted() == set()


def test_what_a_worker_leaves_half_written_goes_with_it_alone(
    tmp_path: Path, foreign: Callable[[], Everything]
) -> None:
    before = foreign()
    part = temporary_name(file_of(tmp_path, f"video_{'e' * 32}"))
    part.write_text("half")
    remove_half_written(tmp_path, os.getpid() + 1)
    assert part.exists()
    remove_half_written(tmp_path, os.getpid())
    assert not part.exists()
    assert foreign() == before


def test_a_sweep_takes_no_file_that_linnet_did_not_name_nor_one_that_is_written(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {
        "mine": temporary_name(tmp_path / "a.mkv").name,
        "dead": f".a.mkv.{dead.pid}.0123abcd.part",
        "holiday": ".holiday.part",
    }
    for name in names.values():
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))  # as if the clock were 50 years ahead
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names["mine"], names["holiday"]}


def test_a_lost_database_is_not_begun_anew_beside_clips(
    tmp_path: Path, foreign: Callable[[], Everything]
) -> None:
    queue = Queue(tmp_path)
    job = made(tmp_path, queue)
    queue.close()
    queue.path.rename(tmp_path / "away.db")
    before = everything(tmp_path)
    for start in (lambda: check_present(tmp_path), lambda: open_queue(tmp_path, adopting=False)):
        with pytest.raises(
            InvalidInput, match=r"no linnet\.db; put it back, restore a backup.*--adopt-files"
        ):
            start()
    assert everything(tmp_path) == before
    again = open_queue(tmp_path, adopting=True)
    assert [found.id for found in again.kept()] == [job]
    tidy(tmp_path, again)
    assert before.items() <= everything(tmp_path).items()
    assert open_queue(tmp_path, adopting=False).ids() == {job}  # and the next start needs no word


def test_a_journal_without_its_database_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "linnet.db-wal"  # SQLite would delete it
    log.write_bytes(b"the last transactions")
    with pytest.raises(InvalidInput, match=r"has linnet\.db-wal, but no linnet\.db"):
        check_present(tmp_path)
    found = recover(tmp_path)
    assert found.aside is not None
    assert (tmp_path / "linnet.damaged-1.db-wal").read_bytes() == b"the last transactions"


@pytest.mark.parametrize("damage", ["gone", "garbage", "header", "torn"])
def test_a_database_is_rebuilt_from_the_clips(
    tmp_path: Path, damage: str, foreign: Callable[[], Everything]
) -> None:
    queue = Queue(tmp_path)
    ann, key = make_key(queue, "ann")
    first, second = (
        made(tmp_path, queue, ann),
        made(tmp_path, queue, given=InputReference(b"x" * 50_000, "crop")),
    )
    for place, job in enumerate((first, second)):
        os.utime(file_of(tmp_path, job), (1000 + place, 1000 + place))
    queue._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    queue.close()
    content = bytearray(queue.path.read_bytes())
    if damage == "gone":
        queue.path.unlink()
    elif damage == "garbage":
        queue.path.write_bytes(b"not a database" * 1000)
    elif damage == "header":
        content[16:18] = b"\0\0"
        queue.path.write_bytes(content)
    else:  # some pages in the middle
        content[-40_000:-20_000] = os.urandom(20_000)
        queue.path.write_bytes(content)
    before = everything(tmp_path)
    if damage != "gone":
        with pytest.raises(
            InvalidInput, match=r"is damaged .*restore a backup, or run `linnet serve recover"
        ):
            open_queue(tmp_path, adopting=False)
    found = recover(tmp_path)
    assert found.clips == 2
    assert (found.aside is None) == (damage == "gone")
    if found.aside:
        assert found.aside.read_bytes() == before["linnet.db"][0]
    after = Queue(tmp_path)
    assert [job.id for job in after.kept()] == [first, second]
    assert [job.request for job in after.kept()] == [REQUEST, REQUEST]
    assert after.begins(second) == InputReference(b"", "crop")
    assert after.check() == []
    if damage == "torn":  # what could be read of it
        assert find_owner(after, key) == ann
        assert [job.owner for job in after.kept()] == [ann, ""]
    unchanged = {name: was for name, was in before.items() if not name.startswith("linnet.db")}
    assert unchanged.items() <= everything(tmp_path).items()
    with pytest.raises(InvalidInput, match="is in order"):
        recover(tmp_path)


def test_clips_that_a_database_does_not_know_are_adopted_once(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    known, other = made(tmp_path, queue), tmp_path / "other"
    other.mkdir()
    elsewhere = made(other, Queue(other))
    shutil.copy(file_of(other, elsewhere), file_of(tmp_path, elsewhere))
    assert open_queue(tmp_path, adopting=False).ids() == {known}
    assert open_queue(tmp_path, adopting=True).ids() == {known, elsewhere}
    assert adopt(tmp_path, queue).clips == 0


# --- the lock and the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [lambda data: lock(data).__enter__(), is_used])
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
def test_what_is_put_in_the_place_of_the_lock_is_not_touched(
    tmp_path: Path, kind: str, use: Callable[[Path], object]
) -> None:
    data, precious = tmp_path / "data", tmp_path / "precious"
    data.mkdir()
    lock = data / "lock"
    if kind != "dangling":
        precious.write_text("years of work")
    if kind in ("link", "dangling"):
        lock.symlink_to(precious)
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(InvalidInput, match="lock"):
        use(data)
    assert kind == "dangling" or precious.read_text() == "years of work"
    assert precious.exists() == (kind != "dangling")


def test_a_lock_keeps_its_contents_and_a_folder_its_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lock").write_text("mine")
    tmp_path.chmod(0o755)
    with lock(tmp_path):
        open_queue(tmp_path, adopting=False)
    assert (tmp_path / "lock").read_text() == "mine"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [record.message for record in caplog.records] == [
        f"others on this machine can look into {tmp_path}; `chmod 700` keeps them out"
    ]
    with lock(tmp_path / "new"):
        make_folder(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE(clips_folder(tmp_path / "new").stat().st_mode) == 0o700
    assert locks.is_used(tmp_path) is False


def test_a_backup_of_a_damaged_database_is_refused(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    for _ in range(20):
        queue.add(REQUEST)
    queue._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    queue.close()
    content = bytearray(queue.path.read_bytes())
    content[4096:] = b"?" * len(content[4096:])
    queue.path.write_bytes(content)
    with pytest.raises(InvalidInput, match="is damaged"):
        backup(tmp_path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(sqlite3.DatabaseError), sqlite3.connect(queue.path) as db:
        db.execute("SELECT * FROM jobs").fetchall()

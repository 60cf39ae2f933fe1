"""The queue: whose turn it is, whose job it is, and what happens to those whose worker dies."""

import re
import sqlite3
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from linnet.catalog import SEEDLING
from linnet.errors import InvalidInput
from linnet.request import Request, make_request
from linnet.serve.backup import backup
from linnet.serve.clips import KINDS, clips_folder, file_of
from linnet.serve.database import MIGRATIONS
from linnet.serve.jobs import InputReference, Job, KeyReused, Limits, NotThis, QueueFull
from linnet.serve.journal import Journal
from linnet.serve.queue import TRIES, Queue
from linnet.serve.webhook import SECRET_FILE, open_webhook

SEEDS = count()


def request() -> Request:
    return make_request(SEEDLING, prompt="a red star", frames=1, steps=2, seed=next(SEEDS))


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def claimed(queue: Queue, worker: str = "w") -> Job:
    job = queue.claim(worker)
    assert job is not None
    return job


def test_each_key_has_its_turn_and_the_position_tells_it(queue: Queue) -> None:
    jobs = [queue.add(request(), owner=owner) for owner in ("a", "a", "a", "b", "c", "b")]
    first = claimed(queue)
    assert first == queue.get(jobs[0].id)
    waiting = [job for job, *_ in queue.line()]
    order = [claimed(queue).id for _ in waiting]
    assert order == waiting
    assert [queue.get(job).owner for job in order] == ["b", "c", "a", "b", "a"]  # type: ignore[union-attr]
    assert queue.claim("w") is None


def test_no_job_is_begun_while_the_disk_has_no_room(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    job = queue.add(request())
    with monkeypatch.context() as full:
        full.setattr("linnet.serve.queue.ROOM", 2**62)
        assert queue.claim("w") is None
    assert claimed(queue).id == job.id


def test_a_word_counts_only_while_the_job_is_the_workers_own(queue: Queue) -> None:
    job = queue.add(request())
    old = claimed(queue, "old")
    queue.report(old, "denoise", 1, 2, b"picture")
    queue.release("old", "died")
    new = claimed(queue, "new")
    assert (new.id, new.tries, queue.preview(job.id)) == (job.id, 1, None)
    for speak in (
        lambda: queue.report(old, "decode", 1, 1),
        lambda: queue.complete(old, size=1, seconds={}),
        lambda: queue.fail(old, "x", "y"),
    ):
        with pytest.raises(NotThis):
            speak()
    queue.report(new, "denoise", 1, 2)
    assert queue.cancel(job.id)
    assert not queue.cancel(job.id)
    with pytest.raises(NotThis):
        queue.complete(new, size=1, seconds={})
    ended = queue.get(job.id)
    assert ended is not None
    assert (ended.status, ended.code) == ("failed", "cancelled")


def test_a_job_that_kills_its_workers_fails_and_one_that_was_interrupted_does_not(queue: Queue) -> None:
    bad = queue.add(request())
    for _ in range(TRIES):
        assert claimed(queue).id == bad.id
        queue.release("w", "the worker was killed")
    ended = queue.get(bad.id)
    assert ended is not None
    assert (ended.status, ended.code) == ("failed", "worker_died")
    assert "killed" in str(ended.message)

    good = queue.add(request())
    for _ in range(TRIES + 1):
        assert claimed(queue).id == good.id
        queue.release("w", "stopped", blame=False)
        assert claimed(queue).id == good.id
        queue.recover()
    assert claimed(queue).tries == 0


def test_the_same_idempotency_key_is_the_same_job(queue: Queue) -> None:
    first = queue.add(request(), owner="a", repeat_key="k", digest="1")
    assert queue.add(request(), owner="a", repeat_key="k", digest="1").id == first.id
    assert queue.add(request(), owner="b", repeat_key="k", digest="2").id != first.id
    with pytest.raises(KeyReused):
        queue.add(request(), owner="a", repeat_key="k", digest="2")
    queue.delete(first.id)  # with what refers to it
    assert queue.add(request(), owner="a", repeat_key="k", digest="2").id != first.id
    assert queue.check() == []


def test_what_is_left_behind_a_stage_is_what_it_took_last_time(queue: Queue) -> None:
    wanted = request()
    assert queue.speed_behind(wanted, "denoise") is None
    took = {"text": 1.0, "denoise": 4.0, "decode": 2.0, "finish": 0.5}
    for seconds in ({"denoise": 4.0}, took):
        assert queue.speed_behind(wanted, "denoise") is None
        queue.add(request())
        queue.complete(claimed(queue), size=1, seconds=seconds)
    left = [queue.speed_behind(wanted, stage) for stage in took]
    assert left == [6.5, 2.5, 0.5, 0.0]
    assert queue.speed_behind(replace(wanted, frames=9), "decode") == 4.5


def test_a_failed_job_keeps_no_image_and_the_file_gives_its_room_back(queue: Queue) -> None:
    given = InputReference(bytes(2**22), "crop")
    jobs = [queue.add(request(), given=given) for _ in range(3)]
    assert queue.stored_bytes() == 3 * 2**22
    queue.complete(claimed(queue), size=7, seconds={})
    queue.fail(claimed(queue), "x", "y")
    queue.cancel(jobs[2].id)
    assert [queue.given(job.id) for job in jobs] == [
        given,
        InputReference(b"", "crop"),
        InputReference(b"", "crop"),
    ]
    assert [size for *_, size in queue.ended()] == [2**22 + 7, 0, 0]
    assert queue.stored_bytes() == 2**22 + 7
    for job in jobs:
        queue.delete(job.id)
    queue.shrink()
    queue.close()  # the last one to close brings the file up to date
    assert queue.path.stat().st_size < 2**20
    assert queue.check() == []


def test_a_file_that_never_gave_room_back_learns_to(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "linnet.db") as db:
        db.execute("CREATE TABLE older (x)")
    queue = Queue(tmp_path)
    queue.shrink()
    queue.close()
    with sqlite3.connect(queue.path) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone()[0] == 2  # incremental


def test_a_key_can_adopt_what_was_made_without_one(queue: Queue) -> None:
    job = queue.add(request(), repeat_key="k", digest="1")
    queue.add(request(), owner="other")
    assert (queue.keyless(), queue.adopt("ann"), queue.keyless()) == (1, 1, 0)
    assert [found.id for found in queue.page(owner="ann")] == [job.id]
    assert queue.add(request(), owner="ann", repeat_key="k", digest="1").id == job.id


def test_the_log_has_a_line_for_each_job_that_ends(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="linnet.serve")
    queue.cancel(queue.add(request()).id)  # before
    journal, secretive = Journal(queue, prompts=True), Journal(queue)
    done, failed = queue.add(request()), queue.add(request(), owner="ann")
    queue.complete(claimed(queue), size=1, seconds={})
    journal.look()
    queue.cancel(failed.id)
    queue.add(request())
    journal.look()
    journal.look()
    lines = [re.sub("seconds=[0-9.]+", "seconds=0.0", record.getMessage()) for record in caplog.records]
    assert lines == [
        f'job={done.id} key=- model=seedling seconds=0.0 status=completed code=- prompt="a red star"',
        f'job={failed.id} key=ann model=seedling seconds=- status=failed code=cancelled prompt="a red star"',
    ]
    secretive.look()
    ends = [record.getMessage().partition(" status=")[2] for record in caplog.records[2:]]
    assert ends == ["completed code=-", "failed code=cancelled"]


def test_the_pace_of_what_runs_is_known_while_it_runs(queue: Queue) -> None:
    queue.add(request())
    job = claimed(queue)
    queue.report(job, "denoise", 0, 10)
    assert queue.steps_per_second() == {}
    time.sleep(0.02)
    queue.report(job, "denoise", 5, 10)
    assert 0 < queue.steps_per_second()["seedling"] < 250
    queue.report(job, "decode", 1, 10)
    assert queue.steps_per_second() == {}


def test_a_full_queue_takes_no_more(queue: Queue) -> None:
    limits = Limits(jobs=2, jobs_per_owner=1)
    job = queue.add(request(), owner="a", limits=limits)
    with pytest.raises(QueueFull, match="of your jobs"):
        queue.add(request(), owner="a", limits=limits)
    queue.add(request(), owner="b", limits=limits)
    with pytest.raises(QueueFull, match="full"):
        queue.add(request(), owner="c", limits=limits)
    queue.cancel(job.id)
    queue.add(request(), owner="c", limits=limits)


def test_jobs_outlive_the_process_and_a_later_version_is_refused(tmp_path: Path) -> None:
    wanted = Queue(tmp_path).add(request())
    assert Queue(tmp_path).get(wanted.id) == wanted
    with sqlite3.connect(tmp_path / "linnet.db") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(InvalidInput, match="later linnet"):
        Queue(tmp_path)


def test_a_folder_of_an_earlier_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(1, len(MIGRATIONS)):
        data = tmp_path / str(version)
        data.mkdir()
        with monkeypatch.context() as then:
            then.setattr("linnet.serve.database.MIGRATIONS", MIGRATIONS[:version])
            old = Queue(data)
            running, waiting, *done = (old.add(request()) for _ in range(4))
            with sqlite3.connect(data / "linnet.db") as db:  # as that version did
                query = "UPDATE jobs SET status = 'in_progress', worker = 'old', started = 1 WHERE id = ?"
                db.execute(query, (running.id,))
                for moment, job in enumerate(reversed(done)):
                    query = "UPDATE jobs SET status = 'completed', ended = ? WHERE id = ?"
                    db.execute(query, (moment, job.id))
                    if version > 6:
                        db.execute("UPDATE jobs SET ending = ? WHERE id = ?", (moment + 1, job.id))
                if version > 6:
                    db.execute("INSERT OR REPLACE INTO sums VALUES ('endings', '', ?)", (len(done),))
                if version > 2:
                    db.execute(
                        "INSERT INTO images (job, content, fit) VALUES (?, x'01', 'pad')", (waiting.id,)
                    )
                kind = (waiting.request.model, waiting.request.width, waiting.request.height, 1)
                if version < 6:
                    names = "model, width, height, frames, step, rest, at"
                    db.execute(f"INSERT INTO speeds ({names}) VALUES (?, ?, ?, ?, 4, 3, 1)", kind)
                else:
                    db.execute("INSERT INTO paces VALUES (?, ?, ?, ?, 0, 0, 2, 3, 1, 0, 0)", kind)
        new = Queue(data)  # while the old one still has the file open
        assert new.path.exists()
        with sqlite3.connect(data / "linnet.db") as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert new.ids() == {job.id for job in (running, waiting, *done)}
        assert [job.id for job in new.kept()] == [job.id for job in reversed(done)]
        assert new.given(waiting.id) == (InputReference(b"\1", "pad", None) if version > 2 else None)
        assert new.speed(waiting.request) == (4 * waiting.request.steps + 3, False)
        old.complete(replace(running, worker="old"), size=1, seconds={"denoise": 1.0})
        assert [job.id for job in new.ended_after(len(done))] == [running.id]
        told = new.add(request(), notice=True)
        new.fail(claimed(new), "x", "y")
        new.cancel(told.id)
        assert [(job.id, tries) for job, tries in new.due_notices()] == [(told.id, 0)]
        assert new.check() == []


def test_a_backup_serves_in_place_of_the_original(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    clips_folder(data).mkdir(parents=True)
    queue = Queue(data)
    done, waiting, deleted = (queue.add(request()) for _ in range(3))
    for job in (done, waiting, deleted):
        running = claimed(queue)
        if job is not waiting:
            queue.complete(running, size=3, seconds={"denoise": 1.0})
    for variant in KINDS:
        file_of(data, done.id, variant).write_text("abc")  # and none of `deleted`, as if it went meanwhile
    secret = open_webhook(data, "http://localhost/").secret
    assert backup(data, copy) == 1
    restored = Queue(copy)
    assert restored.ids() == {done.id, waiting.id}
    assert file_of(copy, done.id).read_text() == "abc"
    assert restored.check() == []
    assert open_webhook(copy, "http://localhost/").secret == secret
    assert (copy / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidInput, match="there already"):
        backup(data, copy)

"""Many prompts from a file become clips in a folder, with a manifest that has a line for each.

The folder holds a queue such as the service's, so a batch that is stopped, however it is stopped, goes on where it was.
A clip gets its name when it is complete, and its line in the manifest after that.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

from linnet.catalog import ModelSpec
from linnet.clip import Clip, default_name
from linnet.errors import InvalidInput
from linnet.filesystem import StrPath, flush_folder
from linnet.media import read_metadata
from linnet.profiles import choose_profile
from linnet.records import read_object, read_object_or_nothing, read_text
from linnet.request import Request, RequestSettings, make_request
from linnet.serve.clips import file_of, put, remove_files, tidy
from linnet.serve.jobs import Job, Limits
from linnet.serve.queue import Queue
from linnet.serve.supervisor import Member
from linnet.serve.worker_pool import WorkerPool
from linnet.weights.resolve_loras import NO_LORA, ResolvedLoras, nothing_to_merge, resolve_loras
from linnet.weights.store import ModelFiles
from linnet.wording import choices, format_count

OWNER = "batch"
WAITING = 32  # jobs that the queue holds at a time
LOOK = 0.1  # seconds between two looks at the queue
SAME = ("model", "prompt", "negative", "width", "height", "frames", "seed", "steps", "guidance", "loras")
FIELDS = ("prompt", "negative", "seconds", "frames", "size", "seed", "steps", "guidance", "profile", "lora")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One prompt with its settings; `key` tells it from every other, wherever in the file it stands."""

    number: int
    key: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many clips are made, are given up, and were asked for; `resumed` of the made were there from before."""

    made: int
    failed: int
    total: int
    resumed: int


class BadLines(InvalidInput):
    """Several lines cannot be done; `errors` has each, in their order."""

    def __init__(self, file: Path, errors: Sequence[InvalidInput]) -> None:
        remedy = f"mend them; the first is {errors[0].field.partition(':')[0]}"
        super().__init__(
            "prompts", file, f"has {format_count(len(errors), 'line')} that cannot be done", remedy
        )
        self.errors = tuple(errors)


def read_lines(
    file: Path,
    spec: ModelSpec,
    files: ModelFiles,
    *,
    loras: Sequence[StrPath] = (),
    lora_merge: bool | None = None,
    anyway: bool = False,
    device: str | None = None,
    tell: Callable[[str], object] = lambda note: None,
) -> list[Line]:
    """Every line of the file that is not empty, checked: a JSON object of settings, or else the prompt itself. `loras`
    are those of lines that name none; with `lora_merge` all are merged into the weights. A profile is the one that was
    tuned on the `device`, if there is one; `tell` hears where it is not used, and why, and what a LoRA's file leaves
    open.

    InvalidInput names the line that cannot be done, BadLines all of them where there are several; a line with a word
    that the model does not know is one, unless `anyway`.
    """
    text = read_text(file, field="prompts")
    check = ignore if anyway or not spec.closed_vocabulary else words_of(spec, files)
    find_loras = LoraFinder(files, loras, lora_merge)
    seen: Counter[str] = Counter()
    lines: list[Line] = []
    errors: list[InvalidInput] = []
    told: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {file.name}"
        try:
            given = settings_in(line.strip(), where)
            loras_of_line = find_loras(given)
            prompt = given.get("prompt")
            of_request = cast(RequestSettings, {name: given[name] for name in given if name != "prompt"})
            chosen = choose_profile(spec, of_request, files=lambda: files, device=device)
            for note in (*chosen.notes, *loras_of_line.notes):
                if note not in told:
                    told.append(note)
                    tell(note)
            settings = {**chosen.settings, "prompt": prompt}
            request = make_request(spec, **settings)
            check("prompt", request.prompt, loras_of_line.words)
            check("negative", request.negative, loras_of_line.words)
        except InvalidInput as error:
            field = error.field if error.field.startswith(where) else f"{where}: {error.field}"
            errors.append(InvalidInput(field, error.value, error.problem, error.remedy))
            continue
        fields = json.dumps([spec.name, given], sort_keys=True)
        seen[fields] += 1  # the same line again is another clip
        key = hashlib.sha256(f"{seen[fields]} {fields}".encode()).hexdigest()
        lines.append(Line(number=number, key=key, settings=settings))
    if errors:
        raise errors[0] if len(errors) == 1 else BadLines(file, errors)
    if not lines:
        raise InvalidInput("prompts", file, "holds no prompt", "write one a line")
    if lora_merge and not any(line.settings.get("loras") for line in lines):
        raise nothing_to_merge()
    return lines


def settings_in(line: str, field: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"prompt": line}
    settings = read_object(line, field=field, remedy='write {"prompt": "..."}')
    for name in settings:
        if name not in FIELDS:
            raise InvalidInput(field, name, "is not known", choices(name, FIELDS))
    lora = settings.get("lora")
    if not isinstance(lora, str | list | None) or not all(isinstance(each, str) for each in lora or ()):
        problem = "is neither a LoRA's file nor a list of them"
        raise InvalidInput(f"{field}: lora", str(lora), problem, 'write "FILE:STRENGTH"')
    return settings


class LoraFinder:
    """Puts what a line names, or else those of the whole batch, into its settings; the words that they teach."""

    def __init__(self, files: ModelFiles, usual: Sequence[StrPath], merge: bool | None) -> None:
        self.files, self.usual, self.merge = files, usual, merge
        self._known: dict[tuple[str, ...], ResolvedLoras] = {}

    def __call__(self, settings: dict[str, Any]) -> ResolvedLoras:
        named = settings.pop("lora", None)
        given = tuple(map(str, self.usual if named is None else [named] if isinstance(named, str) else named))
        if not given or given == (NO_LORA,):
            return ResolvedLoras()
        if given not in self._known:
            self._known[given] = resolve_loras(self.files.transformer, given, merge=self.merge)
        settings["loras"] = [use.to_json() for use in self._known[given].uses]
        return self._known[given]


def ignore(field: str, text: str, taught: Sequence[str]) -> None:
    """Whatever words there are."""


def words_of(spec: ModelSpec, files: ModelFiles) -> Callable[[str, str, Sequence[str]], object]:
    """Refuses words that the model does not know, and that no LoRA teaches it."""
    from linnet.data.known import check_words
    from linnet.models.text import Tokenizer

    tokenizer = Tokenizer.open(files.tokenizer)
    return lambda field, text, taught: check_words(
        spec, tokenizer.with_words(taught), text, field=field, taught=taught
    )


def free(path: Path, request: Request) -> bool:
    """Whether the clip of this request may have that name: nobody else has it."""
    if not os.path.lexists(path):
        return True
    with suppress(InvalidInput):
        made_from = Clip.from_metadata(path, read_metadata(path)).request
        return all(getattr(made_from, name) == getattr(request, name) for name in SAME)
    return False


class Batch:
    """The lines' clips under `out`, which one batch at a time has for itself (see `lock.lock`)."""

    def __init__(self, lines: Sequence[Line], spec: ModelSpec, pool: WorkerPool, out: Path) -> None:
        self.lines, self.spec, self.out = lines, spec, out
        self.data = out / ".linnet"
        self.data.mkdir(parents=True, exist_ok=True)
        self.manifest = out / "manifest.jsonl"
        self.queue = Queue(self.data)
        self.queue.recover()
        tidy(self.data, self.queue)
        self.members: Sequence[Member] = pool.members(self.data, self.queue)
        self.records = {record["key"]: record for record in self.kept()}

    def kept(self) -> Iterator[dict[str, Any]]:
        """The manifest's lines whose clips are there; not a last one that was cut off in writing."""
        if self.manifest.exists():
            for line in self.manifest.read_text("utf-8", errors="replace").splitlines():
                with suppress(KeyError, TypeError):
                    record = read_object_or_nothing(line)
                    if record["status"] == "completed" and (self.out / record["path"]).is_file():
                        yield record

    def run(self, show: Callable[[Count, Sequence[str]], None]) -> Count:
        """Until every line has its clip, or was given up. What an earlier run gave up is tried again. `show` gets the
        count, and what is being made: "line 3: denoise 4 of 20"."""
        wanted = {line.key: line for line in self.lines}
        self.rewrite([record for key, record in self.records.items() if key in wanted])
        resumed = made = len(self.records.keys() & wanted)
        failed = 0
        todo = [line for line in self.lines if line.key not in self.records]
        submitted: dict[str, Line] = {}
        for member in self.members if todo else ():
            member.start()
        show(Count(made=made, failed=failed, total=len(self.lines), resumed=resumed), ())
        while todo or submitted:
            doing: list[str] = []
            while todo and len(submitted) < WAITING:
                line = todo.pop(0)
                submitted[self.ask(line).id] = line
            for job in [job_found for id in submitted if (job_found := self.queue.get(id))]:
                if job.status in ("completed", "failed"):
                    self.finish(submitted.pop(job.id), job)
                    made, failed = made + (job.status == "completed"), failed + (job.status == "failed")
                elif job.status == "in_progress":
                    where = f" {job.done} of {job.total}" if (job.total or 0) > 1 else ""
                    doing.append(f"line {submitted[job.id].number}: {job.stage}{where}")
            show(Count(made=made, failed=failed, total=len(self.lines), resumed=resumed), doing)
            time.sleep(LOOK)
        return Count(made=made, failed=failed, total=len(self.lines), resumed=resumed)

    def ask(self, line: Line) -> Job:
        """A job for the line: the one that an earlier run asked for, unless it failed then."""
        request = make_request(self.spec, **line.settings)
        limits = Limits(jobs=2 * WAITING, jobs_per_owner=2 * WAITING)
        while True:
            job = self.queue.add(request, owner=OWNER, limits=limits, repeat_key=line.key, digest=line.key)
            there = file_of(self.data, job.id).exists() or self.target(line, job).exists()
            if job.status in ("queued", "in_progress") or (job.status == "completed" and there):
                return job
            self.queue.delete(job.id)

    def target(self, line: Line, job: Job) -> Path:
        """The clip's name, beside that of any other file there: only one of this very request gives way."""
        name = Path(f"{line.number:06d}-{default_name(job.request)}")
        names = (name if number == 1 else name.with_stem(f"{name.stem}-{number}") for number in count(1))
        return next(path for candidate in names if free(path := self.out / candidate, job.request))

    def finish(self, line: Line, job: Job) -> None:
        """Give the clip its name, then the line its place in the manifest."""
        record: dict[str, Any] = {"line": line.number, "key": line.key, "status": job.status}
        if job.status == "completed":
            path = self.target(line, job)
            with suppress(FileNotFoundError):  # it has its name since an earlier run, which wrote no line
                file_of(self.data, job.id).replace(path)
            flush_folder(self.out)
            record |= {"path": path.name, "bytes": path.stat().st_size}
        else:
            record |= {"code": job.code, "message": job.message}
        remove_files(self.data, job.id)
        line_of_it = json.dumps(record | {"request": job.request.to_json()}, ensure_ascii=False)
        with self.manifest.open("a", encoding="utf-8") as file:
            file.write(line_of_it + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, records: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        put(self.manifest, text.encode())

    def stop(self) -> None:
        """Leave off in the middle; what ran is put back."""
        for member in self.members:
            member.leave.set()
            member.hurry.set()
        for member in self.members:
            if member.is_alive():
                member.join()

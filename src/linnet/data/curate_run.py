"""A curation from a folder of videos to a folder of clips, on this machine's processors or on a Ray cluster. The result
is the same. No torch is imported.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TypeVar

from linnet.data.curate import Analysis, CurateSettings, Row, analyse, clip_record, judge, write_clips
from linnet.data.curate_state import (
    analysis_key,
    check_settings,
    keep_analysis,
    keep_settings,
    keep_written,
    kept_analysis,
    manifest_lines,
    written_clips,
)
from linnet.data.dataset import VIDEOS, media_in
from linnet.data.probe import content_hash, workers
from linnet.errors import Cancelled, InvalidInput
from linnet.filesystem import make_folder, reading, write_text
from linnet.inputs import folders
from linnet.inputs.reader import read_metadata

T = TypeVar("T")

STATE = ".linnet"
MANIFEST = "manifest.jsonl"
GONE = "removed: it was cut, and somebody has removed it since"

Tell = Callable[[str, int, int], object]  # hears of a stage, how much of it is done, and of how much


class Executor(ABC):
    """Where the work on single videos is done."""

    @abstractmethod
    def analyse(
        self, videos: Mapping[str, Path], contents: Mapping[str, str], settings: CurateSettings
    ) -> Iterator[tuple[str, Analysis | InvalidInput]]: ...

    @abstractmethod
    def write(
        self, videos: Mapping[str, Path], rows: Mapping[str, Sequence[Row]], folder: Path
    ) -> Iterator[tuple[str, InvalidInput | None]]:
        """Each file that is complete in the folder; a video that cannot be read again is its name and the reason."""


class LocalExecutor(Executor):
    """One video for each processor."""

    def __init__(self) -> None:
        self.stopped = Event()

    def tick(self) -> None:
        if self.stopped.is_set():
            raise Cancelled("stopped")

    def analyse(
        self, videos: Mapping[str, Path], contents: Mapping[str, str], settings: CurateSettings
    ) -> Iterator[tuple[str, Analysis | InvalidInput]]:
        def one_video(name: str) -> tuple[str, Analysis | InvalidInput]:
            try:
                return name, analyse(videos[name], contents[name], settings, self.tick)
            except InvalidInput as error:
                return name, error

        yield from self.spread(one_video, videos)

    def write(
        self, videos: Mapping[str, Path], rows: Mapping[str, Sequence[Row]], folder: Path
    ) -> Iterator[tuple[str, InvalidInput | None]]:
        def one_video(name: str) -> list[tuple[str, InvalidInput | None]]:
            files: list[tuple[str, InvalidInput | None]] = []
            try:
                write_clips(
                    videos[name], rows[name], folder, lambda file: files.append((file, None)), self.tick
                )
            except InvalidInput as error:
                files.append((name, error))
            return files

        for files in self.spread(one_video, rows):
            yield from files

    def spread(self, work: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        """Ctrl-C ends the processes that read."""
        with ThreadPoolExecutor(max_workers=workers()) as pool:
            try:
                yield from pool.map(work, names)
            except BaseException:
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@dataclass(frozen=True, kw_only=True)
class Curation:
    """What came of it: a row for each candidate, and for each video that cannot be read."""

    rows: tuple[Row, ...]
    videos: int
    new: int
    manifest: Path | None

    @property
    def kept(self) -> list[Row]:
        return [row for row in self.rows if not row.reason]


def videos_in(raw: Path) -> dict[str, Path]:
    """By name within the folder; a single video is its own. InvalidInput where there is none."""
    with reading(raw, "folder"):
        if not raw.exists():
            raise InvalidInput("folder", raw, "is missing", "check the path")
        if raw.is_file():
            return {raw.name: raw}
    files, _ = media_in(raw, raw)
    videos = [file for file in files if file.is_file() and file.suffix.lower() not in folders.ENDINGS]
    if not videos:
        problem = "has no videos" if files else "is empty"
        raise InvalidInput("folder", raw, problem, f"put videos into it: {', '.join(VIDEOS)}")
    return {str(file.relative_to(raw)): file for file in videos}


def curate(
    raw: Path,
    out: Path,
    settings: CurateSettings,
    *,
    executor: Executor | None = None,
    dry_run: bool = False,
    tell: Tell = lambda stage, done, total: None,
) -> Curation:
    """Clips of the videos in `raw`, and the manifest, in `out`. With `dry_run` nothing but the analyses is written.

    InvalidInput where there are no videos, where `out` holds clips that other settings chose, or other files under the
    clips' names.
    """
    executor = executor or LocalExecutor()
    if out.resolve().is_relative_to(raw.resolve()):
        problem = "is inside the folder of the videos, where its clips would be videos of the next run"
        raise InvalidInput("out", out, problem, "choose another folder")
    videos = videos_in(raw)
    state = out / STATE
    check_settings(state, settings)
    make_folder(state)
    analyses, unreadable = analyse_all(videos, state, settings, executor, tell)
    known = written_clips(state)
    rows = judge(analyses, settings, dict.fromkeys(known, True))
    if dry_run:
        return Curation(rows=with_unreadable(rows, unreadable), videos=len(videos), new=0, manifest=None)
    keep_settings(state, settings)
    rows = [replace(row, reason=GONE) if is_gone(row, out, known) else row for row in rows]
    waiting: dict[str, list[Row]] = {}
    for row in rows:
        if not row.reason and not is_there(row, out, known, state):
            waiting.setdefault(row.source, []).append(row)
    total, new = sum(map(len, waiting.values())), 0
    tell("clips", 0, total)
    for name, error in executor.write({name: videos[name] for name in waiting}, waiting, out):
        if error is not None:
            raise error
        keep_written(state, name)
        new += 1
        tell("clips", new, total)
    everything = with_unreadable(rows, unreadable)
    write_text(out / MANIFEST, manifest_lines(everything))
    return Curation(rows=everything, videos=len(videos), new=new, manifest=out / MANIFEST)


def analyse_all(
    videos: Mapping[str, Path], state: Path, settings: CurateSettings, executor: Executor, tell: Tell
) -> tuple[dict[str, Analysis], list[Row]]:
    """What earlier runs have kept, and what is analysed now; rows of videos that cannot be read. Of several videos with
    the same bytes the first is analysed."""
    analyses: dict[str, Analysis] = {}
    unreadable: list[Row] = []
    contents: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, path in sorted(videos.items()):
        try:
            with reading(path):
                contents[name] = content_hash(path, state)
        except InvalidInput as error:
            unreadable.append(failed(name, "", error))
            continue
        if (same := first.setdefault(contents[name], name)) != name:
            reason = f"duplicate: has the same bytes as {same}"
            unreadable.append(Row(source=name, content=contents[name], candidate=None, reason=reason))
    waiting: dict[str, Path] = {}
    for content, name in first.items():
        kept = kept_analysis(state / "analyses", analysis_key(content, settings))
        if kept is None:
            waiting[name] = videos[name]
        else:
            analyses[name] = kept
    tell("videos", len(analyses), len(first))
    done = len(analyses)
    for name, result in executor.analyse(waiting, contents, settings):
        if isinstance(result, InvalidInput):
            unreadable.append(failed(name, contents[name], result))
        else:
            analyses[name] = result
            keep_analysis(state / "analyses", analysis_key(contents[name], settings), result)
        done += 1
        tell("videos", done, len(first))
    return analyses, unreadable


def failed(name: str, content: str, error: InvalidInput) -> Row:
    return Row(source=name, content=content, candidate=None, reason=f"cannot be used: {error.problem}")


def with_unreadable(rows: Sequence[Row], unreadable: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(sorted([*rows, *unreadable], key=lambda row: row.source))


def is_gone(row: Row, out: Path, known: set[str]) -> bool:
    """A clip that somebody has removed is not cut again."""
    return not row.reason and row.file in known and not (out / row.file).exists()


def is_there(row: Row, out: Path, known: set[str], state: Path) -> bool:
    """InvalidInput where another file has the clip's name."""
    path = out / row.file
    if row.file in known:
        return True
    if not path.exists():
        return False
    record = None
    with suppress(InvalidInput):
        record = read_metadata(path)
    if record is None or record.get("curated") != clip_record(row)["curated"]:
        raise InvalidInput("out", path, "is there already, and is not the clip", "choose another folder")
    keep_written(state, row.file)  # a kill came between the clip and the note of it
    return True

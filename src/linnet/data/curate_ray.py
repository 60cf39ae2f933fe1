"""A curation on a Ray cluster, a video for each processor. What is found and written is what one machine finds and
writes; the clips come back through Ray. A video that a node cannot see under its path is sent there.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from linnet import __version__
from linnet.data.curate import Analysis, CurateSettings, Row, analyse, write_clips
from linnet.data.curate_run import Executor
from linnet.errors import InvalidInput, LinnetError, one_line
from linnet.filesystem import complete, reading

T = TypeVar("T")
Result = tuple[
    str, Any
]  # the version of linnet on the node; what was found, or None where the video is not seen there

MOST_SENT = 2_000_000_000  # bytes of a video that is sent to a node


class RayExecutor(Executor):
    """The cluster is connected already (`runtime.cluster`)."""

    def __init__(self) -> None:
        self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def analyse(
        self, videos: Mapping[str, Path], contents: Mapping[str, str], settings: CurateSettings
    ) -> Iterator[tuple[str, Analysis | InvalidInput]]:
        task = ray.remote(analyse_there)
        yield from self.spread(videos, lambda name, video: task.remote(video, contents[name], settings))

    def write(
        self, videos: Mapping[str, Path], rows: Mapping[str, Sequence[Row]], folder: Path
    ) -> Iterator[tuple[str, InvalidInput | None]]:
        task = ray.remote(write_there)
        for name, result in self.spread(videos, lambda name, video: task.remote(video, list(rows[name]))):
            if isinstance(result, InvalidInput):
                yield name, result
                continue
            for file, content in result.items():
                with complete(folder / file, overwrite=False) as part:
                    part.write_bytes(content)
                yield file, None

    def spread(
        self, videos: Mapping[str, Path], submit: Callable[[str, "Video"], Any]
    ) -> Iterator[tuple[str, Any]]:
        """As many at a time as the cluster has processors, each as soon as it is done."""
        waiting = [(name, Video.of(path)) for name, path in videos.items()]
        tasks: dict[Any, tuple[str, Video]] = {}
        try:
            while waiting or tasks:
                while waiting and len(tasks) < self.slots:
                    name, video = waiting.pop(0)
                    tasks[submit(name, video)] = (name, video)
                (done,), _ = ray.wait([*tasks], num_returns=1)
                name, video = tasks.pop(done)
                try:
                    version, result = ray.get(done)
                except RayError as error:
                    raise LinnetError(f"the cluster failed at {name} ({one_line(error)[:200]})") from error
                if version != __version__:
                    problem = f"has a node with linnet {version}, and this is {__version__}"
                    raise InvalidInput("ray", "cluster", problem, "install the same on all nodes")
                if result is None:
                    waiting.insert(0, (name, video.with_content()))
                else:
                    yield name, result
        finally:
            for task in tasks:
                ray.cancel(task, force=True)


class Video:
    """A file here: its path and length, by which a node that shares our folders knows it; or its bytes."""

    def __init__(self, path: Path, size: int, content: Any = None) -> None:
        self.path, self.size, self.content = path, size, content

    @classmethod
    def of(cls, path: Path) -> "Video":
        with reading(path):
            return cls(path.resolve(), path.stat().st_size)

    def with_content(self) -> "Video":
        if self.size > MOST_SENT:
            problem = "is not seen by a node of the cluster, and is too large to be sent"
            raise InvalidInput("file", self.path, problem, "put it into a folder that all nodes share")
        with reading(self.path):
            return Video(self.path, self.size, ray.put(self.path.read_bytes()))

    @contextmanager
    def here(self) -> Iterator[Path | None]:
        """Its path on the node that asks; None where it has to be sent."""
        if self.content is not None:
            with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
                path = Path(folder) / self.path.name
                path.write_bytes(ray.get(self.content))
                yield path
        elif self.path.is_file() and self.path.stat().st_size == self.size:
            yield self.path
        else:
            yield None


def analyse_there(video: Video, content: str, settings: CurateSettings) -> Result:
    with video.here() as path:
        return __version__, attempt(path, lambda there: analyse(there, content, settings))


def write_there(video: Video, rows: list[Row]) -> Result:
    def clips(path: Path) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
            write_clips(path, rows, Path(folder))
            return {row.file: (Path(folder) / row.file).read_bytes() for row in rows}

    with video.here() as path:
        return __version__, attempt(path, clips)


def attempt(path: Path | None, work: Callable[[Path], T]) -> T | InvalidInput | None:
    if path is None:
        return None
    try:
        return work(path)
    except InvalidInput as error:
        return error

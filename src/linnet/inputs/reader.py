"""The door: a file that somebody brought is read in a child process, within limits of memory, CPU and time.

While the child works, `tick` is called about four times a second; what it raises ends the child and goes up. So whoever
waits can cancel.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.inputs.child import MEMORY, SECONDS
from linnet.inputs.clips import Footage, Limits, Scan
from linnet.inputs.survey import MOMENTS, Survey
from linnet.records import read_object_or_nothing

Frame = UInt8[np.ndarray, "H W 3"]
Tick = Callable[[], None]
Answer = tuple[dict[str, Any], Frame | None]

WAIT = 60.0  # seconds that the child may keep us waiting, all in all
LONG_SECONDS = 8 * 3600  # of CPU, and of waiting, that a long video may take: it is read in the background
BEAT = 0.25  # seconds between two calls of `tick`
MOST_NOTE = 16 * 2**20  # characters of a record
POLLS = hasattr(select, "poll")


def nothing() -> None:
    """Nobody wants to cancel."""


def read_picture(path: Path, tick: Tick = nothing) -> tuple[Frame, tuple[str, ...]]:
    """The picture as a viewer shows it, and what to tell of it."""
    answer, frame = only(ask("picture", path, tick))
    assert frame is not None
    return frame, tuple(answer["notes"])


def picture_size(path: Path, tick: Tick = nothing) -> Size:
    """Upright, by the header alone."""
    return Size(*only(ask("picture_size", path, tick))[0]["size"])


def content_size(content: bytes, formats: Sequence[str]) -> Size:
    """As `picture_size`, of a file's bytes, in one of Pillow's formats."""
    return Size(*only(ask("content_size", Path("image"), nothing, content, formats=[*formats]))[0]["size"])


def scan(path: Path, limits: Limits, tick: Tick = nothing) -> Scan:
    """What a clip holds, after it was decoded once."""
    answer, _ = only(ask("scan", path, tick, limits=asdict(limits)))
    return Scan.from_json(answer)


def survey(path: Path, limits: Limits, tick: Tick = nothing) -> tuple[Survey, tuple[Frame, ...]]:
    """What a clip or a picture shows, and thumbnails of it; see `inputs.survey`."""
    (answer, _), *thumbnails = ask("survey", path, tick, limits=asdict(limits))
    return Survey.from_json(answer), tuple(frame for _, frame in thumbnails if frame is not None)


def small_frames(path: Path, tick: Tick = nothing) -> Generator[tuple[float | None, Frame], None, None]:
    """See `long_videos.small_frames`; a video may be hours long."""
    with closing(ask("small_frames", path, tick, seconds=LONG_SECONDS)) as answers:
        for answer, frame in answers:
            assert frame is not None
            yield answer["time"], frame


def surveys(
    path: Path, parts: Sequence[range], times: Sequence[float], tick: Tick = nothing
) -> Generator[tuple[Survey, tuple[Frame, ...]], None, None]:
    """See `long_videos.surveys`."""
    question = {"parts": [[part.start, part.stop] for part in parts], "times": [*times]}
    with closing(ask("surveys", path, tick, seconds=LONG_SECONDS, **question)) as answers:
        for answer, _ in answers:
            thumbnails = [next(answers)[1] for _ in MOMENTS]
            yield Survey.from_json(answer), tuple(frame for frame in thumbnails if frame is not None)


def probe(path: Path, tick: Tick = nothing) -> Footage:
    """Size, length and speed of a clip; InvalidInput for a file that is no clip."""
    answer, _ = only(ask("probe", path, tick))
    return Footage(size=Size(*answer["size"]), frames=answer["frames"], fps=answer["fps"])


def read_metadata(path: Path, tick: Tick = nothing) -> dict[str, Any] | None:
    """The record inside a clip, or None where there is none; InvalidInput for a file that is no clip."""
    return record_in(only(ask("metadata", path, tick))[0]["text"])


def record_in(text: str) -> dict[str, Any] | None:
    return (read_object_or_nothing(text) if len(text) <= MOST_NOTE else {}) or None


def stream_in(path: Path, tick: Tick = nothing) -> dict[str, Any]:
    """See `joint.stream_in`."""
    return only(ask("stream", path, tick))[0]


def check_joint(path: Path, second: Path, tick: Tick = nothing) -> None:
    """InvalidInput if one stream cannot hold the packets of both."""
    only(ask("joint", path, tick, second=str(second.absolute())))


def join(
    path: Path, second: Path, part: Path, *, output: Path, note: str, options: Mapping[str, str]
) -> None:
    """Both clips in the file `part`; InvalidInput names `output` where it cannot be written."""
    only(
        ask(
            "join",
            path,
            nothing,
            second=str(second.absolute()),
            part=str(part.absolute()),
            output=str(output),
            note=note,
            options={**options},
        )
    )


def frames(
    path: Path, wanted: Sequence[int], tick: Tick = nothing, *, seconds: int | None = None
) -> Generator[Frame, None, None]:
    """Those of the numbers that are `wanted`, which rise. `seconds`: see `ask`."""
    count = 0
    with closing(ask("frames", path, tick, wanted=[*wanted], seconds=seconds)) as answers:
        for _, frame in answers:
            assert frame is not None
            count += 1
            yield frame
    if count < len(wanted):
        raise InvalidInput("file", path, "changed while it was read", "try again when it is complete")


def only(answers: Iterator[Answer]) -> Answer:
    (answer,) = answers
    return answer


def not_limited() -> str:
    """What of the limits this system cannot set, in words; empty where it can all."""
    lacking = [] if POLLS else ["time"]
    if sys.platform in ("win32", "darwin"):
        lacking = ["memory", *([] if sys.platform == "darwin" else ["CPU time"]), *lacking]
    return f"reading files is not limited in {' and '.join(lacking)} on this system" if lacking else ""


# --- the child ------------------------------------------------------------------------------------------------


def ask(
    what: str, path: Path, tick: Tick, content: bytes = b"", *, seconds: int | None = None, **more: Any
) -> Generator[Answer, None, None]:
    """The child's answers. InvalidInput where it refuses the file, or comes to one of its limits. `seconds` that it may
    take, of CPU and of our waiting, where the usual ones are too few."""
    if seconds is not None:
        more["seconds"] = seconds
    question = json.dumps({"what": what, "path": str(path.absolute()), **more}).encode()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "linnet.inputs.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=os.environ | surroundings(),
    )
    try:
        assert child.stdin
        assert child.stdout
        pipe = Pipe(child.stdout, path, tick, seconds or WAIT)
        with child.stdin:
            left = memoryview(len(question).to_bytes(4, "big") + question + content)
            while left:  # a pipe may take less than it is given
                left = left[child.stdin.write(left) :]
        while True:
            answer = json.loads(pipe.take(int.from_bytes(pipe.take(4), "big")))
            if answer.get("done"):
                return
            if refused := answer.get("refused"):
                raise as_here(refused, path)
            shape = answer.get("shape")
            data = np.frombuffer(pipe.take(int(np.prod(shape))), np.uint8).reshape(shape) if shape else None
            yield answer, data
    except (EOFError, BrokenPipeError):
        raise ended(child, path) from None
    finally:
        child.kill()
        child.wait()
        for end in (child.stdout, child.stderr):
            if end:
                end.close()


def surroundings() -> Mapping[str, str]:
    """The same packages as here, never the current folder; and no threads or memory pools that nothing here needs."""
    packages = os.pathsep.join(folder for folder in sys.path if folder)
    return {
        "PYTHONPATH": packages,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def as_here(refused: Sequence[str], path: Path) -> InvalidInput:
    """The child knows the path as an absolute one; the person gave another."""
    field, value, problem, remedy = refused
    refused_path, whole = Path(value), path.absolute()
    here = path / refused_path.relative_to(whole) if refused_path.is_relative_to(whole) else refused_path
    return InvalidInput(field, here, problem, remedy)


def ended(child: subprocess.Popen[bytes], path: Path) -> Exception:
    """Why the child ended without an answer."""
    code = child.wait()
    if code == -getattr(signal, "SIGXCPU", 0) or code == -signal.SIGKILL:
        return InvalidInput("file", path, f"takes over {SECONDS} s to read", "make it smaller or shorter")
    if code < 0:
        problem = f"breaks the program that reads it ({signal.Signals(-code).name})"
        return InvalidInput("file", path, problem, "save it anew with another program")
    stderr = (child.stderr.read() if child.stderr else b"").decode(errors="replace").strip()
    if "MemoryError" in stderr:
        return InvalidInput(
            "file", path, f"takes over {MEMORY / 1e9} GB to read", "make it smaller or shorter"
        )
    return RuntimeError(f"the process that reads files ended with {code}: {stderr[-300:]}")


class Pipe:
    """What the child says, waited for with patience that ends."""

    def __init__(self, file: Any, path: Path, tick: Tick, patience: float) -> None:
        self.file, self.path, self.tick, self.patience = file, path, tick, patience
        self.waited, self.ticked = 0.0, time.monotonic()
        self.poll = select.poll() if POLLS else None
        if self.poll:
            self.poll.register(file, select.POLLIN)

    def take(self, count: int) -> bytearray:
        """So many bytes; EOFError where there are none left."""
        buffer = bytearray(count)
        view, have = memoryview(buffer), 0
        while have < count:
            self.wait()
            got = self.file.readinto(view[have:])
            if not got:
                raise EOFError
            have += got
        return buffer

    def wait(self) -> None:
        """Until there is something to read."""
        while True:
            began = time.monotonic()
            if began - self.ticked >= BEAT:
                self.ticked = began
                self.tick()
            if self.poll is None or self.poll.poll(BEAT * 1000):
                return
            self.waited += time.monotonic() - began
            if self.waited > self.patience:
                problem = f"takes over {self.patience:.0f} s to read"
                raise InvalidInput("file", self.path, problem, "make it smaller or shorter")

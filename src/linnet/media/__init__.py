"""Frames in and out of files, a few at a time: nothing here ever holds a whole decoded clip.

A file appears under its name when it is complete (see filesystem). The same frames and metadata give the same bytes
(fixed encoder threads, no times in the file).

Axes: f frames, H rows, W columns; RGB, 0..255.
"""

import json
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from jaxtyping import UInt8

from linnet.errors import InvalidInput
from linnet.filesystem import (
    check_folder,
    check_name,
    create,
    make_folder,
    path_error,
    publish,
    remove,
    writing,
)
from linnet.geometry import Size
from linnet.records import PNG_REQUEST

if TYPE_CHECKING:
    from linnet.inputs.clips import Footage

Frames = UInt8[np.ndarray, "f H W 3"]
Frame = UInt8[np.ndarray, "H W 3"]

CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9", ".mkv": "libx264rgb"}
# Frames that x264 looks ahead: so many are still to be encoded when the last one has come. The preset's own are 40, of
# the 49 of two seconds. At the same number of bytes 20 cost about 0.1 dB.
LOOKAHEAD = 20
CODEC_OPTIONS = {
    ".mp4": {"crf": "18", "preset": "medium", "x264-params": f"rc-lookahead={LOOKAHEAD}"},
    ".webm": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "3"},
    ".mkv": {"qp": "0", "preset": "veryfast"},
}
# bitexact leaves out the muxer's version and random identifiers; faststart puts the index in front.
CONTAINER_OPTIONS = {
    ".mp4": {"fflags": "+bitexact", "movflags": "+faststart"},
    ".webm": {"fflags": "+bitexact"},
    ".mkv": {"fflags": "+bitexact"},
}
THREADS = 2  # of the encoder: a fixed number, since it can change the bytes
BT709, LIMITED = 1, 1  # as ITU-T H.273 numbers matrix, primaries and curve; luma in 16..235

# x264's AVX-512 code for its macroblock tree does not always repeat itself (core 165, with several encoders at work in
# one process). Its AVX2 code does, and takes no longer. As numpy names what this processor has; older versions: SKX.
if {"X86_V4", "AVX512_SKX"} & {*np.show_config(mode="dicts")["SIMD Extensions"]["found"]}:
    CODEC_OPTIONS[".mp4"]["x264-params"] += ":asm=avx2"
    CODEC_OPTIONS[".mkv"]["x264-params"] = "asm=avx2"

ENDINGS = (".mp4", ".webm", ".mkv", ".gif", ".webp")
HALVED = (".mp4", ".webm")  # colours at half the resolution
PNG_FOLDER = re.compile(rf"\d{{5,}}\.png|{re.escape(PNG_REQUEST)}")  # all that such a folder holds
WAITING = 16  # frames that may wait for the encoder; a tiled decoder hands so many over at once
SURROGATE = re.compile("[\ud800-\udfff]")


def check_target(path: Path, *, size: Size, overwrite: bool) -> None:
    """Refuse a path that a clip of this size cannot be written to, before any work is done."""
    ending = ending_of(path)
    if ending in HALVED and (size.width % 2 or size.height % 2):
        raise InvalidInput("size", size, f"{ending} needs even sides", "use .gif, .webp or a folder of PNGs")
    if ending == ".webp" and max(size) > 2**14:
        raise InvalidInput("size", size, "is over the 16384 pixels of .webp", "use a folder of PNGs")
    check_place(path, overwrite=overwrite)
    with writing(path):
        if path.exists() and not ending:
            if not path.is_dir():
                raise InvalidInput("output", path, "is a file", "choose another name for the folder of PNGs")
            if not all(PNG_FOLDER.fullmatch(file.name) for file in path.iterdir()):
                problem = "is a folder with other things in it than a clip"
                raise InvalidInput("output", path, problem, "choose another name")


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken, or that no file can have; what is missing of its folder is made with the file."""
    if str(path) == "-":
        raise InvalidInput("output", path, "is no file, and no clip goes to standard output", "name a file")
    check_name(path)
    with writing(path):
        if not overwrite and (path.exists() or path.is_symlink()):
            raise InvalidInput("output", path, "is there already", "choose another name, or `overwrite` it")
        if path.is_dir() and path.suffix:
            raise InvalidInput("output", path, "is a folder", "choose another name")
    check_folder(path.absolute().parent, path=path)


def ending_of(path: Path) -> str:
    """The kind of file that a path asks for; "" is a folder of PNGs."""
    ending = path.suffix.lower()
    if ending and ending not in ENDINGS:
        remedy = f"use {', '.join(ENDINGS)}, or a name without an ending for a folder of PNGs"
        raise InvalidInput("output", path, f"{ending} is not a kind of file that linnet writes", remedy)
    return ending


def as_note(metadata: dict[str, Any]) -> str:
    """The record of a clip as its file carries it; a byte of a file's name that is not UTF-8 is escaped."""
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    return SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class Writer(ABC):
    """Takes frames. If the `with` block ends well the clip stands complete under its name; if not, nothing does.

    What the file system or the encoder refuses (a full disk, say) becomes InvalidInput.
    """

    def __init__(self, path: Path, size: Size, fps: int, metadata: dict[str, Any], overwrite: bool) -> None:
        self.path, self.size, self.fps, self.metadata, self.overwrite = path, size, fps, metadata, overwrite
        self.note = as_note(metadata)
        self.count = 0
        self.check()

    def check(self) -> None:
        check_target(self.path, size=self.size, overwrite=self.overwrite)

    def begin(self) -> Path:
        """What the clip grows in, until it is complete."""
        return create(self.path)

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def add(self, frame: Frame) -> None: ...

    @abstractmethod
    def finish(self) -> None: ...

    def close(self) -> None:
        """Let go of what `start` opened. Whether the file is complete does not matter any more."""
        return

    def write(self, frames: Frames) -> None:
        for frame in frames:
            if frame.shape != (self.size.height, self.size.width, 3):
                raise ValueError(f"a frame of {frame.shape[1]}x{frame.shape[0]} in a clip of {self.size}")
            with plainly(self.path):
                self.add(np.ascontiguousarray(frame))
            self.count += 1

    def __enter__(self) -> Self:
        with writing(self.path):
            make_folder(self.path.absolute().parent)
            self.part = self.begin()
        try:
            with plainly(self.path):
                self.start()
        except BaseException:
            self.clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if not self.count:
                    raise ValueError("a clip needs a frame")
                with plainly(self.path):
                    self.finish()
                    self.check()  # once more: it may be long since the first time
                    self.publish()
        finally:
            self.clear()

    def publish(self) -> None:
        publish(self.part, self.path, overwrite=self.overwrite)

    def clear(self) -> None:
        with suppress(OSError, FFmpegError):  # closing may write what is left, to where there is no room
            self.close()
        remove(self.part)


class VideoWriter(Writer):
    """H.264 in mp4 (4:2:0, CRF 18, index in front) or VP9 in webm; BT.709 in limited range, and marked so.

    In mkv every pixel as it was: H.264 without loss, in RGB.
    """

    def start(self) -> None:
        ending = ending_of(self.path)
        kind = {".mkv": "matroska"}.get(ending, ending[1:])
        self.container = av.open(str(self.part), "w", format=kind, options=CONTAINER_OPTIONS[ending])
        self.container.metadata["comment"] = self.note
        self.stream: Any = self.container.add_stream(
            CODECS[ending], rate=self.fps, options=CODEC_OPTIONS[ending]
        )
        self.stream.width, self.stream.height = self.size
        self.halved = ending in HALVED
        self.reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than its work
        self.stream.pix_fmt = "yuv420p" if self.halved else "rgb24"
        context = self.stream.codec_context
        context.thread_count = THREADS
        if not self.halved:
            return
        context.color_range, context.colorspace = LIMITED, BT709
        context.color_primaries, context.color_trc = BT709, BT709

    def add(self, frame: Frame) -> None:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        if self.halved:
            picture = self.reformatter.reformat(
                picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
        self.container.mux(self.stream.encode(picture))

    def finish(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()

    def close(self) -> None:
        if hasattr(self, "container"):
            self.container.close()


class ThreadedWriter:
    """`target` with the same interface, at work in another thread, while the next frames are decoded: the same bytes,
    sooner.

    Errors and cancelling travel both ways. What the encoder raises is raised by the next `write`, or at the end of the
    `with` block. What ends the block early, Ctrl-C too, drops the frames that wait, and nothing is left of the file.

    `count`: frames that were handed over. `encoding`: seconds that the encoder worked, so far. `waited`: seconds that
    whoever writes waited for it. The file is opened and completed by the thread that writes.
    """

    def __init__(self, target: Writer) -> None:
        self.target = target
        self.count, self.encoding, self.waited = 0, 0.0, 0.0
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="encoder"
        )  # begins with the first
        self._ahead: deque[tuple[int, Future[None]]] = deque()  # frames, and when they are encoded

    def write(self, frames: Frames) -> None:
        """Have them encoded; waits only while too many others are ahead of them."""
        size = self.target.size
        if len(frames) and frames.shape[1:] != (size.height, size.width, 3):
            raise ValueError(f"a frame of {frames.shape[2]}x{frames.shape[1]} in a clip of {size}")
        start = time.monotonic()
        while self._ahead and (self._ahead[0][1].done() or self._waiting + len(frames) > WAITING):
            self._finish_first()
        self.waited += time.monotonic() - start
        self._ahead.append((len(frames), self._thread.submit(self._encode, frames)))
        self.count += len(frames)

    @property
    def _waiting(self) -> int:
        return sum(count for count, _ in self._ahead)

    def _encode(self, frames: Frames) -> None:
        start = time.monotonic()
        self.target.write(frames)
        self.encoding += time.monotonic() - start

    def _finish_first(self) -> None:
        self._ahead[0][1].result()
        self._ahead.popleft()

    def __enter__(self) -> Self:
        self.target.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        start, stopped = time.monotonic(), error
        while True:
            try:
                while stopped is None and self._ahead:
                    self._finish_first()
                # Nobody may close what the thread still writes to, however often Ctrl-C is pressed. To end the thread
                # does not tell: a wait for it that is interrupted counts as done.
                for _, encoded in reversed(self._ahead):
                    if not encoded.cancel():
                        encoded.exception()
                self._thread.shutdown(cancel_futures=True)
                break
            except BaseException as failed:
                stopped = stopped or failed
        idle = time.monotonic()
        try:
            self.target.__exit__(type(stopped) if stopped else None, stopped, trace)
        finally:
            now = time.monotonic()
            self.encoding += now - idle
            self.waited += now - start
        if stopped is not error and stopped is not None:
            raise stopped


def open_writer(
    path: Path, *, width: int, height: int, fps: int, metadata: dict[str, Any], overwrite: bool = False
) -> ThreadedWriter:
    """A writer for the kind of file that the path's ending names, to be used in a `with` statement. It encodes in a
    thread of its own: frames that were given to it must not be changed."""
    kind: type[Writer] = VideoWriter
    if (ending := ending_of(path)) not in CODECS:
        from linnet.media.images import WRITERS  # where clips become images

        kind = WRITERS[ending]
    return ThreadedWriter(kind(path, Size(width, height), fps, metadata, overwrite))


# --- reading back ---------------------------------------------------------------------------------------------


def read_frames(path: Path) -> Iterator[Frame]:
    """Every frame of a clip of linnet's own, one at a time. Files that people bring: `inputs.reader`."""
    from linnet.inputs import clips

    return clips.frames(path)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The record inside a clip of linnet's own, or None; InvalidInput for a file that is no clip."""
    from linnet.inputs import clips
    from linnet.inputs.reader import record_in

    return record_in(clips.note_in(path))


def probe(path: Path) -> "Footage":
    """Size, length and speed of a clip of linnet's own; InvalidInput for a file that is no clip."""
    from linnet.inputs import clips

    return clips.probe(path)


# --- the file system ------------------------------------------------------------------------------------------


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """An error in writing, said in one line."""
    try:
        with writing(path):
            yield
    except FFmpegError as error:  # those that are OSError, too, have gone as such
        raise path_error(error, path, field="output", writing=True) from error

"""Frames in and out of files, a few at a time.

A file appears under its name when it is complete: it is written beside it under a temporary name, flushed to the disk
and renamed. The same frames and metadata give the same bytes (fixed encoder threads, no times in the file).

Axes: f frames, H rows, W columns; RGB, 0..255.
"""

import errno
import json
import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from PIL import GifImagePlugin, Image, PngImagePlugin, UnidentifiedImageError

from linnet.errors import InvalidInput
from linnet.geometry import Size

Frames = UInt8[np.ndarray, "f H W 3"]
Frame = UInt8[np.ndarray, "H W 3"]

BT709 = 1  # the number of the matrix, the primaries and the transfer curve alike (ITU-T H.273)
LIMITED = 1  # luma in 16..235
CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
OPTIONS = {
    ".mp4": {"crf": "18", "preset": "medium"},
    ".webm": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "3"},
}
CONTAINER_OPTIONS = {".mp4": {"movflags": "+faststart+use_metadata_tags"}, ".webm": {"fflags": "+bitexact"}}
ENDINGS = (".mp4", ".webm", ".gif", ".webp")
PNG_REQUEST = "request.json"
IMAGE_DESCRIPTION = 0x010E  # the EXIF field that holds free text
THREADS = 2  # of the encoder: a fixed number, since it can change the bytes


def check_target(path: Path, *, size: Size, overwrite: bool) -> None:
    """Refuse a path that a clip of this size cannot be written to, before any work is done."""
    ending = ending_of(path)
    if ending in CODECS and (size.width % 2 or size.height % 2):
        raise InvalidInput("size", size, f"{ending} needs even sides", "use .gif, .webp or a folder of PNGs")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise InvalidInput("output", path, "is there already", "choose another name, or --overwrite it")
    if path.is_dir() and ending:
        raise InvalidInput("output", path, "is a folder", "choose another name")
    if path.exists() and not path.is_dir() and not ending:
        raise InvalidInput("output", path, "is a file", "choose another name for the folder of PNGs")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InvalidInput("output", path, f"there is no folder {folder}", "make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInput("output", path, f"{folder} cannot be written to", "choose another folder")


def ending_of(path: Path) -> str:
    """The kind of file that a path asks for; "" is a folder of PNGs."""
    ending = path.suffix.lower()
    if ending and ending not in ENDINGS:
        remedy = f"use {', '.join(ENDINGS)}, or a name without an ending for a folder of PNGs"
        raise InvalidInput("output", path, f"{ending} is not a kind of file that linnet writes", remedy)
    return ending


def open_writer(
    path: Path, *, width: int, height: int, fps: int, metadata: dict[str, Any], overwrite: bool = False
) -> "Writer":
    """A writer for the kind of file that the path's ending names, to be used in a `with` statement."""
    check_target(path, size=Size(width, height), overwrite=overwrite)
    kinds = {".gif": GifWriter, ".webp": WebpWriter, "": PngWriter}
    kind = kinds.get(ending_of(path), VideoWriter)
    return kind(path, Size(width, height), fps, json.dumps(metadata, sort_keys=True, ensure_ascii=False))


class Writer(ABC):
    """Takes frames; when the `with` block ends well the file stands complete under its name, else nothing does."""

    def __init__(self, path: Path, size: Size, fps: int, metadata: str) -> None:
        self.path, self.size, self.fps, self.metadata = path, size, fps, metadata
        self.part = path.absolute().parent / f".{path.name}.{os.getpid()}.part"

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def add(self, frame: Frame) -> None: ...

    @abstractmethod
    def finish(self) -> None: ...

    def abandon(self) -> None:
        """Let go of what `start` opened; nothing need be complete."""
        return

    def write(self, frames: Frames) -> None:
        for frame in frames:
            if frame.shape != (self.size.height, self.size.width, 3):
                raise ValueError(f"a frame of {frame.shape[1]}x{frame.shape[0]} in a clip of {self.size}")
            with plainly(self.path):
                self.add(np.ascontiguousarray(frame))

    def __enter__(self) -> Self:
        with plainly(self.path):
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with plainly(self.path):
                    self.finish()
                    flush(self.part)
                    self.publish()
        finally:
            self.abandon()
            remove(self.part)

    def publish(self) -> None:
        self.part.replace(self.path)


class VideoWriter(Writer):
    """H.264 in mp4 (4:2:0, CRF 18, index in front) or VP9 in webm, BT.709 in limited range and marked so."""

    def start(self) -> None:
        ending = ending_of(self.path)
        self.container = av.open(str(self.part), "w", format=ending[1:], options=CONTAINER_OPTIONS[ending])
        self.container.metadata["comment"] = self.metadata
        self.stream: Any = self.container.add_stream(CODECS[ending], rate=self.fps, options=OPTIONS[ending])
        self.stream.width, self.stream.height = self.size
        self.stream.pix_fmt = "yuv420p"
        context = self.stream.codec_context
        context.thread_count = THREADS
        context.color_range, context.colorspace = LIMITED, BT709
        context.color_primaries, context.color_trc = BT709, BT709

    def add(self, frame: Frame) -> None:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format="yuv420p",
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        self.container.mux(self.stream.encode(picture))

    def finish(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()

    def abandon(self) -> None:
        if hasattr(self, "container"):
            with suppress(
                OSError, av.FFmpegError
            ):  # closing writes what is left, into a file that is removed
                self.container.close()


class GifWriter(Writer):
    """A palette of 256 colours a frame; GIF counts in hundredths of a second, so 24 a second become 25."""

    def start(self) -> None:
        self.file = self.part.open("wb")
        width, height = self.size
        self.file.write(b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\x70\0\0")
        self.file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # repeat for ever
        self.file.write(b"\x21\xfe" + gif_blocks(self.metadata.encode()))

    def add(self, frame: Frame) -> None:
        picture = Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
        for block in GifImagePlugin.getdata(picture, duration=round(100 / self.fps) * 10, disposal=1, include_color_table=True):
            self.file.write(block)

    def finish(self) -> None:
        self.file.write(b";")
        self.file.close()

    def abandon(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class WebpWriter(Writer):
    """Lossy WebP; its encoder keeps compressed frames only, and draws them from a thread of its own."""

    def start(self) -> None:
        self.frames: Queue[Frame | None] = Queue(maxsize=2)
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._encode, daemon=True)
        self.thread.start()

    def _drawn(self) -> Iterator[Image.Image]:
        while (frame := self.frames.get()) is not None:
            yield Image.fromarray(frame)

    def _encode(self) -> None:
        try:
            frames = self._drawn()
            first = next(frames, None)
            if first is not None:
                exif = Image.Exif()
                exif[IMAGE_DESCRIPTION] = self.metadata
                durations = 1000 / self.fps
                first.save(
                    self.part, "WEBP", save_all=True, append_images=frames, duration=round(durations),
                    loop=0, quality=90, exif=exif,
                )  # fmt: skip
        except Exception as error:
            self.failure = error
            while self.frames.get() is not None:  # so that the writer is not left waiting
                pass

    def add(self, frame: Frame) -> None:
        if self.failure:
            raise self.failure
        self.frames.put(frame)

    def finish(self) -> None:
        self.abandon()
        if self.failure:
            raise self.failure

    def abandon(self) -> None:
        if hasattr(self, "thread") and self.thread.is_alive():
            self.frames.put(None)
            self.thread.join()


class PngWriter(Writer):
    """A folder of 00000.png, 00001.png, ... and the metadata in request.json; each image carries it too."""

    def start(self) -> None:
        self.part.mkdir()
        self.count = 0
        self.note = PngImagePlugin.PngInfo()
        self.note.add_itxt("comment", self.metadata)

    def add(self, frame: Frame) -> None:
        Image.fromarray(frame).save(self.part / f"{self.count:05d}.png", pnginfo=self.note)
        self.count += 1

    def finish(self) -> None:
        (self.part / PNG_REQUEST).write_text(self.metadata + "\n", "utf-8")

    def publish(self) -> None:
        if not self.path.exists():
            self.part.rename(self.path)
            return
        # A folder cannot replace another in one step: the old one steps aside until the new one stands.
        aside = self.part.with_suffix(".old")
        self.path.rename(aside)
        self.part.rename(self.path)
        remove(aside)


# --- reading ----------------------------------------------------------------------------------------------------


def read_frames(path: Path) -> Iterator[Frame]:
    """Every frame of a clip, one at a time."""
    if path.is_dir():
        for file in sorted(path.glob("*.png")):
            yield np.asarray(Image.open(file).convert("RGB"))
        return
    if path.suffix.lower() in (".gif", ".webp"):
        with opened_image(path) as image:
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                yield np.asarray(image.convert("RGB"))
        return
    with opened_video(path) as container:
        for frame in container.decode(video=0):
            # The numbers of a file that names no matrix are taken as BT.709, as players take them.
            yield frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The record inside a clip, or None where there is none; InvalidInput for a file that is no clip."""
    if not path.exists():
        raise InvalidInput("file", path, "is missing", "check the path")
    if path.is_dir():
        note = path / PNG_REQUEST
        text = note.read_text("utf-8") if note.is_file() else ""
    elif path.suffix.lower() in (".gif", ".webp", ".png"):
        with opened_image(path) as image:
            comment = image.info.get("comment") or image.getexif().get(IMAGE_DESCRIPTION) or ""
            text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    else:
        with opened_video(path) as container:
            found = {name.lower(): value for name, value in container.metadata.items()}
            text = found.get("comment", "")
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def opened_video(path: Path) -> Any:
    try:
        container = av.open(str(path))
    except (OSError, av.FFmpegError) as error:
        raise InvalidInput(
            "file", path, f"cannot be read as a video ({reason(error)})", "check the file"
        ) from None
    if not container.streams.video:
        container.close()
        raise InvalidInput("file", path, "holds no video", "give a video")
    return container


def opened_image(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError) as error:
        raise InvalidInput("file", path, f"cannot be read ({reason(error)})", "check the file") from None


# --- the file system --------------------------------------------------------------------------------------------


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """An error of the file system or the encoder, said in one line."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if error.errno == errno.ENOSPC:
            raise InvalidInput(
                "output", path, "the disk is full", "make room, or choose another place"
            ) from error
        raise InvalidInput(
            "output", path, f"cannot be written ({reason(error)})", "choose another place"
        ) from error


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def flush(part: Path) -> None:
    """Onto the disk, before the name points to it."""
    for file in [*part.iterdir()] if part.is_dir() else [part]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def gif_blocks(data: bytes) -> bytes:
    """GIF's sub-blocks: at most 255 bytes each behind their length, then an empty one."""
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"

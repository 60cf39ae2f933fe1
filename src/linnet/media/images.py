"""Clips as images, for `linnet.media`: animated GIF and WebP, and folders of PNGs.

Axes: H rows, W columns; RGB, 0..255.
"""

import io
import json
from abc import abstractmethod
from pathlib import Path

from PIL import GifImagePlugin, Image, PngImagePlugin

from linnet.filesystem import remove, temporary_name
from linnet.media import Frame, Writer
from linnet.records import EXIF_DESCRIPTION, PNG_REQUEST

WEBP_QUALITY = 90


class FileWriter(Writer):
    """One that puts the bytes of its file together itself."""

    def start(self) -> None:
        self.file = self.part.open("wb")
        self.file.write(self.head())

    @abstractmethod
    def head(self) -> bytes: ...

    def duration(self, second: int) -> int:
        """How long the next frame stands, in units of which a `second` has so many; no rounding adds up."""
        return round((self.count + 1) * second / self.fps) - round(self.count * second / self.fps)

    def finish(self) -> None:
        self.file.close()

    def close(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class GifWriter(FileWriter):
    """A palette of 256 colours for each frame. Source: the GIF89a specification."""

    def head(self) -> bytes:
        screen = b"GIF89a" + b"".join(side.to_bytes(2, "little") for side in self.size) + b"\x70\0\0"
        repeat = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"  # for ever
        return screen + repeat + b"\x21\xfe" + gif_blocks(self.note.encode())

    def add(self, frame: Frame) -> None:
        picture = Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
        milliseconds = 10 * self.duration(100)  # the file counts in hundredths
        for block in GifImagePlugin.getdata(
            picture, duration=milliseconds, disposal=1, include_color_table=True
        ):
            self.file.write(block)

    def finish(self) -> None:
        self.file.write(b";")
        super().finish()


class WebpWriter(FileWriter):
    """Every frame a lossy image of its own. Source: the WebP container specification.

    Pillow can write such a file too, but wants all frames at once.
    """

    def head(self) -> bytes:
        animation_and_exif = b"\x0a\0\0\0"
        extent = b"".join((side - 1).to_bytes(3, "little") for side in self.size)
        background_and_loops = bytes(6)  # black, for ever
        chunks = riff_chunk(b"VP8X", animation_and_exif + extent) + riff_chunk(b"ANIM", background_and_loops)
        return b"RIFF" + bytes(4) + b"WEBP" + chunks  # the four bytes are for the length, known at the end

    def add(self, frame: Frame) -> None:
        still = io.BytesIO()
        Image.fromarray(frame).save(still, "WEBP", quality=WEBP_QUALITY)
        corner = bytes(6)
        extent = b"".join((side - 1).to_bytes(3, "little") for side in self.size)
        timing = self.duration(1000).to_bytes(3, "little") + b"\x02"  # 2: over the frame before, unblended
        image = still.getvalue()[12:]  # without the file's head
        self.file.write(riff_chunk(b"ANMF", corner + extent + timing + image))

    def finish(self) -> None:
        exif = Image.Exif()
        exif[EXIF_DESCRIPTION] = json.dumps(self.metadata, sort_keys=True)  # which is ASCII
        self.file.write(riff_chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0")))
        length = self.file.tell() - 8
        self.file.seek(4)
        self.file.write(length.to_bytes(4, "little"))
        super().finish()


class PngWriter(Writer):
    """A folder of 00000.png, 00001.png, ... and the metadata in request.json; each image carries it too."""

    def begin(self) -> Path:
        part = temporary_name(self.path)
        part.mkdir()  # which nobody else can, too
        return part

    def start(self) -> None:
        self.text = PngImagePlugin.PngInfo()
        self.text.add_itxt("comment", self.note)

    def add(self, frame: Frame) -> None:
        Image.fromarray(frame).save(self.part / f"{self.count:05d}.png", pnginfo=self.text)

    def finish(self) -> None:
        (self.part / PNG_REQUEST).write_text(self.note + "\n", "utf-8")

    def publish(self) -> None:
        # A folder cannot replace another in one step: the old one steps aside until the new one stands.
        aside = self.part.with_suffix(".old")
        if not self.path.exists():
            super().publish()
            return
        self.path.rename(aside)
        try:
            super().publish()
        except BaseException:
            aside.rename(self.path)
            raise
        remove(aside)


WRITERS: dict[str, type[Writer]] = {
    ".gif": GifWriter,
    ".webp": WebpWriter,
    "": PngWriter,
}  # by a name's ending


def gif_blocks(data: bytes) -> bytes:
    """GIF's sub-blocks: at most 255 bytes each behind their length, then an empty one."""
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def riff_chunk(name: bytes, data: bytes) -> bytes:
    """Name, length and data, made even."""
    return name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)

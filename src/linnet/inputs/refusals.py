"""What cannot be read or written, said in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linnet.errors import InvalidInput, LinnetError
from linnet.filesystem import path_error

CLIPS = "use .mp4, .mov, .mkv, .webm, .avi, .ts, an animated GIF, WebP or PNG, or a folder of pictures"
PICTURES = "use PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
REENCODE = "use `reencode`, which encodes all of it anew and leaves out the sound"


@contextmanager
def legibly(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read becomes InvalidInput. The decoders raise exceptions of every kind."""
    try:
        yield
    except LinnetError:
        raise
    except Exception as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: Exception) -> InvalidInput:
    name, number = type(error).__name__, getattr(error, "errno", None)
    if name.startswith("DecompressionBomb"):
        from PIL import Image

        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return InvalidInput("file", path, f"has over {most} million pixels", "make it smaller")
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return InvalidInput("file", path, "takes too much memory to read", "make it smaller or shorter")
    if name == "UnidentifiedImageError":
        return InvalidInput("file", path, "cannot be read as a picture", PICTURES)
    return path_error(error, path, field="file", writing=False)


def unwritable(path: Path, error: Exception) -> InvalidInput:
    """Of what the system, or the encoder, says when a file is written."""
    return path_error(error, path, field="output", writing=True)

"""One way to open a picture: upright, in sRGB, in 8 bits, on white. Animations frame by frame.

Axes: H rows, W columns; RGB, 0..255.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.inputs.refusals import legibly
from linnet.records import EXIF_DESCRIPTION

Frame = UInt8[np.ndarray, "H W 3"]
Note = Callable[[str], None]

# Not all that Pillow knows: some of its readers start other programs (EPS), or are for weather maps.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000"),
    *("PPM", "TGA", "QOI", "ICO"),
)
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # others of several pictures hold pages, depth maps or thumbnails
HEADS = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"qoif", b"\0\0\0\x0cjP  ")
STILLS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # brands of pictures in the container of mp4
SHORTEST = 10  # milliseconds: all browsers show a frame of so few or fewer for USUAL
USUAL = 100


def is_picture(head: bytes) -> bool:
    """By the first 16 bytes of a file."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    return head.startswith(HEADS) or (head[4:8] == b"ftyp" and head[8:12] in STILLS)


@contextmanager
def opened(path: Path | BinaryIO, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """Pillow warns of a picture that is large, and refuses one twice as large: here both are refused (`legibly`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        known = [name for name in formats if name in Image.OPEN]  # AVIF, say, may be left out of a build
        with Image.open(path, formats=known) as image:
            yield image


def read(path: Path, note: Note) -> Frame:
    """The picture as a viewer shows it; of an animation the first frame."""
    with legibly(path):
        if path.is_dir():
            raise InvalidInput("file", path, "is a folder", "give an image")
        with opened(path) as image:
            if is_animation(image):
                note(f"{path.name} is an animation: its first frame is used")
            return as_shown(image, path, note)


def size_of(path: Path) -> Size:
    """Upright, by the header alone: no pixel is decoded."""
    with legibly(path), opened(path) as image:
        return upright_size(image)


def upright_size(image: Image.Image) -> Size:
    turned = orientation(image) in (5, 6, 7, 8)
    return Size(*(reversed(image.size) if turned else image.size))


def orientation(image: Image.Image) -> object:
    """As its EXIF data say, which may say anything."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))  # image.getexif() would decode a PNG to its end
        return exif.get(ExifTags.Base.Orientation)
    except Exception:  # broken in one of many ways, and then it counts for nothing
        return None


def as_shown(image: Image.Image, path: Path, note: Note) -> Frame:
    """What a viewer shows: turned as EXIF says, its colours in sRGB, white where it is transparent."""
    image.load()
    profile, turned = image.info.get("icc_profile"), upright(image)
    colours, alpha = apart(in_8_bits(turned, path))
    shown = in_srgb(colours, profile, path, note)
    if alpha is not None:
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=alpha)
        shown = white
    return np.asarray(shown)


def upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data broken in one of many ways count for nothing
        return image


def apart(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours and alpha, the latter None where everything is opaque."""
    if image.mode in ("LA", "La") or (image.mode == "L" and "transparency" in image.info):
        image = image.convert("LA")
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    return image, None


def in_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """Of 16 bits the upper ones, where Pillow's own way makes white of all but black; InvalidInput for 32."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InvalidInput("file", path, "has pixels of 32 bits", "save it with 8 bits a colour")
    return image


def in_srgb(image: Image.Image, profile: bytes | None, path: Path, note: Note) -> Image.Image:
    """By its colour profile. Without one it is sRGB already, as viewers take it."""
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    if not profile:
        if image.mode == "CMYK":
            note(f"{path.name} is CMYK without a colour profile: its colours are approximate")
        return image.convert("RGB")
    try:
        from PIL import ImageCms

        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        ) or image.convert("RGB")
    except Exception:  # not a profile, or one for other kinds of colour
        note(f"the colour profile of {path.name} cannot be used: its colours are taken as sRGB")
        return image.convert("RGB")


# --- animations -----------------------------------------------------------------------------------------------


def is_animation(image: Image.Image) -> bool:
    return image.format in ANIMATED and getattr(image, "n_frames", 1) > 1


def numbers(image: Image.Image) -> range:
    """Of the frames that are shown: an APNG may begin with a picture for viewers that know no animations."""
    return range(int(bool(image.info.get("default_image"))), getattr(image, "n_frames", 1))


def durations(image: Image.Image) -> Iterator[float]:
    """How long each frame stands, in seconds, as browsers show it."""
    for index in numbers(image):
        image.seek(index)
        image.load()
        milliseconds = float(image.info.get("duration") or 0)
        yield (milliseconds if milliseconds > SHORTEST else USUAL) / 1000


def frames(path: Path, note: Note) -> Iterator[Frame]:
    with legibly(path), opened(path) as image:
        for index in numbers(image):
            image.seek(index)
            yield as_shown(image, path, note)


def note_in(path: Path) -> str:
    """The free text that linnet, or another program, left in the picture."""
    with legibly(path), opened(path) as image:
        text = image.info.get("comment") or image.getexif().get(EXIF_DESCRIPTION) or ""
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


@dataclass(frozen=True, kw_only=True)
class View:
    """A frame on its way: `luma` as it is stored but for the turn, `shown` as a player shows it. Either costs a
    conversion when it is called. `turned` is in degrees, clockwise."""

    luma: Callable[[], UInt8[np.ndarray, "H W"]]
    shown: Callable[[], Frame]
    turned: int = 0
    hdr: bool = False

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """A frame that is decoded already."""
        return cls(luma=lambda: np.asarray(Image.fromarray(frame).convert("L")), shown=lambda: frame)

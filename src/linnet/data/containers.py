"""Why a file cannot be read, as far as its first bytes and its length tell: of another kind, cut short, or damaged."""

from pathlib import Path

from linnet.data.dataset import OTHER_VIDEOS
from linnet.errors import InvalidInput
from linnet.inputs import pictures

BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free")  # with which mp4 and QuickTime begin
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
HEAD = 64  # bytes


def reading_fault(path: Path, error: InvalidInput) -> str:
    """A short name for the reason."""
    if error.problem == "is empty":
        return "empty file"
    if path.suffix.lower() in OTHER_VIDEOS:
        return "format"
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return "cannot be read"
    if not is_media(head):
        return "not a clip"
    if error.problem == "holds no video":
        return "no video"
    if not error.problem.startswith(("cannot be read", "holds no")):
        return "cannot be read"
    return "truncated" if "truncated" in error.problem or meant_length(path, head) > length else "damaged"


def is_media(head: bytes) -> bool:
    """By what mp4 and QuickTime, Matroska and WebM, AVI and WebP, transport streams and pictures begin with."""
    return head[4:8] in BOXES or head.startswith((EBML, b"RIFF", b"\x47")) or pictures.is_picture(head[:16])


def meant_length(path: Path, head: bytes) -> int:
    """Bytes that the file says it has; 0 where it does not say."""
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8
    if head.startswith(EBML):
        at = head.find(SEGMENT) + len(SEGMENT)
        size = head[at : at + 8]
        known = at > len(SEGMENT) and size[:1] == b"\x01" and size[1:] != b"\xff" * 7
        return at + 8 + int.from_bytes(size[1:], "big") if known else 0
    return length_of_boxes(path) if head[4:8] in BOXES else 0


def length_of_boxes(path: Path) -> int:
    """The end of the last of an mp4's outermost boxes."""
    length, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= length:
            file.seek(at)
            start = file.read(16)
            size = int.from_bytes(start[:4], "big")
            if size == 1:  # in the eight bytes behind the name
                size = int.from_bytes(start[8:16], "big")
            if size < 8:  # to the end of the file, or nonsense
                return 0
            at += size
    return at

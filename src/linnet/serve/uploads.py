"""Clips that somebody sent: told from images by their first bytes, and decoded in workers alone, within limits."""

from pathlib import Path

from linnet.errors import InvalidInput
from linnet.inputs import reader
from linnet.inputs.clips import LENGTH_SLACK, Limits
from linnet.inputs.pictures import STILLS
from linnet.inputs.reader import Tick, nothing
from linnet.request import LONGEST_SECONDS

MOST_BYTES = 8 * 2**20
MOST_PIXELS = 4_000_000  # of a frame
MOST_FRAMES = 10_000
CODECS = {"h264": "H.264", "hevc": "H.265", "vp8": "VP8", "vp9": "VP9", "av1": "AV1", "mpeg4": "MPEG-4"}
EBML = b"\x1a\x45\xdf\xa3"  # how WebM and Matroska begin; mp4 and QuickTime have `ftyp` and a brand behind a length


def is_clip(content: bytes) -> bool:
    """By its first bytes: whether a worker is to read it as a clip. All others are for `schemas.look_at`."""
    return content.startswith(EBML) or (content[4:8] == b"ftyp" and content[8:12] not in STILLS)


def check_clip(path: Path, tick: Tick = nothing) -> None:
    """InvalidInput for a clip that is broken, larger or longer than is taken. It is decoded to its end, a frame at a
    time, since what its header says need not be true; what reads it later meets nothing that was not seen here.
    `tick` is called meanwhile, and may raise."""
    if path.stat().st_size > MOST_BYTES:
        raise InvalidInput("video", path, f"has over {MOST_BYTES // 2**20} MiB", "send a smaller one")
    limits = Limits(
        seconds=LONGEST_SECONDS + LENGTH_SLACK,
        longest=LONGEST_SECONDS,
        pixels=MOST_PIXELS,
        frames=MOST_FRAMES,
        codecs=CODECS,
    )
    reader.scan(path, limits, tick)

"""Clips that somebody sent: told from images by their first bytes, and decoded in workers alone, within limits."""

from pathlib import Path

import av

from linnet.errors import InvalidInput
from linnet.media import READING, legibly
from linnet.request import LONGEST_SECONDS

MOST_BYTES = 8 * 2**20
MOST_PIXELS = 4_000_000  # of a frame
MOST_FRAMES = 10_000
SLACK = 1.0  # seconds: how long the last frame stands is not always told
CODECS = {"h264": "H.264", "hevc": "H.265", "vp8": "VP8", "vp9": "VP9", "av1": "AV1", "mpeg4": "MPEG-4"}
EBML = b"\x1a\x45\xdf\xa3"  # how WebM and Matroska begin; mp4 and QuickTime have `ftyp` and a brand behind a length
STILLS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # brands of images


def is_clip(content: bytes) -> bool:
    """By its first bytes: whether a worker is to read it as a clip. All others are for `schemas.look_at`."""
    return content.startswith(EBML) or (content[4:8] == b"ftyp" and content[8:12] not in STILLS)


def check_clip(path: Path) -> None:
    """InvalidInput for a clip that is broken, larger or longer than is taken. It is decoded to its end, a frame at a
    time, since what its header says need not be true; what reads it later meets nothing that was not seen here."""

    def refused(problem: str, remedy: str) -> InvalidInput:
        return InvalidInput("video", path, problem, remedy)

    large = refused(f"has over {MOST_PIXELS // 10**6} million pixels a frame", "send a smaller one")
    long = refused(f"lasts over {LONGEST_SECONDS} s", "send a shorter one")
    if path.stat().st_size > MOST_BYTES:
        raise refused(f"has over {MOST_BYTES // 2**20} MiB", "send a smaller one")
    limits = {"max_pixels": str(MOST_PIXELS)}
    with legibly(path), av.open(str(path), options=READING | limits, metadata_errors="replace") as container:
        if not container.streams.video:
            raise refused("holds no video", "send one that does")
        for stream in container.streams.video:  # the first is used, but whoever opens the file looks into all
            if stream.codec_context is None or stream.codec.canonical_name not in CODECS:
                raise refused("is coded in another way than is taken", f"use {', '.join(CODECS.values())}")
            if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
                raise large
        stream = container.streams.video[0]
        stream.codec_context.options = limits
        widening = max(1.0, float(stream.sample_aspect_ratio or 1))
        count, first = 0, None
        for frame in container.decode(stream):
            count += 1
            first = frame.time if first is None else first
            if frame.width * frame.height * widening > MOST_PIXELS:
                raise large
            if count > MOST_FRAMES:
                raise refused(f"has over {MOST_FRAMES} frames", "send a shorter one")
            if frame.time is not None and abs(frame.time - first) > LONGEST_SECONDS + SLACK:
                raise long
        if not count:
            raise refused("holds no frame", "send one with frames in it")
        if stream.average_rate and count / stream.average_rate > LONGEST_SECONDS + SLACK:
            raise long

"""One way to open a video file: which of its streams is the clip, and its frames as a player shows them.

Axes: H rows, W columns; RGB, 0..255.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.error import ArgumentError
from av.stream import Disposition
from jaxtyping import UInt8
from PIL import Image

from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.inputs import colour
from linnet.inputs.pictures import View
from linnet.inputs.refusals import CLIPS, legibly

Frame = UInt8[np.ndarray, "H W 3"]
Note = Callable[[str], None]

# Nothing but the file itself: a playlist could send the reader to other files, or onto the network.
READING = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi,mpegts"}
NO_CLIP = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
PICTURE_CODECS = ("mjpeg", "png", "gif", "bmp", "webp", "tiff")  # of cover art that is not marked as such
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders of these leave the alpha out
THREADS = 2
COLOURS_WITHOUT_NAME = (
    "{name} does not name its colour matrix: read as BT.{number}, as players do for {width}x{height}"
)


@contextmanager
def opened(path: Path, **options: str) -> Iterator[Any]:
    """The container; InvalidInput where it is of a kind that is not read, or holds no video."""
    # What else a file says of itself may be in any encoding.
    try:
        container = av.open(str(path.absolute()), options=READING | options, metadata_errors="replace")
    except ArgumentError as error:  # the whitelist's word
        raise InvalidInput("file", path, "cannot be read as a clip", CLIPS) from error
    with container:
        if not container.streams.video:
            raise InvalidInput("file", path, "holds no video", "give a video")
        yield container


def clip_stream(container: Any, path: Path, note: Note) -> Any:
    """The stream that is the clip: no cover art, else the one that the file names as its default, else the largest."""
    streams = [stream for stream in container.streams.video if not stream.disposition & NO_CLIP]
    moving = [stream for stream in streams if not is_cover(stream)]
    streams = moving or streams or list(container.streams.video)
    if len(moving) > 1:
        note(f"{path.name} has {len(moving)} video streams: one is used, the default or the largest")
    return max(streams, key=lambda s: (bool(s.disposition & Disposition.default), pixels_of(s)))


def is_cover(stream: Any) -> bool:
    """One frame, or a codec of pictures: it counts as a clip only where there is no other."""
    context = stream.codec_context
    return stream.frames == 1 or (context is not None and context.name in PICTURE_CODECS)


def pixels_of(stream: Any) -> int:
    context = stream.codec_context
    return context.width * context.height if context is not None else 0


def decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Every frame in the order of showing. Where packets are damaged, what can be decoded of the others."""
    if stream.codec_context is None:
        raise InvalidInput("file", path, "is coded in a way that is not read", "save it as H.264 first")
    name = WITH_ALPHA.get(stream.codec_context.name)
    if name and stream.metadata.get("alpha_mode") == "1":
        context: Any = av.CodecContext.create(name, "r")
        context.extradata = stream.codec_context.extradata
        for packet in container.demux(stream):
            yield from context.decode(packet if packet.size else None)
        return
    stream.thread_count = THREADS
    yield from container.decode(stream)


def as_shown(frames: Iterator[Any], stream: Any, path: Path, note: Note) -> Iterator[Frame]:
    """The frames in sRGB and square pixels, whole where they were interlaced, turned as the display matrix says."""
    aspect = float(stream.sample_aspect_ratio or 1)
    quarter: int | None = None
    for frame in deinterlaced(frames, stream, path, note):
        if quarter is None:
            quarter = quarter_turns(frame, path)
            say_colours(frame, path, note)
        yield upright(frame, aspect, quarter, note, path)


def upright(
    frame: Any, aspect: float, quarter: int, note: Note, path: Path
) -> UInt8[np.ndarray, "high wide 3"]:
    shown = widened(in_srgb(frame, note, path), aspect)
    return np.ascontiguousarray(np.rot90(shown, quarter)) if quarter else shown


def view_of(frame: Any, quarter: int, aspect: float, path: Path) -> View:
    """A decoded frame for whoever looks at it while the clip is scanned. `quarter` and `aspect` are the clip's: a frame
    that is asked for its side data keeps itself, its converter and that one's threads until Python collects."""
    return View(
        luma=partial(luma_of, frame, quarter),
        shown=partial(upright, frame, aspect, quarter, silent, path),
        turned=-90 * quarter % 360,
        hdr=colour.is_high_range(frame),
    )


def luma_of(frame: Any, quarter: int) -> UInt8[np.ndarray, "H W"]:
    """Not from RGB, into which the colours of a neighbouring pixel bleed: they are stored at half the resolution."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="gray"), quarter))


def silent(line: str) -> None:
    """Said elsewhere."""


def in_srgb(frame: Any, note: Note, path: Path) -> Frame:
    matrix, lut = colour.matrix_of(frame), colour.table_for(frame)
    if not has_alpha(frame):
        shown = frame.to_ndarray(format="rgb24", src_colorspace=matrix)
        return colour.converted(shown, lut) if lut else shown
    note(f"{path.name} is transparent in places: white is put behind it")
    pixels = frame.to_ndarray(format="rgba", src_colorspace=matrix)
    shown = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    white = Image.new("RGB", shown.size, "white")
    white.paste(shown.filter(lut) if lut else shown, mask=Image.fromarray(pixels[..., 3]))
    return np.asarray(white)


def has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def say_colours(frame: Any, path: Path, note: Note) -> None:
    colour.check_matrix(frame, path)
    if colour.is_high_range(frame):
        kind = "PQ" if frame.color_trc == colour.PQ else "HLG"
        note(f"{path.name} is HDR ({kind}): its colours are brought to those of usual screens")
    elif (matrix := colour.matrix_of(frame)) and frame.color_primaries not in colour.BY_PRIMARIES:
        number = "709" if matrix == colour.Colorspace.ITU709 else "601"
        note(
            COLOURS_WITHOUT_NAME.format(name=path.name, number=number, width=frame.width, height=frame.height)
        )


def deinterlaced(frames: Iterator[Any], stream: Any, path: Path, note: Note) -> Iterator[Any]:
    """As many frames, from the first interlaced one on through ffmpeg's bwdif, which leaves the others as they are."""
    graph: Any = None
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            note(f"{path.name} is interlaced: its fields are made into whole frames")
            graph = av.filter.Graph()
            source = graph.add_buffer(template=stream)
            source.link_to(fields := graph.add("bwdif", "mode=send_frame:deint=interlaced"))
            fields.link_to(graph.add("buffersink"))
            graph.configure()
        if graph is None:
            yield frame
        else:
            graph.push(frame)
            yield from pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from pulled(graph)


def pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):  # it wants another frame first, or has no more
            return


# --- geometry -------------------------------------------------------------------------------------------------


def shown_size(frame: Any, stream: Any, path: Path) -> Size:
    """Of square pixels, and turned."""
    wide = max(1, round(frame.width * float(stream.sample_aspect_ratio or 1)))
    size = Size(wide, frame.height)
    return Size(*reversed(size)) if quarter_turns(frame, path) % 2 else size


def widened(frame: Frame, aspect: float) -> UInt8[np.ndarray, "H wide 3"]:
    height, width, _ = frame.shape
    wide = max(1, round(width * aspect))
    if wide == width:
        return frame
    return np.asarray(Image.fromarray(frame).resize((wide, height), Image.Resampling.LANCZOS))


def quarter_turns(frame: Any, path: Path) -> int:
    """How many times a player turns the frame, counterclockwise; InvalidInput if it mirrors it."""
    if is_mirrored(frame):
        raise InvalidInput("video", path, "is mirrored by its player", "save it first as it is shown")
    return round(frame.rotation / 90) % 4


def is_mirrored(frame: Any) -> bool:
    """By the determinant of the display matrix: nine numbers in rows, of which two by two turn, mirror and scale."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(float)
    return bool(a * d - b * c < 0)


# --- whole files ----------------------------------------------------------------------------------------------


def frames(path: Path, note: Note) -> Iterator[Frame]:
    with legibly(path), opened(path) as container:
        stream = clip_stream(container, path, note)
        yield from as_shown(decoded(container, stream, path), stream, path, note)


def note_in(path: Path) -> str:
    with legibly(path), opened(path) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
        return str(tags.get("comment", ""))

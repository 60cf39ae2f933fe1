"""The packets of a clip that another goes on behind: what they are, whether others can follow, both in one file.

Runs in the reading child, as everything does that opens a file that somebody brought.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from linnet.errors import InvalidInput
from linnet.inputs import videos
from linnet.inputs.refusals import REENCODE, legibly, unwritable


def answer(what: str, path: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Of `reader.ask`: what a stream is, whether a sample of ours can follow it, or the joined file."""
    if what == "stream":
        return stream_in(path)
    if what == "joint":
        joint_of(path, Path(question["second"]))
    elif what == "join":
        join(path, Path(question["second"]), question)
    else:
        raise ValueError(what)
    return {}


def stream_in(path: Path) -> dict[str, Any]:
    """Codec, size as stored, and whether a player turns or stretches the frames."""
    with legibly(path), videos.opened(path) as container:
        stream = clip_of(container, path)
        context = stream.codec_context
        if context is None:
            raise InvalidInput("file", path, "is coded in a way that is not read", "save it as H.264 first")
        frame = next(videos.decoded(container, stream, path), None)
        if frame is None:
            raise InvalidInput("file", path, "holds no frame", "give a clip with frames in it")
        return {
            "codec": context.name,
            "size": [context.width, context.height],
            "turned": bool(videos.quarter_turns(frame, path)),
            "stretched": (stream.sample_aspect_ratio or 1) != 1,
        }


def joint_of(first: Path, second: Path) -> Fraction:
    """The second at which the second clip begins behind the first; InvalidInput if one stream cannot hold both."""
    with legibly(first), videos.opened(first) as old, videos.opened(second) as new:
        before, after = clip_of(old, first), clip_of(new, second)
        if before.codec_context.extradata != after.codec_context.extradata:
            problem = "was encoded with other settings than linnet's, so new packets cannot follow its own"
            raise InvalidInput("file", first, problem, REENCODE)
        ends, last = Fraction(0), Fraction(0)
        for packet in old.demux(before):
            if packet.dts is not None:  # which is the demuxer's word that it is done
                ends = max(ends, (packet.pts + (packet.duration or 0)) * packet.time_base)
                last = packet.dts * packet.time_base
        following = next(packet for packet in new.demux(after) if packet.dts is not None)
        base = following.time_base
        if (following.dts + round(ends / base)) * base <= last:
            problem = "has packets in an order after which new ones cannot come"
            raise InvalidInput("file", first, problem, REENCODE)
        return ends


def join(first: Path, second: Path, question: dict[str, Any]) -> None:
    """The packets of both in the .mp4 `part`, none of them encoded again; the sound, if any, is the first one's."""
    begins, output = joint_of(first, second), Path(question["output"])
    with legibly(first), videos.opened(first) as old, videos.opened(second) as new:
        before, after = clip_of(old, first), clip_of(new, second)
        kept = [before, *old.streams.audio]  # a player misses nothing else
        with written(output):
            container = av.open(question["part"], "w", format="mp4", options=question["options"])
        container.metadata["comment"] = question["note"]
        copies = {stream.index: container.add_stream_from_template(stream) for stream in kept}
        for packet in packets(old, kept, Fraction(0)):
            packet.stream = copies[packet.stream.index]
            with written(output):
                container.mux_one(packet)
        for packet in packets(new, [after], begins):
            packet.stream = copies[before.index]
            with written(output):
                container.mux_one(packet)
        with written(output):
            container.close()


def packets(container: Any, streams: list[Any], begins: Fraction) -> Iterator[Any]:
    for packet in container.demux(streams):
        if packet.dts is not None:
            shift = round(begins / packet.time_base)
            if packet.pts is not None:
                packet.pts += shift
            packet.dts += shift
            yield packet


def clip_of(container: Any, path: Path) -> Any:
    return videos.clip_stream(container, path, lambda line: None)


@contextmanager
def written(output: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, FFmpegError) as error:
        raise unwritable(output, error) from error

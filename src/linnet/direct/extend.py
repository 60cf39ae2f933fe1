"""A clip goes on: its own packets are copied as they are, and new ones follow them in the same stream.

The last frames of the old clip are encoded and held, as an image is, at the beginning of a clip that the model
finishes; the frames after them are what is added.
"""

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from linnet import media
from linnet.clip import GENERATED
from linnet.direct.beginning import check_whole, fingerprint
from linnet.direct.footage import Source, on_the_grid, open_source, pixel_aspect, quarter_turns
from linnet.errors import InvalidInput
from linnet.filesystem import create, make_folder, publish, remove, temporary_name
from linnet.geometry import FRAMES_PER_LATENT
from linnet.pipeline import Pipeline
from linnet.progress import Progress, Watch, ignore
from linnet.request import Request
from linnet.sampling.held import Held

Frames = UInt8[np.ndarray, "f H W 3"]

SEEN = 25  # frames of the old clip that the model sees: half of the shortest clip that all models make
REMAKE = "have `linnet generate --video` make one like it first, which leaves out the sound"


def open_old(path: Path, request: Request) -> Source:
    """The clip to go on from; InvalidInput for one whose packets new ones could not follow."""
    if path.suffix.lower() != ".mp4":
        raise InvalidInput("file", path, "is no .mp4", "extend a .mp4, whose packets can be kept")
    with media.legibly(path), media.opened_video(path) as container:
        context = container.streams.video[0].codec_context
        if context.name != "h264":
            raise InvalidInput("file", path, f"holds {context.name} video", REMAKE)
    if quarter_turns(path):
        problem = "is turned by its player, and frames that are kept cannot be turned"
        raise InvalidInput("file", path, problem, REMAKE)
    if pixel_aspect(path) != 1:
        problem = "has pixels that are not square, and frames that are kept cannot be stretched"
        raise InvalidInput("file", path, problem, REMAKE)
    if (size := media.probe(path).size) != request.size:
        problem = f"is {size}, and {request.model} makes {request.size} here"
        raise InvalidInput("file", path, problem, "frames that are kept cannot be scaled: name another model")
    source = open_source(path, request.size, request.fps)
    if list(source.order) != list(range(len(source.order))):
        problem = f"does not run at {request.fps} frames a second"
        raise InvalidInput(
            "file", path, problem, "frames that are kept cannot be resampled: extend a clip that does"
        )
    check_joint(path, request)
    return source


def check_joint(path: Path, request: Request) -> None:
    """Refuse a clip that what linnet encodes could not follow; a few black frames tell, before any is made."""
    black = np.zeros((FRAMES_PER_LATENT, request.height, request.width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "black.mp4"
        with media.open_writer(
            sample, width=request.width, height=request.height, fps=request.fps, metadata={}
        ) as writer:
            writer.write(black)
        joint_of(path, sample)


def check_output(path: Path, request: Request, *, overwrite: bool) -> None:
    """Refuse a file that the clip cannot go on in, before any work is done."""
    if path.suffix.lower() != ".mp4":
        problem = "is no .mp4, and packets that are kept are of one"
        raise InvalidInput("output", path, problem, "give it a name that ends with .mp4")
    media.check_target(path, size=request.size, overwrite=overwrite)


def seen_of(source: Source) -> int:
    return on_the_grid(min(SEEN, len(source.order)))


def extend(
    pipeline: Pipeline,
    request: Request,
    path: Path,
    output: Path,
    *,
    overwrite: bool = False,
    watch: Watch = ignore,
) -> None:
    """Write `path`'s clip to `output` with frames after its last.

    `request.frames` counts the frames that the model sees of the old clip (`seen_of`) and the new ones.
    """
    check_whole(request, "a clip to extend")
    request = pipeline.settled(request)
    check_output(output, request, overwrite=overwrite)
    source = open_old(path, request)
    seen = seen_of(source)
    pipeline.settle(request, pixels=seen)
    known = pipeline.encode_frames(lambda: source.frames(len(source.order) - seen), watch)
    course = Held(frames=dict(enumerate(known.unbind(2))), seed=request.seed)
    latents = None
    for step in pipeline.sample(request, course=course):
        latents = step.latents
        pipeline.tell(step, watch)
    assert latents is not None  # a request has at least one step
    new = later(pipeline.decode(latents, lower=request.decoder_dtype == "bfloat16"), seen)
    record = {
        "linnet": (media.read_metadata(path) or {}).get("linnet", ""),
        "generated": GENERATED,
        "model": request.model,
        "weights": pipeline.model_hash,
        "request": request.to_json(),
        "choices": pipeline.choices(),
        "direction": {"extends": fingerprint(path), "kept": len(source.order), "seen": seen},
    }
    tail = temporary_name(output).with_suffix(".mp4")
    try:
        with media.open_writer(
            tail, width=request.width, height=request.height, fps=request.fps, metadata={}, overwrite=True
        ) as writer:
            for frames in new:
                writer.write(frames)
                watch(Progress("decode", writer.count, request.frames - seen))
        join(path, tail, output, metadata=record, overwrite=overwrite)
    finally:
        tail.unlink(missing_ok=True)


def later(frames: Iterator[Frames], skip: int) -> Iterator[Frames]:
    """All but the first `skip`."""
    for chunk in frames:
        kept, skip = chunk[skip:], max(0, skip - len(chunk))
        if len(kept):
            yield kept


def join(first: Path, second: Path, output: Path, *, metadata: dict[str, Any], overwrite: bool) -> None:
    """One .mp4 of the packets of both, none of them encoded again; the sound, if any, is the first one's.

    InvalidInput if one stream cannot hold both.
    """
    begins = joint_of(first, second)
    with media.legibly(first), media.opened_video(first) as old, media.opened_video(second) as new:
        before, after = old.streams.video[0], new.streams.video[0]
        with Joint(output, metadata, overwrite) as container:
            copies = {
                stream.index: container.add_stream_from_template(stream)
                for stream in old.streams
                if keeps(stream)
            }
            for packet in old.demux([stream for stream in old.streams if keeps(stream)]):
                if packet.dts is None:
                    continue
                packet.stream = copies[packet.stream.index]
                container.mux_one(packet)
            for packet in new.demux(after):
                if packet.dts is None:
                    continue
                shift = round(begins / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copies[before.index]
                container.mux_one(packet)


def joint_of(first: Path, second: Path) -> Fraction:
    """The second at which the second clip begins behind the first; InvalidInput if one stream cannot hold both."""
    with media.legibly(first), media.opened_video(first) as old, media.opened_video(second) as new:
        before, after = old.streams.video[0], new.streams.video[0]
        if before.codec_context.extradata != after.codec_context.extradata:
            problem = "was encoded with other settings than linnet's, so new packets cannot follow its own"
            raise InvalidInput("file", first, problem, REMAKE)
        ends, last = Fraction(0), Fraction(0)
        for packet in old.demux(before):
            if packet.dts is not None:  # which is the demuxer's word that it is done
                ends = max(ends, (packet.pts + (packet.duration or 0)) * packet.time_base)
                last = packet.dts * packet.time_base
        following = next(packet for packet in new.demux(after) if packet.dts is not None)
        base = following.time_base
        if (following.dts + round(ends / base)) * base <= last:
            problem = "has packets in an order after which new ones cannot come"
            raise InvalidInput("file", first, problem, REMAKE)
        return ends


def keeps(stream: Any) -> bool:
    """Picture and sound; a player misses nothing else."""
    return stream.type in ("video", "audio") and (
        stream.type == "audio" or stream.index == first_video(stream)
    )


def first_video(stream: Any) -> int:
    return stream.container.streams.video[0].index


class Joint:
    """An output container that stands under its name when it is complete, and not before."""

    def __init__(self, path: Path, metadata: dict[str, Any], overwrite: bool) -> None:
        self.path, self.metadata, self.overwrite = path, metadata, overwrite

    def __enter__(self) -> Any:
        with media.plainly(self.path):
            make_folder(self.path.absolute().parent)
            self.part = create(self.path)
        self.container = av.open(str(self.part), "w", format="mp4", options=media.CONTAINER_OPTIONS[".mp4"])
        self.container.metadata["comment"] = media.as_note(self.metadata)
        return self.container

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                with media.plainly(self.path):
                    self.container.close()
                    publish(self.part, self.path, overwrite=self.overwrite)
            else:
                self.container.close()
        finally:
            remove(self.part)

"""A clip goes on: its own packets are copied as they are, and new ones follow them in the same stream.

The last frames of the old clip are encoded and held, as an image is, at the beginning of a clip that the model
finishes; the frames after them are what is added.
"""

import tempfile
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from linnet import media
from linnet.clip import Clip, Watch, ignore
from linnet.direct.conditions import check_whole, fingerprint
from linnet.direct.footage import Fit, Source, on_the_grid, open_source
from linnet.errors import InvalidInput
from linnet.filesystem import complete, make_folder, temporary_name
from linnet.geometry import FRAMES_PER_LATENT, Size
from linnet.inputs import reader
from linnet.inputs.clips import kind_of
from linnet.inputs.reader import Tick, nothing
from linnet.inputs.refusals import REENCODE
from linnet.pipeline import Pipeline
from linnet.plan.plan import Plan
from linnet.request import Request
from linnet.sampling.keep_frames import KeptFrames

Frames = UInt8[np.ndarray, "f H W 3"]

SEEN = 25  # frames of the old clip that the model sees: half of the shortest clip that all models make
LONGEST = 3600.0  # seconds of a clip to extend


def open_old(
    path: Path, request: Request, *, reencode: bool = False, fit: Fit | None = None, tick: Tick = nothing
) -> Source:
    """The clip to go on from; unless it is encoded anew, InvalidInput for one whose packets new ones cannot follow."""
    if fit and not reencode:
        raise InvalidInput("fit", fit, "is of a clip that is encoded anew", "give `reencode`, too")
    if not reencode:
        check_packets(path, request, tick)
    source = open_source(path, request.size, request.fps, fit, seconds=LONGEST, tick=tick)
    if source.more:
        raise InvalidInput("file", path, f"lasts over {LONGEST:.0f} s", "extend a shorter one")
    if not reencode:
        if list(source.order) != list(range(len(source.order))):
            problem = (
                f"does not run at {request.fps} frames a second, and packets that are kept cannot change that"
            )
            raise InvalidInput("file", path, problem, REENCODE)
        check_joint(path, request, tick)
    return source


def check_packets(path: Path, request: Request, tick: Tick) -> None:
    """InvalidInput for a clip whose packets cannot stay as they are."""
    if kind_of(path) != "video" or path.suffix.lower() != ".mp4":
        raise InvalidInput("file", path, "is no .mp4, whose packets could be kept", REENCODE)
    stream = reader.stream_in(path, tick)
    if stream["codec"] != "h264":
        raise InvalidInput("file", path, f"holds {stream['codec']} video", REENCODE)
    if stream["turned"]:
        problem = "is turned by its player, and frames that are kept cannot be turned"
        raise InvalidInput("file", path, problem, REENCODE)
    if stream["stretched"]:
        problem = "has pixels that are not square, and frames that are kept cannot be stretched"
        raise InvalidInput("file", path, problem, REENCODE)
    if (size := Size(*stream["size"])) != request.size:
        problem = f"is {size}, and {request.model} makes {request.size} here"
        raise InvalidInput("file", path, problem, f"name another model, or {REENCODE}")


def check_joint(path: Path, request: Request, tick: Tick = nothing) -> None:
    """Refuse a clip that what linnet encodes could not follow; a few black frames tell, before any is made."""
    black = np.zeros((FRAMES_PER_LATENT, request.height, request.width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "black.mp4"
        with media.open_writer(
            sample, width=request.width, height=request.height, fps=request.fps, metadata={}
        ) as writer:
            writer.write(black)
        reader.check_joint(path, sample, tick)


def check_output(path: Path, request: Request, *, overwrite: bool, reencode: bool = False) -> None:
    """Refuse a file that the clip cannot go on in, before any work is done."""
    if path.suffix.lower() != ".mp4" and not reencode:
        problem = "is no .mp4, and packets that are kept are of one"
        raise InvalidInput("output", path, problem, "give it a name that ends with .mp4, or use `reencode`")
    media.check_target(path, size=request.size, overwrite=overwrite)


def seen_of(source: Source) -> int:
    return on_the_grid(min(SEEN, len(source.order)))


def extend(
    pipeline: Pipeline,
    plan: Plan,
    source: Source,
    output: Path,
    *,
    overwrite: bool = False,
    reencode: bool = False,
    watch: Watch = ignore,
) -> Clip:
    """Write the source's clip to `output` with frames after its last.

    The plan's request counts the frames that the model sees of the old clip (`seen_of`) and the new ones. Packets are
    copied; with `reencode` all frames are encoded, at the model's size and pace, and there is no sound.
    """
    request = plan.request
    check_whole(request, "a clip to extend")
    check_output(output, request, overwrite=overwrite, reencode=reencode)
    seen = seen_of(source)
    pipeline.model.on_load = watch
    pipeline.model.follow(plan)
    known = pipeline.runner.encode_frames(lambda: source.frames(len(source.order) - seen), watch)
    sampler = KeptFrames(frames=dict(enumerate(known.unbind(2))), seed=request.seed)
    made = pipeline.latents(plan, sampler=sampler, watch=watch)
    clip = pipeline.record(
        output,
        request,
        direction={"extends": fingerprint(source.path), "kept": len(source.order), "seen": seen}
        | ({"reencoded": True} if reencode else {}),
        seconds=made.seconds,
        version=(reader.read_metadata(source.path) or {}).get("linnet", ""),
    )
    new = partial(pipeline.runner.decoded, request, made.latents, watch, skip=seen)
    if reencode:
        frames = lambda: chain((frame[None] for frame in source.frames()), new())  # noqa: E731
        return pipeline.save(clip, frames, overwrite=overwrite, watch=watch)
    tail = temporary_name(output).with_suffix(".mp4")
    try:
        pipeline.write(tail, request, new, dict, overwrite=True, watch=watch)
        clip = pipeline.complete(clip)
        join(source.path, tail, output, metadata=clip.metadata(), overwrite=overwrite)
    finally:
        tail.unlink(missing_ok=True)
    return clip


def join(first: Path, second: Path, output: Path, *, metadata: dict[str, Any], overwrite: bool) -> None:
    """One .mp4 of the packets of both, none of them encoded again; the sound, if any, is the first one's. It stands
    under its name when it is complete, and not before.

    InvalidInput if one stream cannot hold both.
    """
    with media.plainly(output):
        make_folder(output.absolute().parent)
    with complete(output, overwrite=overwrite) as part:
        reader.join(
            first,
            second,
            part,
            output=output,
            note=media.as_note(metadata),
            options=media.CONTAINER_OPTIONS[".mp4"],
        )

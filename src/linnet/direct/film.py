"""From a storyboard to one file: takes, each made once and kept, then joined as they are read back.

A take is what is denoised together: one shot, or several that morph. Its file is named after the hash of all that made
it, so that a changed shot is another file, and one that was made before is found again. A render that was killed goes
on with the takes that are not there yet. Takes are kept without loss; the film alone is compressed, once.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from linnet import __version__, media
from linnet.clip import GENERATED, Watch, ignore
from linnet.direct.morph import sample
from linnet.direct.sheet import Cell, check_sheet, moments, small
from linnet.direct.sheet import write_sheet as write_cells
from linnet.direct.storyboard import Storyboard
from linnet.errors import InvalidInput
from linnet.filesystem import check_folder, make_folder, sweep
from linnet.geometry import format_seconds
from linnet.pipeline import Pipeline
from linnet.plan.passes import denoised
from linnet.request import Request
from linnet.sampling.denoise import Sampler, denoise
from linnet.sampling.keep_frames import KeptFrames

Frame = UInt8[np.ndarray, "H W 3"]

METHOD = 3  # raised when the same storyboard comes to give other takes
BEFORE = 2  # of takes that are still the same as by the method before, so that none is made again in vain
UNMADE = 96  # the grey of a take that is not there yet


@dataclass(frozen=True, kw_only=True)
class Take:
    """`made_by` is all that decides its frames, `path` its file; `frames` counts those of the file.

    `continues` is the take whose frames `held` are the first of this one.
    """

    shots: range
    frames: int
    made_by: dict[str, Any]
    path: Path
    continues: "Take | None" = None
    kept_frames: range = range(0)

    @property
    def made(self) -> bool:
        """Whether it is there, whole."""
        try:
            return media.probe(self.path).frames == self.frames
        except InvalidInput:
            return False


def takes_of(board: Storyboard, pipeline: Pipeline, folder: Path) -> list[Take]:
    """The film's takes in its order, made or not; their files are in `folder`."""
    ranges = board.takes()
    home = {number: index for index, shots in enumerate(ranges) for number in shots}
    done: dict[int, Take] = {}

    def changed(request: Request) -> bool:
        """Since method 2: momentum may be at its limit, and a short shot is a part of a longer one."""
        return pipeline.runner.steady(request) or denoised(pipeline.spec, request) != request

    def take(index: int) -> Take:
        shots = [board.shots[number] for number in ranges[index]]
        requests = [pipeline.settled(shot.request) for shot in shots]
        overlaps = [shot.overlap for shot in shots[1:]]
        made_by: dict[str, Any] = {
            "method": METHOD if any(map(changed, requests)) else BEFORE,
            "weights": pipeline.model_hash,
            "device": pipeline.model.device.type,
            "requests": [request.to_json() for request in requests],
            "overlaps": overlaps,
        }
        source, kept = None, range(0)
        if shots[0].after is not None:
            source = done[home[shots[0].after]]
            end = board.ends_in_take(shots[0].after)
            kept = range(end - shots[0].overlap, end)
            made_by |= {"continues": source.path.stem, "held": [kept.start, kept.stop]}
        key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:24]
        frames = sum(request.frames for request in requests) - sum(overlaps)
        path = folder / f"{key}.mkv"
        return Take(
            shots=ranges[index], frames=frames, made_by=made_by, path=path, continues=source, kept_frames=kept
        )

    for index in board.order():
        done[index] = take(index)
    return [done[index] for index in range(len(ranges))]


# --- making -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Film:
    """What a render did: the film, the sheet, and which shots (from 0) were made now."""

    path: Path
    sheet: Path
    shots: int
    made: tuple[int, ...]


def render(
    board: Storyboard,
    pipeline: Pipeline,
    output: Path,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    watch: Callable[[range], Watch] = lambda shots: ignore,
) -> Film:
    """The film at `output` and its contact sheet beside it, from the takes in `folder`; what is not there is made.

    An earlier film of the same storyboard is replaced, and an earlier sheet; any other file only if `overwrite`.
    `watch` is asked, for the shots of each take that is made, who wants to see how it comes along.
    """
    sheet, replaced = sheet_name(output), overwrite or is_film_of(board, pipeline, output)
    media.check_target(output, size=board.size, overwrite=replaced)
    check_sheet(sheet, overwrite=overwrite)
    folder = folder or takes_folder(board)
    check_folder(folder)
    make_folder(folder)
    sweep(folder)
    takes = takes_of(board, pipeline, folder)
    made: list[int] = []
    for take in (takes[index] for index in board.order()):
        if not take.made:
            make(board, pipeline, take, watch(take.shots))
            made += take.shots
    write_film(board, pipeline, takes, output, overwrite=replaced)
    write_sheet(board, takes, sheet, overwrite=overwrite)
    return Film(path=output, sheet=sheet, shots=len(board.shots), made=tuple(sorted(made)))


def make(board: Storyboard, pipeline: Pipeline, take: Take, watch: Watch) -> None:
    shots = [board.shots[number] for number in take.shots]
    requests = [pipeline.settled(shot.request) for shot in shots]
    if len(shots) == 1 and take.continues is None:  # what `linnet generate` would make, byte by byte
        pipeline.generate(requests[0], take.path, overwrite=True, watch=watch)
        return
    request = requests[0]
    longest = max(requests, key=lambda request: request.frames)
    encoded = len(take.kept_frames) if take.continues else 0
    plan = pipeline.plan(longest, encoded_frames=encoded)
    pipeline.model.on_load = watch
    pipeline.model.follow(plan)
    sampler = (
        continuing(pipeline, take.continues, take.kept_frames, request.seed) if take.continues else denoise
    )
    overlaps = [shot.overlap for shot in shots[1:]]
    made = pipeline.latents(
        plan,
        steps=partial(sample, pipeline.runner, requests, overlaps, sampler, watch),
        prompts=[text for request in requests for text in (request.prompt, request.negative)],
        watch=watch,
    )
    metadata = {"linnet": __version__, "generated": GENERATED, "take": take.made_by}
    frames = partial(pipeline.runner.decoded, request, made.latents, watch, total=take.frames)
    pipeline.write(take.path, request, frames, lambda: metadata, overwrite=True, watch=watch)


def continuing(pipeline: Pipeline, source: Take, frames: range, seed: int) -> Sampler:
    """A way from noise to a clip whose first frames are those frames of another take."""
    known = pipeline.runner.encode_frames(
        lambda: islice(media.read_frames(source.path), frames.start, frames.stop)
    )
    return KeptFrames(frames=dict(enumerate(known.unbind(2))), seed=seed)


def tidy(board: Storyboard, pipeline: Pipeline, folder: Path | None = None) -> int:
    """Throw away the takes that the film does not use; how many they were."""
    folder = folder or takes_folder(board)
    used = {take.path for take in takes_of(board, pipeline, folder)}
    unused = [path for path in folder.glob("*.mkv") if path not in used and is_take(path)]
    for path in unused:
        path.unlink()
    return len(unused)


def is_take(path: Path) -> bool:
    """Whether it is one that linnet made: others may keep clips there, too."""
    with suppress(InvalidInput):
        metadata = media.read_metadata(path) or {}
        return bool(re.fullmatch("[0-9a-f]{24}", path.stem)) and ("take" in metadata or "request" in metadata)
    return False


def film_name(board: Storyboard) -> Path:
    return board.path.with_suffix(".mp4")


def sheet_name(output: Path) -> Path:
    return output.with_suffix(".png")


def takes_folder(board: Storyboard) -> Path:
    return board.path.with_suffix(".shots")


def is_film_of(board: Storyboard, pipeline: Pipeline, path: Path) -> bool:
    """Whether there is an earlier film of this storyboard: it names one so called, and lies beside it or has a shot of
    it. Other folders have a film.yaml, too."""
    metadata: dict[str, Any] = {}
    with suppress(InvalidInput):
        metadata = media.read_metadata(path) or {}
    if metadata.get("storyboard") != board.path.name:
        return False
    beside = path.absolute().parent == board.path.absolute().parent
    return beside or any(shot in record(board, pipeline)["shots"] for shot in metadata.get("shots", ()))


# --- joining ------------------------------------------------------------------------------------------------------


def write_film(
    board: Storyboard, pipeline: Pipeline, takes: Sequence[Take], output: Path, *, overwrite: bool
) -> None:
    width, height = board.size
    fps = board.shots[0].request.fps
    with media.open_writer(
        output, width=width, height=height, fps=fps, metadata=record(board, pipeline), overwrite=overwrite
    ) as writer:
        for frame in joined(board, takes):
            writer.write(frame[None])


def record(board: Storyboard, pipeline: Pipeline) -> dict[str, Any]:
    """What goes inside the film: every shot's whole request, and how it begins."""
    shots = [
        {"begin": shot.begin, "overlap": shot.overlap, "request": pipeline.settled(shot.request).to_json()}
        | ({} if shot.after is None else {"after": shot.after + 1})
        for shot in board.shots
    ]
    return {
        "linnet": __version__,
        "generated": GENERATED,
        "model": board.spec.name,
        "weights": pipeline.model_hash,
        "storyboard": board.path.name,
        "shots": shots,
    }


def joined(board: Storyboard, takes: Sequence[Take]) -> Iterator[Frame]:
    """The film's frames. Two takes at most are open at a time, and of each one frame is in memory."""
    before: Iterator[Frame] = iter(())
    for take, following in zip(takes, [*takes[1:], None], strict=True):
        first, frames, left = board.shots[take.shots.start], frames_of(board, take), take.frames
        if first.begin == "dissolve":
            yield from dissolved(before, frames, first.overlap)
            left -= first.overlap
        elif first.begin == "continue":  # what it continues has been seen already
            left -= sum(1 for _ in islice(frames, first.overlap))
        if following and board.shots[following.shots.start].begin == "dissolve":
            left -= board.shots[following.shots.start].overlap
        yield from islice(frames, left)
        before = frames


def frames_of(board: Storyboard, take: Take) -> Iterator[Frame]:
    """Grey ones where the take is not made yet."""
    if take.made:
        yield from media.read_frames(take.path)
        return
    grey = np.full((board.size.height, board.size.width, 3), UNMADE, np.uint8)
    for _ in range(take.frames):
        yield grey


def dissolved(old: Iterator[Frame], new: Iterator[Frame], count: int) -> Iterator[Frame]:
    """`count` frames, from the first that shows a little of the new to the last that shows a little of the old."""
    for step in range(1, count + 1):
        share = step / (count + 1)
        blend = next(old) * np.float32(1 - share) + next(new) * np.float32(share)
        yield blend.round().astype(np.uint8)


# --- contact sheets ------------------------------------------------------------------------------------------------


def write_sheet(board: Storyboard, takes: Sequence[Take], path: Path, *, overwrite: bool = False) -> None:
    """Three frames of each shot, under them when and how it begins, and its prompt."""
    check_sheet(path, overwrite=overwrite)
    spans = board.spans()
    places = [moments(shot_frames) for shot_frames in spans]
    wanted = {frame_number for row in places for frame_number in row}
    seen = {
        frame_number: small(frame)
        for frame_number, frame in enumerate(joined(board, takes))
        if frame_number in wanted
    }
    cells = []
    for number, (shot, shot_frames, row) in enumerate(zip(board.shots, spans, places, strict=True)):
        request = shot.request
        start, length = (
            format_seconds(seconds) for seconds in (shot_frames.start / request.fps, request.seconds)
        )
        title = f"{number + 1}   {shot.begin} at {start} s   {length} s   seed {request.seed}"
        cells.append(
            Cell(frames=tuple(seen[frame_number] for frame_number in row), title=title, words=request.prompt)
        )
    write_cells(cells, path, of=board.path.name, overwrite=overwrite)

"""One prompt, many seeds: drafts side by side, so that a person picks by looking."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet import __version__, media
from linnet.clip import GENERATED, Clip, Watch, ignore
from linnet.direct.sheet import Cell, check_sheet, moments, mosaic, mosaic_size, small
from linnet.direct.sheet import write_sheet as write_cells
from linnet.errors import InvalidInput
from linnet.filesystem import check_folder, check_name, make_folder
from linnet.geometry import Size
from linnet.inputs.reader import read_metadata
from linnet.pipeline import Pipeline
from linnet.plan.plan import Plan
from linnet.request import Request

MOST = 100  # drafts: with more, none is large enough to be seen


@dataclass(frozen=True, kw_only=True)
class Grid:
    clips: tuple[Clip, ...]
    sheet: Path
    mosaic: Path
    made: int


def draft(
    pipeline: Pipeline,
    requests: Sequence[Request],
    folder: Path,
    *,
    overwrite: bool = False,
    watch: Callable[[int], Watch] = lambda number: ignore,
) -> Grid:
    """A clip for each of the requests, which differ in seed alone, in `folder`; there too `sheet.png` and `mosaic.mp4`.

    A clip is its request's own, to go on from with `--like`. Those that are there already are kept, an earlier sheet
    and mosaic replaced; other files under their names only if `overwrite`. `watch` is asked, for the number of each
    clip that is made, who wants to see how it comes along.
    """
    sheet, tiles = folder / "sheet.png", folder / "mosaic.mp4"
    check_name(folder)
    check_folder(folder)
    make_folder(folder)
    check_sheet(sheet, overwrite=overwrite)
    media.check_target(tiles, size=mosaic_of(requests), overwrite=overwrite or is_mosaic(tiles))
    paths = [folder / f"{request.seed}.mp4" for request in requests]
    here = [made_before(pipeline, request, path) for request, path in zip(requests, paths, strict=True)]
    for request, path, before in zip(requests, paths, here, strict=True):
        if before is None:
            media.check_target(path, size=request.size, overwrite=overwrite)
    clips = []
    plan: Plan | None = None  # one for all: they differ in seed alone
    for number, (request, path, before) in enumerate(zip(requests, paths, here, strict=True)):
        if before is None:
            plan = plan.with_seed(request.seed) if plan else pipeline.plan(request)
            (before,) = pipeline.run(plan, {request.seed: path}, overwrite=overwrite, watch=watch(number))
        clips.append(before)
    grid = Grid(clips=tuple(clips), sheet=sheet, mosaic=tiles, made=here.count(None))
    write_sheet(grid, overwrite=overwrite)
    write_mosaic(grid, overwrite=overwrite)
    return grid


def made_before(pipeline: Pipeline, request: Request, path: Path) -> Clip | None:
    """The clip at `path`, if it is the request's."""
    try:
        clip = Clip.from_metadata(path, read_metadata(path))
    except InvalidInput:
        return None
    same = clip.request == pipeline.settled(request) and clip.model_hash == pipeline.model_hash
    return clip if same else None


def is_mosaic(path: Path) -> bool:
    with suppress(InvalidInput):
        return "requests" in (read_metadata(path) or {})
    return False


def columns_of(count: int) -> int:
    return math.ceil(math.sqrt(count))


def mosaic_of(requests: Sequence[Request]) -> Size:
    return mosaic_size(requests[0].size, len(requests), columns_of(len(requests)))


def write_sheet(grid: Grid, *, overwrite: bool) -> None:
    cells = []
    for clip in grid.clips:
        places = moments(range(clip.request.frames))
        seen = {
            number: small(frame)
            for number, frame in enumerate(media.read_frames(clip.path))
            if number in places
        }
        words = f"linnet generate --like {clip.path} --profile exact"
        cells.append(
            Cell(
                frames=tuple(seen[number] for number in places),
                title=f"seed {clip.request.seed}",
                words=words,
            )
        )
    write_cells(cells, grid.sheet, of=grid.clips[0].request.prompt, overwrite=overwrite)


def write_mosaic(grid: Grid, *, overwrite: bool) -> None:
    first = grid.clips[0]
    width, height = mosaic_of([clip.request for clip in grid.clips])
    readers = [media.read_frames(clip.path) for clip in grid.clips]
    names = [str(clip.request.seed) for clip in grid.clips]
    metadata: dict[str, Any] = {
        "linnet": __version__,
        "generated": GENERATED,
        "model": first.request.model,
        "weights": first.model_hash,
        "requests": [clip.request.to_json() for clip in grid.clips],
    }
    with media.open_writer(
        grid.mosaic,
        width=width,
        height=height,
        fps=first.request.fps,
        metadata=metadata,
        overwrite=overwrite or is_mosaic(grid.mosaic),
    ) as writer:
        for frame in mosaic(readers, names, columns=columns_of(len(readers))):
            writer.write(frame[None])

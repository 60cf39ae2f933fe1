"""Long videos become clips: scenes are cut into pieces of the model's lengths, without black bars, and those that teach
nothing are left out, each with its reason. No torch is imported.

A run has three stages. Every video is analysed by itself; then all candidates are judged together, since duplicates
lie in different videos; then the clips that are kept are written, video by video. What a stage has done is kept in the
folder `.linnet` of the output, so that a run that was stopped goes on where it was.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from linnet import __version__, media
from linnet.data.buckets import LENGTH_STEP
from linnet.data.duplicates import FLAT, Looks
from linnet.data.probe import Frame
from linnet.data.scenes import Scenes, find_scenes
from linnet.direct.footage import paced
from linnet.geometry import FPS, Size
from linnet.inputs import reader
from linnet.inputs.reader import Tick, nothing
from linnet.inputs.survey import Box, Look, Survey

VERSION = 1  # of what an analysis holds; another one analyses anew


@dataclass(frozen=True, kw_only=True)
class CurateSettings:
    """`shortest` and `longest` in frames at 24 a second, 4k+1. A clip whose motion, sharpness or brightness is less
    than these is left out; see `Measures`."""

    shortest: int = 49
    longest: int = 121
    min_motion: float = 6.0
    min_sharpness: float = 4.0
    min_luma: float = 16.0


@dataclass(frozen=True, kw_only=True)
class Measures:
    """`box`: what black bars leave. `motion`: how far the liveliest hundredth of the picture changes, of 255;
    `sharpness`: the variance of the Laplacian of its luma; `luma`: mean brightness, of 255; `deviation`: of luma within
    the liveliest frame."""

    size: Size
    box: Box
    motion: float
    sharpness: float
    luma: float
    deviation: float
    looks: tuple[Look, ...]

    @classmethod
    def of(cls, survey: Survey) -> Self:
        return cls(
            size=survey.size,
            box=even(survey.content),
            motion=survey.extent,
            sharpness=float(np.median([look.sharpness for look in survey.looks])),
            luma=round(float(np.mean(survey.luma)), 2),
            deviation=max(survey.deviation),
            looks=survey.looks,
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        looks = [Look(**{**look, "colours": tuple(look["colours"])}) for look in record["looks"]]
        whole = {"size": Size(*record["size"]), "box": Box(*record["box"]), "looks": tuple(looks)}
        return cls(**{**record, **whole})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A piece of a scene. `order`: the video's frames that it shows, at 24 a second; `start` and `end` in seconds of
    the video. One without measures is too short."""

    scene: tuple[int, int]
    start: float
    end: float
    order: tuple[int, ...]
    measures: Measures | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        measures = None if record["measures"] is None else Measures.from_json(record["measures"])
        whole = {"scene": tuple(record["scene"]), "order": tuple(record["order"]), "measures": measures}
        return cls(**{**record, **whole})


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Of one video. `cuts` in frames of the video; `thumbnails` of each candidate that was measured."""

    content: str
    cuts: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    thumbnails: tuple[tuple[Frame, ...], ...]

    def to_json(self) -> dict[str, Any]:
        candidates = [asdict(candidate) for candidate in self.candidates]
        return {"content": self.content, "cuts": self.cuts, "candidates": candidates}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a candidate; `reason` is empty where it is kept, as `file`. A video that cannot be read is a row
    without a candidate."""

    source: str
    content: str
    candidate: Candidate | None
    file: str = ""
    reason: str = ""
    thumbnails: tuple[Frame, ...] = ()

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"source": self.source, "sha256": self.content}
        if (each := self.candidate) is not None:
            record |= {
                "scene": [*each.scene],
                "start": round(each.start, 4),
                "end": round(each.end, 4),
                "frames": len(each.order),
            }
        if each is not None and (measures := each.measures) is not None:
            record |= {
                "size": str(measures.size),
                "crop": [*measures.box],
                "motion": measures.motion,
                "sharpness": measures.sharpness,
                "luma": measures.luma,
            }
        return {**record, "kept": not self.reason, "reason": self.reason or None, "file": self.file or None}


# --- one video --------------------------------------------------------------------------------------------------------


def analyse(path: Path, content: str, settings: CurateSettings, tick: Tick = nothing) -> Analysis:
    """The video is decoded twice: for its scenes, and to measure their pieces. InvalidInput where it is none."""
    with closing(reader.small_frames(path, tick)) as frames:
        scenes = find_scenes(frames)
    pieces = [piece for scene in scenes.scenes for piece in pieces_of(scene, scenes, settings)]
    long_enough = [piece for piece in pieces if len(piece.order) >= settings.shortest]
    measures: dict[Candidate, Measures] = {}
    thumbnails: list[tuple[Frame, ...]] = []
    if long_enough:
        with closing(reader.surveys(path, frames_of(long_enough), scenes.times, tick)) as surveys:
            for piece, (survey, small) in zip(long_enough, surveys, strict=True):
                measures[piece] = Measures.of(survey)
                thumbnails.append(small)
    return Analysis(
        content=content,
        cuts=scenes.cuts,
        candidates=tuple(replace(piece, measures=measures.get(piece)) for piece in pieces),
        thumbnails=tuple(thumbnails),
    )


def pieces_of(scene: range, scenes: Scenes, settings: CurateSettings) -> list[Candidate]:
    """A scene in parts of one length, each up to the longest; one that is too short is a part that is not used."""
    begin = scenes.times[scene.start]
    stop = scenes.times[scene.stop] if scene.stop < len(scenes.times) else scenes.end
    own = [scenes.times[number] - begin for number in scene]
    order = [scene.start + index for index in paced(own, FPS, end=stop - begin)]

    def piece(first: int, count: int) -> Candidate:
        return Candidate(
            scene=(scene.start, scene.stop),
            start=begin + first / FPS,
            end=begin + (first + count) / FPS,
            order=tuple(order[first : first + count]),
        )

    if len(order) < settings.shortest:
        return [piece(0, len(order))]
    parts = min(math.ceil(len(order) / settings.longest), len(order) // settings.shortest)
    length = min(settings.longest, on_grid(len(order) // parts))
    return [piece(number * len(order) // parts, length) for number in range(parts)]


def on_grid(count: int) -> int:
    """The longest length of a bucket that so many frames hold."""
    return (count - 1) // LENGTH_STEP * LENGTH_STEP + 1


def frames_of(pieces: Sequence[Candidate]) -> list[range]:
    """Of the video, for each piece: at fewer than 24 frames a second neighbours would share one."""
    ranges = [range(piece.order[0], piece.order[-1] + 1) for piece in pieces]
    starts = [ranges[0].start, *(max(after.start, before.stop) for before, after in pairwise(ranges))]
    return [range(start, max(start + 1, own.stop)) for start, own in zip(starts, ranges, strict=True)]


def even(box: Box) -> Box:
    """Video that halves its colours has even sides: one more line goes where it must."""
    return Box(box.left, box.top, box.right - box.size.width % 2, box.bottom - box.size.height % 2)


# --- all candidates ---------------------------------------------------------------------------------------------------


def judge(
    analyses: Mapping[str, Analysis], settings: CurateSettings, written: Mapping[str, Any]
) -> list[Row]:
    """A row for each candidate of each video, by its name, in order. Of clips that look the same the first is kept,
    and before it one that is `written` already."""
    rows: list[Row] = []
    for source, analysis in sorted(analyses.items()):
        if not analysis.candidates:
            reason = "blank: no frame shows more than a plain colour"
            rows.append(Row(source=source, content=analysis.content, candidate=None, reason=reason))
        small = iter(analysis.thumbnails)
        for candidate in analysis.candidates:
            rows.append(
                Row(
                    source=source,
                    content=analysis.content,
                    candidate=candidate,
                    file=name_of(source, analysis.content, candidate),
                    reason=fault_of(candidate, settings),
                    thumbnails=next(small) if candidate.measures else (),
                )
            )
    known, first_of = Looks(), dict[int, str]()
    for index in sorted(range(len(rows)), key=lambda index: (rows[index].file not in written, index)):
        row = rows[index]
        if row.reason or row.candidate is None or row.candidate.measures is None:
            continue
        looks = row.candidate.measures.looks
        earlier = known.like(looks, still=False)
        if earlier is None:
            known.add(index, looks, still=False)
            first_of[index] = row.file
        else:
            rows[index] = replace(row, reason=f"duplicate of {first_of[earlier]}")
    return [replace(row, file="") if row.reason else row for row in rows]


def name_of(source: str, content: str, candidate: Candidate) -> str:
    """Of the clip: the video's, with the beginning of its hash since others may have the same, and the first frame."""
    return f"{Path(source).stem[:80]}-{content[:6]}-{candidate.order[0]:06d}.mp4"


def fault_of(candidate: Candidate, settings: CurateSettings) -> str:
    """Why a candidate is left out, with the measure and its threshold; empty where it is good."""
    measures = candidate.measures
    if measures is None:
        seconds = len(candidate.order) / FPS
        return f"too short: {seconds:.2f} s, of {settings.shortest / FPS:.2f} s"
    for name, value, least in (
        ("dark: brightness", measures.luma, settings.min_luma),
        ("still: motion", measures.motion, settings.min_motion),
        ("blurred: sharpness", measures.sharpness, settings.min_sharpness),
    ):
        if value < least:
            return f"{name} {value:g}, and {least:g} is the least"
    return "blank: every frame is one plain colour" if measures.deviation < FLAT else ""


# --- writing ----------------------------------------------------------------------------------------------------------


def write_clips(
    path: Path,
    rows: Sequence[Row],
    folder: Path,
    done: Callable[[str], object] = lambda file: None,
    tick: Tick = nothing,
) -> None:
    """The clips of one video, in one pass over it. `done` hears of each file that is complete."""
    wanted = sorted({number for row in rows if row.candidate for number in row.candidate.order})
    shown = reader.frames(path, wanted, tick, seconds=reader.LONG_SECONDS)
    with closing(shown):
        numbered = zip(wanted, shown, strict=False)
        latest: tuple[int, Frame] | None = None
        for row in rows:
            candidate = row.candidate
            assert candidate is not None
            assert candidate.measures is not None
            box = candidate.measures.box
            writer = media.open_writer(
                folder / row.file,
                width=box.size.width,
                height=box.size.height,
                fps=FPS,
                metadata=clip_record(row),
            )
            with writer:
                for number in candidate.order:
                    while latest is None or latest[0] < number:
                        latest = next(numbered)
                    frame = latest[1][box.top : box.bottom, box.left : box.right]
                    writer.write(np.ascontiguousarray(frame)[None])
            done(row.file)


def clip_record(row: Row) -> dict[str, Any]:
    """What a clip says of itself: it is cut from a video, and was not generated."""
    return {"linnet": __version__, "curated": row.to_json()}

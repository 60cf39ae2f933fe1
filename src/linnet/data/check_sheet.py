"""A contact sheet of a dataset: three moments of each clip, and what was noticed under them. No torch is imported.

Axes: H rows, W columns; RGB, 0..255.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from linnet.data.curate import Row
from linnet.data.findings import Report
from linnet.direct.sheet import FAINT, PAPER, WIDEST, Cell, write_sheet
from linnet.errors import one_line
from linnet.geometry import Size, format_seconds
from linnet.inputs.survey import MOMENTS

Frame = UInt8[np.ndarray, "H W 3"]

CELL = Size(WIDEST, WIDEST * 9 // 16)
MOST = 240  # clips: more make a picture that few programs open


def write_check_sheet(reports: Sequence[Report], path: Path, *, of: str, overwrite: bool) -> int:
    """How many of the files are on it: those with findings come first where there are too many."""
    shown = [report for report in reports if report.path is not None]
    if len(shown) > MOST:
        shown = sorted(shown, key=rank)[:MOST]
    if shown:
        write_sheet([cell_of(report) for report in shown], path, of=of, overwrite=overwrite)
    return len(shown)


def rank(report: Report) -> int:
    """What cannot be used first, then what has a warning."""
    weights = {finding.weight for finding in report.findings}
    return min((("unusable", "warning", "note").index(weight) for weight in weights), default=3)


def cell_of(report: Report) -> Cell:
    frames = [on_paper(frame) for frame in report.thumbnails] or [blank()] * len(MOMENTS)
    return Cell(frames=tuple(frames), title=title_of(report), words=report.words)


def title_of(report: Report) -> str:
    if report.survey is None:
        return one_line(report.name)
    seconds = "" if report.survey.still else f"  {format_seconds(round(report.survey.scan.end, 2))} s"
    becomes = f"  -> {report.clips[0].bucket}" if report.clips else "  not used"
    return f"{one_line(report.name)}{seconds}  {report.survey.size}{becomes}"


def on_paper(frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    """In a cell of one shape for all clips."""
    return np.asarray(ImageOps.pad(Image.fromarray(frame), CELL, color=PAPER))


def blank() -> Frame:
    return np.asarray(Image.new("RGB", CELL, FAINT))


def write_curation_sheet(rows: Sequence[Row], path: Path, *, of: str, overwrite: bool) -> int:
    """As `write_check_sheet`, of the pieces of videos: those that are left out come last where there are too many."""
    measured = [row for row in rows if row.candidate and row.candidate.measures]
    shown = sorted(measured, key=lambda row: bool(row.reason))[:MOST] if len(measured) > MOST else measured
    if shown:
        write_sheet([cell_of_row(row) for row in shown], path, of=of, overwrite=overwrite)
    return len(shown)


def cell_of_row(row: Row) -> Cell:
    candidate = row.candidate
    assert candidate is not None
    assert candidate.measures is not None
    measures = candidate.measures
    numbers = f"motion {measures.motion:g}, sharpness {measures.sharpness:g}, brightness {measures.luma:g}"
    return Cell(
        frames=tuple(on_paper(frame) for frame in row.thumbnails),
        title=one_line(f"{row.source}  {candidate.start:.2f} to {candidate.end:.2f} s  {measures.box.size}"),
        words=f"{numbers}; {row.reason or 'kept'}",
    )

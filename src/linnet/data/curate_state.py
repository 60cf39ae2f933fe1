"""What a curation has done so far, in the folder `.linnet` of its output: the analysis of each video, the settings, and
the clips that were written."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from linnet.data.curate import VERSION, Analysis, Candidate, CurateSettings, Row
from linnet.data.probe import Frame
from linnet.errors import InvalidInput
from linnet.filesystem import complete, make_folder, write_text, writing
from linnet.geometry import Size
from linnet.records import read_object_or_nothing


def analysis_key(content: str, settings: CurateSettings) -> str:
    """Filters judge an analysis, and do not change it."""
    facts = [VERSION, content, settings.shortest, settings.longest]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def keep_analysis(folder: Path, key: str, analysis: Analysis) -> None:
    """The strips of thumbnails first, one a row: an analysis that is there is whole."""
    make_folder(folder)
    if analysis.thumbnails:
        strips = [Image.fromarray(np.concatenate(frames, 1)) for frames in analysis.thumbnails]
        size = Size(max(strip.width for strip in strips), sum(strip.height for strip in strips))
        with complete(folder / f"{key}.png") as part:
            page = Image.new("RGB", size)
            top = 0
            for strip in strips:
                page.paste(strip, (0, top))
                top += strip.height
            page.save(part, "PNG")
    heights = [frames[0].shape[:2] for frames in analysis.thumbnails]
    write_text(folder / f"{key}.json", json.dumps({**analysis.to_json(), "thumbnails": heights}))


def kept_analysis(folder: Path, key: str) -> Analysis | None:
    """None where there is none, or something else than was written."""
    try:
        record = read_object_or_nothing((folder / f"{key}.json").read_text("utf-8"))
        thumbnails: list[tuple[Frame, ...]] = []
        if record["thumbnails"]:
            with Image.open(folder / f"{key}.png") as page:
                pixels = np.asarray(page.convert("RGB"))
            top = 0
            for height, width in record["thumbnails"]:
                strip = pixels[top : top + height]
                thumbnails.append(tuple(strip[:, at : at + width] for at in range(0, 3 * width, width)))
                top += height
        return Analysis(
            content=record["content"],
            cuts=tuple(record["cuts"]),
            candidates=tuple(Candidate.from_json(each) for each in record["candidates"]),
            thumbnails=tuple(thumbnails),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def manifest_lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows)


# --- settings and clips -----------------------------------------------------------------------------------------------


def check_settings(folder: Path, settings: CurateSettings) -> None:
    """InvalidInput where the clips that are there were chosen by other settings. Some of them would have to go."""
    earlier = read_object_or_nothing(text_or_nothing(folder / "settings.json"))
    for name, value in asdict(settings).items():
        if name in earlier and earlier[name] != value:
            problem = f"was {earlier[name]:g} when the clips in {folder.parent} were cut"
            remedy = "use the same, or another folder; `dry_run` shows what other settings keep"
            raise InvalidInput(name, value, problem, remedy)


def keep_settings(folder: Path, settings: CurateSettings) -> None:
    make_folder(folder)
    write_text(folder / "settings.json", json.dumps(asdict(settings)))


def written_clips(folder: Path) -> set[str]:
    """Names of the clips that were completed, be they there still or not."""
    lines = text_or_nothing(folder / "written.jsonl").splitlines()
    return {str(record["file"]) for line in lines if "file" in (record := read_object_or_nothing(line))}


def keep_written(folder: Path, file: str) -> None:
    """One more line; a line that a kill cuts short counts for nothing."""
    path = folder / "written.jsonl"
    make_folder(folder)
    with writing(path), path.open("a", encoding="utf-8") as lines:
        lines.write(f"\n{json.dumps({'file': file})}\n")


def text_or_nothing(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""

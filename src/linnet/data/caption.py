"""Captions by a model that sees: a .txt file beside each clip that has none. What somebody wrote is never changed.

Axes: H rows, W columns; RGB, 0..255. No torch is imported.
"""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from linnet import media
from linnet.data.captions import read_captions
from linnet.data.dataset import media_in, name_of
from linnet.data.probe import Probed, probe
from linnet.data.vision import Unusable, VisionServer, picture, video
from linnet.direct.footage import paced
from linnet.errors import InvalidInput
from linnet.filesystem import complete, reading
from linnet.geometry import format_seconds
from linnet.inputs import reader
from linnet.inputs.survey import Box
from linnet.records import read_text

Frame = UInt8[np.ndarray, "H W 3"]

TEMPLATE = """\
Describe this {kind} for a model that learns to make videos from text. {frames}
Write one paragraph of 60 to 150 words in plain, exact English. Say what is visible, in this order:
the main subject with its looks, clothing or material and colours; what it does, and how it moves from beginning to end;
other people, animals and things, and where they are; the place and the background; the light, the weather and the time
of day; how the camera stands or moves, how near it is, and from which angle; the style, such as film, phone video,
animation or drawing.
Do not begin with "the video shows" or "the image shows". Do not guess names, feelings or what is not visible. Do not
mention frames, text or watermarks. Answer with the paragraph alone."""
FRAMES = "These are {count} frames of it in order, from {seconds} s."
FIELDS = ("kind", "frames", "count", "seconds", "name")
LARGEST = 768  # pixels of the longer side that are sent
VIDEO_LARGEST = 512
VIDEO_FPS = 8
MOST_FAILURES = 3  # clips in a row: then the server is the reason


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """`frames` of a clip that are sent; with `video` a small mp4 is sent instead. `template` may have the FIELDS."""

    frames: int = 8
    video: bool = False
    template: str = TEMPLATE
    parallel: int = 1


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Of one clip: the caption that was written, or why there is none."""

    name: str
    caption: str = ""
    problem: str = ""


def read_template(path: Path) -> str:
    """InvalidInput for a field that does not exist."""
    text = read_text(path, field="template").strip()
    if not text:
        raise InvalidInput("template", path, "is empty", "write what the model is to describe")
    try:
        text.format(**dict.fromkeys(FIELDS, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        problem = f"has a field that does not exist ({error})"
        remedy = f"use {', '.join(f'{{{name}}}' for name in FIELDS)}, and {{{{ }}}} for braces"
        raise InvalidInput("template", path, problem, remedy) from None
    return text


def without_caption(folder: Path) -> tuple[list[Path], int]:
    """Clips and images that have none, and how many have one. InvalidInput for a folder without either."""
    with reading(folder, "folder"):
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "is missing"
            raise InvalidInput("folder", folder, problem, "give the folder of the clips")
    files, _ = media_in(folder, folder)
    if not files:
        problem = "has no clips" if any(folder.iterdir()) else "is empty"
        raise InvalidInput("folder", folder, problem, "put clips or images into it")
    captions = read_captions(folder)
    waiting = []
    for path in files:
        caption, problem = captions.of(path)
        if problem and "is empty" not in problem and "there is no" not in problem:
            raise InvalidInput(
                "file", path.with_suffix(".txt"), problem.partition(" ")[2], "save it as UTF-8"
            )
        if not caption:
            waiting.append(path)
    return waiting, len(files) - len(waiting)


def caption_all(
    folder: Path,
    waiting: Sequence[Path],
    server: VisionServer,
    settings: CaptionSettings,
    cache: Path | None,
) -> Iterator[Captioned]:
    """Each clip as it is done. InvalidInput where the server answers no clip."""
    failures = 0

    def attempt(path: Path) -> Captioned:
        name = name_of(path, folder)
        try:
            caption = caption_of(path, name, server, settings, cache)
            write_caption(path, caption)
        except Unusable as error:
            return Captioned(name=name, problem=str(error))
        except InvalidInput as error:
            if error.field in ("file", "video"):
                return Captioned(name=name, problem=error.problem)
            server.stopped.set()  # before the next clip is begun
            raise
        return Captioned(name=name, caption=caption)

    with ThreadPoolExecutor(max_workers=settings.parallel) as pool:
        try:
            for result in pool.map(attempt, waiting):
                yield result
                failures = failures + 1 if "server" in result.problem else 0
                if failures >= MOST_FAILURES and len(waiting) > MOST_FAILURES:
                    problem = f"failed {failures} times in a row ({result.problem})"
                    remedy = "see its log; the same command continues"
                    raise InvalidInput("server", server.address, problem, remedy)
        except BaseException:
            server.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def caption_of(
    path: Path, name: str, server: VisionServer, settings: CaptionSettings, cache: Path | None
) -> str:
    probed = probe(path, cache)
    seconds = format_seconds(round(probed.survey.scan.end, 2))
    still = probed.survey.still
    sent: list[dict[str, Any]]
    if settings.video and not still:
        sent, count = [video(small_video(probed))], 1
    else:
        frames = some_frames(probed, settings.frames)
        sent, count = [picture(frame) for frame in frames], len(frames)
    fields = {
        "kind": "image" if still else "video",
        "count": str(count),
        "seconds": seconds,
        "name": name,
        "frames": "" if still or settings.video else FRAMES.format(count=count, seconds=seconds),
    }
    return server.caption(settings.template.format(**fields), sent)


def write_caption(path: Path, caption: str) -> None:
    """Beside the clip. A file that came there meanwhile is kept, unless it is empty."""
    target = path.with_name(f"{path.stem}.txt")
    if target.exists() and target.stat().st_size:
        blank = not read_text(target).strip()
        if not blank:
            return
    with complete(target, overwrite=target.exists()) as part:
        part.write_text(caption + "\n", "utf-8")


# --- what is sent -----------------------------------------------------------------------------------------------------


def some_frames(probed: Probed, count: int) -> list[Frame]:
    """So many of a clip, evenly spread, without its black bars."""
    if probed.survey.still:
        frames = [reader.read_picture(probed.path)[0]]
    else:
        total = len(probed.survey.scan.times)
        wanted = sorted({int((index + 0.5) * total / count) for index in range(count)})
        with closing(reader.frames(probed.path, wanted)) as shown:
            frames = list(shown)
    return [scaled(frame, probed.survey.content, LARGEST) for frame in frames]


def small_video(probed: Probed) -> bytes:
    """An mp4 of the clip at a low frame rate."""
    scan = probed.survey.scan
    order = paced(scan.times, VIDEO_FPS, end=scan.end)
    wanted = sorted(set(order))
    with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
        path = Path(folder) / "clip.mp4"
        with closing(reader.frames(probed.path, wanted)) as shown:
            frames = dict(
                zip(wanted, (scaled(f, probed.survey.content, VIDEO_LARGEST) for f in shown), strict=True)
            )
        height, width, _ = frames[wanted[0]].shape
        with media.open_writer(path, width=width, height=height, fps=VIDEO_FPS, metadata={}) as writer:
            for number in order:
                writer.write(frames[number][None])
        return path.read_bytes()


def scaled(frame: Frame, box: Box, most: int) -> UInt8[np.ndarray, "h w 3"]:
    """Within the box, with even sides, the longer one of at most so many pixels."""
    cropped = Image.fromarray(np.ascontiguousarray(frame[box.top : box.bottom, box.left : box.right]))
    share = min(1.0, most / max(cropped.size))
    size = tuple(max(2, 2 * round(side * share / 2)) for side in cropped.size)
    return np.asarray(cropped.resize((size[0], size[1]), Image.Resampling.LANCZOS))

"""Which size and length a clip is trained at, and which of its frames are used. No torch is imported.

Clips of one bucket can be batched: they have the same size and number of frames. A clip is scaled to cover the size of
its bucket and cropped about its middle; it keeps its speed, since frames are chosen by their time stamps.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache as remembered
from pathlib import Path
from typing import NamedTuple

from linnet.catalog import WIDEST_ASPECT, ModelSpec
from linnet.data.dataset import Dataset, LeftOut, Sample
from linnet.data.probe import Probed, probe_all
from linnet.direct.footage import paced
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, Size, format_seconds, latents_in
from linnet.inputs.survey import Box, Survey

SHORT_LENGTHS = (1, 5, 9)  # frames
LENGTH_STEP = 12  # frames between two longer lengths: half a second, so that clips share buckets
SHORTEST = 5  # frames: of less nothing moves
SHAPES = (21 / 9, 16 / 9, 3 / 2, 4 / 3, 1.0, 3 / 4, 2 / 3, 9 / 16, 9 / 21)  # width by height
STILLS_AN_EPOCH = 3  # of each clip, on average
SMALLEST = 16  # pixels of a side that cropping has to leave
LEAST_CROP = 0.85  # of a side


class Bucket(NamedTuple):
    size: Size
    frames: int

    def __str__(self) -> str:
        return f"{self.size}, {self.frames} frame{'s' * (self.frames > 1)}"

    @property
    def latents(self) -> int:
        """Latent frames."""
        return latents_in(self.frames)


@dataclass(frozen=True, kw_only=True)
class TrainingClip:
    """Frames of a file that are trained on: those numbered `order`, which rise, of which `box` is scaled to the
    bucket's size. `content` is the hash of the file."""

    sample: Sample
    content: str
    bucket: Bucket
    order: tuple[int, ...]
    box: Box
    still: bool = False


def bucket_of(survey: Survey, spec: ModelSpec, sample: Sample | None = None) -> Bucket:
    """Of the first clip that is made of a file."""
    box = box_of(survey, sample)
    count = 1 if survey.still else len(order_of(survey, spec))
    return Bucket(size_for(box.size, spec), 1 if survey.still else length_for(count, spec))


def clips_of(sample: Sample, probed: Probed, spec: ModelSpec) -> list[TrainingClip]:
    """One, or several of a long clip that is to be split; InvalidInput where nothing can be made of it."""
    survey = probed.survey
    box = box_of(survey, sample)
    size = size_for(box.size, spec)

    def clip(order: list[int]) -> TrainingClip:
        return TrainingClip(
            sample=sample,
            content=probed.content,
            bucket=Bucket(size, len(order)),
            order=tuple(order),
            box=box,
            still=survey.still,
        )

    if survey.still:
        return [clip([0])]
    order = order_of(survey, spec)
    if len(order) < SHORTEST:
        seconds = format_seconds(len(order) / spec.fps)
        remedy = "give a longer one, or a picture"
        raise InvalidInput("file", sample.path, f"is too short: it lasts {seconds} s", remedy)
    if sample.options.long == "split" and len(order) > spec.max_frames:
        return [clip(order[part.start : part.stop]) for part in parts_of(len(order), spec)]
    length = length_for(len(order), spec)
    start = (len(order) - length) // 2
    return [clip(order[start : start + length])]


def stills_of(clip: TrainingClip, count: int) -> list[TrainingClip]:
    """So many of a clip's frames as images, from its first to its last. How something looks is learnt from images in a
    fraction of the time, so an epoch shows a few of them for each clip."""
    last = len(clip.order) - 1
    places = sorted({round(last * number / max(1, count - 1)) for number in range(count)})
    repeats = STILLS_AN_EPOCH * clip.sample.repeats / max(1, len(places))
    return [
        replace(
            clip,
            sample=replace(clip.sample, repeats=repeats),
            bucket=Bucket(clip.bucket.size, 1),
            order=(clip.order[place],),
        )
        for place in places
    ]


def crops_of(clip: TrainingClip, count: int) -> list[TrainingClip]:
    """The clip, and so many random crops of it, which are up to a seventh narrower. An epoch shows as many of them as
    it would show of the clip. So a few clips show a thing in more places and sizes, and are not learnt by heart."""
    rng = random.Random(f"crops of {clip.content} {clip.order[0]}")
    boxes = [clip.box, *(random_part(clip.box, rng) for _ in range(count))]
    sample = replace(clip.sample, repeats=clip.sample.repeats / len(boxes))
    return [replace(clip, sample=sample, box=box) for box in boxes]


def random_part(box: Box, rng: random.Random) -> Box:
    """Of the same shape, to the pixel."""
    share = rng.uniform(LEAST_CROP, 1)
    width, height = (max(SMALLEST, round(share * side)) for side in box.size)
    left = box.left + rng.randint(0, max(0, box.size.width - width))
    top = box.top + rng.randint(0, max(0, box.size.height - height))
    return Box(left, top, min(left + width, box.right), min(top + height, box.bottom))


def clips_in(
    dataset: Dataset,
    spec: ModelSpec,
    cache: Path | None,
    watch: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[list[TrainingClip], list[LeftOut]]:
    """All that can be trained on, and each file that cannot with its reason. InvalidInput where nothing can.

    Surveys are kept in `cache`; `watch` hears how many files are read, of how many."""
    clips: list[TrainingClip] = []
    left_out = list(dataset.left_out)
    results = probe_all([sample.path for sample in dataset.samples], cache, watch)
    for sample, probed in zip(dataset.samples, results, strict=True):
        try:
            if isinstance(probed, InvalidInput):
                raise probed
            clips += clips_of(sample, probed, spec)
        except InvalidInput as error:
            fault = "too short" if "too short" in error.problem else "cannot be read"
            left_out.append(LeftOut(sample.name, fault, error.problem, sample.path))
    if not any(not clip.sample.held_out for clip in clips):
        name, problem = left_out[-1].name, left_out[-1].problem
        problem = f"has no clip that can be used ({name} {problem})"
        raise InvalidInput("folder", dataset.folder, problem, "see `linnet data check`")
    return clips, left_out


def order_of(survey: Survey, spec: ModelSpec) -> list[int]:
    """Which of a clip's frames is shown at each tick of the model's frame rate. A clip of 2 s shows 48 frames, and a
    length of the model's ends with the frame at 2 s: there the last one is shown once more."""
    order = paced(survey.scan.times, spec.fps, end=survey.scan.end)
    return [*order, order[-1]] if len(order) % LENGTH_STEP == 0 else order


def parts_of(count: int, spec: ModelSpec) -> list[range]:
    """A long clip from its beginning: as many of the longest as it holds, and what is left if the model makes such."""
    longest = length_for(count, spec)
    parts = [range(start, start + longest) for start in range(0, count - longest + 1, longest)]
    left = count - parts[-1].stop
    if left >= max(spec.min_frames, SHORTEST):
        parts.append(range(parts[-1].stop, parts[-1].stop + length_for(left, spec)))
    return parts


def length_for(count: int, spec: ModelSpec) -> int:
    """The longest length of a bucket that so many frames hold, up to what the model makes at once."""
    most = min(count, spec.max_frames)
    most = (most - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1
    longest = (most - 1) // LENGTH_STEP * LENGTH_STEP + 1
    return longest if longest > 1 else max(length for length in SHORT_LENGTHS if length <= most)


def box_of(survey: Survey, sample: Sample | None) -> Box:
    """What of the frame is used: without what the dataset's owner crops, else without black bars."""
    whole = Box(0, 0, *survey.size)
    if sample is None or (sample.options.crop is None and sample.options.bars):
        return survey.content
    if sample.options.crop is None:
        return whole
    left, top, right, bottom = sample.options.crop
    box = Box(left, top, whole.right - right, whole.bottom - bottom)
    if min(box.size) < SMALLEST:
        problem = f"has {whole.size} pixels, of which the crop leaves too few"
        raise InvalidInput("file", sample.path, problem, "make `crop` in dataset.yaml smaller")
    return box


def size_for(shown: Size, spec: ModelSpec) -> Size:
    """Of the model's sizes the one whose shape is nearest."""
    shape = math.log(shown.width / shown.height)
    return min(sizes_of(spec), key=lambda size: abs(math.log(size.width / size.height) - shape))


def sizes_of(spec: ModelSpec) -> tuple[Size, ...]:
    """The sizes that buckets have: those that the model was trained on, and of other shapes the nearest that it can
    make, with about as many pixels."""
    return sizes_about(spec.sizes, spec.size_multiple) if spec.size_multiple else spec.sizes


@remembered
def sizes_about(trained: tuple[Size, ...], step: int) -> tuple[Size, ...]:
    """See `ModelSpec.allows`, of which this takes the upper part."""
    most = max(size.pixels for size in trained)
    sides = range(step, int(math.sqrt(WIDEST_ASPECT * most)) + 1, step)
    sizes = [Size(width, height) for width in sides for height in sides]
    allowed = [
        size
        for size in sizes
        if 0.85 * most <= size.pixels <= most and max(size) <= WIDEST_ASPECT * min(size)
    ]
    covered = {round(size.width / size.height, 2) for size in trained}
    others = [shape for shape in SHAPES if round(shape, 2) not in covered]
    return (*trained, *(min(allowed, key=lambda size: misfit(size, shape, most)) for shape in others))


def misfit(size: Size, shape: float, most: int) -> float:
    """How much of a picture of that shape is cropped, and how many pixels are given away, which counts for less."""
    return abs(math.log(size.width / size.height / shape)) + 0.3 * (1 - size.pixels / most)

"""A folder of clips and images with captions, as its owner wrote it.

A caption stands in a .txt file of the clip's name beside it, or in a line of captions.jsonl or captions.csv. A
dataset.yaml beside them says more, where somebody wants more: see `settings`. Nothing in the folder is ever changed or
removed. What cannot be used is listed in `left_out` with its reason, never dropped silently. No torch is imported.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from linnet.data.captions import TABLES, read_captions
from linnet.data.settings import SETTINGS_FILE, read_settings
from linnet.errors import InvalidInput
from linnet.filesystem import reading
from linnet.inputs import folders
from linnet.records import PNG_REQUEST
from linnet.wording import format_count, in_a_row

Long = Literal["middle", "split"]

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v", ".mts", ".m2ts")
OTHER_VIDEOS = (
    ".flv",
    ".wmv",
    ".mpg",
    ".mpeg",
    ".3gp",
    ".ogv",
    ".heic",
    ".heif",
    ".gifv",
)  # which are refused
ENDINGS = (*VIDEOS, *OTHER_VIDEOS, *folders.ENDINGS, ".gif")
OWN_NAMES = (SETTINGS_FILE, *TABLES)
FEW = 20  # clips: of fewer none is held out unless somebody says so
HELD_OUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the clips of a folder are used. `repeats`: how often in an epoch. `crop`: pixels cut off at the left, top,
    right and bottom of the frame as it is shown; None finds black bars if `bars` is set. `long`: of a clip longer than
    the model makes, the middle is used, or it is split into several."""

    repeats: float = 1.0
    trigger: str = ""
    crop: tuple[int, int, int, int] | None = None
    bars: bool = True
    long: Long = "middle"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A clip or image and its caption, which has the trigger words in front. `name` is the path within the dataset.
    `repeats` may be a fraction: 2.5 is two or three times an epoch (see `Dataset.epoch`)."""

    path: Path
    name: str
    caption: str
    options: Options = Options()
    repeats: float = 1.0
    held_out: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used. `fault` is a short name for the reason, which `problem` says in words."""

    name: str
    fault: str
    problem: str
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    folder: Path
    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...] = ()
    caption_dropout: float = 0.1
    settings: Mapping[str, Any] = field(default_factory=dict)  # of dataset.yaml, as it was written

    @property
    def training(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if not sample.held_out)

    @property
    def held_out(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.held_out)


def epoch_order(repeats: Sequence[float], seed: int, epoch: int) -> list[int]:
    """The order in which an epoch shows samples that are repeated so often. The same seed and epoch give the same."""
    rng = random.Random(f"{seed}/{epoch}/order")
    order = [
        index
        for index, times in enumerate(repeats)
        for _ in range(math.floor(times) + (rng.random() < times % 1))
    ]
    rng.shuffle(order)
    return order


def read_dataset(folder: Path, *, held_out: float | None = None) -> Dataset:
    """All that is in the folder and those that its dataset.yaml names. `held_out`: the share that is kept for the
    held-out loss; None leaves it to dataset.yaml, and then to the number of clips.

    InvalidInput where the folder holds nothing to train on, and for a dataset.yaml or captions that cannot be read. No
    clip is opened.
    """
    dataset = list_dataset(folder, held_out=held_out)
    if not dataset.samples:
        raise nothing_to_train(folder, dataset.left_out)
    return dataset


def list_dataset(folder: Path, *, held_out: float | None = None) -> Dataset:
    """As `read_dataset`, of a folder that may hold nothing to train on."""
    with reading(folder, "folder"):
        if not folder.exists():
            raise InvalidInput("folder", folder, "is missing", "check the path")
        if not folder.is_dir():
            raise InvalidInput("folder", folder, "is a file", "give the folder of the clips")
    settings = read_settings(folder / SETTINGS_FILE)
    groups, left_out = [], []
    for group in groups_of(folder, settings):
        samples, unused = samples_in(group, folder)
        groups.append((group, samples))
        left_out += unused
    share = settings.get("held_out") if held_out is None else held_out
    return Dataset(
        folder=folder,
        samples=hold_out(weighted(groups), share),
        left_out=tuple(left_out),
        caption_dropout=settings.get("caption_dropout", 0.1),
        settings=settings,
    )


def nothing_to_train(folder: Path, left_out: Sequence[LeftOut]) -> InvalidInput:
    faults = [each.fault for each in left_out]
    lacking, lonely = faults.count("no caption"), faults.count("caption without a clip")
    if lacking:
        problem = f"has {format_count(lacking, 'clip')} and no captions"
        remedy = "write a .txt file of the same name beside each, or use `linnet data caption`"
    elif lonely:
        problem = f"has {format_count(lonely, 'caption')} and no clips"
        remedy = "put the clips beside their captions"
    elif left_out:
        problem = f"has no clip or image that can be used ({left_out[0].name}: {left_out[0].problem})"
        remedy = "see `linnet data check`"
    else:
        problem, remedy = "is empty", "put clips and their captions into it"
    return InvalidInput("folder", folder, problem, remedy)


# --- what is in the folders -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Group:
    """A folder whose clips are used alike. `weight`: its share of an epoch beside other groups, if it has one."""

    folder: Path
    options: Options
    weight: float | None = None


def groups_of(folder: Path, settings: Mapping[str, Any]) -> Iterator[Group]:
    """The folder itself, or those that dataset.yaml names."""
    for inner in settings.get("folders") or [{"path": "."}]:
        merged: dict[str, Any] = {**settings, **inner}
        path = folder / Path(merged["path"]).expanduser()
        if not path.is_dir():
            raise InvalidInput("folder", path, "is missing", f"check its path in {folder / SETTINGS_FILE}")
        crop = merged.get("crop")
        yield Group(
            folder=path,
            options=Options(
                repeats=float(merged.get("repeats", 1)),
                trigger=merged.get("trigger", "").strip(),
                crop=(crop[0], crop[1], crop[2], crop[3]) if crop else None,
                bars=merged.get("bars", True),
                long=merged.get("long", "middle"),
            ),
            weight=merged.get("weight"),
        )


def samples_in(group: Group, home: Path) -> tuple[list[Sample], list[LeftOut]]:
    """The clips of a folder with their captions, and all files that are not used."""
    files, left_out = media_in(group.folder, home)
    captions = read_captions(group.folder)
    samples = []
    for path in files:
        name = name_of(path, home)
        caption, problem = captions.of(path)
        trigger = group.options.trigger
        if trigger and trigger.lower() not in caption.lower():
            caption = f"{trigger}, {caption}" if caption else trigger
        if not caption:
            left_out.append(LeftOut(name, "no caption", problem or "no caption was given", path))
            continue
        samples.append(
            Sample(
                path=path,
                name=name,
                caption=caption,
                options=group.options,
                repeats=group.options.repeats,
            )
        )
    left_out += [
        LeftOut(name_of(path, home), "caption without a clip", problem)
        for path, problem in captions.unused(files)
    ]
    return samples, left_out


def name_of(path: Path, home: Path) -> str:
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


def media_in(folder: Path, home: Path) -> tuple[list[Path], list[LeftOut]]:
    """Files by their names alone, in natural order. A folder of pictures that linnet wrote is one clip. Links to files
    are followed, links to folders are not: they may lead round in a circle."""
    files: list[Path] = []
    left_out: list[LeftOut] = []
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with reading(current, "folder"):
                for path in sorted(current.iterdir(), key=folders.natural):
                    if path.name.startswith("."):
                        continue
                    if path.is_dir() and not path.is_symlink() and not (path / PNG_REQUEST).is_file():
                        waiting.append(path)
                    elif unused := why_unused(path):
                        left_out.append(LeftOut(name_of(path, home), *unused, path))
                    elif path.is_dir() or path.suffix.lower() in ENDINGS:
                        files.append(path)
        except InvalidInput as error:
            if current == folder:
                raise
            left_out.append(LeftOut(name_of(current, home), "cannot be read", error.problem, current))
    return sorted(files, key=lambda path: folders.natural(path.relative_to(folder))), left_out


def why_unused(path: Path) -> tuple[str, str] | None:
    """The name of the fault and what is wrong with it; None for a clip, an image, and what describes them."""
    if path.is_symlink() and not path.exists():
        return "broken link", "is a link to a file that is missing"
    if path.is_dir():
        problem = f"is a link to a folder, which is not followed; name it in {SETTINGS_FILE}"
        return ("link to a folder", problem) if path.is_symlink() else None
    if not path.is_file():  # a pipe would let whoever opens it wait for ever
        return "not a clip", "is a device or a pipe"
    known = path.name in OWN_NAMES or path.suffix.lower() in (*ENDINGS, ".txt", ".jsonl", ".csv")
    return None if known else ("not a clip", "is neither a clip nor a caption")


def weighted(groups: Sequence[tuple[Group, list[Sample]]]) -> tuple[Sample, ...]:
    """Where folders have weights, repeats that give each its share; an epoch is as long as without them."""
    everything = [sample for _, samples in groups for sample in samples]
    if all(group.weight is None for group, _ in groups):
        return tuple(everything)
    total = sum(group.weight or 1.0 for group, samples in groups if samples)
    result = []
    for group, samples in groups:
        share = (group.weight or 1.0) / total
        result += [
            replace(sample, repeats=sample.repeats * share * len(everything) / len(samples))
            for sample in samples
        ]
    return tuple(result)


# --- what is held out -------------------------------------------------------------------------------------------------


def hold_out(samples: Sequence[Sample], share: float | list[str] | None) -> tuple[Sample, ...]:
    """By the names, so that a clip that is added moves no other. Never all of them."""
    if isinstance(share, list):
        names = set(share)
        if missing := names - {sample.name for sample in samples}:
            remedy = "name clips of the dataset, as `linnet data check` does"
            raise InvalidInput("held_out", in_a_row(sorted(missing)), "is no clip of the dataset", remedy)
    else:
        share = (HELD_OUT if len(samples) >= FEW else 0.0) if share is None else share
        count = min(len(samples) - 1, max(1, round(share * len(samples)))) if share else 0
        ranked = sorted(
            samples, key=lambda sample: hashlib.sha256(sample.name.encode("utf-8", "replace")).digest()
        )
        names = {sample.name for sample in ranked[:count]}
    if samples and len(names) == len(samples):
        raise InvalidInput("held_out", len(names), "leaves no clip to train on", "hold out fewer")
    return tuple(replace(sample, held_out=sample.name in names) for sample in samples)

"""Profiles that `linnet tune` measured on this machine, kept in the cache folder, a file each. No torch.

A profile holds for what it was measured of: these weights, this size and length, this card and dtype, and these
versions of torch and linnet. For anything else it is not used, and the person is told why.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from linnet.errors import InvalidInput
from linnet.filesystem import make_folder, write_text
from linnet.geometry import Size, format_seconds, seconds_of
from linnet.plan.host import cache_folder
from linnet.records import read_object_or_nothing

NAMES = ("fast", "draft")  # exact is the model's own


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured. `weights` is the fingerprint of all files; `card` the hardware's name for itself."""

    model: str
    weights: str
    width: int
    height: int
    frames: int
    card: str
    dtype: str
    torch: str
    linnet: str

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def key(self) -> str:
        """A short name for exactly this."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def other_than(self, measured: "Subject") -> list[str]:
        """In which of its parts it is not what was measured, in words."""
        lengths = [f"{format_seconds(seconds_of(each.frames))} s" for each in (measured, self)]
        differences = []
        if self.weights != measured.weights:
            differences.append("other weights")
        for part, then, now in (
            ("size", measured.size, self.size),
            ("length", *lengths),
            ("card", measured.card, self.card),
            ("dtype", measured.dtype, self.dtype),
            ("torch", measured.torch, self.torch),
            ("linnet", measured.linnet, self.linnet),
        ):
            if then != now:
                differences.append(f"another {part} ({then}, and this is {now})")
        return differences


@dataclass(frozen=True, kw_only=True)
class TunedProfile:
    """`settings` are fields of a request that differ from the exact profile; `compiled` and `fp8` are how the
    transformer ran, None as planned. `faster` is how many times faster than exact it was, `figures` what was measured
    on the held-out clips."""

    name: str
    subject: Subject
    settings: Mapping[str, Any]
    compiled: bool | None = None
    fp8: bool = False
    faster: float
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """What a clip says of it, the same wherever the clip is made."""
        return {
            "name": self.name,
            "tuned": self.subject.key,
            "settings": dict(self.settings),
            "faster": self.faster,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """From the file's record; TypeError or KeyError if it is none."""
        subject = Subject(**{each.name: record["subject"][each.name] for each in fields(Subject)})
        return cls(**{**record, "subject": subject})


def keep(profile: TunedProfile, folder: Path | None = None) -> Path:
    """Write the profile into its own file, in the place of an earlier one of the same subject; the file."""
    path = path_of(profile.name, profile.subject, folder)
    make_folder(path.parent, field="profile")
    write_text(path, json.dumps(asdict(profile), indent=1), field="profile")
    return path


def kept(model: str, name: str, folder: Path | None = None) -> list[TunedProfile]:
    """All profiles of that name that were measured of the model here, the latest first; a spoilt file is none."""
    folder, dated = folder or cache_folder(), []
    for path in folder.joinpath("profiles").glob(f"{model}-{name}-*.json") if folder else ():
        try:
            profile = TunedProfile.from_json(read_object_or_nothing(path.read_text("utf-8")))
            dated.append((path.stat().st_mtime, profile))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return [profile for _, profile in sorted(dated, key=lambda pair: -pair[0]) if profile.name == name]


def path_of(name: str, subject: Subject, folder: Path | None = None) -> Path:
    return own_folder(folder) / "profiles" / f"{subject.model}-{name}-{subject.key}.json"


def own_folder(folder: Path | None = None) -> Path:
    """Where profiles and their measurements are kept; InvalidInput where there is no place."""
    if own := folder or cache_folder():
        return own
    raise InvalidInput(
        "profile", "", "cannot be kept: there is no home folder", "set LINNET_CACHE to a folder"
    )

"""What comes back: the progress of a run, and the finished video with the record that it carries."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from linnet.errors import Cancelled, InvalidInput
from linnet.request import Request

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    Image = UInt8[np.ndarray, "H W 3"]
else:
    Image = Any  # whoever completes a command imports this, and has no time for numpy

Stage = Literal["load", "encode", "text", "compile", "denoise", "decode"]
# Stages that come between the others, and only where something is not ready.
BEFORE = ("load", "encode", "compile")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` parts of a stage; while denoising, `preview` decodes what the first frame will look like.
    With a `note`, words for a person, it tells of that alone. `part`: of the model, of which weights are read."""

    stage: Stage
    done: int
    total: int
    preview: Callable[[], Image] | None = None
    note: str = ""
    part: str = ""

    def cancel(self) -> NoReturn:
        """Stop the run, in whose caller it raises Cancelled."""
        raise Cancelled("cancelled; no file of this clip was written")


Watch = Callable[[Progress], object]  # whose result does not matter


def ignore(progress: Progress) -> None:
    """Watch nothing."""


GENERATED = "AI-generated video"
LONGEST_SLUG = 120  # bytes: with the seed, the ending and a temporary name, within a file system's 255


def default_name(request: Request) -> str:
    """The default name of a clip: the prompt's words and the seed."""
    words = re.sub(r"\W+", "-", request.prompt.lower()).strip("-")
    slug = words.encode()[:LONGEST_SLUG].decode(errors="ignore").rstrip("-")
    return f"{slug or 'clip'}-{request.seed}.mp4"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """`model_hash` is the fingerprint of the weights; `choices` is whatever the run decided by itself and
    must repeat to give the same bytes; `direction` is what it was made from beside its prompt, such as an image, if
    there was anything; `seconds` is the time each stage took and is never written into
    the file, so that the same request gives the same bytes. Frames are encoded while others are decoded: "decode" is
    the time that decoding took, "write" the time by which the file was complete later. `overlapped` are seconds of work
    beside the stages: those of the "encoder"."""

    path: Path
    request: Request
    model_hash: str
    version: str
    choices: dict[str, Any] = field(default_factory=dict)
    direction: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    overlapped: dict[str, float] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """What goes inside the file, in plain JSON values."""
        return {
            "linnet": self.version,
            "generated": GENERATED,
            "model": self.request.model,
            "weights": self.model_hash,
            "request": self.request.to_json(),
            "choices": self.choices,
            **({"direction": self.direction} if self.direction else {}),
        }

    @classmethod
    def from_metadata(cls, path: Path, metadata: Mapping[str, Any] | None) -> Self:
        """The clip at `path`, from the record inside it; InvalidInput when there is none or a bad one."""
        record = metadata or {}
        direction = record.get("direction")
        if not isinstance(record.get("request"), Mapping) or not isinstance(record.get("choices"), Mapping):
            raise InvalidInput("file", path, "holds no linnet request", "use a clip that linnet generated")
        return cls(
            path=path,
            request=Request.from_json(record["request"]),
            model_hash=str(record.get("weights", "")),
            version=str(record.get("linnet", "")),
            choices=dict(record["choices"]),
            direction=dict(direction) if isinstance(direction, Mapping) else {},
        )

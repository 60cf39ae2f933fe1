"""What the commands share that start from a clip: the clip's own request, the model, the run."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from linnet.catalog import ModelSpec, find
from linnet.cli import fail
from linnet.cli.prompts import check_prompts
from linnet.cli.terminal import bars, note
from linnet.cli.watching import tell_made, telling
from linnet.clip import Clip
from linnet.errors import InvalidInput
from linnet.geometry import seconds_of
from linnet.request import Request, make_request
from linnet.weights.store import default_model
from linnet.wording import format_seconds

if TYPE_CHECKING:
    from linnet.direct.conditions import Conditioning
    from linnet.direct.footage import Source
    from linnet.pipeline import Pipeline
    from linnet.progress import Watch


def earlier_clip(file: Path) -> Clip | None:
    """The record inside a clip, if it is one of linnet's; a file that is no clip is refused."""
    from linnet.inputs.reader import read_metadata

    record = read_metadata(file)
    with suppress(InvalidInput):
        return Clip.from_metadata(file, record)
    return None


def model_for(name: str | None, earlier: Clip | None, weights: Path | None) -> ModelSpec:
    """As asked, else the one that made the clip, else what is here."""
    if name is None and earlier:
        return find(earlier.request.model)
    return find(name) if name else default_model(weights)[0]


def needs_prompt(file: Path, option: str = "prompt") -> InvalidInput:
    return InvalidInput(
        option, "", f"is not in {file}, which linnet did not make", f"say what it shows with --{option}"
    )


def remaking(
    spec: ModelSpec,
    file: Path,
    output: Path,
    *,
    fit: str | None,
    overwrite: bool,
    profile: str | None,
    seed: int | None,
    **settings: Any,
) -> tuple[Request, "Source", int]:
    """The request for a clip that is made of a whole other one, what it is made of, and how many of that one's last
    frames the model's grid leaves out. Without a profile it is exact, whatever the `like` of the settings was."""
    from linnet.direct.conditions import check_fit
    from linnet.direct.footage import length_for, open_source
    from linnet.media import check_target

    settings |= {"profile": profile or "exact", "reuse": "none", "loop": False, "onward": False}
    first = make_request(spec, seed=seed, frames=spec.default_frames, **settings)
    source = open_source(file, first.size, spec.fps, check_fit(fit))
    check_target(output, size=first.size, overwrite=overwrite)
    frames = length_for(spec, file, len(source.order))
    request = make_request(spec, frames=frames, **settings, seed=first.seed)
    return request, source, len(source.order) - frames


class Place(NamedTuple):
    """Where the model lies, and on what it runs."""

    weights: Path | None
    device: str
    threads: int | None
    vram: int | None
    ram: int | None


def opened(
    spec: ModelSpec, prompts: Mapping[str, str], place: Place, *, anyway: bool, quiet: bool
) -> "Pipeline":
    """The model, which knows the words of the prompts; each is named as the person gave it."""
    from linnet import load

    pipeline = load(spec.name, **place._asdict())
    check_prompts(pipeline, prompts, anyway=anyway, quiet=quiet)
    return pipeline


def go(
    pipeline: "Pipeline",
    request: Request,
    way_of: Callable[[], "Conditioning"],
    output: Path,
    *,
    left_out: int,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Take a clip that way, of which the last `left_out` frames do not fit the model's grid."""

    def make(watch: "Watch") -> None:
        way = way_of()
        cut = (f"its last {left_out} frames are left out: the model makes 4k+1",) if left_out else ()
        for line in () if quiet else (*way.notes, *cut):
            note(f"note: {line}")
        way.generate(pipeline, output, overwrite=overwrite, watch=watch)

    run(pipeline, make, output, request=request, quiet=quiet, as_json=as_json)


def run(
    pipeline: "Pipeline",
    make: Callable[["Watch"], object],
    output: Path,
    *,
    request: Request,
    quiet: bool,
    as_json: bool,
    added: float = 0.0,
    notes: Sequence[str] = (),
) -> None:
    """Make the clip behind bars, and say what it is and where. `added`: seconds of it that are new, if not all are."""
    for line in () if quiet else notes:
        note(f"note: {line}")
    begun = time.monotonic()
    try:
        with bars(quiet=quiet or as_json) as show:
            make(telling(show, pipeline))
    except KeyboardInterrupt:
        fail("stopped; nothing was written", 130)
    spent = time.monotonic() - begun
    if as_json:
        print(json.dumps({"path": str(output), **record_of(output)}))
        return
    if not quiet:
        what, seconds = (
            (f"{format_seconds(added)} s added, now ", length_of(output)) if added else ("", request.seconds)
        )
        tell_made(what, seconds, request.size, spent, seed=request.seed)
    print(output)


def length_of(clip: Path) -> float:
    """In seconds."""
    from linnet.media import probe

    found = probe(clip)
    return seconds_of(found.frames, round(found.fps))


def record_of(output: Path) -> dict[str, Any]:
    from linnet.media import read_metadata

    return read_metadata(output) or {}


def beside(file: Path, word: str) -> Path:
    """The usual name of what is made from a clip."""
    return file.with_name(f"{file.stem}-{word}.mp4")

"""What the commands share that start from a clip: the run, and what is printed of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from linnet.cli import fail
from linnet.cli.options import ClipOptions
from linnet.cli.terminal import bars, note, starting, tell_made, telling
from linnet.geometry import seconds_of
from linnet.wording import format_seconds

if TYPE_CHECKING:
    from linnet.prepare_direct import PreparedClip


def run(prepare: Callable[..., "PreparedClip"], result: ClipOptions) -> None:
    """Make the clip, with progress bars, and print its path. `prepare` is one of linnet.prepare_direct, which lacks
    `overwrite` and `anyway` alone."""
    quiet, as_json = result.quiet, result.as_json
    with starting(quiet=quiet or as_json):
        ready = prepare(overwrite=result.overwrite, anyway=result.anyway)

    def tell(line: str) -> None:
        if not quiet:
            note(f"note: {line}")

    for line in () if quiet else ready.notes:
        note(line)
    begun = time.monotonic()
    try:
        with bars(quiet=quiet or as_json) as show:
            clip = ready.make(telling(show), tell)
    except KeyboardInterrupt:
        fail("stopped; nothing was written", 130)
    spent = time.monotonic() - begun
    if as_json:
        print(json.dumps({"path": str(clip.path), **clip.metadata()}))
        return
    if not quiet:
        request, what, seconds = clip.request, "", clip.request.seconds
        if ready.added:
            what, seconds = f"{format_seconds(ready.added)} s added, now ", length_of(clip.path)
        tell_made(what, seconds, request.size, spent, seed=request.seed)
    print(clip.path)


def length_of(clip: Path) -> float:
    """In seconds."""
    from linnet.media import probe

    facts = probe(clip)
    return seconds_of(facts.frames, round(facts.fps))

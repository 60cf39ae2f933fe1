"""How long a clip takes here: measured on those that were made, and estimated for those that were not."""

import sqlite3
from dataclasses import replace

from linnet.plan.passes import DRAFT_STEPS, DRAFT_STRENGTH, DRAWS, early, forwards, left
from linnet.request import Request
from linnet.serve.database import Database
from linnet.serve.jobs import InputReference

LATER = ("decode", "finish")  # the stages behind denoising, in their order


class PaceTable(Database):
    """What the last clip of each kind took."""

    def note_first_pace(self, request: Request, seconds: dict[str, float]) -> None:
        """What a clip took that nobody asked for, if it is the first of its model."""
        with self._writing() as db:
            if not db.execute("SELECT 1 FROM paces WHERE model = ?", (request.model,)).fetchone():
                self.note_pace(db, request, passes(request), seconds)

    def note_pace(
        self, db: sqlite3.Connection, request: Request, through: int, seconds: dict[str, float]
    ) -> None:
        denoise = seconds.get("denoise", 0.0)
        db.execute(
            "INSERT OR REPLACE INTO paces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(request.model, request.width, request.height, request.frames),
                *(request.steps, through, denoise / through),
                *(sum(seconds.values()) - denoise, self.clock.wall()),
                *(seconds.get(stage) for stage in LATER),
            ),
        )

    def speed(self, request: Request, given: InputReference | None = None) -> tuple[float, bool] | None:
        """Seconds that a clip like this one takes here, and whether just such a one was made; else it is
        reckoned from the last of the same model, in proportion to pixels, frames and passes. None before the first."""
        through = passes(request, given)
        if (like := self._last_like(request, through)) is None:
            return None
        last, scale = like
        same = last["alike"] and (last["steps"], last["passes"]) == (request.steps, through)
        return scale * (last["pass"] * through + last["rest"]), bool(same)

    def speed_behind(self, request: Request, stage: str, given: InputReference | None = None) -> float | None:
        """Seconds that the stages behind this one take here, reckoned as in `speed`; None before the first."""
        through = passes(request, given)
        if (like := self._last_like(request, through)) is None:
            return None
        last, scale = like
        took = [last[later] for later in LATER[LATER.index(stage) + 1 if stage in LATER else 0 :]]
        if stage == "text":
            took.append(last["pass"] * through)
        return None if None in took else scale * sum(took)

    def _last_like(self, request: Request, through: int) -> tuple[sqlite3.Row, float] | None:
        """The last clip of this size and way, or else of this size, or else of its model, and how much larger this one
        is."""
        rows = self._rows(
            "SELECT *, width = ? AND height = ? AND frames = ? AS alike FROM paces WHERE model = ? "
            "ORDER BY alike DESC, alike AND steps = ? AND passes = ? DESC, at DESC LIMIT 1",
            *(request.width, request.height, request.frames, request.model, request.steps, through),
        )
        if not rows:
            return None
        last = rows[0]
        return last, request.size.pixels * request.frames / (last["width"] * last["height"] * last["frames"])


def passes(request: Request, given: InputReference | None = None) -> int:
    """Through the model, in all steps: what the time of a clip goes by."""
    each = forwards(request)
    if given is None:
        return sum(each)
    if given.strength is not None:
        draft = forwards(replace(request, steps=DRAFT_STEPS))[-left(DRAFT_STRENGTH, DRAFT_STEPS) :]
        looks = 2 * DRAWS + sum(draft) + len(draft)  # where, and then with the prompt and without
        return looks + sum(each[-left(given.strength, request.steps) :])
    twice = each[1 : early(request.steps)]  # see KeptFrames
    return sum(each) + sum(twice)

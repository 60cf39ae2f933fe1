"""A reader of theatre clips: whether what was asked for is there, from the pixels alone.

It knows what was asked for, and looks for that. A thing is right if the sprite asked for explains enough of what is
there (`SURE`), and no other thing explains more. Of place and motion it takes the nearest of all.

Axes: F frames, c colour channels, h w rows and columns that are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from linnet.data.theatre.places import PLACES
from linnet.data.theatre.render import Scenery
from linnet.data.theatre.scene import Scene
from linnet.data.theatre.things import THINGS
from linnet.evaluate.theatre.correlation import Frames
from linnet.evaluate.theatre.motions import Track, read_motion
from linnet.evaluate.theatre.places import SCALE, PlaceReader, readable
from linnet.evaluate.theatre.things import (
    HALVED,
    LIKER,
    SEEN,
    SURE,
    TREE_WANTED,
    Sighting,
    SpriteReader,
    Template,
    Wanted,
    upright,
    wanted,
)

MOMENTS = tuple(range(0, 49, 4))  # frames that are looked at
FEWER = tuple(range(0, 49, 8))  # the same where there are several things
WHOLE = 0.85  # of a thing must be inside the frame to tell it from others
SHOWN = 0.6  # of it must not be behind the tree
THIRDS = 2  # of the clip's three, in which a thing must be right: one look may deceive
HIDES = 0.5  # of a sprite's cover, from which on what is behind cannot be seen


@dataclass(frozen=True)
class Seen:
    """A thing that was asked for: its best score, what is most like it, and whether it is right at the beginning, in
    the middle and at the end of the clip (None where it is not whole)."""

    thing: str
    score: float
    like: str
    right_at: tuple[bool | None, bool | None, bool | None]

    @property
    def right(self) -> bool:
        return self.score >= SURE and self.right_at.count(True) >= THIRDS


@dataclass(frozen=True)
class Reading:
    """`things` in the order of `wanted`."""

    things: tuple[Seen, ...]
    backdrop: str
    motion: str

    def verdicts(self, scene: Scene) -> dict[str, bool]:
        """What is right; "same" is asked of a thing that passes behind a tree: it is right before it and after it."""
        right = {
            "thing": all(seen.right for seen in self.things),
            "place": self.backdrop == scene.backdrop,
            "motion": self.motion == scene.motion,
        }
        right["all"] = all(right.values())
        if scene.motion == "hides":
            before, _, after = self.things[0].right_at
            right["same"] = bool(before and after) and right["thing"]
        return right


class TheatreReader:
    def __init__(
        self, scenery: Scenery, things: Sequence[str] = tuple(THINGS), places: Sequence[str] = tuple(PLACES)
    ) -> None:
        """`things` and `places`: all that there may be."""
        self.sprites, self.places = SpriteReader(scenery, things), PlaceReader(scenery, places)

    def read(self, clip: UInt8[np.ndarray, "f H W 3"], scene: Scene) -> Reading:
        """`scene` is what was asked for."""
        targets = wanted(scene)
        frames = [number for number in (MOMENTS if len(targets) == 1 else FEWER) if number < len(clip)]
        backdrop = self.places.read(clip)
        layers = Layers(
            readable(clip, frames, self.places.device),
            self.places.bare(backdrop, frames),
            self.places.light(backdrop),
            self.sprites,
        )
        if scene.motion == "hides":
            tree = self.sprites.best(
                layers.frames(), upright(TREE_WANTED), [part * TREE_WANTED.side for part in (0.85, 1.0, 1.17)]
            )
            layers.add(tree)
        rotates = bool({"spins", "rolls"} & set(THINGS[scene.thing].motions))
        tracks = self.tracks_of(layers, targets, rotates)
        seen = tuple(self.looked_at(layers, tracks, number, thing) for number, thing in enumerate(targets))
        first = tracks[0]
        if scene.count > 1:  # alike as they are, they are told apart by their order
            first = [min(sights, key=lambda sight: sight.x) for sights in zip(*tracks, strict=True)]
        track = Track.of(first, backdrop.camera(frames))
        return Reading(seen, backdrop.scene.backdrop, read_motion(scene, track, frames))

    def tracks_of(self, layers: "Layers", targets: Sequence[Wanted], rotates: bool) -> list[list[Sighting]]:
        """The track of each thing. Of several, the one that is seen best comes first; the next are looked for before
        and behind it, and the first once more."""
        tracks: list[list[Sighting] | None] = [None] * len(targets)
        best = 0
        while None in tracks:
            others = [track for track in tracks if track]
            options = {
                number: self.tracked(layers, others, thing, rotates and number == 0)
                for number, thing in enumerate(targets)
                if tracks[number] is None
                and thing not in [targets[n] for n in range(number) if tracks[n] is None]
            }
            best = max(
                options, key=lambda number: float(np.median([sight.score for sight in options[number]]))
            )
            tracks[best] = options[best]
        complete = [track for track in tracks if track is not None]
        if len(targets) == 2:  # what came first did not know the other
            first = 1 - best
            complete[first] = self.tracked(layers, [complete[best]], targets[first], rotates and first == 0)
        return complete

    def tracked(
        self, layers: "Layers", others: Sequence[Sequence[Sighting]], thing: Wanted, rotates: bool
    ) -> list[Sighting]:
        """Of what it is before the others, and behind them, the better in each frame."""
        if not others:
            return self.sprites.track(layers.frames(), thing, rotates=rotates)
        ways = [
            self.sprites.track(layers.with_others(others, behind=behind).frames(), thing, rotates=rotates)
            for behind in (False, True)
        ]
        return [max(pair, key=lambda sight: sight.score) for pair in zip(*ways, strict=True)]

    def looked_at(
        self, layers: "Layers", tracks: Sequence[Sequence[Sighting]], number: int, thing: Wanted
    ) -> Seen:
        """Whether a thing is the one that was asked for, where it is seen best in each third of the clip."""
        own, others = tracks[number], [track for n, track in enumerate(tracks) if n != number]
        ways = [
            layers.with_others(others, behind=behind).frames()
            for behind in ((False, True) if others else (False,))
        ]
        score = max(sight.score for sight in own)
        least = min(WHOLE, max(sight.inside for sight in own if sight.score >= score - 0.1) - 0.05)
        right_at: list[bool | None] = []
        like = ""
        for third in np.array_split(np.arange(len(own)), 3):
            whole = [n for n in third.tolist() if own[n].inside >= least and own[n].score >= SEEN]
            right, liker = self.right_in(ways, own, whole, thing)
            if right is False and layers.seen is not None:  # nothing is wrong for being behind the tree
                shown = [n for n in whole if layers.shown(n, own[n]) >= SHOWN]
                right, liker = self.right_in(ways, own, shown, thing)
            right_at.append(right)
            if liker:
                like = " ".join(filter(None, (liker.spoilt, liker.tint, liker.thing)))
        before, middle, after = right_at
        return Seen(thing.thing, round(score, 3), like or thing.thing, (before, middle, after))

    def right_in(
        self, ways: Sequence[Frames], own: Sequence[Sighting], numbers: Sequence[int], thing: Wanted
    ) -> tuple[bool | None, Template | None]:
        """Whether it is the thing in the frame in which it is seen best, if there is one, and what is more like it."""
        best = max(numbers, key=lambda number: own[number].score, default=None)
        if best is None:
            return None, None
        mine = own[best].score
        tables = [self.sprites.likeness(layered.frame(best), own[best]) for layered in ways]
        table = max(tables, key=lambda pairs: pairs[0][0])
        likers = (
            other for more, other in table if not same(other, thing) and more > mine + allowed(other, thing)
        )
        liker = next(likers, None)
        return liker is None and mine >= SURE - 0.02, liker


def same(template: Template, thing: Wanted) -> bool:
    return (template.thing, template.tint, template.spoilt) == (thing.thing, thing.tint, "")


def allowed(other: Template, thing: Wanted) -> float:
    """By how much something else may explain more."""
    if other.thing != thing.thing or other.spoilt == "smeared":
        return 0.0
    return HALVED if other.spoilt else LIKER


@dataclass
class Layers:
    """Frames, the empty place behind them, and what stands in front of it."""

    x: Float[Tensor, "F c h w"]
    bare: Float[Tensor, "F c h w"]
    light: Float[Tensor, "c"]
    sprites: SpriteReader
    seen: Float[Tensor, "F h w"] | None = None

    def frames(self) -> Frames:
        return Frames.of(self.x, self.bare, self.light, self.seen)

    def add(self, track: Sequence[Sighting]) -> None:
        """Something that is in front of all that is looked for."""
        new = self.with_others([track], behind=True)
        self.bare, self.seen = new.bare, new.seen

    def shown(self, frame: int, sight: Sighting) -> float:
        """The share of a thing that nothing which was added hides."""
        if self.seen is None:
            return 1.0
        picture, rows, columns = placed(self.sprites, sight, self.seen.shape[1:])
        cover = picture[3]
        return float((cover * self.seen[frame, rows, columns]).sum() / cover.sum().clamp(min=1e-3))

    def with_others(self, others: Sequence[Sequence[Sighting]], *, behind: bool) -> "Layers":
        """The place with other things drawn into it; `behind`: what is looked for is behind them."""
        if not others:
            return self
        bare = self.bare.clone()
        seen = torch.ones_like(bare[:, 0]) if self.seen is None else self.seen.clone()
        for track in others:
            for frame, sight in enumerate(track):
                if sight.score > SEEN:
                    draw(bare[frame], seen[frame], self.sprites, sight, self.light, behind=behind)
        return replace(self, bare=bare, seen=seen)


def placed(
    sprites: SpriteReader, sight: Sighting, size: Sequence[int]
) -> tuple[Float[Tensor, "4 rows columns"], slice, slice]:
    """What is inside the frame of a thing that was found, and where."""
    side = round(sight.side / SCALE)
    (picture,) = sprites.pictures((sight.template,), side)
    left, top = (round(middle / SCALE - side / 2) for middle in (sight.x, sight.y))
    height, width = size
    rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
    return (
        picture[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left],
        rows,
        columns,
    )


def draw(
    bare: Float[Tensor, "c h w"],
    seen: Float[Tensor, "h w"],
    sprites: SpriteReader,
    sight: Sighting,
    light: Float[Tensor, "c"],
    *,
    behind: bool,
) -> None:
    """Put a thing that was found into the empty place, in place."""
    picture, rows, columns = placed(sprites, sight, seen.shape)
    part = bare[:, rows, columns]
    bare[:, rows, columns] = picture[:3] * light[:, None, None] + (1 - picture[3]) * part
    if behind:
        seen[rows, columns] *= (picture[3] < HIDES).float()

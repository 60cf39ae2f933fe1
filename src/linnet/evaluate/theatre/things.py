"""Where a thing is in the frames of a clip, and whether another thing is not more like what is there.

Axes: N templates, F frames, h w rows and columns that are read, S a sprite's side.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linnet.data.theatre import HEIGHT, WIDTH
from linnet.data.theatre.render import Scenery
from linnet.data.theatre.scene import SIZES, Scene
from linnet.data.theatre.stage import INDEX, TREE, TREE_SIZE
from linnet.data.theatre.things import THINGS, TINTS
from linnet.evaluate.theatre.correlation import (
    BORDER_X,
    BORDER_Y,
    Frames,
    Kernels,
    about,
    everywhere,
    transformed,
)
from linnet.evaluate.theatre.places import SCALE

STEPS = (0.4, 0.48, 0.57, 0.69, 0.83, 1.0, 1.2, 1.44, 1.73)  # of a thing's own size: shrunk to grown
SAME_SIZE = STEPS[2:8]  # of what neither grows nor shrinks, in a camera that zooms
FINER = (0.92, 1.09)  # between two steps
SEEN = 0.50  # a score from which on there is a sprite
SURE = 0.72  # a score from which on it is the sprite asked for, and not a smeared one
LIKER = 0.02  # by how much the same thing in another tint may be more like what is there
HALVED = 0.05  # the same for a half of it: something may hide the other
ABOUT = (0.85, 1.0, 1.17)  # of its side: sizes in which another thing may be there
REACH, STRIDE = 4, 2  # read pixels to each side that another thing may be away
Spoilt = Literal["", "smeared", "left half", "right half", "upper half", "lower half"]
SPOILT: tuple[Spoilt, ...] = get_args(Spoilt)[1:]
SMEARED = 6  # of a sprite's side: how far the colours of a smeared one are spread
ANGLES = tuple(math.pi / 4 * n for n in range(1, 8))
FINER_ANGLES = tuple(math.pi / 24 * n for n in (-2, -1, 1, 2))
SMALLEST = 6  # read pixels


@dataclass(frozen=True)
class Template:
    thing: str
    tint: str = ""
    flipped: bool = False
    angle: float = 0.0
    spoilt: Spoilt = ""


@dataclass(frozen=True)
class Sighting:
    """A sprite in a frame: its middle and side in pixels, and how much of what is there it explains."""

    template: Template
    side: float
    x: float
    y: float
    score: float

    @property
    def inside(self) -> float:
        """The share of it that is inside the frame."""
        shares = (
            (min(middle + self.side / 2, length) - max(middle - self.side / 2, 0)) / self.side
            for middle, length in ((self.x, WIDTH), (self.y, HEIGHT))
        )
        return math.prod(max(0.0, share) for share in shares)


@dataclass(frozen=True)
class Wanted:
    """One of the things that were asked for, its side in pixels, and whether it may grow or shrink."""

    thing: str
    tint: str
    side: float
    grows: bool = False

    @property
    def sides(self) -> list[float]:
        return [step * self.side for step in (STEPS if self.grows else SAME_SIZE)]


def wanted(scene: Scene) -> list[Wanted]:
    """Every thing of a scene, the one that moves first."""
    thing = THINGS[scene.thing]
    own = Wanted(scene.thing, scene.tint, thing.size * SIZES[scene.size], "grows" in thing.motions)
    others = [Wanted(scene.other, "", THINGS[scene.other].size)] if scene.other else []
    return [own] * scene.count + others


class SpriteReader:
    def __init__(self, scenery: Scenery, names: Sequence[str] = tuple(THINGS)) -> None:
        self.sprites, self.names = scenery.sprites[:, 0], names
        self.device = scenery.sprites.device
        self.pictures = functools.lru_cache(24)(self._pictures)
        self.kernels = functools.lru_cache(64)(self._kernels)

    def _pictures(self, templates: tuple[Template, ...], side: int) -> Float[Tensor, "N 4 S S"]:
        return torch.cat([self.picture(template, side) for template in templates])

    def _kernels(self, templates: tuple[Template, ...], side: int, size: tuple[int, int]) -> Kernels:
        return transformed(self.pictures(templates, side), size)

    def picture(self, template: Template, side: int) -> Float[Tensor, "1 4 S S"]:
        sprite = self.sprites[INDEX[template.thing]][None]
        if template.tint:
            sprite = tinted(sprite, TINTS[template.tint])
        if template.spoilt:
            sprite = spoil(sprite, template.spoilt)
        sprite = sprite.flip(-1) if template.flipped else sprite
        if template.angle:
            cos, sin = math.cos(template.angle), math.sin(template.angle)
            turn = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]], device=self.device)
            sprite = F.grid_sample(
                sprite, F.affine_grid(turn, list(sprite.shape), align_corners=False), align_corners=False
            )
        return F.interpolate(sprite, (side, side), mode="area")

    def best(self, clip: Frames, templates: Sequence[Template], sides: Sequence[float]) -> list[Sighting]:
        """In each frame, the best of the templates."""
        best: list[Sighting | None] = [None] * len(clip)
        for side in dict.fromkeys(max(SMALLEST, round(full / SCALE)) for full in sides):
            if side > min(clip.size):
                continue
            of = self.kernels(tuple(templates), side, clip.size)
            table = everywhere(clip, of, side)  # N F rows columns
            columns = table.shape[3]
            peaks, at = table.transpose(0, 1).flatten(1).max(1)
            for frame, (peak, position) in enumerate(zip(peaks.tolist(), at.tolist(), strict=True)):
                earlier = best[frame]
                if earlier is None or peak > earlier.score:
                    number, position = divmod(position, table.shape[2] * columns)
                    row, column = divmod(position, columns)
                    x, y = column - BORDER_X + side / 2, row - BORDER_Y + side / 2
                    best[frame] = Sighting(templates[number], SCALE * side, SCALE * x, SCALE * y, peak)
        return [sight for sight in best if sight is not None]

    def track(self, clip: Frames, target: Wanted, *, rotates: bool = False) -> list[Sighting]:
        """Where a thing is in each frame; where it is not, the score says so. `rotates`: also on its side."""
        sights = self.best(clip, upright(target), target.sides)
        if rotates:
            turned = [Template(target.thing, target.tint, False, angle) for angle in ANGLES]
            others = self.best(clip, turned, [step * target.side for step in STEPS[4:7]])
            sights = [max(pair, key=lambda sight: sight.score) for pair in zip(sights, others, strict=True)]
        for number, sight in enumerate(sights):
            if sight.score > SEEN - 0.2:
                alone = clip.frame(number)
                (finer,) = self.best(alone, [sight.template], [part * sight.side for part in FINER])
                sight = max(sight, finer, key=lambda sighting: sighting.score)
                if rotates:
                    turned = [
                        replace(sight.template, angle=sight.template.angle + angle) for angle in FINER_ANGLES
                    ]
                    sight = max(
                        sight, *self.best(alone, turned, [sight.side]), key=lambda sighting: sighting.score
                    )
                sights[number] = sight
        return sights

    def likeness(self, clip: Frames, sight: Sighting) -> list[tuple[float, Template]]:
        """How well each thing explains what is about a sighting in a single frame, best first: each from both sides,
        the same one in every tint, and smeared, and each of its halves alone."""
        thing = THINGS[sight.template.thing]
        tints = ("", *TINTS) if thing.tinted else ("",)
        same = [replace(sight.template, tint=tint) for tint in tints]
        same += [replace(sight.template, spoilt=how) for how in SPOILT]
        others = [
            Template(name, "", flipped)
            for name in self.names
            if name != sight.template.thing
            for flipped in ((False, True) if THINGS[name].faces else (False,))
        ]
        best: dict[Template, float] = {}
        for part in ABOUT:
            side = max(SMALLEST, round(part * sight.side / SCALE))
            left = round(sight.x / SCALE - side / 2) + BORDER_X
            top = round(sight.y / SCALE - side / 2) + BORDER_Y
            for group in (tuple(same), tuple(others)):
                table = about(clip, self.pictures(group, side), left, top, REACH, STRIDE).amax(1)
                for template, score in zip(group, table.tolist(), strict=True):
                    best[template] = max(best.get(template, -1.0), score)
        return sorted(((score, template) for template, score in best.items()), key=lambda pair: -pair[0])


def upright(target: Wanted) -> list[Template]:
    flips = (False, True) if THINGS[target.thing].faces else (False,)
    return [Template(target.thing, target.tint, flipped) for flipped in flips]


def spoil(sprites: Float[Tensor, "N 4 S S"], how: Spoilt, smeared: int = SMEARED) -> Float[Tensor, "N 4 S S"]:
    """Smeared over a share of their side, or a half of them alone."""
    side = sprites.shape[-1]
    if how == "smeared":
        reach = side // (2 * smeared)
        return F.avg_pool2d(F.pad(sprites, [reach] * 4), 2 * reach + 1, 1)
    halved, half = torch.zeros_like(sprites), side // 2
    kept = slice(0, half) if how in ("left half", "upper half") else slice(half, side)
    part = (..., kept) if how in ("left half", "right half") else (..., kept, slice(None))
    halved[part] = sprites[part]
    return halved


def tinted(sprite: Float[Tensor, "1 4 S S"], tint: tuple[int, int, int]) -> Float[Tensor, "1 4 S S"]:
    """As `render.costume` does it."""
    colour = sprite[:, :3]
    bright, dark = colour.amax(1, keepdim=True), colour.amin(1, keepdim=True)
    vivid = ((bright - dark) / bright.clamp(min=1e-4) * 1.25).clamp(max=1)
    paint = torch.tensor(tint, device=sprite.device)[None, :, None, None] / 255
    return torch.cat((torch.lerp(colour, paint * bright, vivid), sprite[:, 3:]), 1)


TREE_WANTED = Wanted(TREE, "", TREE_SIZE)

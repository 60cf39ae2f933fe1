"""A reader of theatre clips: which thing there is, where, and what it does, from the pixels alone.

A place is the nearest of all paintings. A thing is the sprite that best explains what differs from that painting, over
scale, position and side: pixels are fitted as light * sprite + (1 - cover) * (painting + shift), with one light and one
shift for each channel. The score is the share that this explains, a normalised correlation that flat shapes pass too. A
motion is the nearest of those that the thing can do, by its track.

Axes: N templates, K pixels of a template, L positions, c colour channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from linnet.data.theatre import FPS, HEIGHT, WIDTH
from linnet.data.theatre.places import PLACES, PLAIN, TIMES, WEATHERS
from linnet.data.theatre.render import Scenery, render
from linnet.data.theatre.scene import VARIANTS, Scene
from linnet.data.theatre.stage import INDEX, actors, set_stage
from linnet.data.theatre.things import THINGS

SCALE = 2  # pixels of the frame for one that is read
SIDES = (30.0, 36.0, 43.0, 51.0, 60.0, 71.0, 84.0, 100.0, 118.0)  # pixels of the frame
RING = 0.10  # of the side: how far around a sprite the background counts
DARKEST, BRIGHTEST = 0.55, 1.15  # the light in which a sprite may be
SHIFT = 0.12  # of a painting's colours, at most
SEEN = 0.50  # a score from which on there is a sprite
SURE = 0.70  # a score from which on it is the sprite asked for, and not a smeared one
ANGLES = tuple(math.pi / 4 * n for n in range(1, 8))
MOMENTS = tuple(range(0, 49, 4))


@dataclass(frozen=True)
class Sighting:
    """A sprite in a frame: its middle and its side in pixels, and how much of what is there it explains."""

    thing: str
    flipped: bool
    side: float
    angle: float
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Template:
    thing: str
    flipped: bool
    angle: float


class SpriteReader:
    def __init__(self, scenery: Scenery, names: Sequence[str] = tuple(THINGS)) -> None:
        self.sprites, self.names = scenery.sprites[:, 0], names
        self.device = scenery.sprites.device

    def picture(self, template: Template, side: int) -> Float[Tensor, "4 S S"]:
        sprite = self.sprites[INDEX[template.thing]][None]
        sprite = sprite.flip(-1) if template.flipped else sprite
        if template.angle:
            cos, sin = math.cos(template.angle), math.sin(template.angle)
            turn = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]], device=self.device)
            grid = F.affine_grid(turn, list(sprite.shape), align_corners=False)
            sprite = F.grid_sample(sprite, grid, align_corners=False)
        return F.interpolate(sprite, (side, side), mode="area")[0]

    def scores(
        self,
        frame: Float[Tensor, "c H W"],
        bare: Float[Tensor, "c H W"],
        templates: Sequence[Template],
        side: int,
        stride: int,
    ) -> Float[Tensor, "N rows columns"]:
        """What each template of so many (read) pixels explains at each position of its upper left corner."""
        pictures = torch.stack([self.picture(template, side) for template in templates])
        cover = pictures[:, 3:]
        reach = max(1, round(RING * side))
        weight = (F.max_pool2d(cover, 2 * reach + 1, 1, reach) > 0.3).float().flatten(1)
        colour, around = pictures[:, :3].flatten(2), (1 - cover[:, 0]).flatten(1)
        patches, both, empties = (
            F.unfold(picture[None], side, stride=stride)[0].unflatten(0, (3, -1))  # c K L
            for picture in (frame, frame * bare, bare)
        )
        count = weight.sum(1)[:, None]
        unexplained = total = torch.zeros((), device=self.device)
        weighted = weight * around
        qq = (weighted * around).sum(1)[:, None].clamp(min=1e-3)
        for channel in range(3):
            pixels, own, empty = patches[channel], colour[:, channel], empties[channel]
            # The frame without what would be seen around the sprite: x = frame - (1 - cover) * bare.
            xb = weight @ both[channel]
            px = (weight * own) @ pixels - (weighted * own) @ empty
            qx = weighted @ pixels - (weighted * around) @ empty
            xx = weight @ pixels.square() - 2 * (weighted @ both[channel])
            xx = xx + (weighted * around) @ empty.square()
            pp = (weight * own * own).sum(1)[:, None]
            pq = (weighted * own).sum(1)[:, None]
            light = (px - qx * pq / qq) / (pp - pq * pq / qq).clamp(min=1e-3)
            light = light.clamp(DARKEST, BRIGHTEST)
            shift = ((qx - light * pq) / qq).clamp(-SHIFT, SHIFT)
            rest = xx - 2 * (light * px + shift * qx)
            rest = rest + light.square() * pp + 2 * light * shift * pq + shift.square() * qq
            unexplained = unexplained + rest
            # What there is to be explained: all that differs from the bare place.
            first = weight @ pixels - (weight) @ empty
            second = weight @ pixels.square() - 2 * xb + (weight) @ empty.square()
            total = total + second - first.square() / count
        score = 1 - unexplained / (total + 0.004 * count)
        rows = (frame.shape[1] - side) // stride + 1
        return score.unflatten(1, (rows, -1))

    def sightings(
        self,
        frame: Float[Tensor, "c H W"],
        bare: Float[Tensor, "c H W"],
        templates: Sequence[Template],
        sides: Sequence[float] = SIDES,
    ) -> list[Sighting]:
        """The best sighting of each template, best first. `frame` is in 0..1, at the size that is read."""
        best: dict[Template, Sighting] = {}
        for full in sides:
            side = round(full / SCALE)
            if side > min(frame.shape[1:]):
                continue
            stride = max(1, side // 9)
            scores = self.scores(frame, bare, templates, side, stride)
            peaks, at = scores.flatten(1).max(1)
            columns = scores.shape[2]
            for template, peak, where in zip(templates, peaks.tolist(), at.tolist(), strict=True):
                if template not in best or peak > best[template].score:
                    x, y = (stride * n + side / 2 for n in (where % columns, where // columns))
                    best[template] = sighting(template, SCALE * side, SCALE * x, SCALE * y, peak)
        return sorted(best.values(), key=lambda sight: -sight.score)

    def refined(
        self, frame: Float[Tensor, "c H W"], bare: Float[Tensor, "c H W"], sight: Sighting
    ) -> Sighting:
        """The same thing, looked for more finely about where it was seen."""
        template = Template(sight.thing, sight.flipped, sight.angle)
        best = sight
        for factor in (0.88, 0.94, 1.0, 1.06, 1.12):
            side = round(factor * sight.side / SCALE)
            low_x, low_y = (round(middle / SCALE - side / 2) for middle in (sight.x, sight.y))
            margin = 2 + side // 9
            left, top = max(0, low_x - margin), max(0, low_y - margin)
            rows, columns = slice(top, low_y + side + margin), slice(left, low_x + side + margin)
            part = frame[:, rows, columns]
            if side > min(part.shape[1:]):
                continue
            scores = self.scores(part, bare[:, rows, columns], [template], side, 1)[0]
            peak, where = scores.flatten().max(0)
            if peak.item() > best.score:
                x, y = left + int(where) % scores.shape[1], top + int(where) // scores.shape[1]
                middle = (SCALE * (x + side / 2), SCALE * (y + side / 2))
                best = sighting(template, SCALE * side, *middle, peak.item())
        return best

    def things(
        self, clip: UInt8[np.ndarray, "f H W 3"], bare: Float[Tensor, "c h w"], frames: Sequence[int]
    ) -> list[Sighting]:
        """The best sighting of each thing in any of the frames, best first."""
        templates = [
            Template(name, flipped, 0.0)
            for name in self.names
            for flipped in ((False, True) if THINGS[name].faces else (False,))
        ]
        best: dict[str, Sighting] = {}
        for frame in (readable(clip[number], self.device) for number in frames):
            for sight in self.sightings(frame, bare, templates)[:12]:
                finer = self.refined(frame, bare, sight)
                if finer.thing not in best or finer.score > best[finer.thing].score:
                    best[finer.thing] = finer
        return sorted(best.values(), key=lambda sight: -sight.score)

    def track(
        self,
        clip: UInt8[np.ndarray, "f H W 3"],
        bare: Float[Tensor, "c h w"],
        name: str,
        frames: Sequence[int],
    ) -> list[Sighting]:
        """Where a thing is in each of the frames; where it is not, the score says so."""
        thing = THINGS[name]
        flips = (False, True) if thing.faces else (False,)
        upright = [Template(name, flipped, 0.0) for flipped in flips]
        turned = [Template(name, False, angle) for angle in ANGLES]
        rotates = bool({"spins", "rolls"} & set(thing.motions))
        seen = []
        for frame in (readable(clip[number], self.device) for number in frames):
            sights = self.sightings(frame, bare, upright)
            if rotates:
                sights += self.sightings(frame, bare, turned, [side for side in SIDES if 40 < side < 80])
            finer = [self.refined(frame, bare, sight) for sight in sorted(sights, key=lambda s: -s.score)[:3]]
            seen.append(max(finer, key=lambda sight: sight.score))
        return seen


def sighting(template: Template, side: float, x: float, y: float, score: float) -> Sighting:
    return Sighting(template.thing, template.flipped, side, template.angle, x, y, score)


def readable(frame: UInt8[np.ndarray, "H W 3"], device: torch.device) -> Float[Tensor, "3 h w"]:
    picture = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1).float() / 255
    return F.avg_pool2d(picture, SCALE)


class PlaceReader:
    """Every painting at every time and in every weather, as coarse pictures of the frame's middle."""

    def __init__(self, scenery: Scenery) -> None:
        self.names: list[str] = []
        bare = []
        for name, backdrop in PLACES.items():
            for variant in range(VARIANTS):
                times = TIMES if backdrop.outdoors else TIMES[:1]
                colours = tuple(PLAIN) if name == "plain" else ("",)
                weathers = WEATHERS if backdrop.outdoors else WEATHERS[:1]
                options = [(t, w, c) for t in times for w in weathers for c in colours]
                scenes = [
                    Scene(
                        thing="dog",
                        backdrop=name,
                        motion="waits",
                        time=t,
                        weather=w,
                        colour=c,
                        variant=variant,
                    )
                    for t, w, c in options
                ]
                stage = set_stage(scenes, [0] * len(scenes), 1).to(scenery.skies.device)
                stage = stage._replace(sprites=torch.full_like(stage.sprites, -1))
                self.names += [name] * len(scenes)
                bare.append(F.avg_pool2d(render(scenery, stage)[:, 0], SCALE))
        self.pictures = torch.cat(bare)

    def read(self, clip: UInt8[np.ndarray, "f H W 3"]) -> tuple[str, Float[Tensor, "c h w"]]:
        """A place's name, and its nearest painting at the size that is read."""
        chosen = clip[:: max(1, len(clip) // 8)]
        middle = torch.stack([readable(frame, self.pictures.device) for frame in chosen]).median(0).values
        near = (self.pictures - middle).abs().mean(1).flatten(1)
        # A thing hides a part of the place: the worst fifth of the pixels does not count.
        index = int(near.sort(1).values[:, : near.shape[1] * 4 // 5].mean(1).argmin())
        return self.names[index], self.pictures[index]


def read_motion(name: str, backdrop: str, seen: Sequence[Sighting], frames: Sequence[int]) -> str:
    """Which of the thing's motions has the nearest track."""
    t = np.array(frames, np.float32) / FPS
    costs = {}
    for motion in THINGS[name].motions:
        for toward in ("left", "right"):
            scene = Scene(thing=name, backdrop=backdrop, motion=motion, toward=toward)
            (actor, *_) = [a for a in actors(scene, t) if a.sprite == INDEX[name]]
            costs[motion, toward] = track_cost(actor.poses, actor.grounded, motion, seen)
    return min(costs, key=lambda key: costs[key])[0]


def track_cost(
    poses: Float[np.ndarray, "f 5"], grounded: bool, motion: str, seen: Sequence[Sighting]
) -> float:
    """How far a track is from that of a motion, whatever constant shift there is between them."""
    x, wide, high = poses[:, 0], poses[:, 2], poses[:, 3]
    y = poses[:, 1] - (high / 2 if grounded else 0)
    inside = (x > 0.3 * high) & (x < WIDTH - 0.3 * high) & (y > 0) & (y < HEIGHT)
    visible = inside & ~((motion == "hides") & (np.abs(x - WIDTH / 2) < 40))
    there = np.array([sight.score > SEEN for sight in seen])
    both = visible & there
    if both.sum() < 2:
        return 9.0
    dx, dy = (np.array([getattr(sight, axis) for sight in seen]) - own for axis, own in (("x", x), ("y", y)))
    shift_x, shift_y = (float(np.clip(np.median(d[both]), -24, 24)) for d in (dx, dy))
    size = np.log(np.array([sight.side for sight in seen]) / high)
    turn = np.array([sight.angle for sight in seen]) - poses[:, 4]
    cost = ((dx - shift_x) / 9) ** 2 + ((dy - shift_y) / 7) ** 2 + (size / 0.16) ** 2
    cost = cost + 2 * (1 - np.cos(turn))
    cost = cost + np.where((wide < 0) != np.array([sight.flipped for sight in seen]), 1.0, 0.0) * (
        THINGS[seen[0].thing].faces != ""
    )
    return float(np.where(both, np.minimum(cost, 6), np.where(visible != there, 3.0, 0.0)).mean())


@dataclass(frozen=True)
class Reading:
    thing: str
    score: float
    backdrop: str
    motion: str

    def passes(self, scene: Scene) -> dict[str, bool]:
        right = {
            "thing": self.thing == scene.thing and self.score >= SURE,
            "place": self.backdrop == scene.backdrop,
            "motion": self.motion == scene.motion,
        }
        return right | {"all": all(right.values())}


class TheatreReader:
    def __init__(self, scenery: Scenery) -> None:
        self.sprites, self.places = SpriteReader(scenery), PlaceReader(scenery)

    def read(self, clip: UInt8[np.ndarray, "f H W 3"]) -> Reading:
        frames = [number for number in MOMENTS if number < len(clip)]
        backdrop, bare = self.places.read(clip)
        best = self.sprites.things(clip, bare, frames[:: max(1, len(frames) // 4)])[0]
        seen = self.sprites.track(clip, bare, best.thing, frames)
        return Reading(best.thing, best.score, backdrop, read_motion(best.thing, backdrop, seen, frames))

"""What a thing does: the nearest, by its track, of what it can do.

Axis: F frames that were looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from linnet.data.theatre import FPS, HEIGHT, WIDTH
from linnet.data.theatre.render import PIVOT
from linnet.data.theatre.scene import Scene
from linnet.data.theatre.stage import INDEX, actors
from linnet.data.theatre.things import THINGS
from linnet.evaluate.theatre.things import SEEN, Sighting

ASIDE, FAR_ASIDE = (
    24.0,
    90.0,
)  # pixels that a track may be from where a thing alone, or one of several, would be
LARGER = 0.15  # of the logarithm of its size: as much may be constant
WRONG = 3.0  # what a frame costs in which a thing is and should not be, or the other way round
MOST = 6.0  # what any frame costs
PHASES = (0.0, 0.17, 0.34)  # seconds by which one of several is ahead of another
TREE_HALF = 60.0  # pixels to each side of the middle where a tree may hide what passes


@dataclass(frozen=True)
class Track:
    """On the stage, whatever the camera does: x, y and side in pixels, the angle, whether it is seen mirrored."""

    x: Float[np.ndarray, " F"]
    y: Float[np.ndarray, " F"]
    side: Float[np.ndarray, " F"]
    angle: Float[np.ndarray, " F"]
    flipped: Bool[np.ndarray, " F"]
    there: Bool[np.ndarray, " F"]
    camera: Float[np.ndarray, "F 3"]

    @classmethod
    def of(cls, seen: Sequence[Sighting], camera: Float[np.ndarray, "F 3"]) -> "Track":
        x, y, side, angle, flipped, score = np.array(
            [(s.x, s.y, s.side, s.template.angle, s.template.flipped, s.score) for s in seen], np.float32
        ).T
        zoom = camera[:, 2]
        x = (x - WIDTH / 2) / zoom + camera[:, 0] + WIDTH / 2
        y = (y - PIVOT) / zoom + camera[:, 1] + PIVOT
        return cls(x, y, side / zoom, angle, flipped > 0, score > SEEN, camera)


def read_motion(scene: Scene, track: Track, frames: Sequence[int]) -> str:
    """`scene` says which thing, of which size, whether alone, and where."""
    t = np.array(frames, np.float32) / FPS
    several = scene.count > 1 or bool(scene.other)
    costs: dict[str, float] = {}
    for motion in THINGS[scene.thing].motions:
        for toward in ("left", "right"):
            alone = Scene(
                thing=scene.thing, backdrop=scene.backdrop, motion=motion, toward=toward, size=scene.size
            )
            for phase in PHASES if several else PHASES[:1]:
                (actor, *_) = [a for a in actors(alone, t + phase) if a.sprite == INDEX[scene.thing]]
                cost = track_cost(
                    actor.poses, actor.grounded, motion, track, THINGS[scene.thing].faces, several
                )
                costs[motion] = min(cost, costs.get(motion, cost))
    return min(costs, key=lambda motion: costs[motion])


def track_cost(
    poses: Float[np.ndarray, "F 5"], grounded: bool, motion: str, track: Track, faces: str, several: bool
) -> float:
    """How far a track is from that of a motion, whatever constant shift there is between them."""
    x, wide, high = poses[:, 0], poses[:, 2], poses[:, 3]
    y = poses[:, 1] - (high / 2 if grounded else 0)
    left, top, zoom = track.camera.T
    across, down = (
        (x - WIDTH / 2 - left) * zoom,
        (y - PIVOT - top) * zoom + PIVOT - HEIGHT / 2,
    )  # in the frame
    out = np.maximum(np.abs(across) - WIDTH / 2, np.abs(down) - HEIGHT / 2) / (zoom * high)
    behind = (np.abs(x - WIDTH / 2) < TREE_HALF) & (motion == "hides")
    narrow = np.abs(wide) < 0.6 * high  # while it turns round
    both = (out < 0.2) & track.there & ~narrow
    missing = (out < -0.5) & ~behind & ~narrow & ~track.there
    unwanted = (out > 0.6) & track.there
    if both.sum() < 2:
        return 9.0
    most = FAR_ASIDE if several else ASIDE
    away_x, away_y = (
        (own - meant) - np.clip(np.median((own - meant)[both]), -most, most)
        for own, meant in ((track.x, x), (track.y, y))
    )
    larger = np.log(track.side / high)
    larger = larger - np.clip(np.median(larger[both]), -LARGER, LARGER)
    cost = (away_x / 9) ** 2 + (away_y / 7) ** 2 + (larger / 0.16) ** 2
    cost = cost + 2 * (1 - np.cos(track.angle - poses[:, 4]))
    cost = cost + ((wide < 0) != track.flipped) * (faces != "")
    costs = np.where(both, np.minimum(cost, MOST), np.where(missing | unwanted, WRONG, 0.0))
    return float(costs.sum() / (both | missing | unwanted).sum())

"""A small world of captioned clips, drawn from formulas: what seedling learns and is examined on.

A scene holds one flat shape on a plain background, doing one thing. Mostly it does so about the middle of the frame;
a caption says where it begins if it begins elsewhere. Everything that a caption can say is visible in the pixels: no
shape is symmetric under every rotation, the background never has the object's colour, what moves sideways or up and
down wraps around the frame (so it moves that way for as long as the clip lasts), and sizes saturate.
All shapes of one size cover the same area, so that size can be told apart from shape.

Lengths are in pixels of the 128x72 frame, y points down, times are in seconds, colours are RGB in 0..255.
"""

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, UInt8

from linnet.data.known import BACKGROUNDS, COLOURS, MOTION_WORDS, PLACES, SHAPES, SIZE_WORDS

WIDTH, HEIGHT, FPS = 128, 72, 24

# What seedling does not know, to teach it something.
NEW_SHAPES = ("cross", "circle")
NEW_MOTION_WORDS = {"swings": (("swings", "that swings"),)}
SIZES = {"small": 18.0, "large": 28.0}  # side of the square of the same area
MOTIONS = ("left", "right", "up", "down", "spins", "grows", "shrinks", "bounces", "still")

SPEED = {
    "left": (-32.0, 0.0),
    "right": (32.0, 0.0),
    "up": (0.0, -16.0),
    "down": (0.0, 16.0),
}  # pixels a second
TURN = math.pi / 2  # radians a second, clockwise
SWELL, SWELL_SECONDS = (
    {"grows": 1.4, "shrinks": 0.6},
    2.0,
)  # factor on the side, reached after so long and then kept
HOP, HOP_SECONDS = 14.0, 1.0
SWING, SWING_SECONDS = 10.0, 1.0  # to either side, and there and back
OUTLINE = 4.0  # width of the line of what is outlined
SHOWN_SECONDS = 2.0  # the time in which an object that starts in its usual place passes the middle


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one clip shows; (x, y) is the object's centre in the first frame.

    `place` is where in the frame that is, in words, for an object that does not begin in its usual place. `outlined`:
    of the object only a line along its edge is drawn.
    """

    shape: str
    colour: str
    size: str
    background: str
    motion: str
    x: float
    y: float
    place: str = ""
    outlined: bool = False

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.shape, self.colour, self.motion


# --- what is held out -----------------------------------------------------------------------------------------------


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether this combination is kept out of training for good: one motion of the nine for each shape and colour.

    Every pair of factors is still seen in training, each motion is held out about equally often, and no seed
    changes it.
    """
    return MOTIONS.index(motion) == (2 * SHAPES.index(shape) + tuple(COLOURS).index(colour) + 1) % len(
        MOTIONS
    )


HELD_OUT = tuple(t for t in product(SHAPES, COLOURS, MOTIONS) if held_out(*t))
TRAINED = tuple(t for t in product(SHAPES, COLOURS, MOTIONS) if not held_out(*t))


ANYWHERE = 0.15  # share of the scenes that begin at any place, and are captioned with it
SPREAD = (8.0, 4.0)  # pixels to either side by which the usual place varies


def sample_scene(
    rng: random.Random,
    *,
    triples: tuple[tuple[str, str, str], ...] = TRAINED,
    sizes: Sequence[str] = tuple(SIZES),
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
) -> Scene:
    """A scene drawn evenly over `triples`, sizes and backgrounds; most begin in their usual place, some anywhere."""
    shape, colour, motion = rng.choice(triples)
    size = rng.choice(sizes)
    background = rng.choice([b for b in backgrounds if b != colour])
    anywhere = rng.random() < ANYWHERE
    x, y = any_start(rng, shape, size, motion) if anywhere else usual_start(rng, shape, size, motion)
    return Scene(
        shape=shape,
        colour=colour,
        size=size,
        background=background,
        motion=motion,
        x=x,
        y=y,
        place=place_of(x, y) if anywhere else "",
    )


def usual_start(rng: random.Random, shape: str, size: str, motion: str) -> tuple[float, float]:
    """About where the object is in the middle of the frame halfway through a clip of two seconds."""
    dx, dy = SPEED.get(motion, (0.0, 0.0))
    _, (low, high) = room(shape, size, motion)
    x = WIDTH / 2 - dx * SHOWN_SECONDS / 2 + rng.uniform(-1, 1) * SPREAD[0]
    y = (low + high - dy * SHOWN_SECONDS) / 2 + rng.uniform(-1, 1) * SPREAD[1]
    return x, min(max(y, low), high)


def any_start(rng: random.Random, shape: str, size: str, motion: str) -> tuple[float, float]:
    (left, right), (top, bottom) = room(shape, size, motion)
    return rng.uniform(left, right), rng.uniform(top, bottom)


def room(shape: str, size: str, motion: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """The least and greatest x and y from which the object stays in the frame, or goes on around it."""
    reach = REACH[shape] * SIZES[size] * max(1.0, SWELL.get(motion, 1.0))
    hop = HOP if motion == "bounces" else 0.0
    swing = SWING if motion == "swings" else 0.0
    across = (0.0, WIDTH) if motion in ("left", "right") else (reach + swing, WIDTH - reach - swing)
    # A large moon that has grown is higher than the frame, which it then wraps around by a pixel or two.
    top, bottom = sorted((reach + hop, HEIGHT - reach))
    return across, (0.0, HEIGHT) if motion in ("up", "down") else (top, bottom)


LATER = {
    "left": 0.3,
    "right": 0.3,
    "up": 0.3,
    "down": 0.3,
    "spins": 0.3,
    "bounces": 0.3,
    "grows": 0.1,
    "shrinks": 0.1,
}
LATER_ELSEWHERE = 0.1  # where the caption names a place, and the object leaves it


def moment(rng: random.Random, scene: Scene) -> int:
    """The frame of a scene at which a training clip of it begins: mostly the first.

    Films are cut into clips at any moment; `LATER` is the share of those cut at another than the first. A model that
    saw nothing but beginnings lets whatever moves begin again with each of its windows, does not know what there is to
    see when it has passed the frame's edge or is done growing, and cannot go on from where something is.
    """
    share = LATER.get(scene.motion, 0.0)
    if scene.place and scene.motion in SPEED:
        share = LATER_ELSEWHERE
    return rng.randrange(round(FPS * lasts(scene.motion))) if rng.random() < share else 0


def lasts(motion: str) -> float:
    """Seconds after which a motion shows nothing new."""
    if motion in SPEED:
        dx, dy = SPEED[motion]
        return WIDTH / abs(dx) if dx else HEIGHT / abs(dy)
    known = {"spins": 2 * math.pi / TURN, "bounces": HOP_SECONDS}
    return known.get(motion, 1.5 * SWELL_SECONDS if motion in SWELL else 0.0)


def at_rest(scene: Scene, frame: int) -> bool:
    """Whether nothing changes from that frame of a scene on."""
    return scene.motion == "still" or (scene.motion in SWELL and frame >= SWELL_SECONDS * FPS)


def place_of(x: float, y: float) -> str:
    """In which ninth of the frame a point lies."""
    return PLACES[min(int(3 * y / HEIGHT), 2)][min(int(3 * x / WIDTH), 2)]


# --- how it moves ---------------------------------------------------------------------------------------------------


def pose(scene: Scene, seconds: float) -> tuple[float, float, float, float]:
    """(x, y, side, angle) of the object after so many seconds; x and y wrap around the frame."""
    x, y, side, angle = scene.x, scene.y, SIZES[scene.size], 0.0
    if scene.motion in SPEED:
        dx, dy = SPEED[scene.motion]
        x, y = (x + dx * seconds) % WIDTH, (y + dy * seconds) % HEIGHT
    elif scene.motion == "spins":
        angle = TURN * seconds
    elif scene.motion in SWELL:
        side *= 1 + (SWELL[scene.motion] - 1) * min(seconds / SWELL_SECONDS, 1)
    elif scene.motion == "bounces":
        y -= HOP * abs(math.sin(math.pi * seconds / HOP_SECONDS))
    elif scene.motion == "swings":
        x += SWING * math.sin(2 * math.pi * seconds / SWING_SECONDS)
    return x, y, side, angle


# --- how it looks ---------------------------------------------------------------------------------------------------

Points = Sequence[tuple[float, float]]


def _ring(count: int, *radii: float) -> Points:
    """Corners at equal angles, the first on top, their radii taken in turn."""
    corners = [(2 * math.pi * i / count, radii[i % len(radii)]) for i in range(count)]
    return [(r * math.sin(a), -r * math.cos(a)) for a, r in corners]


def _heart() -> Points:
    angles = [2 * math.pi * i / 48 for i in range(48)]
    across = [16 * math.sin(a) ** 3 for a in angles]
    down = [-13 * math.cos(a) + 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a) for a in angles]
    return list(zip(across, down, strict=True))


def _moon() -> Points:
    """A crescent: round the rim of a disc from horn to horn, and back along the rim of the disc that bites into it."""
    horn, bite = math.radians(55), 0.45
    radius = math.hypot(math.cos(horn) - bite, math.sin(horn))
    inner = math.atan2(math.sin(horn), math.cos(horn) - bite)
    steps = [i / 24 for i in range(24)]
    rim = [horn + (2 * math.pi - 2 * horn) * s for s in steps]
    back = [2 * math.pi - inner - (2 * math.pi - 2 * inner) * s for s in steps]
    return [(math.cos(a), math.sin(a)) for a in rim] + [
        (bite + radius * math.cos(a), radius * math.sin(a)) for a in back
    ]


def _cross() -> Points:
    """A plus sign, its arms a third as wide as it is."""
    corner = [(1, -3), (1, -1), (3, -1)]
    corners = [corner]
    for _ in range(3):
        corners.append([(-y, x) for x, y in corners[-1]])
    return [point for turn in corners for point in turn]


OUTLINES = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": _ring(3, 1.0),
    "star": _ring(10, 1.0, 0.5),
    "heart": _heart(),
    "moon": _moon(),
    "cross": _cross(),
    "circle": _ring(48, 1.0),
}


def _unit(points: Points) -> Float[np.ndarray, "P 2"]:
    """The outline moved and scaled so that its centroid is the origin and its area 1."""
    here = np.array(points, np.float64)
    there = np.roll(here, -1, 0)
    cross = here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1]
    centroid = ((here + there) * cross[:, None]).sum(0) / (3 * cross.sum())
    return (here - centroid) / math.sqrt(abs(cross.sum()) / 2)


CORNERS = {name: _unit(points) for name, points in OUTLINES.items()}
REACH = {
    name: float(np.hypot(*corners.T).max()) for name, corners in CORNERS.items()
}  # farthest corner, side 1

LATTICE, EXTENT = 256, 2.0  # distances are looked up on a grid of so many points over [-EXTENT, EXTENT]


@functools.lru_cache(maxsize=len(OUTLINES))
def _distances(shape: str) -> Float[np.ndarray, "y x"]:
    """The signed distance (negative inside) to a shape of area 1, on the lattice."""
    axis = np.linspace(-EXTENT, EXTENT, LATTICE)
    x, y = np.meshgrid(axis, axis)
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(CORNERS[shape], np.roll(CORNERS[shape], -1, 0), strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(px - along * ex, py - along * ey))
        if ey:  # a ray to the right crosses this edge
            inside ^= ((ay > y) != (by > y)) & (px < py * ex / ey)
    return np.where(inside, -nearest, nearest).astype(np.float32)


def coverage(
    shape: str,
    x: Float[np.ndarray, "..."],
    y: Float[np.ndarray, "..."],
    side: float,
    angle: float,
    *,
    inset: float = 0.0,
) -> Float[np.ndarray, "..."]:
    """How much of each pixel at (x, y) from the centre the shape covers, 0..1, its edge one pixel soft and so many
    pixels farther in."""
    cos, sin, scale = math.cos(angle), math.sin(angle), (LATTICE - 1) / (2 * EXTENT)
    u = np.clip((((x * cos + y * sin) / side) + EXTENT) * scale, 0, LATTICE - 1.001)
    v = np.clip((((y * cos - x * sin) / side) + EXTENT) * scale, 0, LATTICE - 1.001)
    column, row = u.astype(np.int32), v.astype(np.int32)
    fu, fv, table = u - column, v - row, _distances(shape)
    top = table[row, column] * (1 - fu) + table[row, column + 1] * fu
    bottom = table[row + 1, column] * (1 - fu) + table[row + 1, column + 1] * fu
    return np.clip(0.5 - (top * (1 - fv) + bottom * fv) * side - inset, 0, 1)


def backdrop(background: str) -> Float[np.ndarray, "H W 3"]:
    """The empty scene: the background's colour, a little lighter at the top than at the bottom."""
    shade = np.linspace(1.06, 0.92, HEIGHT, dtype=np.float32)[:, None, None]
    rows = np.array(BACKGROUNDS[background], np.float32) * shade
    return np.broadcast_to(rows, (HEIGHT, WIDTH, 3)).clip(0, 255)


def render(scene: Scene, frames: int, *, start: int = 0) -> UInt8[np.ndarray, "F H W 3"]:
    """The frames `start`, `start` + 1, ... of a scene at 24 a second."""
    clip = np.empty((frames, HEIGHT, WIDTH, 3), np.float32)
    clip[:] = backdrop(scene.background)
    colour = np.array(COLOURS[scene.colour], np.float32)
    for index, frame in enumerate(clip):
        x, y, side, angle = pose(scene, (start + index) / FPS)
        reach = math.ceil(REACH[scene.shape] * side) + 1
        low = min(reach, HEIGHT // 2 - 1)  # no row twice
        columns = np.arange(math.floor(x) - reach, math.floor(x) + reach + 1)
        rows = np.arange(math.floor(y) - low, math.floor(y) + low + 1)
        # A pixel's centre is at +0.5; an object that leaves the frame enters on the other side.
        across = (columns + 0.5 - x).astype(np.float32)[None, :]
        down = (rows + 0.5 - y).astype(np.float32)[:, None]
        alpha = coverage(scene.shape, across, down, side, angle)[..., None]
        if scene.outlined:
            alpha -= coverage(scene.shape, across, down, side, angle, inset=OUTLINE)[..., None]
        patch = np.ix_(rows % HEIGHT, columns % WIDTH)
        frame[patch] += alpha * (colour - frame[patch])
    return (clip + 0.5).astype(np.uint8)


# --- what it is called ----------------------------------------------------------------------------------------------

FULL = (
    "{a} {size} {colour} {shape} {does} on {b} {background} background",
    "{a} {size} {colour} {shape} {doing} on {b} {background} background",
    "{size} {colour} {shape} {doing}, {background} background",
    "on {b} {background} background {a} {size} {colour} {shape} {does}",
    "{c} {colour} {shape} that is {size} {does} in front of {b} {background} background",
    "the {shape} is {colour} and {size}, it {does}, the background is {background}",
)
SHORT = (
    "{c} {colour} {shape} {does} on {b} {background} background",
    "{a} {size} {colour} {shape} {does}",
    "{c} {colour} {shape} {does}",
    "{a} {size} {colour} {shape} on {b} {background} background",
    "{c} {colour} {shape} on {b} {background} background",
    "{c} {colour} {shape}",
    "{s} {shape} {does}",
    "{s} {shape}",
)


def caption(scene: Scene, rng: random.Random, *, full: bool = True, still: bool = False) -> str:
    """One wording of what the scene shows: every visible factor when `full`, else some of them.

    `still` is for a single frame, in which no motion can be seen: the wording then names none.
    """
    size = rng.choice(SIZE_WORDS[scene.size])
    does, doing = rng.choice((MOTION_WORDS | NEW_MOTION_WORDS)[scene.motion])
    shape = f"outlined {scene.shape}" if scene.outlined else scene.shape
    templates = [t for t in (FULL if full else SHORT) if not (still and "{do" in t)] or [
        "{a} {size} {colour} {shape} on {b} {background} background"
    ]
    article = {
        key: "an" if word[0] in "aeiou" else "a"
        for key, word in {"a": size, "b": scene.background, "c": scene.colour, "s": shape}.items()
    }
    words = rng.choice(templates).format(
        size=size,
        colour=scene.colour,
        shape=shape,
        background=scene.background,
        does=does,
        doing=doing,
        **article,
    )
    return f"{words}{rng.choice((',', ''))} {scene.place}" if scene.place else words


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    phrases = [w for words in SIZE_WORDS.values() for w in words]
    phrases += [p for forms in MOTION_WORDS.values() for form in forms for p in form]
    phrases += [*SHAPES, *COLOURS, *BACKGROUNDS, "a", "an"]
    phrases += [place for row in PLACES for place in row]
    phrases += [t.replace(",", " , ") for t in (*FULL, *SHORT)]
    return sorted({w for p in phrases for w in p.split() if "{" not in w})

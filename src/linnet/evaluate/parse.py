"""Reads a synthetic clip back from its pixels: shape, colour, size, background, motion, or None if unsure.

The parser sees decoded frames and nothing else: neither the prompt nor the request. It measures first (the
empty scene, how much of each pixel the object covers, where its centre goes, how large it is and how turned)
and names last, by the nearest of the synthetic dataset's words; what is too far from every word gets no name.

Axes: T frames, H rows, W columns, P pixels, S shapes (and a disc), A angles, G points a side of a grid that
moves and grows with the object, K kinds of template.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from linnet.data import synthetic as world
from linnet.data.synthetic import FPS, HEIGHT, WIDTH

# Distances between colours are Euclidean in RGB, 0..255.
MOST_COLOUR_ERROR = 60.0  # from a named colour; the nearest two are 89 apart
MOST_BACKGROUND_ERROR = 45.0  # from a named background; the nearest two are 99 apart
LEAST_CONTRAST = 40.0  # of an object to its background; the synthetic dataset's least is 94
# Pixels: what is smaller or larger in the first frames is neither small nor large.
LEAST_SIDE, MOST_SIDE = 12.0, 42.0
# Mean overlap with the best template: rendered clips reach 0.94, those from seedling's autoencoder 0.87.
LEAST_LIKENESS = 0.84
LEAST_AGREEMENT = 0.6  # share of the frames that show the clip's shape, each judged by itself
LEAST_PLAIN = 0.8  # share of the object's pixels that have its colour
LEAST_GATHERED = 0.75  # share of the object's pixels that lie in one place, not about the frame
LEAST_SEEN = 0.9  # share of the frames in which the object must be found
LEAST_CLEAR = 0.25  # share of the frames in which it must be large enough to show its shape
LEAST_MOTION = 0.5  # of the synthetic dataset's own speed, turn, growth or hop
MOST_DISTRACTION = 0.8  # a second motion as strong as this leaves the first without a name
LEAST_GAIN = 0.01  # in mean likeness, for an object that turns over one that does not

ANGLES = 60  # templates are drawn every 6 degrees
BLUNT = 2.5  # pixels by which the blunt templates are blurred
GRID, GRID_REACH = 28, 1.15  # points a side, and how far it reaches from the object's centre, in its sides
TURN_RATES = np.linspace(-1.5, 1.5, 25) * world.TURN
HOP_PERIODS = tuple(world.HOP_SECONDS * factor for factor in (0.75, 0.87, 1.0, 1.13, 1.25))
HOP_PHASES = tuple(i / 8 for i in range(8))


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What was seen in a clip, in the synthetic dataset's words; None where nothing could be told."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    background: str | None = None
    motion: str | None = None


ATTRIBUTES = tuple(field.name for field in fields(Sight))
WORDS: Mapping[str, tuple[str, ...]] = {
    "shape": world.SHAPES,
    "colour": tuple(world.COLOURS),
    "size": tuple(world.SIZES),
    "background": tuple(world.BACKGROUNDS),
    "motion": world.MOTIONS,
}


@dataclass(frozen=True)
class Track:
    """The object in the frames where it was found. Places are unwrapped: they go on past the frame's edge."""

    frames: Float[np.ndarray, "T"]  # their numbers, with gaps where the object was lost
    x: Float[np.ndarray, "T"]
    y: Float[np.ndarray, "T"]
    side: Float[np.ndarray, "T"]  # of the square of the same area, pixels
    likeness: Float[np.ndarray, "T S A"]  # overlap with each shape at each angle, 0..1


@dataclass(frozen=True)
class Look:
    """What was measured in a clip. None where nothing could be told; no `track` where the object is not found in
    nearly all frames."""

    background: str | None = None
    colour: str | None = None
    track: Track | None = None


def parse(frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], shapes: tuple[str, ...] = world.SHAPES) -> Sight:
    """What the frames, 24 a second, show. Never fails: noise, emptiness or no frames at all give None. `shapes` are
    those that are told apart."""
    seen = look(frames, shapes)
    if seen.track is None:
        return Sight(background=seen.background, colour=seen.colour)
    return Sight(
        shape=name_shape(seen.track, shapes),
        colour=seen.colour,
        size=name_size(seen.track),
        background=seen.background,
        motion=name_motion(seen.track),
    )


def look(frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], shapes: tuple[str, ...] = world.SHAPES) -> Look:
    """The measurements under `parse`."""
    shown = [fit(frame) for frame in frames]
    if not shown:
        return Look()
    clip = np.stack(shown).astype(np.float32)
    empty = np.median(clip[:: max(1, len(clip) // 16)], axis=(0, 2))  # a row each, for the scene is shaded
    background = name_background(empty)
    solid, behind = find_solid(clip, empty)
    if not len(solid):
        return Look(background)
    paint = find_paint(solid, behind)
    track = follow(cover(clip, empty, paint), shapes)
    followed = len(track.frames) >= LEAST_SEEN * len(clip)
    return Look(background, name_colour(paint, solid, behind), track if followed else None)


def fit(frame: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The frame at the synthetic dataset's size, whatever size it was made in."""
    if frame.shape == (HEIGHT, WIDTH, 3):
        return frame
    return np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BOX))


# --- colours ------------------------------------------------------------------------------------------------


def nearest(
    colour: Float[np.ndarray, "3"], names: Mapping[str, tuple[int, int, int]], most: float
) -> str | None:
    """The name of the nearest colour, if it is no farther than `most`."""
    distances = {name: math.dist(colour, named) for name, named in names.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= most else None


def name_background(empty: Float[np.ndarray, "H 3"]) -> str | None:
    """The background that the rows are nearest to, each row to its own shade."""
    distances = {
        name: float(np.linalg.norm(empty - world.backdrop(name)[:, 0], axis=1).mean())
        for name in world.BACKGROUNDS
    }
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= MOST_BACKGROUND_ERROR else None


def find_solid(
    clip: Float[np.ndarray, "T H W 3"], empty: Float[np.ndarray, "H 3"]
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, "P 3"]]:
    """RGB of pixels, of some frames, that stand out and are not near an edge, and of the empty scene there."""
    some = clip[:: max(1, len(clip) // 12)]
    inside = within(np.linalg.norm(some - empty[:, None], axis=-1) > LEAST_CONTRAST)
    if inside.sum() < len(some) * (LEAST_SIDE / 3) ** 2:
        return np.empty((0, 3)), np.empty((0, 3))
    return some[inside], empty[inside.nonzero()[1]]


def find_paint(solid: Float[np.ndarray, "P 3"], behind: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "3"]:
    """The object's colour: the median of the half that stands out most, for blur makes the rest paler."""
    contrast = np.linalg.norm(solid - behind, axis=1)
    return np.median(solid[contrast >= np.median(contrast)], axis=0)


def name_colour(
    paint: Float[np.ndarray, "3"], solid: Float[np.ndarray, "P 3"], behind: Float[np.ndarray, "P 3"]
) -> str | None:
    """The paint's name, if the object is plain: nearly all of it on the way from the empty scene to the paint."""
    difference = paint - behind
    share = ((solid - behind) * difference).sum(1) / np.maximum((difference**2).sum(1), 1)
    aside = np.linalg.norm(solid - behind - share[:, None] * difference, axis=1)
    plain = (aside < MOST_COLOUR_ERROR).mean() >= LEAST_PLAIN
    return nearest(paint, world.COLOURS, MOST_COLOUR_ERROR) if plain else None


def within(mask: Bool[np.ndarray, "T H W"]) -> Bool[np.ndarray, "T H W"]:
    """The mask less its rim of two pixels; the frame wraps around."""
    for _ in range(2):
        rows = mask & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        mask = rows & np.roll(mask, 1, 2) & np.roll(mask, -1, 2)
    return mask


def cover(
    clip: Float[np.ndarray, "T H W 3"], empty: Float[np.ndarray, "H 3"], paint: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "T H W"]:
    """How much of each pixel the object covers, 0..1: how far it is on the way from empty to painted."""
    difference = paint - empty
    share = np.einsum("thwc,hc->thw", clip - empty[:, None], difference)
    share /= np.maximum((difference**2).sum(-1), 1)[:, None]
    # Steeper about one half: faint noise counts for nothing, and areas stay as they are.
    return np.clip((share - 0.2) / 0.6, 0, 1)


# --- places -------------------------------------------------------------------------------------------------


def follow(cover: Float[np.ndarray, "T H W"], shapes: tuple[str, ...] = world.SHAPES) -> Track:
    """Centre, side and likeness to every template, frame by frame."""
    whole = cover.sum((1, 2))
    seen = np.flatnonzero(whole >= (LEAST_SIDE / 2) ** 2)
    cover, whole = cover[seen], whole[seen]
    x, y, area, own = centre(cover.sum(1)), centre(cover.sum(2)), whole, cover
    for _ in range(2):  # again without what lies too far off to belong to the object
        own = np.where(near(x, y, 1.2 * np.sqrt(area)), cover, 0)
        area = np.maximum(own.sum((1, 2)), 1)
        x, y = centre(own.sum(1), x), centre(own.sum(2), y)
    kept = area >= LEAST_GATHERED * whole
    seen, own, x, y, side = seen[kept], own[kept], x[kept], y[kept], np.sqrt(area[kept])
    return Track(
        frames=seen.astype(float),
        x=np.unwrap(x, period=WIDTH),
        y=np.unwrap(y, period=HEIGHT),
        side=side,
        likeness=compare(own, x, y, side, shapes),
    )


def centre(
    mass: Float[np.ndarray, "T N"], around: Float[np.ndarray, "T"] | None = None
) -> Float[np.ndarray, "T"]:
    """The centre of mass on a circle of N pixels, near `around` (else near the mean direction)."""
    count = mass.shape[1]
    places = np.arange(count) + 0.5
    circle = np.exp(2j * np.pi * places / count)
    start = np.angle(mass @ circle) * count / (2 * np.pi) if around is None else around
    away = wrapped(places - start[:, None], count)
    return start + (mass * away).sum(1) / np.maximum(mass.sum(1), 1)


def wrapped(away: Float[np.ndarray, "..."], period: float) -> Float[np.ndarray, "..."]:
    """The same way on a circle, within half a turn."""
    return (away + period / 2) % period - period / 2


def near(
    x: Float[np.ndarray, "T"], y: Float[np.ndarray, "T"], reach: Float[np.ndarray, "T"]
) -> Bool[np.ndarray, "T H W"]:
    """The pixels within reach of (x, y), around the frame's edges too."""
    across = wrapped(np.arange(WIDTH) + 0.5 - x[:, None], WIDTH) ** 2
    down = wrapped(np.arange(HEIGHT) + 0.5 - y[:, None], HEIGHT) ** 2
    return down[:, :, None] + across[:, None, :] <= (reach**2)[:, None, None]


# --- shapes -------------------------------------------------------------------------------------------------


def axis() -> Float[np.ndarray, "G"]:
    """The grid's places along one side, in sides of the object from its centre."""
    return np.linspace(-GRID_REACH, GRID_REACH, GRID)


@functools.lru_cache(maxsize=32)
def templates(side: int, shapes: tuple[str, ...]) -> Float[np.ndarray, "KSA GG"]:
    """Every shape at every angle, as soft at the edges as an object of so many pixels a side; discs are last.

    First with their corners, then blunt, as clips have them that come out of an autoencoder. Nothing in the
    synthetic dataset is a disc: it is there lest a round blob be taken for a square.
    """
    x, y = np.meshgrid(axis() * side, axis() * side)
    angles = [2 * math.pi * i / ANGLES for i in range(ANGLES)]
    drawn = [world.coverage(shape, x, y, side, turn) for shape in shapes for turn in angles]
    disc = np.clip(0.5 + side / math.sqrt(math.pi) - np.hypot(x, y), 0, 1)
    sharp = np.stack(drawn + [disc] * ANGLES)
    return np.concatenate([sharp, blunt(sharp, side)]).reshape(-1, GRID * GRID)


def blunt(drawn: Float[np.ndarray, "N G G"], side: int) -> Float[np.ndarray, "N G G"]:
    """The same coverages blurred by BLUNT pixels and made as large and nearly as crisp again as they were."""
    away = (axis()[:, None] - axis()[None, :]) * side
    blur = np.exp(-0.5 * (away / BLUNT) ** 2)
    blur /= blur.sum(1, keepdims=True)
    blurred = blur @ drawn @ blur.T
    inside = round(GRID**2 / (2 * GRID_REACH) ** 2)  # points of the grid in an area of 1
    level = np.sort(blurred.reshape(len(drawn), -1))[:, -inside][:, None, None]
    return np.clip(0.5 + (blurred - level) * BLUNT * math.sqrt(2 * math.pi), 0, 1)


def compare(
    cover: Float[np.ndarray, "T H W"],
    x: Float[np.ndarray, "T"],
    y: Float[np.ndarray, "T"],
    side: Float[np.ndarray, "T"],
    shapes: tuple[str, ...],
) -> Float[np.ndarray, "T S A"]:
    """What the object and a template both cover, over what either covers (Tanimoto's, for shares), 0..1."""
    seen = magnify(cover, x, y, side)
    kinds = len(shapes) + 1  # and a disc
    likeness = np.empty((len(seen), 2 * kinds * ANGLES))
    coarse = np.clip(4 * np.rint(side / 4), 8, 64).astype(int)  # so that few templates are drawn
    for size in np.unique(coarse):
        here, drawn = seen[coarse == size], templates(int(size), shapes)
        both = here @ drawn.T
        either = (here**2).sum(1)[:, None] + (drawn**2).sum(1) - both
        likeness[coarse == size] = both / either
    return likeness.reshape(-1, 2, kinds, ANGLES).max(1)


def magnify(
    cover: Float[np.ndarray, "T H W"],
    x: Float[np.ndarray, "T"],
    y: Float[np.ndarray, "T"],
    side: Float[np.ndarray, "T"],
) -> Float[np.ndarray, "T GG"]:
    """The coverage at the points of the grid around the object, between pixels by bilinear interpolation."""
    columns = x[:, None, None] - 0.5 + axis()[None, None, :] * side[:, None, None]
    rows = y[:, None, None] - 0.5 + axis()[None, :, None] * side[:, None, None]
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    right_share, low_share = columns - left, rows - top
    frame = np.arange(len(cover))[:, None, None]

    def row(at: np.ndarray) -> np.ndarray:
        ends = (cover[frame, at % HEIGHT, column % WIDTH] for column in (left, left + 1))
        return next(ends) * (1 - right_share) + next(ends) * right_share

    return (row(top) * (1 - low_share) + row(top + 1) * low_share).reshape(len(cover), GRID * GRID)


def name_shape(track: Track, shapes: tuple[str, ...] = world.SHAPES) -> str | None:
    """The shape that the object resembles most over the clip, at whatever angle it has in each frame."""
    clear = track.side >= LEAST_SIDE
    if clear.mean() < LEAST_CLEAR:
        return None
    likeness = track.likeness[clear].max(2)
    best = likeness.mean(0).argmax()
    agreement = (likeness.argmax(1) == best).mean()
    sure = likeness[:, best].mean() >= LEAST_LIKENESS and agreement >= LEAST_AGREEMENT
    return (*shapes, None)[best] if sure else None


def name_size(track: Track) -> str | None:
    """The size at the start: what grows or shrinks is called by the size that it had."""
    side = float(np.median(track.side[:5]))
    if not LEAST_SIDE <= side <= MOST_SIDE:
        return None
    return min(world.SIZES, key=lambda size: abs(math.log(side / world.SIZES[size])))


# --- motions ------------------------------------------------------------------------------------------------


def name_motion(track: Track) -> str | None:
    """The strongest motion; None when a second one is strong too, or when the clip is too short to tell."""
    strengths = measure_motion(track)
    if not strengths:
        return None
    first, second = sorted(strengths, key=strengths.__getitem__, reverse=True)[:2]
    if strengths[first] < LEAST_MOTION:
        return "still"
    return None if strengths[second] > MOST_DISTRACTION else first


def measure_motion(track: Track) -> dict[str, float]:
    """How strongly the object does each thing: 1 is as in the synthetic dataset, 0 not at all, below 0 the opposite.

    {} for less than half a second.
    """
    seconds = track.frames / FPS
    if len(seconds) < FPS // 2:
        return {}
    hop, fall = bouncing(seconds, track.y)
    velocity = np.array([slope(seconds, track.x), fall])
    strengths = {name: float(velocity @ v / np.square(v).sum()) for name, v in world.SPEED.items()}
    for name, factor in world.SWELL.items():
        usual = np.log(1 + (factor - 1) * np.minimum(seconds / world.SWELL_SECONDS, 1))
        strengths[name] = slope(usual, np.log(track.side))
    strengths["bounces"] = hop / world.HOP
    strengths["spins"] = abs(turning(seconds, track.likeness)) / world.TURN
    return strengths


def slope(along: Float[np.ndarray, "T"], values: Float[np.ndarray, "T"]) -> float:
    """Of the line that fits best."""
    away = along - along.mean()
    return float(away @ values / max(away @ away, 1e-9))


def bouncing(seconds: Float[np.ndarray, "T"], y: Float[np.ndarray, "T"]) -> tuple[float, float]:
    """(height of the hops in pixels, steady fall in pixels a second) that together fit best.

    Hops may be a quarter quicker or slower than the synthetic dataset's, and begin anywhere.
    """
    best = (math.inf, 0.0, 0.0)
    for period, phase in product(HOP_PERIODS, HOP_PHASES):
        hops = -np.abs(np.sin(np.pi * (seconds / period + phase)))
        terms = np.stack([np.ones_like(seconds), seconds, hops], 1)
        solution = np.linalg.lstsq(terms, y, rcond=None)[0]
        error = float(np.square(terms @ solution - y).sum())
        best = min(best, (error, float(solution[2]), float(solution[1])))
    return best[1:]


def turning(seconds: Float[np.ndarray, "T"], likeness: Float[np.ndarray, "T S A"]) -> float:
    """Radians a second: the steady turn under which the likeliest shape fits best; 0 if none helps."""
    shape = likeness[:, :-1].max(2).mean(0).argmax()
    starts = np.arange(ANGLES)[:, None]
    rotations = np.rint(TURN_RATES[:, None, None] * seconds * ANGLES / (2 * math.pi) + starts).astype(int)
    scores = likeness[np.arange(len(seconds)), shape, rotations % ANGLES].mean(2).max(1)
    at_rest = scores[len(scores) // 2]
    return float(TURN_RATES[scores.argmax()]) if scores.max() > at_rest + LEAST_GAIN else 0.0

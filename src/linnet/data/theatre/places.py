"""The places of the theatre, painted by formulas: a sky, something far away, and the ground.

Axes: H rows, W columns of a layer, which is wider than the frame so that the camera can pan. Colours are RGB in 0..1,
already multiplied by the fourth channel, which says how much of the pixel a layer covers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from linnet.data.theatre import HEIGHT, WIDTH

BROAD = WIDTH + 64
EVERYWHERE = (slice(None), slice(None))
FINE = 2  # layers are painted so many times as large, and averaged
RGB = tuple[float, float, float]
Layer = Float[np.ndarray, "H W 4"]
TIMES = ("day", "dusk", "night")
WEATHERS = ("", "rain", "snow")
PLAIN: Mapping[str, RGB] = {
    "red": (0.80, 0.22, 0.22),
    "yellow": (0.94, 0.84, 0.36),
    "green": (0.24, 0.58, 0.34),
    "blue": (0.24, 0.40, 0.80),
    "purple": (0.48, 0.30, 0.66),
    "gray": (0.50, 0.51, 0.53),
    "white": (0.93, 0.93, 0.91),
    "black": (0.09, 0.09, 0.11),
}


class Canvas:
    """A layer while it is painted; coordinates are the frame's, x from 0 to `BROAD`."""

    def __init__(self) -> None:
        self.rgba = np.zeros((HEIGHT * FINE, BROAD * FINE, 4), np.float32)
        rows, columns = np.mgrid[0 : HEIGHT * FINE, 0 : BROAD * FINE].astype(np.float32)
        self.x, self.y = (columns + 0.5) / FINE, (rows + 0.5) / FINE

    def fill(
        self,
        where: Bool[np.ndarray, "h w"],
        colour: RGB | Float[np.ndarray, "h w 3"],
        part: tuple[slice, slice] = EVERYWHERE,
    ) -> None:
        """`where` and a colour that changes are those of a `part` of the layer."""
        rgba = self.rgba[part]
        painted = np.asarray(colour, np.float32)
        rgba[where, :3] = painted if painted.ndim == 1 else painted[where]
        rgba[where, 3] = 1

    def part(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """The rows and columns that hold a box: painting them alone saves most of the time."""
        low, high, near, far = (
            min(max(0, round(side * FINE) + more), most)
            for side, more, most in (
                (top, -1, HEIGHT * FINE),
                (bottom, 1, HEIGHT * FINE),
                (left, -1, BROAD * FINE),
                (right, 1, BROAD * FINE),
            )
        )
        return slice(low, high), slice(near, far)

    def ellipse(self, x: float, y: float, across: float, down: float, colour: RGB) -> None:
        part = self.part(x - across, y - down, x + across, y + down)
        self.fill(((self.x[part] - x) / across) ** 2 + ((self.y[part] - y) / down) ** 2 < 1, colour, part)

    def peak(self, x: float, top: float, bottom: float, half: float, colour: RGB) -> None:
        """A triangle that stands on its base, which is twice `half` wide."""
        part = self.part(x - half, top, x + half, bottom)
        down = (self.y[part] - top) / (bottom - top)
        self.fill((down > 0) & (down < 1) & (np.abs(self.x[part] - x) < half * down), colour, part)

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        part = self.part(left, top, right, bottom)
        x, y = self.x[part], self.y[part]
        self.fill((x >= left) & (x < right) & (y >= top) & (y < bottom), colour, part)

    def slope(self, top: float, bottom: float, above: RGB, below: RGB) -> Float[np.ndarray, "h w 3"]:
        """A colour that changes from a row to another."""
        part = np.clip((self.y - top) / (bottom - top), 0, 1)[..., None]
        return (1 - part) * np.array(above, np.float32) + part * np.array(below, np.float32)

    def done(self) -> Layer:
        return self.rgba.reshape(HEIGHT, FINE, BROAD, FINE, 4).mean((1, 3))


def ridge(
    rng: np.random.Generator, x: np.ndarray, height: float, length: float, rough: int = 3
) -> np.ndarray:
    """A line of hills about 0, so high and so far apart, in pixels."""
    total = np.zeros_like(x)
    for octave in range(rough):
        phase = rng.uniform(0, 2 * math.pi)
        total += height * 0.5**octave * np.sin(2 * math.pi * x * 2**octave / length + phase)
    return total


SKIES: Mapping[str, tuple[RGB, RGB]] = {  # above, at the horizon
    "day": ((0.36, 0.62, 0.92), (0.78, 0.90, 0.98)),
    "dusk": ((0.30, 0.24, 0.52), (0.98, 0.58, 0.34)),
    "night": ((0.03, 0.04, 0.13), (0.10, 0.14, 0.32)),
}


def sky(rng: np.random.Generator, time: str) -> Layer:
    canvas = Canvas()
    canvas.fill(canvas.y > -1, canvas.slope(0, 0.66 * HEIGHT, *SKIES[time]))
    if time == "night":
        for _ in range(60):
            size = rng.uniform(0.4, 0.9)
            canvas.ellipse(rng.uniform(0, BROAD), rng.uniform(0, 80), size, size, (0.9, 0.9, 0.8))
        return canvas.done()
    colour = (0.97, 0.98, 1.0) if time == "day" else (0.86, 0.50, 0.46)
    for _ in range(4):
        x, y = rng.uniform(0, BROAD), rng.uniform(8, 44)
        for _ in range(4):
            canvas.ellipse(x + rng.uniform(-16, 16), y + rng.uniform(-3, 3), rng.uniform(8, 15), 5, colour)
    return canvas.done()


def black_sky(rng: np.random.Generator, time: str) -> Layer:
    canvas = Canvas()
    canvas.fill(canvas.y > -1, canvas.slope(0, HEIGHT, (0.01, 0.01, 0.05), (0.08, 0.03, 0.14)))
    for _ in range(130):
        size = rng.uniform(0.3, 1.0)
        canvas.ellipse(rng.uniform(0, BROAD), rng.uniform(0, HEIGHT), size, size, (0.95, 0.95, 0.9))
    return canvas.done()


def wall(rng: np.random.Generator, time: str) -> Layer:
    canvas = Canvas()
    canvas.fill(canvas.y > -1, (0.93, 0.84, 0.70))
    canvas.fill((canvas.x + rng.uniform(0, 20)) % 20 < 9, (0.90, 0.79, 0.64))
    return canvas.done()


def ground(rng: np.random.Generator, top: float, above: RGB, below: RGB, wave: float = 2.0) -> Canvas:
    canvas = Canvas()
    line = top + ridge(rng, canvas.x, wave, 190.0, 2)
    canvas.fill(canvas.y > line, canvas.slope(top, HEIGHT, above, below))
    return canvas


def dots(canvas: Canvas, rng: np.random.Generator, top: float, colours: list[RGB], count: int) -> None:
    for number in range(count):
        y = rng.uniform(top, HEIGHT)
        size = 0.7 + 1.6 * (y - top) / (HEIGHT - top)
        canvas.ellipse(rng.uniform(0, BROAD), y, size, 0.7 * size, colours[number % len(colours)])


def hills(rng: np.random.Generator, colours: list[RGB], top: float, height: float, length: float) -> Canvas:
    canvas = Canvas()
    for number, colour in enumerate(colours):
        line = top + 14 * number + ridge(rng, canvas.x, height, length * (1 - 0.2 * number))
        canvas.fill(canvas.y > line, colour)
    return canvas


def meadow(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = hills(rng, [(0.55, 0.74, 0.58), (0.46, 0.68, 0.42)], 66, 7, 180)
    near = ground(rng, 92, (0.48, 0.74, 0.30), (0.30, 0.58, 0.20))
    dots(near, rng, 98, [(0.98, 0.92, 0.4), (0.96, 0.96, 0.96), (0.9, 0.5, 0.6)], 70)
    return far.done(), near.done()


def forest(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    far.fill(far.y > 70, (0.12, 0.30, 0.20))
    for colour, base, count in (((0.16, 0.38, 0.28), 100, 26), ((0.10, 0.28, 0.17), 108, 20)):
        for number in range(count):
            x, tall = (number + rng.uniform(0, 1)) * BROAD / count, rng.uniform(52, 92)
            for step in range(4):  # a fir: four skirts, one above the other
                low, wide = base - step * tall / 5, 13 - 2.6 * step
                far.peak(x, low - tall / 3, low, wide, colour)
    near = ground(rng, 98, (0.24, 0.42, 0.20), (0.30, 0.26, 0.14))
    dots(near, rng, 102, [(0.16, 0.30, 0.12), (0.40, 0.32, 0.16)], 60)
    return far.done(), near.done()


def snow(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = hills(rng, [(0.80, 0.86, 0.94), (0.86, 0.91, 0.97)], 68, 8, 150)
    near = ground(rng, 94, (0.96, 0.97, 1.0), (0.84, 0.89, 0.96), 3.0)
    dots(near, rng, 100, [(0.90, 0.93, 0.99)], 40)
    return far.done(), near.done()


def desert(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = hills(rng, [(0.86, 0.66, 0.42), (0.92, 0.74, 0.46)], 70, 12, 210)
    near = ground(rng, 96, (0.96, 0.82, 0.54), (0.86, 0.66, 0.36), 3.0)
    for _ in range(9):
        y = rng.uniform(104, HEIGHT)
        near.ellipse(rng.uniform(0, BROAD), y, rng.uniform(14, 34), 1.0, (0.84, 0.66, 0.38))
    return far.done(), near.done()


def waves(canvas: Canvas, rng: np.random.Generator, top: float, bottom: float, colour: RGB) -> None:
    for _ in range(34):
        y = rng.uniform(top + 2, bottom)
        long = 4 + 14 * (y - top) / (bottom - top)
        canvas.ellipse(rng.uniform(0, BROAD), y, long, 0.9, colour)


def sea(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    far.fill(far.y > 62, far.slope(62, 100, (0.22, 0.52, 0.74), (0.12, 0.40, 0.66)))
    waves(far, rng, 62, 92, (0.42, 0.68, 0.84))
    near = ground(rng, 92, (0.12, 0.42, 0.68), (0.04, 0.22, 0.48), 2.5)
    waves(near, rng, 96, HEIGHT, (0.34, 0.62, 0.82))
    return far.done(), near.done()


def towers(
    canvas: Canvas, rng: np.random.Generator, colour: RGB, low: float, high: float, bottom: float
) -> None:
    x = -10.0
    while x < BROAD:
        wide, tall = rng.uniform(20, 34), rng.uniform(low, high)
        canvas.box(x, bottom - tall, x + wide, bottom, colour)
        for column in np.arange(x + 4, x + wide - 4, 6):
            for row in np.arange(bottom - tall + 5, bottom - 6, 8):
                if rng.random() < 0.7:
                    canvas.box(column, row, column + 3, row + 4, (0.98, 0.88, 0.52))
        x += wide + rng.uniform(0, 5)


def city(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    towers(far, rng, (0.48, 0.54, 0.66), 50, 86, 104)
    towers(far, rng, (0.34, 0.38, 0.50), 24, 58, 104)
    near = ground(rng, 100, (0.66, 0.66, 0.68), (0.54, 0.54, 0.57), 0.0)
    for x in range(-100, BROAD + 100, 24):  # slabs, in perspective
        near.fill(
            (near.y > 101) & (np.abs(near.x - BROAD / 2 - (x - BROAD / 2) * (near.y - 60) / 50) < 0.6),
            (0.48, 0.48, 0.51),
        )
    return far.done(), near.done()


def mountains(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    for colour, count, low, high in (((0.50, 0.52, 0.64), 6, 56, 84), ((0.38, 0.40, 0.50), 6, 34, 58)):
        for number in range(count):
            x, tall = (number + rng.uniform(0.2, 0.8)) * BROAD / count, rng.uniform(low, high)
            far.peak(x, 104 - tall, 104, 0.8 * tall, colour)
            for number, deep in enumerate((0.20, 0.30, 0.24, 0.32)):  # tongues of snow
                left = (number - 2) * 0.1 * tall
                far.peak(x, 104 - tall, 104 - (1 - deep) * tall, 0.8 * deep * tall, (0.96, 0.97, 1.0))
                far.peak(x + left, 104 - (1 - deep) * tall - 4, 104 - (1 - deep) * tall, 3, colour)
    near = ground(rng, 98, (0.46, 0.54, 0.34), (0.40, 0.42, 0.32), 3.0)
    dots(near, rng, 102, [(0.56, 0.56, 0.56), (0.44, 0.44, 0.46)], 40)
    return far.done(), near.done()


def space(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    x, y = rng.uniform(60, BROAD - 60), rng.uniform(26, 46)
    far.ellipse(x, y, 17, 17, (0.80, 0.52, 0.34))
    far.ellipse(x - 4, y - 5, 9, 7, (0.90, 0.66, 0.46))
    near = Canvas()
    line = 116 + ((near.x - BROAD / 2) / 46) ** 2 * 0.4
    near.fill(near.y > line, near.slope(110, HEIGHT, (0.66, 0.66, 0.70), (0.42, 0.42, 0.48)))
    for _ in range(14):
        near.ellipse(
            rng.uniform(0, BROAD), rng.uniform(126, HEIGHT), rng.uniform(4, 10), 2, (0.48, 0.48, 0.54)
        )
    return far.done(), near.done()


def room(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    x = rng.uniform(40, BROAD - 100)
    far.box(x, 18, x + 56, 66, (0.98, 0.98, 0.96))
    far.box(x + 4, 22, x + 26, 62, (0.62, 0.82, 0.96))
    far.box(x + 30, 22, x + 52, 62, (0.62, 0.82, 0.96))
    picture = x + 90 if x < BROAD / 2 else x - 60
    far.box(picture, 24, picture + 34, 50, (0.44, 0.28, 0.18))
    far.box(picture + 3, 27, picture + 31, 47, tuple(rng.uniform(0.3, 0.9, 3)))
    near = Canvas()
    near.box(0, 98, BROAD, 104, (0.98, 0.96, 0.92))
    near.box(0, 104, BROAD, HEIGHT, (0.66, 0.44, 0.26))
    for y in (110, 119, 131):
        near.box(0, y, BROAD, y + 0.9, (0.50, 0.32, 0.18))
    return far.done(), near.done()


def street(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far, x = Canvas(), -8.0
    fronts = [
        (0.80, 0.46, 0.36),
        (0.90, 0.76, 0.52),
        (0.56, 0.68, 0.62),
        (0.70, 0.58, 0.70),
        (0.86, 0.62, 0.50),
    ]
    while x < BROAD:
        wide, tall, colour = rng.uniform(40, 52), rng.uniform(60, 80), fronts[rng.integers(len(fronts))]
        far.box(x, 96 - tall, x + wide, 96, colour)
        far.peak(x + wide / 2, 82 - tall, 96 - tall, wide / 2, (0.42, 0.26, 0.22))
        for row in (96 - tall + 8, 96 - tall + 30):
            for column in (x + 7, x + wide - 17):
                far.box(column, row, column + 10, row + 13, (0.96, 0.94, 0.78))
        far.box(x + wide / 2 - 5, 76, x + wide / 2 + 5, 96, (0.36, 0.22, 0.16))
        x += wide
    near = Canvas()
    near.box(0, 94, BROAD, 102, (0.72, 0.72, 0.72))
    near.box(0, 102, BROAD, HEIGHT, (0.32, 0.33, 0.36))
    for left in range(4, BROAD, 34):
        near.box(left, 130, left + 18, 133, (0.95, 0.95, 0.9))
    return far.done(), near.done()


def beach(rng: np.random.Generator) -> tuple[Layer, Layer]:
    far = Canvas()
    far.fill(far.y > 58, far.slope(58, 100, (0.14, 0.48, 0.72), (0.34, 0.74, 0.82)))
    waves(far, rng, 58, 90, (0.60, 0.84, 0.92))
    near = Canvas()
    line = 94 + ridge(rng, near.x, 2.5, 120.0, 2)
    near.fill(near.y > line - 4, (0.96, 0.98, 0.98))
    near.fill(near.y > line, near.slope(92, HEIGHT, (0.98, 0.90, 0.70), (0.92, 0.80, 0.56)))
    dots(near, rng, 104, [(0.88, 0.76, 0.54), (1.0, 0.96, 0.88)], 46)
    return far.done(), near.done()


Nothing = np.zeros((HEIGHT, BROAD, 4), np.float32)


def plain(rng: np.random.Generator) -> tuple[Layer, Layer]:
    return Nothing, Nothing


@dataclass(frozen=True)
class Place:
    """`phrases`: "in|a|meadow" becomes "in a green meadow", and behind a colon what it is without an article.

    `ground`: the row on which feet stand. Indoors and in space there is neither weather nor time of day.
    """

    paint: Callable[[np.random.Generator], tuple[Layer, Layer]]
    ground: float
    phrases: tuple[str, ...]
    outdoors: bool = True
    sky: Callable[[np.random.Generator, str], Layer] = sky


PLACES: Mapping[str, Place] = {
    "meadow": Place(
        meadow,
        120,
        (
            *("in|a|meadow", "on|a|meadow", "in|a|field", "in|a|grassy field", "on|the|grass"),
            *("in|a|garden", "in|the|garden", "in|a|park", "on|a|farm", "on|a|hill"),
        ),
    ),
    "forest": Place(
        forest, 122, ("in|a|forest", "through|a|forest", "in|the|woods", "in|a|wood", "in|the|jungle")
    ),
    "snow": Place(snow, 121, ("in|the|snow", "on|a|snow field", "on|a|field of snow", "on|the|ice")),
    "desert": Place(desert, 122, ("in|a|desert", "in|the|desert", "on|a|sand dune")),
    "sea": Place(
        sea,
        116,
        (
            *("in|the|sea", "on|the|sea", "in|the|ocean", "in|the|water", "on|the|water"),
            *("on|a|lake", "in|a|lake", "in|a|pond", "in|a|river"),
        ),
    ),
    "city": Place(
        city, 124, ("in|a|city", "in|the|city", "in front of|a|skyline", "in|a|town", "in|a|village")
    ),
    "mountains": Place(mountains, 121, ("in|the|mountains", "in front of|some|mountains", "in|the|alps")),
    "space": Place(space, 128, ("in|-|space", "in|-|outer space", "among|the|stars"), False, black_sky),
    "room": Place(
        room, 126, ("in|a|room", "in|a|living room", "inside|a|house", "on|the|floor of a room"), False, wall
    ),
    "street": Place(street, 122, ("in|a|street", "on|a|street", "on|the|road", "on|a|road", "down|the|road")),
    "beach": Place(
        beach, 122, ("on|a|beach", "at|the|beach", "on|the|sand", "at|the|seaside", "on|the|shore")
    ),
    "plain": Place(plain, 118, ("on|a|{colour} background", "in front of|a|{colour} wall"), False),
}


def paint(name: str, variant: int) -> tuple[Layer, Layer, dict[str, Layer]]:
    """(Far, ground, skies by time of day) of a place; `variant` says where its hills and houses are."""
    painted = PLACES[name]
    number = variant * len(PLACES) + list(PLACES).index(name)
    far, near = painted.paint(np.random.default_rng(number))
    times = TIMES if painted.outdoors else TIMES[:1]
    return far, near, {time: painted.sky(np.random.default_rng(number), time) for time in times}


def plain_sky(colour: str) -> Layer:
    """The empty background: its colour, a little lighter at the top than at the bottom."""
    shade = np.linspace(1.06, 0.9, HEIGHT, dtype=np.float32)[:, None, None]
    rgb = np.clip(np.array(PLAIN[colour], np.float32) * shade, 0, 1)
    return np.concatenate(
        (np.broadcast_to(rgb, (HEIGHT, BROAD, 3)), np.ones((HEIGHT, BROAD, 1), np.float32)), 2
    )

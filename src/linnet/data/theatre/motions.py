"""How things move: for each motion a track of positions, sizes and angles over time.

A track is relative: x and y in pixels from where the thing is at home, y down; `stretch` multiplies its width and its
height; `turn` is in radians, clockwise; `face` is 1 while it looks where its scene says and -1 when it has turned
round. Axis: F frames.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from linnet.data.theatre import WIDTH

Seconds = Float[np.ndarray, " F"]
SHOWN = 2.0  # seconds in the middle of which what passes through is in the middle of the frame
SPEED: Mapping[str, float] = {  # pixels a second
    "walks": 26.0,
    "runs": 64.0,
    "flies": 52.0,
    "swims": 36.0,
    "drives": 66.0,
    "sails": 30.0,
    "rolls": 46.0,
    "slides": 36.0,
    "hides": 54.0,
    "rises": 24.0,
    "sinks": 24.0,
}
MOTIONS = (
    *("walks", "runs", "flies", "swims", "drives", "sails", "rolls", "slides", "jumps", "falls", "bounces"),
    *("grows", "shrinks", "spins", "turns", "enters", "leaves", "hides", "rises", "sinks", "waits"),
)
GRAVITY = 420.0  # pixels a second squared
DROP = 62.0  # pixels that are fallen
LOSS: Mapping[str, float] = {
    "falls": 0.3,
    "bounces": 0.8,
}  # of the speed, what is left after touching the ground
AIRBORNE = ("flies", "rises", "sinks")  # these are at home in the middle of the frame, not on the ground


class Track(NamedTuple):
    x: Seconds
    y: Seconds
    wide: Seconds
    high: Seconds
    turn: Seconds
    face: Seconds


def eased(t: Seconds) -> Seconds:
    """From 0 at 0 to 1 at 1, slow at both ends."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def track(motion: str, t: Seconds, *, toward: int = 1, size: float = 56.0, moves: str = "") -> Track:
    """`toward`: 1 to the right, -1 to the left. `size`: the thing's own, in pixels, for what rolls.

    `moves` is how the thing gets along in motions that do not say so: it walks in, or drives in.
    """
    zero, unit = np.zeros_like(t), np.ones_like(t)
    x, y, wide, high, turn, face = zero, zero, unit, unit, zero, unit
    through = toward * SPEED.get(motion, 0.0) * (t - SHOWN / 2)
    match motion:
        case "rises" | "sinks":
            y = SPEED[motion] * (t - SHOWN / 2) * (-1 if motion == "rises" else 1)
        case "jumps":
            beat = t % 0.9
            y = np.minimum(0, GRAVITY / 2 * beat * (beat - 0.66))
            landed = np.exp(-(((beat - 0.78) / 0.07) ** 2))
            wide, high = 1 + 0.14 * landed, 1 - 0.18 * landed
        case "falls" | "bounces":
            y, landed = dropped(t - 0.15, LOSS[motion])
            wide, high = 1 + 0.16 * landed, 1 - 0.16 * landed
        case "grows" | "shrinks":
            last = 1.7 if motion == "grows" else 0.4
            wide = high = 1 + (last - 1) * eased(t / 1.9)
        case "spins":
            turn = 2 * math.pi / 1.6 * t
        case "enters" | "leaves":
            outside = WIDTH / 2 + 0.6 * size
            part = 1 - np.clip(t / 1.4, 0, 1) if motion == "enters" else np.clip((t - 0.4) / 1.4, 0, 1.1)
            x = outside * part**2 * (-toward if motion == "enters" else toward)
            y = bob(moves, t) * np.minimum(1, part * 4)
        case "turns":
            there = 1 - 2 * eased(
                (t - 0.8) / 0.5
            )  # the side that is seen, from one edge over none to the other
            face = np.where(there < 0, -1.0, 1.0)
            wide = np.maximum(0.12, np.abs(there))
            x = toward * SPEED["walks"] * np.where(t < 1.05, t, 2.1 - t) - toward * SPEED["walks"] / 2
            y = bob(moves, t)
        case "waits":
            high = 1 + 0.02 * np.sin(2 * math.pi * t / 1.3)
        case _:
            x, y = through, bob(moves if motion == "hides" else motion, t)
            turn = through / (0.5 * size) if motion == "rolls" else tilt(motion, t)
    return Track(x, y, wide, high, turn, face)


def bob(motion: str, t: Seconds) -> Seconds:
    """Up and down on the way, in pixels."""
    match motion:
        case "walks":
            return -2.5 * np.abs(np.sin(2 * math.pi * t / 0.7))
        case "runs":
            return -7.0 * np.abs(np.sin(2 * math.pi * t / 0.56))
        case "flies":
            return 5.0 * np.sin(2 * math.pi * t / 1.2)
        case "swims" | "sails":
            return 3.5 * np.sin(2 * math.pi * t / 1.5)
        case "drives":
            return -0.8 * np.abs(np.sin(2 * math.pi * t / 0.25))
        case _:
            return np.zeros_like(t)


def tilt(motion: str, t: Seconds) -> Seconds:
    swing = {"walks": (0.05, 0.7), "runs": (0.12, 0.56), "swims": (0.10, 1.5), "sails": (0.07, 1.9)}
    if motion not in swing:
        return np.zeros_like(t)
    angle, period = swing[motion]
    return angle * np.sin(2 * math.pi * t / period)


def dropped(t: Seconds, loss: float) -> tuple[Seconds, Seconds]:
    """Height (negative is up) of what is let go at 0, and how squashed it is, from touching the ground, 0..1."""
    landing, up = math.sqrt(2 * DROP / GRAVITY), math.sqrt(2 * DROP * GRAVITY)
    y = np.where(t < 0, -DROP, -DROP + GRAVITY / 2 * np.maximum(t, 0) ** 2)
    squash = np.exp(-(((t - landing) / 0.06) ** 2))
    start = landing
    while start < t.max() + 1 and (up := up * loss) > 12:
        gone = t - start
        y = np.where(gone >= 0, np.minimum(0, -up * gone + GRAVITY / 2 * gone**2), y)
        start += 2 * up / GRAVITY
        squash = np.maximum(squash, up / 250 * np.exp(-(((t - start) / 0.06) ** 2)))
    return np.where(t > start, 0.0, np.minimum(y, 0)), squash

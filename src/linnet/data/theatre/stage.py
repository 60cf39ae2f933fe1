"""From scenes to numbers: who stands where in every frame, as tensors of one shape for a whole batch.

Axes: B scenes, K slots from back to front, F frames.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from linnet.data.theatre import FPS, HEIGHT, WIDTH
from linnet.data.theatre.motions import AIRBORNE, track
from linnet.data.theatre.places import PLACES, PLAIN, TIMES, WEATHERS
from linnet.data.theatre.scene import CHASES, SIZES, VARIANTS, Scene
from linnet.data.theatre.things import THINGS, TINTS

SLOTS = 3
INDEX: Mapping[str, int] = {name: index for index, name in enumerate(THINGS)}
TREE, TREE_SIZE = "pine tree", 120.0  # wide enough down to the ground to hide what passes behind it
IN_THE_AIR = 0.42 * HEIGHT  # where what flies is at home
OFFSETS: Mapping[str, tuple[float, float]] = {  # of the thing from the other one, in pixels: ahead, down
    "beside": (64.0, 0.0),
    "above": (0.0, 0.0),
    "in front of": (36.0, 11.0),
    "behind": (40.0, -11.0),
    "chasing": (-70.0, 0.0),
}
APART = 8.0  # pixels from one thing up to another that is above it
LOWER = 34.0  # pixels by which something that flies makes room for another above it
PAN, FURTHEST = 20.0, 30.0  # pixels a second, and at most
ZOOM = 1.35


class Stage(NamedTuple):
    """A batch of scenes as `render` takes it.

    `poses` holds x, y, width (negative: seen from the other side), height (of the sprite's square, in pixels) and the
    angle; y is where the feet are if the slot is `grounded`, else the middle. `sprites` is -1 where a slot is empty,
    and a tint's red is -1 where there is none. `camera` holds x, y and the zoom.
    """

    sprites: Int[Tensor, "B K"]
    tints: Float[Tensor, "B K 3"]
    grounded: Float[Tensor, "B K"]
    poses: Float[Tensor, "B K F 5"]
    camera: Float[Tensor, "B F 3"]
    places: Int[Tensor, "B 2"]  # index of the painting, and of its sky
    times: Int[Tensor, "B"]
    weathers: Int[Tensor, "B"]
    seconds: Float[Tensor, "B F"]

    def to(self, device: torch.device | str) -> "Stage":
        return Stage(*(tensor.to(device, non_blocking=True) for tensor in self))

    def part(self, rows: slice) -> "Stage":
        return Stage(*(tensor[rows] for tensor in self))


@dataclass(frozen=True)
class Actor:
    sprite: int
    tint: tuple[int, int, int] | None
    grounded: bool
    poses: Float[np.ndarray, "F 5"]


def set_stage(scenes: Sequence[Scene], starts: Sequence[int], frames: int) -> Stage:
    """The frames `start`, `start` + 1, ... of each scene at 24 a second."""
    count = len(scenes)
    seconds = (np.array(starts, np.float32)[:, None] + np.arange(frames, dtype=np.float32)) / FPS
    sprites = np.full((count, SLOTS), -1, np.int64)
    tints = np.full((count, SLOTS, 3), -1.0, np.float32)
    grounded = np.zeros((count, SLOTS), np.float32)
    poses = np.ones((count, SLOTS, frames, 5), np.float32)
    for row, scene in enumerate(scenes):
        for slot, actor in enumerate(actors(scene, seconds[row])):
            sprites[row, slot], grounded[row, slot], poses[row, slot] = (
                actor.sprite,
                actor.grounded,
                actor.poses,
            )
            if actor.tint:
                tints[row, slot] = np.array(actor.tint) / 255
    cameras = np.stack([camera(scene, t) for scene, t in zip(scenes, seconds, strict=True)])
    return Stage(
        sprites=torch.from_numpy(sprites),
        tints=torch.from_numpy(tints),
        grounded=torch.from_numpy(grounded),
        poses=torch.from_numpy(poses),
        camera=torch.from_numpy(cameras),
        places=torch.tensor([painting(scene) for scene in scenes]),
        times=torch.tensor([TIMES.index(scene.time) for scene in scenes]),
        weathers=torch.tensor([WEATHERS.index(scene.weather) for scene in scenes]),
        seconds=torch.from_numpy(seconds),
    )


def painting(scene: Scene) -> tuple[int, int]:
    """The indices of a scene's layers and of its sky; plain skies come last (see `render.paint_places`)."""
    index = list(PLACES).index(scene.backdrop) * VARIANTS + scene.variant
    if scene.colour:
        return index, len(PLACES) * VARIANTS * len(TIMES) + list(PLAIN).index(scene.colour)
    return index, index * len(TIMES) + TIMES.index(scene.time)


def camera(scene: Scene, t: Float[np.ndarray, " F"]) -> Float[np.ndarray, "F 3"]:
    """Where it looks, from the middle of the stage, and how near it is."""
    x, zoom = np.zeros_like(t), np.ones_like(t)
    match scene.camera.split():
        case ["pans", side]:
            x = np.clip((1 if side == "right" else -1) * PAN * (t - 1), -FURTHEST, FURTHEST)
        case ["zooms", direction]:
            share = np.clip(t / 2, 0, 1)
            zoom = 1 + (ZOOM - 1) * (share if direction == "in" else 1 - share)
    return np.stack((x, np.zeros_like(t), zoom), 1).astype(np.float32)


def actors(scene: Scene, t: Float[np.ndarray, " F"]) -> list[Actor]:
    """All that stands on the stage, from back to front."""
    toward = 1 if scene.toward == "right" else -1
    if scene.other:
        ahead, down = OFFSETS[scene.relation]
        motion = scene.motion if scene.relation == "chasing" else "waits"
        if scene.relation == "chasing" and scene.motion not in CHASES.values():
            motion = "waits"
        side = toward if scene.relation == "chasing" else (1 if scene.x > 0 else -1)
        lower = LOWER if scene.relation == "above" and floats(scene.other, motion) else 0.0
        down += rise(scene, lower) if scene.relation == "above" else 0.0
        other = actor(scene, t, scene.other, motion, -side * ahead / 2, lower, phase=0.3)
        first = actor(scene, t, scene.thing, scene.motion, side * ahead / 2, down, tint=scene.tint)
        return [first, other] if scene.relation == "behind" else [other, first]
    if scene.motion == "hides":
        tree = actor(scene, t, TREE, "waits", 0.0, 6.0, size=TREE_SIZE)
        return [actor(scene, t, scene.thing, scene.motion, 0.0, 0.0, tint=scene.tint), tree]
    apart = 1.15 * sizes_of(scene.thing) * SIZES[scene.size]
    places = [apart * (number - (scene.count - 1) / 2) for number in range(scene.count)]
    order = random.Random(f"{scene.x}").sample(range(scene.count), scene.count)
    return [
        actor(scene, t, scene.thing, scene.motion, places[n], 5.0 * k, tint=scene.tint, phase=0.17 * n)
        for k, n in enumerate(order)
    ]


def rise(scene: Scene, lower: float) -> float:
    """Pixels, negative, from where a thing is at home in the air to where it is above the other one, and whole inside
    the frame."""
    own, ground = sizes_of(scene.thing) * SIZES[scene.size], PLACES[scene.backdrop].ground
    top = ground - sizes_of(scene.other)
    if floats(scene.other, "waits"):
        top = IN_THE_AIR + lower - sizes_of(scene.other) / 2
    home = IN_THE_AIR if floats(scene.thing, scene.motion) else ground - own / 2
    return max(top - APART - own / 2, own / 2 + 2) - home


def floats(name: str, motion: str) -> bool:
    return THINGS[name].kind in ("sky", "flyer") or motion in AIRBORNE


def sizes_of(thing: str) -> float:
    return THINGS[thing].size


def actor(
    scene: Scene,
    t: Float[np.ndarray, " F"],
    name: str,
    motion: str,
    x: float,
    y: float,
    *,
    tint: str = "",
    phase: float = 0.0,
    size: float | None = None,
) -> Actor:
    thing = THINGS[name]
    side = size or thing.size * (SIZES[scene.size] if name == scene.thing else 1.0)
    toward = 1 if scene.toward == "right" else -1
    moved = track(motion, t + phase, toward=toward, size=side, moves=thing.motions[0])
    # A pair that moves on keeps together: only what happens on the spot is out of step.
    if phase and motion in CHASES.values():
        moved = moved._replace(x=track(motion, t, toward=toward, size=side).x)
    flying = floats(name, motion)
    in_the_air = flying or motion == "spins" or (scene.relation == "above" and name == scene.thing)
    home = IN_THE_AIR if flying else PLACES[scene.backdrop].ground
    if not flying and in_the_air:
        home -= 0.5 * side
    looks = {"left": -1, "right": 1, "": 0}[thing.faces]
    flip = moved.face * (toward * looks if looks and size is None else 1)
    poses = (
        WIDTH / 2 + (scene.x if size is None else 0.0) + x + moved.x,
        home + scene.y + y + moved.y,
        side * moved.wide * flip,
        side * moved.high,
        moved.turn,
    )
    return Actor(INDEX[name], TINTS.get(tint), not in_the_air, np.stack(poses, 1).astype(np.float32))

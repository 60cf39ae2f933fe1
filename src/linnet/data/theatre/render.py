"""Scenes drawn in batches on the device that trains, by sampling sprites over painted layers.

Axes: B scenes, K slots, F frames, H and W the frame's rows and columns, S a sprite's side.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from linnet.data.theatre import HEIGHT, WIDTH
from linnet.data.theatre.places import BROAD, PLACES, PLAIN, TIMES, WEATHERS, paint, plain_sky
from linnet.data.theatre.scene import VARIANTS
from linnet.data.theatre.sprites import LEVELS, extents, levels
from linnet.data.theatre.stage import SLOTS, Stage

NEARNESS = (0.1, 0.4, 1.0)  # of the sky, what is far, and the ground: how much of the camera's way each moves
PIVOT = 84.0  # the row about which the camera zooms
# Light on the layers and, brighter, on the things, by time of day; and under rain clouds.
LIGHT = ((1.0, 1.0, 1.0), (1.0, 0.80, 0.72), (0.36, 0.42, 0.66))
SPOT = ((1.0, 1.0, 1.0), (1.0, 0.91, 0.86), (0.74, 0.78, 0.94))
CLOUDED = 0.78
SNOWED = (0.0, 0.35, 0.62)  # how white falling snow makes the sky, what is far, and the ground
WHITE = (0.93, 0.95, 0.99)
TILE = 128  # pixels after which what falls repeats itself
EDGE = 2  # pixels about a thing that belong to it, for `presence`
FALL = {"rain": (-60.0, 380.0), "snow": (-14.0, 42.0)}  # pixels a second


@dataclass(frozen=True)
class Scenery:
    """All pictures that scenes are made of, on the device that draws."""

    sprites: Float[Tensor, "N L 4 S S"]
    extents: Float[Tensor, "N 2"]
    skies: Float[Tensor, "P 4 H W"]
    far: Float[Tensor, "p 4 H W"]
    near: Float[Tensor, "p 4 H W"]
    falling: Float[Tensor, "weather 4 T T"]
    # Small tables, there already so that a GPU need not wait for them.
    light: Float[Tensor, "times 3"]
    spot: Float[Tensor, "times 3"]
    speeds: Float[Tensor, "weather 2"]
    white: Float[Tensor, "3 1 1"]


def paint_places() -> tuple[Tensor, Tensor, Tensor]:
    """(Skies, what is far, grounds), in the order that `stage.painting` counts in."""
    skies, far, near = [], [], []
    for name in PLACES:
        for variant in range(VARIANTS):
            distant, ground, above = paint(name, variant)
            far.append(distant)
            near.append(ground)
            skies += [above.get(time, above["day"]) for time in TIMES]
    skies += [plain_sky(colour) for colour in PLAIN]
    pictures = (torch.from_numpy(np.stack(layers)).permute(0, 3, 1, 2) for layers in (skies, far, near))
    first, second, third = (picture.contiguous() for picture in pictures)
    return first, second, third


def set_scenery(sprites: UInt8[Tensor, "N 4 S S"], device: torch.device | str = "cpu") -> Scenery:
    return make_scenery(sprites, *paint_places(), device)


def make_scenery(
    sprites: UInt8[Tensor, "N 4 S S"],
    skies: Float[Tensor, "P 4 H W"],
    far: Float[Tensor, "p 4 H W"],
    near: Float[Tensor, "p 4 H W"],
    device: torch.device | str = "cpu",
) -> Scenery:
    drawn = Scenery(
        sprites=levels(sprites),
        extents=extents(sprites),
        skies=skies,
        far=far,
        near=near,
        falling=falling(),
        light=torch.tensor(LIGHT),
        spot=torch.tensor(SPOT),
        speeds=torch.tensor([(0.0, 0.0), *FALL.values()]),
        white=torch.tensor(WHITE)[:, None, None],
    )
    return Scenery(**{name: picture.to(device) for name, picture in vars(drawn).items()})


def falling() -> Float[Tensor, "weather 4 T T"]:
    """Nothing, drops and flakes; each tile's first rows and columns follow upon its last ones."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    tiles = np.zeros((len(WEATHERS), TILE, TILE, 4), np.float32)
    for kind, count in ((1, 26), (2, 20)):
        cover = np.zeros((TILE, TILE), np.float32)
        for _ in range(count):
            x, y = rng.uniform(0, TILE, 2)
            across = (columns - x + TILE / 2) % TILE - TILE / 2
            down = (rows - y + TILE / 2) % TILE - TILE / 2
            if kind == 1:
                drop = np.clip(1.1 - np.abs(across + 0.16 * down), 0, 1) * (np.abs(down) < 7)
                cover = np.maximum(cover, 0.55 * drop)
            else:
                cover = np.maximum(cover, np.clip(rng.uniform(1.8, 2.8) - np.hypot(across, down), 0, 1))
        colour = (0.78, 0.84, 0.94) if kind == 1 else (1.0, 1.0, 1.0)
        tiles[kind] = cover[..., None] * np.array((*colour, 1.0), np.float32)
    return F.pad(torch.from_numpy(tiles).permute(0, 3, 1, 2), (1, 1, 1, 1), mode="circular")


@dataclass(frozen=True)
class View:
    """The part of the frame that is drawn of each scene: its first column and row, and its size in pixels."""

    left: Float[Tensor, "B"]
    top: Float[Tensor, "B"]
    width: int = WIDTH
    height: int = HEIGHT


def whole(stage: Stage) -> View:
    zero = stage.seconds.new_zeros(len(stage.seconds))
    return View(zero, zero)


@torch.no_grad()
def render(scenery: Scenery, stage: Stage, view: View | None = None) -> Float[Tensor, "B F 3 H W"]:
    """Frames in 0..1. Every scene is drawn alone: its neighbours in the batch change nothing."""
    view = view or whole(stage)
    layers = (
        scenery.skies[stage.places[:, 1]],
        *(bank[stage.places[:, 0]] for bank in (scenery.far, scenery.near)),
    )
    light = scenery.light[stage.times] * torch.where(stage.weathers == 1, CLOUDED, 1.0)[:, None]
    spot = scenery.spot[stage.times]
    snowed = (stage.weathers == 2).to(light)[:, None, None, None]
    frames: Tensor | None = None
    for number, layer in enumerate(layers):
        colour, cover = layer[:, :3], layer[:, 3:]
        colour = torch.lerp(colour, cover * scenery.white, SNOWED[number] * snowed)
        if number:  # a sky is painted by its time of day
            colour = colour * light[:, :, None, None]
        picture = sample(torch.cat((colour, cover), 1), backdrop_grid(stage, view, NEARNESS[number]))
        frames = picture[:, :3] if frames is None else over(picture, frames)
    assert frames is not None
    for slot in range(SLOTS):
        if _some(stage.sprites[:, slot] >= 0):
            texture = costume(scenery, stage, slot, spot)
            frames = over(sample(texture, sprite_grid(scenery, stage, view, slot)), frames)
    if _some(stage.weathers > 0):
        for scale in (1.0, 0.6):
            frames = over(
                sample(scenery.falling[stage.weathers], falling_grid(scenery, stage, view, scale)), frames
            )
    return frames.unflatten(2, (-1, view.height)).transpose(1, 2).clamp(0, 1)


def _some(which: Tensor) -> bool:
    """Whether there is anything to draw. A GPU rather draws nothing than waits for the answer."""
    return which.device.type != "cpu" or bool(which.any())


def sample(texture: Float[Tensor, "B 4 h w"], grid: Float[Tensor, "B F H W 2"]) -> Float[Tensor, "B 4 FH W"]:
    """All frames of a scene as one tall picture, since they share their texture."""
    return F.grid_sample(
        texture, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def over(picture: Float[Tensor, "B 4 FH W"], under: Float[Tensor, "B 3 FH W"]) -> Float[Tensor, "B 3 FH W"]:
    return torch.addcmul(picture[:, :3], under, 1 - picture[:, 3:])


def _pixels(view: View, step: int = 1) -> tuple[Float[Tensor, "B 1 1 W"], Float[Tensor, "B 1 H 1"]]:
    """The centres of every `step` pixels: x from the middle of the frame, y from the pivot."""
    device = view.left.device
    x = view.left[:, None] + step * (torch.arange(view.width // step, device=device) + 0.5) - WIDTH / 2
    y = view.top[:, None] + step * (torch.arange(view.height // step, device=device) + 0.5) - PIVOT
    return x[:, None, None], y[:, None, :, None]


def seen(
    stage: Stage, view: View, nearness: float, step: int = 1
) -> tuple[Float[Tensor, "B F 1 W"], Float[Tensor, "B F H 1"]]:
    """Where on the stage each column and row of the view lies, for a layer; x from its middle, y from its top."""
    x, y = _pixels(view, step)
    camera = stage.camera[:, :, :, None, None]
    zoom = camera[:, :, 2] ** nearness
    return x / zoom + nearness * camera[:, :, 0], y / zoom + nearness * camera[:, :, 1] + PIVOT


def presence(scenery: Scenery, stage: Stage, view: View, step: int = 1) -> Bool[Tensor, "B F h w"]:
    """Where the things are, as boxes with a margin, for every `step` pixels: what a loss should look at closely."""
    drawn = torch.zeros((), dtype=torch.bool, device=stage.poses.device)
    for slot in range(SLOTS):
        grid = sprite_grid(scenery, stage, view, slot, step)
        half = stage.poses[:, slot, :, None, None, 2:4].abs() / 2
        inside = (grid.abs() * half < half + step / 2 + EDGE).all(-1)
        drawn = drawn | (inside & (stage.sprites[:, slot] >= 0)[:, None, None, None])
    return drawn


def backdrop_grid(stage: Stage, view: View, nearness: float) -> Float[Tensor, "B F H W 2"]:
    x, y = seen(stage, view, nearness)
    return _grid(2 * x / BROAD, 2 * y / HEIGHT - 1)


def _grid(x: Tensor, y: Tensor) -> Float[Tensor, "B F H W 2"]:
    """Columns and rows, each as far as they go, spread over all pixels."""
    x, y = torch.broadcast_tensors(x, y)
    return torch.stack((x, y), -1)


def falling_grid(scenery: Scenery, stage: Stage, view: View, scale: float) -> Float[Tensor, "B F H W 2"]:
    """Two sheets of drops or flakes: `scale` 1 is the near one, which falls faster."""
    x, y = _pixels(view)
    moved = scenery.speeds[stage.weathers][:, None] * stage.seconds[..., None]
    x = (x / scale - moved[..., 0, None, None]) % TILE
    y = (y / scale - moved[..., 1, None, None]) % TILE
    return _grid(2 * (x + 1) / (TILE + 2) - 1, 2 * (y + 1) / (TILE + 2) - 1)


def costume(
    scenery: Scenery, stage: Stage, slot: int, spot: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 S S"]:
    """The sprite of each scene's slot, as sharp as its size needs, tinted and lit; an empty slot's is clear."""
    index = stage.sprites[:, slot]
    poses = stage.poses[:, slot, stage.poses.shape[2] // 2]
    side = poses[:, 3] * stage.camera[:, stage.camera.shape[1] // 2, 2]
    level = sum((side <= size).long() for size in LEVELS[1:])
    texture = scenery.sprites[index.clamp(min=0), level]
    colour, cover = texture[:, :3], texture[:, 3:]
    tint = stage.tints[:, slot]
    bright, dark = colour.amax(1, keepdim=True), colour.amin(1, keepdim=True)
    vivid = ((bright - dark) / bright.clamp(min=1e-4) * 1.25).clamp(max=1)  # what is gray stays gray
    tinted = torch.lerp(colour, tint[:, :, None, None] * bright, vivid)
    colour = torch.where((tint[:, 0] >= 0)[:, None, None, None], tinted, colour)
    present = (index >= 0).to(colour)[:, None, None, None]
    return torch.cat((colour * spot[:, :, None, None], cover), 1) * present


def sprite_grid(
    scenery: Scenery, stage: Stage, view: View, slot: int, step: int = 1
) -> Float[Tensor, "B F H W 2"]:
    pose = stage.poses[:, slot, :, :, None, None]
    x, y, wide, high, turn = pose.unbind(2)
    feet = scenery.extents[stage.sprites[:, slot].clamp(min=0), 1] * stage.grounded[:, slot]
    y = y - feet[:, None, None, None] * high / 2
    across, down = seen(stage, view, 1.0, step)
    across, down = across + WIDTH / 2 - x, down - y
    cos, sin = turn.cos(), turn.sin()
    return torch.stack(
        ((across * cos + down * sin) / (wide / 2), (down * cos - across * sin) / (high / 2)), -1
    )


def pictures(frames: Float[Tensor, "B F 3 H W"]) -> UInt8[np.ndarray, "B F H W 3"]:
    return (frames * 255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()

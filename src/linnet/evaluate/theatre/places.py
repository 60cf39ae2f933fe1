"""Where a clip is: the nearest painting in its light and weather, and how the camera moves.

Axes: P paintings, F frames, h w rows and columns that are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from linnet.data.theatre import FPS
from linnet.data.theatre.places import PLACES, PLAIN, TIMES, WEATHERS
from linnet.data.theatre.render import Scenery, render
from linnet.data.theatre.scene import CAMERAS, VARIANTS, Scene
from linnet.data.theatre.stage import camera, set_stage

SCALE = 2  # pixels of the frame for one that is read
COARSE = 2  # read pixels for one by which paintings are compared
NEAR_ONES = 3  # paintings that are looked at with every camera, at most
AS_NEAR = 1.25  # times the distance of the nearest: how far those may be
THE_SAME = (
    0.012  # a mean distance at which a still painting is what is there, and no camera need be looked for
)
STILL = (0, 24, 48)  # frames in which some camera is where a still one is
MOMENTS = (0, 16, 32, 48)  # frames in which cameras are told apart
MOST = 0.1  # what a pixel that is hidden counts


@dataclass(frozen=True)
class Backdrop:
    """A place as it was read: a scene without its things."""

    scene: Scene

    def camera(self, frames: list[int]) -> Float[np.ndarray, "F 3"]:
        return camera(self.scene, np.array(frames, np.float32) / FPS)


def readable(
    clip: UInt8[np.ndarray, "f H W 3"], frames: list[int], device: torch.device
) -> Float[Tensor, "F 3 h w"]:
    """Some frames in 0..1, at the size that is read."""
    chosen = torch.from_numpy(np.ascontiguousarray(clip[[min(n, len(clip) - 1) for n in frames]])).to(device)
    return F.avg_pool2d(chosen.permute(0, 3, 1, 2).float() / 255, SCALE)


class PlaceReader:
    """Every painting at every time and in every weather. What falls is left out: it is never where it was painted."""

    def __init__(self, scenery: Scenery, names: Sequence[str] = tuple(PLACES)) -> None:
        self.scenery = replace(scenery, falling=torch.zeros_like(scenery.falling))
        self.device = scenery.sprites.device
        self.scenes = [
            Scene(thing="dog", backdrop=name, motion="waits", time=t, weather=w, colour=c, variant=variant)
            for name in names
            for painted in (PLACES[name],)
            for variant in range(1 if name == "plain" else VARIANTS)
            for t in (TIMES if painted.outdoors else TIMES[:1])
            for w in (WEATHERS if painted.outdoors else WEATHERS[:1])
            for c in (tuple(PLAIN) if name == "plain" else ("",))
        ]
        parts = [
            F.avg_pool2d(self.empty(self.scenes[first : first + 16], [[0]] * 16)[:, 0], COARSE)
            for first in range(0, len(self.scenes), 16)
        ]
        self.pictures = torch.cat(parts)

    def empty(self, scenes: list[Scene], frames: list[list[int]]) -> Float[Tensor, "P F 3 h w"]:
        """The scenes' places without things, at the size that is read."""
        rows = [(scene, frame) for scene, numbers in zip(scenes, frames, strict=False) for frame in numbers]
        stage = set_stage([scene for scene, _ in rows], [frame for _, frame in rows], 1).to(self.device)
        stage = stage._replace(sprites=torch.full_like(stage.sprites, -1))
        drawn = F.avg_pool2d(render(self.scenery, stage)[:, 0], SCALE)
        return drawn.unflatten(0, (len(scenes), -1))

    def read(self, clip: UInt8[np.ndarray, "f H W 3"]) -> Backdrop:
        every = readable(clip, list(range(0, len(clip), max(1, len(clip) // 8))), self.device)
        moments = torch.cat((readable(clip, list(STILL), self.device), every.median(0, keepdim=True).values))
        far = torch.stack([self.apart(moment) for moment in F.avg_pool2d(moments, COARSE)])
        if float(far.amax(0).min()) < THE_SAME:
            return Backdrop(self.scenes[int(far.amax(0).argmin())])
        away = far.amin(0)
        nearest = [n for n in away.argsort()[:NEAR_ONES].tolist() if away[n] <= AS_NEAR * away.min()]
        scenes = [
            replace(self.scenes[index], camera=camera)
            for index in nearest
            for camera in (("", *CAMERAS) if self.scenes[index].backdrop != "plain" else ("",))
        ]
        frames = [moment for moment in MOMENTS if moment < len(clip)]
        places = F.avg_pool2d(self.empty(scenes, [frames] * len(scenes)).flatten(0, 1), COARSE)
        own = F.avg_pool2d(readable(clip, frames, self.device), COARSE)
        apart = (places.unflatten(0, (len(scenes), -1)) - own).abs().mean(2).flatten(1)
        return Backdrop(scenes[int(distance(apart).argmin())])

    def apart(self, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "P"]:
        return distance((self.pictures - picture).abs().mean(1).flatten(1))

    def bare(self, backdrop: Backdrop, frames: list[int]) -> Float[Tensor, "F 3 h w"]:
        """The empty place in some frames, as its camera shows it."""
        if backdrop.scene.camera:
            return self.empty([backdrop.scene], [frames])[0]
        return self.empty([backdrop.scene], [[0]])[0].expand(len(frames), -1, -1, -1)

    def light(self, backdrop: Backdrop) -> Float[Tensor, "3"]:
        return self.scenery.spot[TIMES.index(backdrop.scene.time)]


def distance(away: Float[Tensor, "P pixels"]) -> Float[Tensor, "P"]:
    """The mean difference, of which no pixel adds more than `MOST`: a thing hides a part of the place."""
    return away.clamp(max=MOST).mean(1)

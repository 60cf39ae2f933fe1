"""What one clip of the theatre shows, drawn at random, and which combinations are never trained on."""

import functools
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from linnet.data.theatre.places import PLACES, PLAIN, TIMES
from linnet.data.theatre.things import THINGS, TINTS

HELD_OUT_SHARE = 0.1
VARIANTS = 4  # paintings of each place
SIZES: Mapping[str, float] = {"": 1.0, "small": 0.72, "large": 1.32}
CAMERAS = ("pans left", "pans right", "zooms in", "zooms out")
RELATIONS = ("beside", "above", "in front of", "behind", "chasing")
AT_HOME = ("waits", "jumps", "grows", "spins", "turns")  # what can be done beside another thing
CHASES: Mapping[str, str] = {"animal": "runs", "vehicle": "drives", "flyer": "flies", "swimmer": "swims"}
AWAY = ("enters", "leaves", "hides")  # in some moments of these the thing cannot be seen
WET = ("swimmer", "boat")
CROWDED = (
    "enters",
    "leaves",
    "hides",
    "rises",
    "sinks",
    "turns",
)  # what several of a kind do not do together


@dataclass(frozen=True, kw_only=True)
class Scene:
    """`toward` is the side that the thing looks and moves to; `x` and `y` move it from its home, in pixels.

    `other` stands in `relation` to the thing ("the dog is beside the car"): both are "" for a thing alone. `colour` is
    the plain background's. `variant` is the painting of the place.
    """

    thing: str
    backdrop: str
    motion: str
    toward: str = "left"
    count: int = 1
    size: str = ""
    tint: str = ""
    colour: str = ""
    time: str = "day"
    weather: str = ""
    camera: str = ""
    other: str = ""
    relation: str = ""
    variant: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.thing, self.backdrop, self.motion


@functools.cache
def held_out(thing: str, backdrop: str, motion: str) -> bool:
    """Whether this combination is kept out of training for good: a tenth of them, by a hash that no seed changes.

    The tree that things pass behind is scenery and counts for none.
    """
    digest = hashlib.sha256(f"{thing}/{backdrop}/{motion}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


Allowed = Callable[[str, str, str], bool]


def trained(thing: str, backdrop: str, motion: str) -> bool:
    return not held_out(thing, backdrop, motion)


def sample_scene(
    rng: random.Random,
    *,
    allowed: Allowed = trained,
    still: bool = False,
    things: tuple[str, ...] = tuple(THINGS),
    places: tuple[str, ...] = tuple(PLACES),
) -> Scene:
    """A scene drawn evenly over things, with places and motions that are `allowed` for them.

    `still` is for a single frame, taken at any moment: its thing is in view all the time.
    """
    while True:
        thing, backdrop = rng.choice(things), rng.choice(places)
        if THINGS[thing].kind in WET and rng.random() < 0.5:
            backdrop = rng.choice([name for name in ("sea", "beach") if name in places] or [backdrop])
        motions = [m for m in THINGS[thing].motions if not (still and m in AWAY)]
        motion = rng.choice(motions)
        if allowed(thing, backdrop, motion):
            scene = Scene(thing=thing, backdrop=backdrop, motion=motion, toward=rng.choice(("left", "right")))
            return accompanied(rng, decorated(rng, scene), allowed, things)


def decorated(rng: random.Random, scene: Scene) -> Scene:
    """The same thing in the same place doing the same, with all else drawn."""
    thing, painted = THINGS[scene.thing], PLACES[scene.backdrop]
    plain = scene.backdrop == "plain"
    tint = rng.choice(tuple(TINTS)) if thing.tinted and rng.random() < 0.6 else ""
    colours = [colour for colour in PLAIN if colour != tint]
    return replace(
        scene,
        size=rng.choice(("small", "large")) if rng.random() < 0.2 else "",
        tint=tint,
        colour=rng.choice(colours) if plain else "",
        time=rng.choices(TIMES, (0.6, 0.15, 0.25))[0] if painted.outdoors else "day",
        weather=rng.choice(("rain", "snow")) if painted.outdoors and rng.random() < 0.2 else "",
        camera=rng.choice(CAMERAS) if not plain and rng.random() < 0.2 else "",
        variant=rng.randrange(VARIANTS),
        x=rng.uniform(-14, 14),
        y=rng.uniform(-4, 4),
    )


def accompanied(rng: random.Random, scene: Scene, allowed: Allowed, things: tuple[str, ...]) -> Scene:
    """Sometimes there are several of the thing, or another thing in some relation to it."""
    chance, kind = rng.random(), THINGS[scene.thing].kind
    if chance < 0.1 and scene.motion not in CROWDED:
        return replace(scene, count=rng.choice((2, 3)))
    if chance > 0.25:
        return scene
    relation = rng.choice(RELATIONS)
    if relation == "chasing":
        motion = does = CHASES.get(kind, "")
        others = [name for name in things if THINGS[name].kind == kind]
    else:
        motion, does = scene.motion if scene.motion in AT_HOME else "waits", "waits"
        others = [name for name in things if THINGS[name].kind != "sky"]
    # Company is held out as well: a fox that must not be seen waiting in a room is not seen beside a dog there.
    others = [name for name in others if name != scene.thing and trained(name, scene.backdrop, does)]
    if motion not in THINGS[scene.thing].motions or not others:
        return scene
    if not allowed(scene.thing, scene.backdrop, motion):
        return scene
    return replace(scene, motion=motion, relation=relation, other=rng.choice(others))

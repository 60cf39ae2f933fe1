"""The things of the theatre: their sprites in an emoji font, their names, and what they can do.

They were chosen by eye at a height of 40 pixels. Whole bodies come before heads; of the fox, the lion, the panda and
the frog the font has only heads, which read well. There is no circle and no cross: they are left for `linnet train` to
teach. All that has a front looks to the left in the font, apart from what the table marks with `>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

KINDS: Mapping[str, tuple[str, ...]] = {  # what each kind of thing does
    "animal": ("walks", "runs", "jumps", "waits", "turns", "enters", "leaves", "hides"),
    "flyer": ("flies", "waits", "turns", "enters", "leaves", "hides", "rises"),
    "swimmer": ("swims", "jumps", "waits", "turns", "enters", "leaves"),
    "vehicle": ("drives", "waits", "turns", "enters", "leaves", "hides"),
    "boat": ("sails", "waits", "turns", "enters", "leaves"),
    "ball": ("rolls", "bounces", "falls", "spins", "waits", "hides"),
    "object": ("falls", "bounces", "grows", "shrinks", "spins", "waits"),
    "sky": ("rises", "sinks", "grows", "shrinks", "spins", "waits"),
    "shape": ("slides", "rolls", "falls", "bounces", "grows", "shrinks", "spins", "waits", "jumps"),
}
SIZES = {"s": 46.0, "m": 56.0, "l": 68.0}  # pixels, the longer side of a sprite

# name | sprite | size | other names, comma-separated | marks: > looks right, = has no front, ~ can be tinted
TABLE: Mapping[str, str] = {
    "animal": """
dog|🐕|m|puppy,doggy,hound
cat|🐈|m|kitten,kitty
tiger|🐅|l|
horse|🐎|l|pony
cow|🐄|l|
pig|🐖|m|piglet,piggy
sheep/sheep|🐑|m|lamb
camel|🐫|l|
giraffe|🦒|l|
elephant|🐘|l|
rhino|🦏|l|rhinoceros
hippo|🦛|l|
mouse/mice|🐁|s|
rabbit|🐇|s|bunny,hare
squirrel|🐿|s|chipmunk
hedgehog|🦔|s|
kangaroo|🦘|l|
deer/deer|🦌|l|stag
monkey|🐒|m|
fox|🦊|m|red fox|=
lion|🦁|m||=
panda|🐼|m|panda bear|=
frog|🐸|s|toad,froggy|=
rooster|🐓|m|cock
penguin|🐧|m|
duck|🦆|m|duckling,ducky
goose/geese|🪿|m|
flamingo|🦩|l|
turtle|🐢|s|tortoise
snake|🐍|s|
snail|🐌|s|
dinosaur|🦖|l|t-rex
crab|🦀|s||=
caterpillar|🐛|s|
spider|🕷|s||=
robot|🤖|m||=
snowman/snowmen|⛄|m||=
teddy bear|🧸|m|teddy|=
""",
    "flyer": """
bird|🐦|s|bluebird,birdie
eagle|🦅|m|hawk
dove|🕊|m|pigeon
owl|🦉|m||=
parrot|🦜|m|
bat|🦇|m||=
butterfly|🦋|s||=
bee|🐝|s|bumblebee
dragon|🐉|l|
ghost|👻|m||=
airplane|✈|l|plane,aeroplane,jet|>
helicopter|🚁|l|chopper
rocket|🚀|l|spaceship|>
ufo|🛸|l|flying saucer|=
""",
    "swimmer": """
whale|🐋|l|
dolphin|🐬|l|
shark|🦈|l|
fish/fish|🐟|m|fishy
tropical fish/tropical fish|🐠|m|
octopus|🐙|m||=
jellyfish/jellyfish|🪼|m||=
swan|🦢|m|
""",
    "vehicle": """
car|🚗|l|automobile|~
taxi|🚕|l|cab
bus|🚌|l|school bus
police car|🚓|l|
ambulance|🚑|l|
fire engine|🚒|l|fire truck
truck|🚚|l|lorry,van
tractor|🚜|l|
racing car|🏎|l|race car|~
motorbike|🏍|l|motorcycle|~
bicycle|🚲|l|bike
train|🚂|l|locomotive,steam train
""",
    "boat": """
sailboat|⛵|l|sailing boat,sail boat
ship|🚢|l|steamer
""",
    "ball": """
football|⚽|s|soccer ball|=
basketball|🏀|s||=
baseball|⚾|s||=
wheel|🛞|m|tyre|=
""",
    "object": """
tree|🌳|l|oak|=
pine tree|🌲|l|fir,fir tree|=
palm tree|🌴|l|palm|=
cactus|🌵|m||=
rose|🌹|m||=~
sunflower|🌻|m||=
tulip|🌷|m||=~
mushroom|🍄|s|toadstool|=~
apple|🍎|s||=~
orange|🍊|s|mandarin|=
lemon|🍋|s||=
banana|🍌|s||=
strawberry|🍓|s||=
pineapple|🍍|m||=
tomato/tomatoes|🍅|s||=
carrot|🥕|s||=
pumpkin|🎃|m|jack-o'-lantern|=
hamburger|🍔|s|burger|=
pizza|🍕|s|slice of pizza/slices of pizza|=
donut|🍩|s|doughnut|=
cookie|🍪|s|biscuit|=
cake|🎂|m|birthday cake|=
ice cream/ice creams|🍦|m|ice cream cone|=
cup|☕|s|cup of coffee/cups of coffee,coffee/coffees|=
teapot|🫖|m||=~
balloon|🎈|m||=~
umbrella|☂|m||=~
gift|🎁|m|present|=~
crown|👑|s||=
hat|🎩|s|top hat|=
key|🔑|s||=
hammer|🔨|m||=
pencil|✏|m||=
book|📕|m||=~
guitar|🎸|m||=~
clock|⏰|m|alarm clock|=
chair|🪑|m||=
house|🏠|l|home|=
castle|🏰|l||=
tent|⛺|l||=
backpack|🎒|m|rucksack|=~
rock|🪨|m|stone,boulder|=
""",
    "sky": """
sun|☀|m||=
moon|🌙|m|crescent moon,crescent|=~
cloud|☁|m||=
planet|🪐|m|saturn|=
snowflake|❄|s||=
lightning bolt|⚡|m|lightning|=
""",
    "shape": """
star|⭐|m||=~
heart|❤|m||=~
square|🟥|m|box|=~
triangle|🔺|m||=~
diamond|🔷|m|rhombus|=~
""",
}


@dataclass(frozen=True)
class Thing:
    """`names` and `plurals` begin with the usual one; `faces` is "left", "right", or nothing without a front."""

    name: str
    sprite: str
    kind: str
    size: float
    names: tuple[str, ...]
    plurals: tuple[str, ...]
    faces: str
    tinted: bool

    @property
    def motions(self) -> tuple[str, ...]:
        return KINDS[self.kind]


def plural(name: str) -> str:
    """By the rule; what does not follow it stands in the table."""
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"


def _thing(kind: str, row: str) -> Thing:
    first, sprite, size, others, marks = [*row.split("|"), ""][:5]
    names = [pair.partition("/")[::2] for pair in (first, *filter(None, others.split(",")))]
    return Thing(
        name=names[0][0],
        sprite=sprite,
        kind=kind,
        size=SIZES[size],
        names=tuple(single for single, _ in names),
        plurals=tuple(many or plural(single) for single, many in names),
        faces="" if "=" in marks else "right" if ">" in marks else "left",
        tinted="~" in marks,
    )


THINGS: Mapping[str, Thing] = {
    thing.name: thing
    for kind, rows in TABLE.items()
    for thing in (_thing(kind, row) for row in rows.split("\n") if row)
}
TINTS: Mapping[str, tuple[int, int, int]] = {
    "red": (222, 40, 44),
    "orange": (246, 138, 22),
    "yellow": (250, 212, 40),
    "green": (40, 168, 72),
    "blue": (44, 92, 226),
    "purple": (136, 52, 186),
    "pink": (248, 132, 190),
    "white": (240, 240, 240),
    "black": (44, 44, 50),
}

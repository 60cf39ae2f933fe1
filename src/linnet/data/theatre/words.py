"""Which words of a prompt the theatre knows, and the nearest known one for those that it does not."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from linnet.data.theatre.captions import ADJECTIVES, EMPTY_WORDS, MOTION_WORDS, vocabulary
from linnet.data.theatre.places import PLACES, PLAIN, TIMES, WEATHERS
from linnet.data.theatre.scene import CAMERAS, RELATIONS, SIZES
from linnet.data.theatre.things import THINGS, TINTS, plural
from linnet.errors import InvalidInput
from linnet.records import check_seen
from linnet.wording import in_a_row, nearest

# What people ask for and the theatre does not have, behind what it has instead.
INSTEAD: Mapping[str, str] = {
    "dog": "poodle terrier retriever labrador beagle husky corgi dachshund",
    "cat": "lynx bobcat puma leopard cheetah panther jaguar",
    "fox": "wolf wolves coyote jackal badger raccoon weasel",
    "horse": "donkey mule zebra unicorn stallion foal",
    "cow": "bull ox buffalo bison calf yak",
    "pig": "boar hog warthog",
    "sheep": "goat ram ewe llama alpaca",
    "deer": "moose elk reindeer antelope gazelle",
    "panda": "bear grizzly koala",
    "monkey": "gorilla ape chimpanzee orangutan",
    "mouse": "rat hamster guinea gerbil",
    "squirrel": "beaver otter marmot",
    "bird": "sparrow robin canary finch crow raven seagull gull wren starling linnet",
    "eagle": "falcon vulture condor kite",
    "flamingo": "stork crane heron ostrich",
    "rooster": "chicken hen turkey chick peacock",
    "turtle": "lizard gecko",
    "dinosaur": "crocodile alligator tyrannosaurus triceratops",
    "snake": "worm eel cobra python viper",
    "bee": "wasp fly mosquito hornet ladybug beetle ant",
    "butterfly": "moth dragonfly",
    "fish": "trout salmon goldfish shark tuna carp",
    "whale": "orca",
    "dolphin": "seal walrus porpoise",
    "octopus": "squid",
    "crab": "lobster shrimp",
    "robot": "man woman boy girl child person people android astronaut knight pirate wizard baby king queen",
    "car": "sedan vehicle jeep suv limousine convertible",
    "truck": "trailer pickup",
    "bus": "coach tram minibus",
    "motorbike": "scooter moped",
    "train": "subway metro wagon carriage",
    "ship": "ferry liner yacht steamship submarine",
    "sailboat": "boat canoe kayak raft dinghy gondola",
    "airplane": "aeroplane glider airliner aircraft",
    "rocket": "spacecraft shuttle satellite",
    "football": "ball soccer rugby",
    "baseball": "tennis golf",
    "tree": "bush maple birch willow shrub branch twig log",
    "rose": "flower daisy lily orchid poppy",
    "apple": "pear peach plum cherry",
    "orange": "tangerine grapefruit",
    "strawberry": "raspberry blueberry blackberry grape",
    "pumpkin": "melon watermelon",
    "carrot": "potato onion cucumber",
    "hamburger": "sandwich hotdog",
    "cake": "pie muffin cupcake",
    "cup": "mug glass tea",
    "gift": "parcel package box",
    "hat": "cap helmet",
    "hammer": "axe saw wrench screwdriver",
    "pencil": "pen brush crayon",
    "guitar": "violin piano banjo",
    "clock": "watch",
    "house": "hut cottage cabin barn building",
    "castle": "palace tower fortress",
    "backpack": "suitcase bag",
    "planet": "earth mars jupiter",
    "lightning": "thunder",
    "square": "rectangle cube",
    "triangle": "pyramid cone",
    "diamond": "hexagon pentagon",
    "meadow": "park garden grass lawn farm prairie hill",
    "forest": "jungle rainforest",
    "snow": "ice glacier winter arctic",
    "desert": "sahara dunes",
    "sea": "lake river pond pool underwater",
    "city": "village downtown",
    "mountains": "mountain hills cliff volcano",
    "space": "galaxy universe",
    "room": "kitchen bedroom bathroom office indoors",
    "street": "highway motorway alley lane track racetrack bridge",
    "beach": "coast shore island",
    "running": "galloping sprinting trotting jogging",
    "walking": "marching waddling sneaking tiptoeing",
    "jumping": "dancing skipping",
    "flying": "gliding hovering",
    "swimming": "diving",
    "spinning": "turning twirling",
    "runs": "gallops sprints trots jogs ran",
    "shrinks": "melts melted",
    "shrinking": "melting",
    "grows": "blooms",
    "growing": "blooming",
    "walks": "marches waddles sneaks walked goes",
    "jumps": "dances skips jumped leapt",
    "flies": "glides hovers flew",
    "swims": "dives swam",
    "waits": "sleeps sits lies looks sleeping sitting",
    "gray": "grey silver",
    "yellow": "golden gold",
    "orange background": "amber",
    "purple": "violet lilac",
    "blue": "turquoise cyan navy azure",
    "red": "crimson scarlet",
    "two": "2 both",
    "three": "3 4 5 four five many several some",
    "rain": "storm drizzle fog",
    "night": "nighttime moonlight",
    "dusk": "dawn morning evening noon",
}
SMALL_WORDS = """
a an and are as at be by can do for from has have he her his in into is it its just like now of off on or our out over
past she so some that the their then there they this to up us very was we while who with through across along around
toward towards under i my your you want would could one another single really very against please show me make create
draw video clip movie film scene picture
"""
"""Of no meaning here, and not worth a line to the person."""


def instead() -> dict[str, str]:
    """The nearest known word for each that people ask for; a plural for a plural."""
    nearest: dict[str, str] = {}
    for known, words in INSTEAD.items():
        many = THINGS[known].plurals[0] if known in THINGS else known
        for word in words.split():
            nearest[word] = known
            nearest.setdefault(plural(word), many)
    return {word: known for word, known in nearest.items() if word not in KNOWN}


def named() -> dict[str, str]:
    """Every phrase for a thing or a place, with its kind."""
    phrases = {name: "thing" for thing in THINGS.values() for name in (*thing.names, *thing.plurals)}
    for place in PLACES.values():
        for phrase in place.phrases:
            noun = phrase.split("|")[2].replace("{colour} ", "")
            phrases.setdefault(noun, "place")
    return phrases


def verbs() -> dict[str, str]:
    """Every phrase for a motion ("runs", "going up"), with the motion."""
    phrases: dict[str, str] = {}
    for motion, wordings in MOTION_WORDS.items():
        for wording in wordings:
            forms, _, rest = wording.partition(":")
            rest = re.sub(r"(from|to) the {.*", "", rest).rstrip()
            for form in forms.split():
                phrases.setdefault(form + rest, motion)
    return phrases


def any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """The longest of them first."""
    return re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, phrases), key=len, reverse=True))})\b")


SMALL = frozenset(SMALL_WORDS.split())
KNOWN = (frozenset(vocabulary()) | SMALL) - {"not"}
MEANT = frozenset(word for word in KNOWN - SMALL - set(EMPTY_WORDS) if len(word) > 2)
NAMED = named()
NEAR = instead()
VERBS = verbs()
PHRASES, ACTIONS = any_of(NAMED), any_of(VERBS)


@dataclass(frozen=True)
class Understood:
    """What a sentence names, as it stands there, and the words that no caption has."""

    things: tuple[str, ...]
    places: tuple[str, ...]
    motions: tuple[str, ...]
    unknown: tuple[str, ...]


def plain(text: str) -> str:
    """Small letters without accents, as the tokenizer reads them."""
    apart = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in apart if not unicodedata.combining(letter)).replace("\u2019", "'")


def unknown(text: str) -> list[str]:
    """The words that no caption has, each once, in their order; and "not", unless of "does not move". Signs mean
    nothing and are no words."""
    words = re.findall(r"[\w'-]+", re.sub(r"\bnot mov\w+", "", plain(text)))
    parts = [part for word in words for part in ([word] if word in KNOWN else word.split("-"))]
    return list(
        dict.fromkeys(p for word in parts if (p := word.strip("'-_").removesuffix("'s")) and p not in KNOWN)
    )


def understood(text: str) -> Understood:
    """By the words alone: a word that has two meanings counts as the one that captions use it for."""
    named = PHRASES.findall(plain(text))
    return Understood(
        things=tuple(phrase for phrase in named if NAMED[phrase] == "thing"),
        places=tuple(phrase for phrase in named if NAMED[phrase] == "place"),
        motions=tuple(VERBS[phrase] for phrase in ACTIONS.findall(plain(text))),
        unknown=tuple(unknown(text)),
    )


def nearest_known(word: str) -> str | None:
    """What has nearly the same meaning, else nearly the same letters.

    A short word with another letter is mostly another word ("nail" and "sail"), and so is one that begins otherwise.
    """
    if word in NEAR:
        return NEAR[word]
    near = nearest(word, [known for known in MEANT if known[0] == word[0]])
    slip = near and (len(word) > 4 or sorted(word) == sorted(near) or near.startswith(word))
    return near if slip else None


def check_theatre(model: str, text: str, *, field: str, more: str) -> list[str]:
    """Refuse a text that names neither a thing nor a place of the theatre; of another, a sentence that names what the
    model does not know, if there is something."""
    check_seen(text, field=field)
    if field != "negative" and text.strip() and not PHRASES.search(plain(text)):
        raise InvalidInput(field, text, f"names nothing that {model} can draw{meant(unknown(text))}", more)
    return not_known(model, text, field=field)


def not_known(model: str, text: str, *, field: str = "prompt") -> list[str]:
    """A sentence that names the words that the model does not know, if there are any."""
    if not (strange := unknown(text)):
        return []
    return [
        f"{model} does not know {in_a_row(strange)}{meant(strange)}; it goes on with the rest of the {field}"
    ]


def meant(strange: Iterable[str]) -> str:
    """The nearest known words, as a question."""
    near = [(word, known) for word in strange if (known := nearest_known(word))]
    return f" ({'; '.join(f'{word}: did you mean {known}?' for word, known in near)})" if near else ""


def theatre_world() -> dict[str, list[str]]:
    """All that the theatre's model knows, by kind."""

    def of_kinds(*kinds: str) -> list[str]:
        return [thing.name for thing in THINGS.values() if thing.kind in kinds]

    return {
        "animals": of_kinds("animal", "flyer", "swimmer"),
        "vehicles": of_kinds("vehicle", "boat"),
        "things": of_kinds("object", "ball", "sky"),
        "shapes": of_kinds("shape"),
        "colours": list(TINTS),
        "sizes": [size for size in SIZES if size],
        "motions": [words[0].split(":")[0].split()[1] for words in MOTION_WORDS.values()],
        "places": list(PLACES),
        "backgrounds": list(PLAIN),
        "time": [*TIMES, *(ADJECTIVES[weather] for weather in WEATHERS if weather)],
        "relations": list(RELATIONS),
        "camera": list(CAMERAS),
    }

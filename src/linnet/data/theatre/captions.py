"""Scenes in words: many wordings, short and long, with synonyms, and now and then a word that means nothing here."""

import random
import re
import string
from collections.abc import Mapping

from linnet.data.theatre.places import PLACES, PLAIN
from linnet.data.theatre.scene import Scene
from linnet.data.theatre.things import THINGS, TINTS

SIZE_WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge", "giant"),
}
NUMBERS: Mapping[int, tuple[str, ...]] = {
    2: ("two", "two", "a pair of", "a couple of"),
    3: ("three", "three", "a group of"),
}
# "many do, one does, doing: and the rest"; {to} is the side that it goes to, {from} the one that it comes from
MOTION_WORDS: Mapping[str, tuple[str, ...]] = {
    "walks": (
        "walk walks walking",
        "stroll strolls strolling",
        "wander wanders wandering",
        "crawl crawls crawling",
    ),
    "runs": ("run runs running", "race races racing", "dash dashes dashing", "gallop gallops galloping"),
    "flies": (
        "fly flies flying",
        "soar soars soaring",
        "flutter flutters fluttering",
        "fly flies flying: in the sky",
    ),
    "swims": ("swim swims swimming", "swim swims swimming: along"),
    "drives": (
        *("drive drives driving", "move moves moving", "ride rides riding", "speed speeds speeding"),
        "race races racing",
    ),
    "sails": ("sail sails sailing", "float floats floating", "drift drifts drifting"),
    "rolls": ("roll rolls rolling", "roll rolls rolling: along"),
    "slides": ("slide slides sliding", "glide glides gliding", "move moves moving"),
    "jumps": (
        *("jump jumps jumping", "hop hops hopping", "leap leaps leaping"),
        *("jump jumps jumping: up and down", "hop hops hopping: up and down", "dance dances dancing"),
    ),
    "falls": (
        *("fall falls falling", "drop drops dropping", "fall falls falling: down"),
        *("fall falls falling: from above", "tumble tumbles tumbling: down"),
    ),
    "bounces": ("bounce bounces bouncing", "bounce bounces bouncing: up and down"),
    "grows": ("grow grows growing", "get gets getting: bigger", "become becomes becoming: larger"),
    "shrinks": ("shrink shrinks shrinking", "get gets getting: smaller", "become becomes becoming: smaller"),
    "spins": (
        *("spin spins spinning", "rotate rotates rotating", "spin spins spinning: around"),
        *("whirl whirls whirling", "twirl twirls twirling", "turn turns turning: in circles"),
    ),
    "turns": ("turn turns turning: round", "turn turns turning: around", "turn turns turning: back"),
    "enters": (
        *(
            "come comes coming: in",
            "come comes coming: in from the {from}",
            "enter enters entering: from the {from}",
        ),
        *("arrive arrives arriving", "appear appears appearing: from the {from}"),
    ),
    "leaves": (
        *("go goes going: out to the {to}", "leave leaves leaving: to the {to}", "go goes going: away"),
        "disappear disappears disappearing: to the {to}",
    ),
    "hides": (
        *("pass passes passing: behind a tree", "move moves moving: behind a tree"),
        *("walk walks walking: behind a tree", "disappear disappears disappearing: behind a tree"),
        "pass passes passing: behind a tree and comes out again",
    ),
    "rises": (
        *("rise rises rising", "go goes going: up", "ascend ascends ascending", "come comes coming: up"),
        *("float floats floating: upward", "take takes taking: off", "blast blasts blasting: off"),
    ),
    "sinks": (
        *("sink sinks sinking", "go goes going: down", "set sets setting", "land lands landing"),
        "come comes coming: down",
    ),
    "waits": (
        *("wait waits waiting", "stand stands standing: still", "stay stays staying: still"),
        *("rest rests resting", "sit sits sitting", "stand stands standing"),
    ),
}
SIDES = (" to the {to}", " {to}", " from {from} to {to}", " towards the {to}")
RELATION_WORDS: Mapping[str, tuple[str, ...]] = {
    "beside": ("beside", "next to", "near", "by"),
    "above": ("above", "over"),
    "in front of": ("in front of", "before"),
    "behind": ("behind",),
    "chasing": ("chasing", "following", "running after", "pursuing"),
}
TIME_WORDS: Mapping[str, tuple[str, ...]] = {
    "day": (
        "by day",
        "during the day",
        "in daylight",
        "in the daytime",
        "in the afternoon",
        "in the morning",
    ),
    "dusk": ("at dusk", "at sunset", "in the evening", "at twilight", "at dawn", "at sunrise"),
    "night": ("at night", "by night", "in the dark", "under the stars", "at midnight", "in the moonlight"),
}
WEATHER_WORDS: Mapping[str, tuple[str, ...]] = {
    "rain": ("in the rain", "while it rains", "as rain falls", "in rainy weather", "in a rainstorm"),
    "snow": ("while it snows", "in falling snow", "as snow falls", "in a snowstorm"),
}
ADJECTIVES: Mapping[str, str] = {
    "rain": "rainy",
    "snow": "snowy",
    "night": "dark",
    "dusk": "dusky",
    "day": "sunny",
}
CAMERA_WORDS: Mapping[str, tuple[str, ...]] = {
    "pans left": ("the camera pans left", "the camera moves to the left", "panning left"),
    "pans right": ("the camera pans right", "the camera moves to the right", "panning right"),
    "zooms in": ("the camera zooms in", "zooming in", "the camera comes closer"),
    "zooms out": ("the camera zooms out", "zooming out", "the camera moves back"),
    "": ("the camera does not move", "still camera", "static shot"),
}
OPENINGS = ("a video of", "a clip of", "an animation of", "a cartoon of", "there is", "we see")
TO_A_SIDE = ("walks", "runs", "flies", "swims", "drives", "sails", "rolls", "slides")
NAMED = 0.75  # of the captions that say where it is
EMPTY_WORDS = (  # of what a person might say and nothing shows
    *("happy", "cute", "lovely", "beautiful", "old", "young", "funny", "quick", "lazy", "friendly", "brave", "pretty"),
    *("nice", "sad", "proud", "gentle", "curious", "lonely", "magnificent", "fluffy", "shiny", "wild", "playful"),
    *("noisy", "busy", "calm", "clever", "tired", "hungry", "famous", "strange", "cheerful", "wonderful", "elegant"),
    *("quiet", "tall", "warm", "cold", "new", "fresh", "bright", "soft", "sweet", "fast", "wooden", "muddy", "sandy"),
    *("favourite", "pale", "hot"),
)  # fmt: skip
EMPTY = 0.12  # share of the captions with such a word


def caption(scene: Scene, rng: random.Random, *, still: bool = False, full: bool = False) -> str:
    """One of a scene's many captions; `still` is for a single frame, in which no motion can be seen; `full` always says
    where it is."""
    many = scene.count > 1
    who = subject(scene, rng)
    placed = full or scene.backdrop == "plain" or rng.random() < NAMED
    where = whereabouts(scene, rng) if placed else ""
    does, doing = ("", "") if still else motion(scene, rng, many)
    other = companion(scene, rng)
    extras = [
        words
        for words in (circumstances(scene, rng, bool(where)), "" if still else camera(scene, rng))
        if words
    ]
    if not does:
        acts = " ".join(filter(None, (who, other, where)))
        text = rng.choice(("{opening} {acts}", "{acts}", "{acts}")).format(
            opening=rng.choice(OPENINGS), acts=acts
        )
    elif where and rng.random() < 0.15:
        text = " ".join(filter(None, (where, who, does, other)))
    elif rng.random() < 0.35:
        opening = rng.choice(OPENINGS) if rng.random() < 0.5 else ""
        text = " ".join(filter(None, (opening, who, doing, other, where)))
    else:
        text = " ".join(filter(None, (who, does, other, where)))
    text = re.sub(r"\s+", " ", text + "".join(f"{rng.choice((',', '', ''))} {words}" for words in extras))
    return capitalised(text, rng)


def capitalised(text: str, rng: random.Random) -> str:
    """As people type: mostly in small letters, else with a capital and a full stop."""
    return text if rng.random() < 0.8 else f"{text[0].upper()}{text[1:]}."


def subject(scene: Scene, rng: random.Random) -> str:
    thing = THINGS[scene.thing]
    size = rng.choice(SIZE_WORDS[scene.size]) if scene.size else ""
    words = [*filter(None, (size, empty(rng), scene.tint))]
    usual = rng.random() < 0.6
    names = thing.plurals if scene.count > 1 else thing.names
    words.append(names[0] if usual else rng.choice(names))
    if scene.count > 1:
        return " ".join((rng.choice(NUMBERS[scene.count]), *words))
    return with_article(" ".join(words), rng)


def empty(rng: random.Random) -> str:
    """Now and then a word that means nothing here, or no word at all, so that strange words do no harm."""
    if rng.random() > EMPTY:
        return ""
    if rng.random() < 0.7:
        return rng.choice(EMPTY_WORDS)
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))


def with_article(words: str, rng: random.Random | None = None) -> str:
    if rng and rng.random() < 0.12:
        return f"the {words}" if rng.random() < 0.5 else words
    return f"{'an' if words[0] in 'aeiou' and not words.startswith('ufo') else 'a'} {words}"


def motion(scene: Scene, rng: random.Random, many: bool) -> tuple[str, str]:
    """(Does, doing), with the side or without it."""
    if scene.relation == "chasing":
        return "", ""
    forms, _, rest = rng.choice(MOTION_WORDS[scene.motion]).partition(":")
    if scene.motion in TO_A_SIDE and rng.random() < 0.5:
        rest += rng.choice(SIDES)
    other = {"left": "right", "right": "left"}[scene.toward]
    rest = rest.replace("{to}", scene.toward).replace("{from}", other)
    several, single, doing = (form + rest for form in forms.split())
    return several if many else single, doing


def companion(scene: Scene, rng: random.Random) -> str:
    if not scene.other:
        return ""
    other = THINGS[scene.other]
    name = other.names[0] if rng.random() < 0.6 else rng.choice(other.names)
    return f"{rng.choice(RELATION_WORDS[scene.relation])} {with_article(name)}"


def whereabouts(scene: Scene, rng: random.Random) -> str:
    phrases = PLACES[scene.backdrop].phrases
    preposition, article, noun = rng.choice(phrases[:1] * 2 + phrases).split("|")
    if preposition == "through" and scene.motion not in ("walks", "runs", "flies", "drives"):
        preposition = "in"
    noun = noun.format(colour=scene.colour)
    adjective = ADJECTIVES.get(scene.weather) or (
        ADJECTIVES[scene.time] if PLACES[scene.backdrop].outdoors else ""
    )
    if article == "a" and "snow" not in noun and adjective and rng.random() < 0.4:
        noun = f"{adjective} {noun}"
    if article == "a":
        return f"{preposition} {with_article(noun)}"
    return f"{preposition} {noun}" if article == "-" else f"{preposition} {article} {noun}"


def circumstances(scene: Scene, rng: random.Random, placed: bool) -> str:
    """When, and in what weather; by day it mostly goes without saying."""
    if not PLACES[scene.backdrop].outdoors:
        return ""
    when = (
        rng.choice(TIME_WORDS[scene.time]) if rng.random() < (0.12 if scene.time == "day" else 0.85) else ""
    )
    weather = rng.choice(WEATHER_WORDS[scene.weather]) if scene.weather and rng.random() < 0.8 else ""
    return " ".join(filter(None, (when, weather) if rng.random() < 0.5 else (weather, when)))


def camera(scene: Scene, rng: random.Random) -> str:
    if not scene.camera and rng.random() > 0.03:
        return ""
    words = rng.choice(CAMERA_WORDS[scene.camera])
    return rng.choice(("", "while ", "and ")) + words if words.startswith("the") else words


def vocabulary() -> list[str]:
    """Every word of a caption that stands for something, sorted."""
    phrases = [name for thing in THINGS.values() for name in (*thing.names, *thing.plurals)]
    for table in (SIZE_WORDS, NUMBERS, MOTION_WORDS, RELATION_WORDS, TIME_WORDS, WEATHER_WORDS, CAMERA_WORDS):
        phrases += [phrase for choices in table.values() for phrase in choices]
    phrases += [phrase for painted in PLACES.values() for phrase in painted.phrases]
    phrases += [
        *SIDES,
        *OPENINGS,
        *EMPTY_WORDS,
        *TINTS,
        *PLAIN,
        *ADJECTIVES.values(),
        "a",
        "an",
        "the",
        "while",
        "and",
    ]
    phrases += ["left", "right"]
    words = {word for phrase in phrases for word in re.split(r"[^a-z'-]+", re.sub(r"\{\w+\}", " ", phrase))}
    return sorted(word for word in words if word.strip("'-"))

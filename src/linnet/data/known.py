"""What a small model can be asked for, said to somebody who asked for more.

Of the synthetic dataset's model a prompt is refused if a word is unknown, or if it asks for what the model cannot draw
although it knows each word. Both follow from the captions that it learnt (see `synthetic`). The theatre's model names
unknown words and goes on (see `theatre.words`).
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from linnet.catalog import CATALOG, SEEDLING, ModelSpec
from linnet.errors import InvalidInput
from linnet.models.text import Tokenizer
from linnet.records import check_seen
from linnet.wording import in_a_row, nearest

# Of the synthetic dataset (see `synthetic`); colours are RGB in 0..255.
SHAPES = ("square", "triangle", "star", "heart", "moon")
COLOURS = {
    "red": (222, 40, 44),
    "orange": (246, 138, 22),
    "yellow": (250, 222, 50),
    "green": (40, 168, 72),
    "blue": (44, 92, 226),
    "purple": (136, 52, 186),
    "pink": (248, 132, 190),
    "white": (246, 246, 242),
}
BACKGROUNDS = {
    "black": (20, 20, 26),
    "gray": (128, 130, 134),
    "white": (236, 236, 232),
    "blue": (48, 84, 190),
    "green": (44, 140, 76),
    "brown": (112, 74, 46),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
MOTION_WORDS = {  # (says what it does, doing it)
    "left": (("moves left", "moving left"), ("slides to the left", "sliding to the left")),
    "right": (("moves right", "moving right"), ("slides to the right", "sliding to the right")),
    "up": (("moves up", "moving up"), ("rises", "rising")),
    "down": (("moves down", "moving down"), ("falls", "falling")),
    "spins": (("spins", "spinning"), ("rotates", "rotating")),
    "grows": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrinks": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    "bounces": (("bounces", "bouncing"), ("hops", "hopping")),
    "still": (("stays still", "staying still"), ("does not move", "not moving")),
}
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)

NAME = SEEDLING.name
LARGE = next(spec.name for spec in CATALOG.values() if not spec.closed_vocabulary)


FORMS = {motion: [form for pair in forms for form in pair] for motion, forms in MOTION_WORDS.items()}
SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}
CELLS = [place.split(" ", 2)[2] for row in PLACES for place in row]  # "top left", "top", ...


def motions_of(word: str) -> list[str]:
    """The motions whose captions use the word: one for "spinning", several for "moving"."""
    return [motion for motion, forms in FORMS.items() if any(word in form.split() for form in forms)]


WORDS = {word for forms in FORMS.values() for form in forms for word in form.split()} - {"to", "the"}
MOTIONS = {word: motions_of(word)[0] for word in WORDS if len(motions_of(word)) == 1}

COLOUR = "|".join({*COLOURS, *BACKGROUNDS})
BACKGROUND = re.compile(rf"\b((?:(?:{COLOUR}) )+)background\b|\bbackground (?:that )?is ((?:{COLOUR})\b)")
PLACE = re.compile(rf"\b(?:at|on|in) the ({'|'.join(sorted(CELLS, key=len, reverse=True))})\b")


@dataclass(frozen=True, kw_only=True)
class Mentioned:
    """What a prompt of known words names, each once, in its order; `objects` counts shapes that "and" sets apart."""

    shapes: Sequence[str]
    objects: int
    colours: Sequence[str]
    sizes: Sequence[str]
    backgrounds: Sequence[str]
    motions: Sequence[str]
    places: Sequence[str]
    unclear: Sequence[str]  # such as "moves" without a direction
    negated: bool  # a "not" that is not of "not moving"


def check_words(
    spec: ModelSpec,
    tokenizer: Tokenizer,
    text: str,
    *,
    field: str = "prompt",
    more: str = "",
    taught: Collection[str] = (),
) -> list[str]:
    """Refuse a text that the model cannot draw; what it leaves for the model to choose and what of it the model does
    not know, in sentences to be told.

    `taught` are words beyond its own, which a LoRA brought and the tokenizer knows: what they stand for is not known
    here, so a prompt that has one of them need not name a shape.
    Signs and capital letters do not matter. `more` says where to see what it knows. A negative prompt describes no
    clip: its words alone are checked.
    """
    more = (
        more
        or f"`linnet models {spec.name}` lists what it knows; for anything else run `linnet pull {LARGE}`"
    )
    if spec.world == "theatre":
        from linnet.data.theatre.words import check_theatre

        return check_theatre(spec.name, text, field=field, more=more)
    check_seen(text, field=field)
    if unknown := tokenizer.unknown(text):
        problem = f"{NAME} does not know: {', '.join(unknown)}{meant(unknown)}"
        raise InvalidInput(field, text, problem, more)
    if field == "negative" or not text.strip():
        return []
    seen, new = read_prompt(text), {word.lower() for word in taught}.intersection(text_words(text))
    for problem, remedy in problems(seen, names_new=bool(new)):
        raise InvalidInput(field, text, problem, remedy)
    open_ = {"colour": seen.colours, "background": seen.backgrounds, "motion": seen.motions}
    if missing := [f"no {name}" for name, words in open_.items() if not words]:
        return [f"the {field} names {in_a_row(missing)}: {NAME} chooses"]
    return []


def meant(unknown: Iterable[str]) -> str:
    """Which known words are near the unknown ones, as a question."""
    known = [*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES, *WORDS, "background", "middle", "top", "bottom"]
    near = [(word, nearby) for word in unknown if (nearby := nearest(word, known))]
    if len(near) == 1:
        return f" (did you mean {near[0][1]}?)"
    return f" (did you mean {', '.join(f'{nearby} for {word}' for word, nearby in near)}?)" if near else ""


def read_prompt(text: str) -> Mentioned:
    """What a prompt names; its words are known."""
    normalised = " ".join(text_words(text))
    normalised = re.sub(r"\b(bounc|hop)(\w+) up and down\b", r"\1\2", normalised)  # as everybody says it
    backgrounds = [
        word for match in BACKGROUND.finditer(normalised) for word in (match[1] or match[2]).split()
    ]
    rest = BACKGROUND.sub("", normalised)
    places = PLACE.findall(rest)
    rest = PLACE.sub("", rest)
    words = rest.split()
    motions = [MOTIONS[word] for word in words if word in MOTIONS and word != "not"]
    if "not moving" in rest:
        motions.append("still")
    return Mentioned(
        shapes=each_once(word for word in words if word in SHAPES),
        objects=sum(any(word in SHAPES for word in part.split()) for part in rest.split(" and ")),
        colours=each_once(word for word in words if word in COLOURS or word in BACKGROUNDS),
        sizes=each_once(SIZES[word] for word in words if word in SIZES),
        backgrounds=each_once(backgrounds),
        motions=each_once(motions),
        places=each_once(places),
        unclear=[] if motions else [word for word in words if len(motions_of(word)) > 1 and word in WORDS],
        negated=bool(re.search(r"\bnot\b(?! mov)", rest)),
    )


def others_of_its_kind(spec: ModelSpec, captions: Iterable[str]) -> list[str]:
    """Known words of the kind that none of these captions names, if it is one kind: a new word that is in all of them
    then stands for one more of it. What a world other than the synthetic dataset's names is not known here."""
    if spec.world != "synthetic":
        return []
    seen = [read_prompt(caption) for caption in captions]
    kinds = {"shapes": [*SHAPES], "colours": [*COLOURS], "motions": [*MOTIONS]}
    missing = [kind for kind in kinds if not any(getattr(each, kind) for each in seen)]
    return kinds[missing[0]] if len(missing) == 1 else []


def text_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def problems(seen: Mentioned, *, names_new: bool = False) -> Iterable[tuple[str, str]]:
    """What of it seedling cannot draw, each with its remedy; `names_new`: a word that it was taught is in it."""
    shape = seen.shapes[0] if seen.shapes else "object"
    if not seen.shapes and not names_new:
        yield f"names no shape, and {NAME} draws one", f"use {in_a_row(SHAPES, 'or')}"
    if len(seen.shapes) > 1 or seen.objects > 1:
        named = seen.shapes if len(seen.shapes) > 1 else [shape] * 2
        yield f"asks for more than one object ({in_a_row(named)}), and {NAME} draws one", "name one shape"
    if seen.negated:
        yield f'{NAME} does not understand "not"', "say what the video shows instead"
    if len(seen.colours) > 1:
        example = f"a red {shape} on a blue background"
        yield (
            f"gives the {shape} more than one colour ({in_a_row(seen.colours)})",
            f'write it as in "{example}"',
        )
    for colour in seen.colours:
        if colour not in COLOURS:
            yield f"{NAME} has no {colour} {shape}", f"use {in_a_row(COLOURS, 'or')}"
    if len(seen.backgrounds) > 1:
        yield f"names more than one background ({in_a_row(seen.backgrounds)})", "name one colour for it"
    for colour in seen.backgrounds:
        if colour not in BACKGROUNDS:
            yield f"{NAME} has no {colour} background", f"use {in_a_row(BACKGROUNDS, 'or')}"
        if colour in seen.colours:
            yield f"makes the {shape} and its background {colour}", "use another colour for one of them"
    if len(seen.sizes) > 1:
        yield f"asks for more than one size ({in_a_row(seen.sizes)})", "name one size"
    if len(seen.motions) > 1:
        named = in_a_row(FORMS[motion][0] for motion in seen.motions)
        yield f"asks for more than one motion ({named}), and {NAME} shows one", "name one motion"
    for word in seen.unclear:
        forms = [form for forms in FORMS.values() for form in forms if form.startswith(f"{word} ")]
        yield f'says "{word}", but not how', f"write {in_a_row(forms, 'or')}"
    if len(seen.places) > 1:
        yield f"names more than one place ({in_a_row(seen.places)})", f'name one, as in "{PLACES[0][0]}"'


def each_once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def world(spec: ModelSpec = SEEDLING) -> dict[str, list[str]]:
    """All that a small model knows, by kind; behind each word, in brackets, those that mean the same."""
    if spec.world == "theatre":
        from linnet.data.theatre.words import theatre_world

        return theatre_world()

    def with_others(first: str, others: Sequence[str]) -> str:
        return f"{first} ({', '.join(others)})" if others else first

    return {
        "shapes": list(SHAPES),
        "colours": list(COLOURS),
        "sizes": [with_others(first, others) for first, *others in SIZE_WORDS.values()],
        "motions": [
            with_others(first[0], [other[0] for other in others]) for first, *others in MOTION_WORDS.values()
        ],
        "backgrounds": list(BACKGROUNDS),
        "places": [place for row in PLACES for place in row],
    }


def in_words(spec: ModelSpec = SEEDLING) -> str:
    """The same on one line."""
    return "it knows " + "; ".join(f"{kind} {', '.join(words)}" for kind, words in world(spec).items())

"""What seedling can be asked for, said to somebody who asked for more."""

from linnet.catalog import CATALOG, SEEDLING
from linnet.data.playground import BACKGROUNDS, COLOURS, MOTION_WORDS, PLACES, SHAPES, SIZES
from linnet.errors import InvalidInput
from linnet.letters import check_seen
from linnet.models.text import Tokenizer


def check_words(tokenizer: Tokenizer, text: str, *, field: str = "prompt") -> None:
    """Refuse a text with words that seedling's tokenizer does not know, and say what to do instead."""
    check_seen(text, field=field)
    if not (unknown := tokenizer.unknown(text)):
        return
    known = {
        "shapes": SHAPES,
        "colours": COLOURS,
        "sizes": SIZES,
        "motions": [forms[0][0] for forms in MOTION_WORDS.values()],
        "backgrounds": BACKGROUNDS,
        "places": [place for row in PLACES for place in row],
    }
    world = "; ".join(f"{kind} {', '.join(words)}" for kind, words in known.items())
    large = next(spec for spec in CATALOG.values() if not spec.closed_vocabulary)
    raise InvalidInput(
        field,
        text,
        f"{SEEDLING.name} does not know: {', '.join(unknown)}",
        f"it knows {world}. For anything else run `linnet pull {large.name}`; to go on all the same, add --anyway",
    )

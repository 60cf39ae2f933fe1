"""Letters that nobody sees, such as a zero-width space that came along when a prompt was copied."""

import unicodedata

from linnet.errors import InvalidInput

# Format and control characters, line and paragraph separators.
UNSEEN_KINDS = frozenset({"Cf", "Cc", "Zl", "Zp"})
# Of other kinds, and yet without a shape: joiners, fillers, variation selectors, the empty braille cell.
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
SPACES = frozenset("\t\n\r\v\f")  # control characters that part words, as a space does


def is_unseen(letter: str) -> bool:
    if letter in SPACES:
        return False
    return letter in UNSEEN or unicodedata.category(letter) in UNSEEN_KINDS


def unseen(text: str) -> list[str]:
    """Each letter without a shape, once, by number and name: "U+200B (zero width space)"."""
    letters = dict.fromkeys(letter for letter in text if is_unseen(letter))
    return [f"U+{ord(letter):04X}{name_of(letter)}" for letter in letters]


def name_of(letter: str) -> str:
    name = unicodedata.name(letter, "").lower()
    return f" ({name})" if name else ""


def is_blank(text: str) -> bool:
    """Whether there is nothing to be read in the text."""
    return not any(not letter.isspace() and not is_unseen(letter) for letter in text)


def check_seen(text: str, *, field: str = "prompt") -> None:
    """InvalidInput that names the letters which nobody sees. Some scripts and emoji need them: ask this only of text
    that is compared word by word."""
    if letters := unseen(text):
        problem = f"has letters that nobody sees: {', '.join(letters)}"
        raise InvalidInput(field, text, problem, "remove them, or type it again")

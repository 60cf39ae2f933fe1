"""The tokenizer of the theatre's captions: a token for each of their words, and pieces for all others.

A word that no caption holds is cut into the longest words and endings that there are ("foxy" is "fox" and "y"), down to
single letters: nothing that is written in small Latin letters is unknown.
"""

import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from linnet.data.theatre.captions import vocabulary
from linnet.filesystem import complete, make_folder, system_errors

SPECIAL = ("<pad>", "</s>", "<unk>")
INSIDE = "##"  # marks a piece that does not begin a word
ENDINGS = (
    "s",
    "es",
    "ed",
    "er",
    "ing",
    "ly",
    "ful",
    "ish",
    "ous",
    "est",
    "ness",
    "less",
    "man",
    "ie",
    "en",
    "al",
)
SIGNS = r"[^\p{L}\p{N}]+"


def pieces() -> list[str]:
    """Every token, the special ones first."""
    words = [word for whole in vocabulary() for word in whole.replace("-", " ").replace("'", " ").split()]
    letters = string.ascii_lowercase + string.digits
    inside = (*letters, *ENDINGS, *(word for word in words if len(word) > 2))
    return list(dict.fromkeys((*SPECIAL, *words, *letters, *(INSIDE + piece for piece in inside))))


def write_tokenizer(path: Path, tokens: Iterable[str] | None = None) -> int:
    """Write a tokenizer.json that ignores signs, accents and capital letters; the size of its vocabulary."""
    every = list(tokens or pieces())
    model = models.WordPiece(
        {piece: number for number, piece in enumerate(every)},
        unk_token="<unk>",
        continuing_subword_prefix=INSIDE,
        max_input_chars_per_word=40,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(SIGNS), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make_folder(path.parent)
    with complete(path) as part, system_errors():
        tokenizer.save(str(part))
    return len(every)

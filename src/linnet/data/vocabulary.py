"""Seedling's tokenizer: one token a word of the playground's captions."""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from linnet.data.playground import vocabulary

SPECIAL = ("<pad>", "</s>", "<unk>")


def write_tokenizer(path: Path) -> int:
    """Write a tokenizer.json that lower-cases, splits off signs and looks words up; the size of its vocabulary."""
    words = [*SPECIAL, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return len(words)

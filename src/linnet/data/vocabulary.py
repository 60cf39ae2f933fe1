"""Seedling's tokenizer: one token a word of the synthetic dataset's captions."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from linnet.data.synthetic import vocabulary
from linnet.filesystem import complete, make_folder, system_errors

SPECIAL = ("<pad>", "</s>", "<unk>")
SIGNS = r"[^\P{P},]"  # a person writes a full stop; the captions hold no sign but the comma


def write_tokenizer(path: Path) -> int:
    """Write a tokenizer.json that looks words up, in any case and without signs; the size of its vocabulary."""
    words = [*SPECIAL, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(SIGNS), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    make_folder(path.parent)
    with complete(path) as part, system_errors():
        tokenizer.save(str(part))
    return len(words)

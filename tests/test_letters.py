import pytest

from linnet.errors import InvalidInput
from linnet.letters import check_seen, is_blank, unseen


@pytest.mark.parametrize(
    ("letter", "named"),
    [
        ("\u200b", "U+200B (zero width space)"),
        ("\ufeff", "U+FEFF (zero width no-break space)"),
        ("\u00ad", "U+00AD (soft hyphen)"),
        ("\u202e", "U+202E (right-to-left override)"),
        ("\u3164", "U+3164 (hangul filler)"),
        ("\ufe0f", "U+FE0F (variation selector-16)"),
        ("\U000e0041", "U+E0041 (tag latin capital letter a)"),
        ("\x07", "U+0007"),
    ],
)
def test_a_letter_that_nobody_sees_is_named(letter: str, named: str) -> None:
    assert unseen(f"a red{letter} star{letter}") == [named]
    with pytest.raises(InvalidInput) as caught:
        check_seen(f"a red{letter} star", field="negative")
    assert str(caught.value).startswith('negative "a red')
    assert named in str(caught.value)


def test_only_what_can_be_read_makes_a_text() -> None:
    assert is_blank(" \u200b\t\ufeff\u00a0")
    assert not is_blank("a\u200bb")
    assert not unseen("a red\u00a0star,\té 猫 \U0001f600\n")

import json
from pathlib import Path

import pytest

from linnet.errors import InvalidInput
from linnet.records import check_seen, is_blank, read_object, read_object_or_nothing, read_text, unseen


def test_what_is_json_is_read() -> None:
    record = {
        "prompt": "a 🦊 \ud800",
        "frames": 13,
        "seconds": 0.5,
        "list": [1, [2, {"a": None}]],
        "on": True,
    }
    assert read_object("\ufeff" + json.dumps(record), field="line 1") == record


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": ' + 50_000 * "[" + 50_000 * "]" + "}", "nested too deeply"),
        ('{"a": ' + 500 * "[" + 500 * "]" + "}", "nested too deeply"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', '"c" twice'),
        ('{"seed": NaN}', 'in "seed" that is not finite'),
        ('{"seed": -Infinity}', 'in "seed" that is not finite'),
        ('{"seed": [1, 1e999]}', 'in "seed" that is not finite'),
        ('{"seed": ' + 5000 * "9" + "}", 'in "seed".* too large'),
        ("[1]", "not a JSON object"),
        ('{"a": 1', "not JSON .*line 1 column"),
        ("{'a': 1}", "not JSON"),
    ],
)
def test_what_is_not_is_refused_in_a_line_that_names_the_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^line 7 .*{problem}") as caught:
        read_object(text, field="line 7")
    assert len(str(caught.value)) < 400
    assert read_object_or_nothing(text) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a red star\n\xe9\n", r"not UTF-8 text \(line 2\)"),
        ("a red star".encode("utf-16"), "UTF-16"),
        (b"x" * 101, "over 100 bytes"),
        (None, "is missing"),
    ],
)
def test_a_text_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa red star")
    assert read_text(path, most=100) == "a red star"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InvalidInput, match=problem):
        read_text(path, most=100)


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

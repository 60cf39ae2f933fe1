"""How numbers, times and near misses are written."""

import pytest

from linnet.wording import choices, format_bytes, format_count, format_duration, format_number, nearest


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2**32 - 1, "4294967295"),
        (0.1, "0.1"),
        (301.0, "301"),
        (-0.99, "-0.99"),
        (1e-5, "0.00001"),
        (1.5, "1.5"),
    ],
)
def test_numbers_are_written_in_digits(value: float, written: str) -> None:
    assert format_number(value) == written
    assert float(written) == value


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3599.9, "1 h"),
        (3900, "1 h 5 min"),
        (86_399, "1 day"),
        (183_600, "2 days 3 h"),
    ],
)
def test_times_have_two_units_at_most_and_never_sixty_of_one(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


def test_one_is_no_plural_and_thousands_are_set_apart() -> None:
    assert [format_count(n, "thread") for n in (1, 2)] == ["1 thread", "2 threads"]
    assert format_count(12_000, "clip") == "12,000 clips"
    assert format_count(2, "try", "tries") == "2 tries"
    assert [format_bytes(n) for n in (0, 999, 1500, 20_100_000_000)] == ["0 B", "999 B", "1.5 kB", "20 GB"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rde", "red"),
        ("Bleu", "blue"),
        ("seedlin", "seedling"),
        ("linum", "linum-v2-360p"),
        ("linum-720p", "linum-v2-720p"),
        ("foo", None),
        ("tree", None),
        ("", None),
        ("x", None),
    ],
)
def test_only_a_near_miss_gets_a_suggestion(typed: str, meant: str | None) -> None:
    known = ["red", "green", "blue", "seedling", "linum-v2-360p", "linum-v2-720p"]
    assert nearest(typed, known) == meant
    assert ("did you mean" in choices(typed, known)) == (meant is not None)

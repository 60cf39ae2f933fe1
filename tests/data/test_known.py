"""Which prompts seedling can draw, and what is said of the others."""

import random
import re
from pathlib import Path

import pytest

import linnet
from linnet.catalog import SEEDLING
from linnet.data import synthetic
from linnet.data.known import check_words, world
from linnet.errors import InvalidInput
from linnet.models.text import Tokenizer

SHIPPED = Path(linnet.__file__).parent / "seedling" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(SHIPPED)


@pytest.mark.parametrize(
    "prompt",
    [
        "A red star spins on a blue background.",
        "a RED star spins on a blue background!",
        '"a red star spins on a blue background"',
        "\u201ca red star\u201d \u2014 spins\u2026 on a blue background",
        "\u00aba red star\u00bb spins; on a blue-background?",
        "(a red star: spins) on a \u2018blue\u2019 background\n",
    ],
)
def test_signs_and_capitals_change_nothing(prompt: str, tokenizer: Tokenizer) -> None:
    assert check_words(SEEDLING, tokenizer, prompt) == []
    plain = tokenizer.encode("a red star spins on a blue background", 32)
    assert tokenizer.encode(prompt, 32) == plain


def test_every_caption_that_it_learnt_passes(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(2000):
        scene = synthetic.sample_scene(rng)
        assert check_words(SEEDLING, tokenizer, synthetic.caption(scene, rng)) == []
        check_words(SEEDLING, tokenizer, synthetic.caption(scene, rng, full=False))


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("a red star and a blue moon", "more than one object .star and moon."),
        ("a red star and a red star", "more than one object"),
        ("a star in front of a heart", "more than one object"),
        ("a blue star on a blue background", "makes the star and its background blue"),
        ("the moon is white, it spins, the background is white", "makes the moon and its background white"),
        ("a gray star", "no gray star; use red, orange"),
        ("a brown heart on a black background", "no brown heart"),
        ("a red star on a pink background", "no pink background; use black"),
        ("a red/blue star", "more than one colour .red and blue.*on a blue background"),
        ("a star on a blue, green background", "more than one background|more than one colour"),
        ("a small large star", "more than one size"),
        ("a red star spins and grows", "more than one motion .spins and grows"),
        ("a red star moves left and right", "more than one motion .moves left and moves right"),
        ("a still star rises", "more than one motion"),
        ("a red star moves on a blue background", 'says "moves", but not how; write moves left'),
        ("a red star at the top, on the left", "more than one place .top and left.*at the top left"),
        ("a red star at the bottom right in the middle", "more than one place"),
        ("a red star that is not small", 'does not understand "not"'),
        ("on a blue background", "names no shape"),
    ],
)
def test_what_it_cannot_draw_is_refused_though_it_knows_each_word(
    prompt: str, line: str, tokenizer: Tokenizer
) -> None:
    assert tokenizer.unknown(prompt) == []
    with pytest.raises(InvalidInput) as refusal:
        check_words(SEEDLING, tokenizer, prompt)
    assert re.search(line, str(refusal.value))
    assert check_words(SEEDLING, tokenizer, prompt, field="negative") == []  # which describes no clip


@pytest.mark.parametrize(
    "prompt",
    [
        "large red star large red star large red star",
        "a huge star gets bigger",
        "a red star, not moving",
        "a red star bounces up and down",
        "a red star slides to the left on the right",
        "a red star rises up at the top-left",
    ],
)
def test_what_says_the_same_twice_passes(prompt: str, tokenizer: Tokenizer) -> None:
    check_words(SEEDLING, tokenizer, prompt)


def test_what_a_prompt_leaves_open_is_said(tokenizer: Tokenizer) -> None:
    (line,) = check_words(SEEDLING, tokenizer, "a star spins")
    assert line == "the prompt names no colour and no background: seedling chooses"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a rde star", "does not know: rde (did you mean red?)"),
        ("a grey moon", "(did you mean gray?)"),
        ("a bleu stra", "bleu, stra (did you mean blue for bleu, star for stra?)"),
        ("a red star on a blue backgroud", "(did you mean background?)"),
        ("a red tree", "does not know: tree;"),
        ("a red fox", "does not know: fox;"),
        ("a red \U0001f98a star", "does not know: \U0001f98a;"),
    ],
)
def test_a_near_miss_is_answered_with_the_word_that_was_meant(
    prompt: str, said: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_words(SEEDLING, tokenizer, prompt)
    assert said in str(refusal.value)


def test_the_list_of_what_it_knows_has_every_word_of_its_captions() -> None:
    listed = re.findall(r"\w+", " ".join(" ".join(words) for words in world().values()))
    told = {"a", "an", "and", "background", "front", "is", "it", "of", "that", "the", ","}
    doing = {word for word in synthetic.vocabulary() if word.endswith("ing")} | {"not"}
    assert {*synthetic.vocabulary()} <= {*listed, *told, *doing}


def test_a_taught_word_is_known_and_stands_for_a_shape(tokenizer: Tokenizer) -> None:
    taught, prompt = tokenizer.with_words(["cross"]), "a red Cross, spinning, on a blue background"
    assert check_words(SEEDLING, taught, prompt, taught=["cross"]) == []
    ids = taught.encode(prompt, 32).ids
    assert ids.count(tokenizer.size) == 1
    plain = tokenizer.encode(prompt.replace("Cross", "star"), 32).ids
    assert [a for a, b in zip(ids, plain, strict=True) if a != b] == [tokenizer.size]
    with pytest.raises(InvalidInput, match="does not know: crosses"):
        check_words(SEEDLING, taught, "a red crosses", taught=["cross"])
    with pytest.raises(InvalidInput, match="names no shape"):
        check_words(SEEDLING, taught, "red on a blue background", taught=["cross"])

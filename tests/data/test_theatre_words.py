"""What is said of a prompt that names what the theatre's model does not know."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import linnet
from linnet.catalog import CATALOG, SEEDLING, THEATRE, find
from linnet.cli import app
from linnet.data.theatre import captions
from linnet.data.theatre.scene import sample_scene
from linnet.data.theatre.vocabulary import write_tokenizer
from linnet.data.theatre.words import INSTEAD, KNOWN, check_theatre, understood, unknown
from linnet.errors import InvalidInput
from linnet.evaluate.theatre.exam import sentences
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.request import make_request
from linnet.serve import schemas
from linnet.train.state import save_weights
from linnet.weights.files import TRANSFORMER_PREFIX


@pytest.fixture(scope="module")
def tiny_theatre(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `python -m linnet.train.theatre --export` writes it, of tiny networks with random weights."""
    folder = tmp_path_factory.mktemp("tiny-theatre")
    words = write_tokenizer(folder / THEATRE.tokenizer_dir)
    text = T5Config(vocab_size=words, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, gated=True)
    flow = TransformerConfig(dim=32, ffn_dim=32, num_heads=2, num_layers=1, text_len=48, text_dim=16)
    tiny = TAEConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, transformer, autoencoder = T5Encoder(text).initialise(), Transformer(flow), TAE(tiny)
    video = {TRANSFORMER_PREFIX + name: weight for name, weight in transformer.state_dict().items()}
    save_weights(folder / THEATRE.text_encoder_dir, encoder.state_dict(), asdict(text))
    save_weights(folder / THEATRE.transformer_file, video, asdict(flow))
    save_weights(folder / THEATRE.autoencoder_file, autoencoder.state_dict(), asdict(tiny))
    return folder


def said(prompt: str, field: str = "prompt") -> list[str]:
    return check_theatre("theatre", prompt, field=field, more="look")


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        (
            "a wolf runs through a snowy forest at night",
            "does not know wolf (wolf: did you mean fox?); it goes on",
        ),
        ("Wolves in the SNOW!", "wolves (wolves: did you mean fox?)"),
        ("a dog and a jeep on a highway", "jeep: did you mean car?; highway: did you mean street?"),
        ("a xyzzy dog", "does not know xyzzy; it goes on"),
        ("a brid on a tree", "brid: did you mean bird?"),
        ("a dog, not a cat", "does not know not"),
        ("a hammer and a nail in the wind", "does not know nail and wind; it goes on"),
        ("an elefant on the beach", "elefant: did you mean elephant?"),
    ],
)
def test_it_names_what_it_does_not_know_and_goes_on(prompt: str, line: str) -> None:
    (found,) = said(prompt)
    assert line in found


@pytest.mark.parametrize("prompt", ["a wolf", "a xyzzy runs", "running at night", "\u72d0"])
def test_a_prompt_of_nothing_that_it_can_draw_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidInput, match="names nothing that theatre can draw"):
        said(prompt)
    said(prompt, field="negative")


def test_every_caption_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "EMPTY", 0.0)
    rng = random.Random(0)
    texts = [captions.caption(sample_scene(rng), rng) for _ in range(500)]
    assert [line for text in texts for line in said(text)] == []
    assert unknown("a black-and-white cat; the camera does not move") == []


def test_it_finds_what_a_sentence_names() -> None:
    seen = understood("My doggy is jumping by a lake, a balloon floats upward and a jeep turns around")
    assert (seen.things, seen.places) == (("doggy", "balloon"), ("lake",))
    assert (seen.motions, seen.unknown) == (("jumps", "rises", "turns"), ("jeep",))
    file = Path(__file__).parents[2] / "benchmarks" / "theatre_sentences.txt"
    free = [understood(question.prompt) for question in sentences(file, 100)]
    assert len(free) == 40
    assert sum(bool(seen.things or seen.places) for seen in free) >= 38


def test_the_nearest_words_are_known_words() -> None:
    assert [word for near in INSTEAD for word in near.split() if word not in KNOWN] == []


def test_the_theatre_runs_with_weights_of_ones_own_and_says_what_it_does_not_know(
    tiny_theatre: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    asked = ["a wolf runs in the snow", "--model", "theatre", "--seconds", "0", "--steps", "1"]
    asked += ["--output", str(clip)]
    without = CliRunner().invoke(app, ["generate", *asked])
    assert "train it (docs/theatre.md)" in without.output
    run = CliRunner().invoke(app, ["generate", *asked, "--weights", str(tiny_theatre)])
    assert run.exit_code == 0, run.output
    assert "theatre does not know wolf (wolf: did you mean fox?)" in " ".join(run.output.split())
    lines: list[str] = []
    linnet.generate(
        "a wolf in the snow",
        model="theatre",
        weights=tiny_theatre,
        steps=1,
        frames=1,
        output=tmp_path / "other.mp4",
        progress=lambda step: lines.append(step.note or ""),
    )
    assert any("did you mean fox?" in line for line in lines)


def test_the_default_profile_is_a_field_of_the_catalogue() -> None:
    assert find("theatre") is THEATRE
    assert THEATRE.name not in CATALOG  # until its weights ship
    usual, exact = (make_request(THEATRE, prompt="a dog", seed=1, profile=name) for name in (None, "exact"))
    assert usual == make_request(THEATRE, prompt="a dog", seed=1, profile="fast") != exact
    assert make_request(THEATRE, like=exact) == exact
    assert make_request(SEEDLING, prompt="a", seed=1) == make_request(
        SEEDLING, prompt="a", seed=1, profile="exact"
    )


def test_the_server_says_it_too() -> None:
    (line,) = schemas.notes(make_request(THEATRE, prompt="a wolf in the snow", seed=1))
    assert "did you mean fox?" in line
    assert schemas.notes(make_request(SEEDLING, prompt="a red star", seed=1)) == []

"""The T5 encoder and the tokenizer against those of `transformers`."""

import io
import json
import random
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import save_file

from linnet.errors import WeightsError
from linnet.models.text import T5Config, T5Encoder, Tokenizer, relative_bucket, t5_xxl
from linnet.runtime.text import text_config

SENTENCE = "a red star spins on blue background green circle moves left the small grows still naïve café 1 2"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small spiece.model."""
    draw, words = random.Random(0), SENTENCE.split()
    sentences = [" ".join(draw.choices(words, k=8)) for _ in range(300)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=48,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_encoder_equals_transformers(kind: str) -> None:
    config = transformers.T5Config(
        vocab_size=50, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=5, feed_forward_proj=kind
    )
    torch.manual_seed(3)
    theirs = transformers.T5EncoderModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {k: v for k, v in theirs.state_dict().items() if k != "encoder.embed_tokens.weight"}
    ours = T5Encoder(T5Config.from_json(config.to_dict()))
    ours.load_state_dict(weights)

    ids = torch.randint(50, (2, 150))  # Longer than the furthest distance that has a bucket of its own.
    mask = (torch.arange(150) < torch.tensor([[150], [37]])).long()
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(ours(ids, mask), expected, rtol=1e-5, atol=1e-5)


def test_xxl_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = T5Encoder(t5_xxl())
    assert sum(p.numel() for p in encoder.parameters()) == 4_762_310_656


def test_buckets_are_those_of_transformers() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(
        distance, bidirectional=True, num_buckets=32, max_distance=128
    )
    assert torch.equal(relative_bucket(distance, 32, 128), theirs)


def test_padding_does_not_change_the_real_tokens() -> None:
    config = T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, gated=True)
    encoder = T5Encoder(config).initialise(torch.Generator().manual_seed(0))
    ids = torch.randint(30, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = encoder(ids[:, :4], torch.ones(1, 4, dtype=torch.long))
        padded = encoder(ids, (torch.arange(9) < 4).long()[None])
    torch.testing.assert_close(padded[:, :4], alone)


def test_encoder_learns_through_every_parameter() -> None:
    config = T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, gated=True)
    encoder = T5Encoder(config).initialise(torch.Generator().manual_seed(0))
    encoder(torch.tensor([[4, 5, 1]]), torch.tensor([[1, 1, 1]])).square().sum().backward()
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


PROMPTS = ["", "a red star", "  The  RED café, naïve!  ", "a red 世界 star 🦊 ﬁne", "left " * 40]


@pytest.mark.parametrize("text", PROMPTS)
@pytest.mark.parametrize("form", ["spiece.model", "tokenizer.json"])
def test_tokens_equal_transformers(form: str, text: str, vocabulary: Path, tmp_path: Path) -> None:
    theirs = transformers.T5Tokenizer.from_pretrained(vocabulary)
    if form == "tokenizer.json":
        theirs.save_pretrained(tmp_path)
        vocabulary = tmp_path
    ours = Tokenizer.open(vocabulary / form)
    for limit in (256, 12):
        expected = theirs(text, truncation=True, max_length=limit).input_ids
        assert ours.encode(text, limit).ids == expected
    assert Tokenizer.open(vocabulary).encode(text, 256) == ours.encode(text, 256)


def test_empty_text_is_the_end_token(vocabulary: Path) -> None:
    assert Tokenizer.open(vocabulary).encode("", 256).ids == [1]


def test_words_that_fall_off_are_named(vocabulary: Path) -> None:
    tokenizer = Tokenizer.open(vocabulary)
    text = "a red star starred on blue background"
    whole = tokenizer.encode(text, 256)
    assert whole.cut == ""
    kept = tokenizer.encode("a red star", 256).ids
    assert tokenizer.encode(text, len(kept)).cut == "starred on blue background"
    assert tokenizer.encode(text, len(kept)).ids == kept
    halved = tokenizer.encode(text, len(kept) + 1)  # "starred" is longer than one piece: it is cut through.
    assert halved.cut == "starred on blue background"
    assert halved.ids == [*whole.ids[: len(kept)], 1]
    assert tokenizer.encode(text, len(whole.ids)) == whole


def test_unknown_words(vocabulary: Path) -> None:
    assert Tokenizer.open(vocabulary).unknown("a red 世界, star! 世界") == ["世界", ",", "!"]
    assert Tokenizer.open(vocabulary).unknown("a red star") == []


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no tokenizer\.json or spiece\.model"):
        Tokenizer.open(tmp_path)
    for name in ("tokenizer.json", "spiece.model"):
        (tmp_path / name).write_text("{")
        with pytest.raises(WeightsError, match="cannot be read"):
            Tokenizer.open(tmp_path / name)


def test_a_config_that_says_too_little_is_refused_by_file_and_key(tmp_path: Path) -> None:
    save_file({"shared.weight": torch.zeros(4, 2)}, tmp_path / "model.safetensors")
    assert text_config(tmp_path) == t5_xxl()
    whole = {"vocab_size": 4, "d_model": 2, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 1}
    beside, text = tmp_path / "config.json", json.dumps(whole)
    beside.write_text(text)
    assert text_config(tmp_path).d_ff == 4
    for spoilt, problem in (
        (text.replace("d_ff", "d_gg"), "says no d_ff"),
        (text[:40], "is cut short"),
        ("[]", "is not"),
    ):
        beside.write_text(spoilt)
        with pytest.raises(WeightsError, match=rf'config.json": .*{problem}'):
            text_config(tmp_path)

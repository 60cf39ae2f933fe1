"""The T5 encoder and its tokenizer: from a prompt to the states that the transformer attends to.

Axes: B batch, L tokens, M model width, N heads, d head width.

Attribute names are those of `transformers`' files, whose published weights load unchanged; the results are
equal to its `T5EncoderModel` in evaluation. Source: Raffel et al., arXiv 1910.10683, and its gated "v1.1".
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.errors import WeightsError
from linnet.models.attention import Linear, product_dtype

END = "</s>"
UNKNOWN = "<unk>"


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """`gated`: the feed-forward net of v1.1, gelu(tanh) times a linear gate; otherwise a ReLU, as in T5."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    gated: bool
    relative_buckets: int = 32
    relative_max_distance: int = 128
    eps: float = 1e-6

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """From the contents of a `transformers` config.json."""
        kind = config.get("feed_forward_proj", "relu")
        if kind not in ("relu", "gated-gelu"):
            raise WeightsError("text encoder", kind, "unknown feed_forward_proj", "use relu or gated-gelu")
        return cls(
            vocab_size=config["vocab_size"],
            d_model=config["d_model"],
            d_kv=config["d_kv"],
            d_ff=config["d_ff"],
            num_layers=config["num_layers"],
            num_heads=config["num_heads"],
            gated=kind == "gated-gelu",
            relative_buckets=config.get("relative_attention_num_buckets", 32),
            relative_max_distance=config.get("relative_attention_max_distance", 128),
            eps=config.get("layer_norm_epsilon", 1e-6),
        )


def t5_xxl() -> T5Config:
    """The 4.76-billion-parameter v1.1 encoder that Linum v2 listens to."""
    return T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, gated=True
    )


def relative_bucket(distance: Int[Tensor, "..."], buckets: int, furthest: int) -> Int[Tensor, "..."]:
    """Sort distances (key minus query) into buckets: half for each direction, exact near by, then coarser.

    The logarithm is taken in float32 because the published weights were trained with its rounding.
    """
    half = buckets // 2
    exact = half // 2
    far = distance.abs()
    ratio = (far.clamp(min=1).float() / exact).log() / math.log(furthest / exact)
    logarithmic = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, logarithmic) + half * (distance > 0)


class SelfAttention(nn.Module):
    def __init__(self, config: T5Config, *, owns_bias: bool) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        inner = config.num_heads * config.d_kv
        self.q, self.k, self.v = (Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = Linear(inner, config.d_model, bias=False)
        if owns_bias:
            self.relative_attention_bias = nn.Embedding(config.relative_buckets, config.num_heads)

    def forward(self, x: Float[Tensor, "B L M"], bias: Float[Tensor, "B N L L"]) -> Float[Tensor, "B L M"]:
        x = x.to(product_dtype(self.q))
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        # T5 folds the usual 1/sqrt(d) into its weights.
        mixed = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), scale=1.0)
        return self.o(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """v1.1's: gelu(wi_0 x) * wi_1 x, then wo."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (Linear(config.d_model, config.d_ff, bias=False) for _ in range(2))
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        x = x.to(product_dtype(self.wi_0))
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class PlainFeedForward(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        return self.wo(F.relu(self.wi(x)))


class AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, *, owns_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, owns_bias=owns_bias)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.eps)

    def forward(self, x: Float[Tensor, "B L M"], bias: Float[Tensor, "B N L L"]) -> Float[Tensor, "B L M"]:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config) if config.gated else PlainFeedForward(config)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.eps)

    def forward(self, x: Float[Tensor, "B L M"], bias: Float[Tensor, "B N L L"]) -> Float[Tensor, "B L M"]:
        """Needs no `bias`, but all layers are called alike."""
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, config: T5Config, *, owns_bias: bool) -> None:
        super().__init__()
        layers = nn.ModuleList([AttentionLayer(config, owns_bias=owns_bias), FeedForwardLayer(config)])
        self.layer = cast("tuple[AttentionLayer, FeedForwardLayer]", layers)

    def forward(self, x: Float[Tensor, "B L M"], bias: Float[Tensor, "B N L L"]) -> Float[Tensor, "B L M"]:
        for layer in self.layer:
            x = layer(x, bias)
        return x


class Stack(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block(config, owns_bias=i == 0) for i in range(config.num_layers))
        self.block = cast("Sequence[Block]", blocks)
        self.final_layer_norm = nn.RMSNorm(config.d_model, eps=config.eps)


class T5Encoder(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def forward(self, ids: Int[Tensor, "B L"], mask: Int[Tensor, "B L"]) -> Float[Tensor, "B L M"]:
        """Float32 states; `mask` is 1 where a token is real, and what stands where it is 0 means nothing."""
        return self.contextualise(self.shared(ids).float(), mask)

    def contextualise(self, x: Float[Tensor, "B L M"], mask: Int[Tensor, "B L"]) -> Float[Tensor, "B L M"]:
        """The same from the tokens' rows of the table."""
        bias = self.position_bias(mask)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)

    @torch.no_grad()
    def set_new_rows(self, rows: Float[Tensor, "n M"]) -> None:
        """Let the token table end with these rows, of words beyond `config.vocab_size`; earlier ones are dropped."""
        with torch.inference_mode(False):  # training may go on with it
            known = self.shared.weight[: self.config.vocab_size]
            table = torch.cat((known, rows.to(known)))
        self.shared = nn.Embedding.from_pretrained(table, freeze=not self.shared.weight.requires_grad)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> Self:
        """Weights to train from, with T5's own scales: attention logits of order one without a 1/sqrt(d)."""
        c = self.config
        for name, weight in self.named_parameters():
            match name.split(".")[-2]:
                case "layer_norm" | "final_layer_norm":
                    weight.fill_(1.0)
                case "shared":
                    weight.normal_(generator=generator)
                case "q":
                    weight.normal_(std=(c.d_model * c.d_kv) ** -0.5, generator=generator)
                case "o":
                    weight.normal_(std=(c.num_heads * c.d_kv) ** -0.5, generator=generator)
                case "wo":
                    weight.normal_(std=c.d_ff**-0.5, generator=generator)
                case _:
                    weight.normal_(std=c.d_model**-0.5, generator=generator)
        return self

    def position_bias(self, mask: Int[Tensor, "B L"]) -> Float[Tensor, "B N L L"]:
        """The learned bias of each pair of positions, shared by all blocks, and minus infinity on padding."""
        position = torch.arange(mask.shape[1], device=mask.device)
        bucket = relative_bucket(
            position - position[:, None], self.config.relative_buckets, self.config.relative_max_distance
        )
        relative = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias(bucket).float()
        return relative.permute(2, 0, 1).where(mask.bool()[:, None, None], -math.inf)


@dataclass(frozen=True)
class Encoded:
    """`ids` end with the end token; `cut` holds the words that did not fit whole, or nothing."""

    ids: list[int]
    cut: str


class Tokenizer:
    """Words to numbers. `pieces` knows a vocabulary of `size`, and adds no token of its own."""

    def __init__(
        self, pieces: Callable[[str], list[int]], *, size: int, end: int, unknown: int | None
    ) -> None:
        self.size = size
        self._pieces, self._end, self._unknown = pieces, end, unknown

    @classmethod
    def open(cls, path: Path) -> Self:
        """`path` is a folder that holds tokenizer.json or spiece.model, or one such file."""
        candidates = (path / "tokenizer.json", path / "spiece.model") if path.is_dir() else (path,)
        file = next((file for file in candidates if file.is_file()), None)
        if file is None:
            raise WeightsError(
                "tokenizer",
                path,
                "no tokenizer.json or spiece.model there",
                "name a folder that holds either",
            )
        try:
            return cls._from_json(file) if file.suffix == ".json" else cls._from_sentencepiece(file)
        except Exception as error:  # `tokenizers` raises nothing more specific.
            raise WeightsError("tokenizer", file, f"cannot be read ({error})", "fetch it again") from error

    @classmethod
    def _from_json(cls, file: Path) -> Self:
        import tokenizers

        backend = tokenizers.Tokenizer.from_file(str(file))
        backend.no_padding()
        backend.no_truncation()
        end = backend.token_to_id(END)
        if end is None:
            raise ValueError(f"it has no {END}")
        return cls(
            lambda text: backend.encode(text, add_special_tokens=False).ids,
            size=backend.get_vocab_size(),
            end=end,
            unknown=backend.token_to_id(UNKNOWN),
        )

    @classmethod
    def _from_sentencepiece(cls, file: Path) -> Self:
        import sentencepiece

        backend = sentencepiece.SentencePieceProcessor(model_file=str(file))
        return cls(
            lambda text: list(backend.encode(text)),
            size=backend.get_piece_size(),
            end=backend.eos_id(),
            unknown=backend.unk_id(),
        )

    def with_words(self, words: Sequence[str]) -> "Tokenizer":
        """This one, which also knows `words`, in lower case: their ids follow its own."""
        ids = {word: self.size + number for number, word in enumerate(words)}
        if not ids:
            return self
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, ids))})\b", re.IGNORECASE)

        def pieces(text: str) -> list[int]:
            parts = pattern.split(text)  # what is between words, and each second one a word
            return [
                piece
                for index, part in enumerate(parts)
                for piece in ([ids[part.lower()]] if index % 2 else self._pieces(part))
            ]

        return Tokenizer(pieces, size=self.size + len(ids), end=self._end, unknown=self._unknown)

    def encode(self, text: str, limit: int) -> Encoded:
        """At most `limit` ids, the end token among them."""
        ids, room = self._pieces(text), limit - 1
        if len(ids) <= room:
            return Encoded([*ids, self._end], "")
        words = text.split()
        # The first word with which the text no longer fits, and all after it.
        first = bisect_left(
            range(len(words)), True, key=lambda i: len(self._pieces(" ".join(words[: i + 1]))) > room
        )
        return Encoded([*ids[:room], self._end], " ".join(words[first:]))

    def unknown(self, text: str) -> list[str]:
        """The words (and signs) that the vocabulary cannot write, each once, in order."""
        words = re.findall(r"[\w'-]+|[^\w\s]", text)
        return list(dict.fromkeys(word for word in words if self._unknown in self._pieces(word)))

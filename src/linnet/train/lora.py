"""A LoRA that learns from somebody's clips, and the words that a model with a closed vocabulary learns with it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.data.known import others_of_its_kind
from linnet.loaded_model import LoadedModel
from linnet.models.lora import LoraShape, LoraWeights, add_lora, lora_weights
from linnet.models.text import Tokenizer
from linnet.models.transformer import Transformer
from linnet.train.clips import Learner
from linnet.train.settings import TrainingSettings
from linnet.weights.lora import Lora, parameter_shapes, read_lora, write_lora


def new_words(tokenizer: Tokenizer, captions: Iterable[str]) -> list[str]:
    """Words of the captions that a closed vocabulary lacks, in lower case, in order; what cannot be a word is left."""
    words = [word.lower() for caption in captions for word in re.findall(r"\w+", caption)]
    return [word for word in dict.fromkeys(words) if tokenizer.unknown(word)]


@torch.no_grad()
def first_row(model: LoadedModel, word: str, captions: Iterable[str]) -> Float[Tensor, " M"]:
    """Where a new word begins: at the mean of the known words whose place it takes in its captions, so that the model
    can already say the rest of them; else at the mean of all."""
    encoder = model.text.resident()
    table = encoder.shared.weight[: encoder.config.vocab_size].float()
    uses = [caption for caption in captions if word in re.findall(r"\w+", caption.lower())]
    others = others_of_its_kind(model.spec, uses)
    ids = [model.encode(other).ids[0] for other in others]
    return table[ids].mean(0) if ids else table.mean(0)


def make_learner(
    model: LoadedModel, transformer: Transformer, settings: TrainingSettings, captions: Iterable[str]
) -> Learner:
    """The transformer, frozen, with a LoRA on its layers, and rows of the words that it is to learn. The model
    knows these words from now on."""
    transformer.requires_grad_(False)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = LoraShape(
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        dora=settings.dora,
        targets=settings.targets,
    )
    for parameter in add_lora(transformer, shape, generator):
        parameter.data = parameter.data.to(model.device)  # also of a block that waits elsewhere
    captions = list(captions)
    words = new_words(model.tokenizer, captions) if model.spec.closed_vocabulary else []
    rows = None
    if words:
        rows = torch.stack([first_row(model, word, captions) for word in words])
        model.learn_words(dict(zip(words, rows, strict=True)))
    return Learner(transformer, rows)


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """How what was learnt is written."""

    model: LoadedModel
    learner: Learner
    metadata: Mapping[str, str]

    def write(self, path: Path) -> Path:
        """In bfloat16, as others store LoRAs; new words' rows in float32."""
        weights = {name: stored(own) for name, own in lora_weights(self.learner.transformer).items()}
        rows = self.learner.rows
        words = {} if rows is None else dict(zip(self.model.taught, rows.detach().cpu(), strict=True))
        return write_lora(path, Lora(weights=weights, metadata=self.metadata, words=words))

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """The file's numbers in the place of those that learn, and its words."""
        saved = read_lora(path, parameter_shapes(self.learner.transformer))
        for name, own in lora_weights(self.learner.transformer).items():
            for part in ("down", "up", "dora_scale"):
                here, there = getattr(own, part), getattr(saved.weights[name], part)
                if here is not None:
                    here.copy_(there)
        if self.learner.rows is not None:
            self.learner.rows.copy_(torch.stack(list(saved.words.values())))
            self.model.learn_words(saved.words)


def stored(weights: LoraWeights) -> LoraWeights:
    def narrow(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().to("cpu", torch.bfloat16)

    scale = weights.dora_scale
    return LoraWeights(
        narrow(weights.down),
        narrow(weights.up),
        weights.alpha,
        dora_scale=None if scale is None else scale.detach().cpu(),
    )

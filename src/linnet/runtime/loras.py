"""The LoRAs that a loaded model computes with: read from their files, and put on its transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from linnet.errors import WeightsError
from linnet.loras import LoraUse, any_merged
from linnet.models.lora import apply_lora, part_of, remove_lora
from linnet.models.merged_lora import merge_loras_into
from linnet.weights.lora import Lora, parameter_shapes, read_lora
from linnet.weights.lora_files import lora_hash, lora_path


@dataclass(frozen=True, kw_only=True)
class LorasInUse:
    uses: tuple[LoraUse, ...]
    loras: tuple[Lora, ...]
    words: Mapping[str, Tensor]  # that they teach, each with its row of the text encoder's table

    @classmethod
    def read(cls, uses: tuple[LoraUse, ...], model: nn.Module, folder: Path | None) -> Self:
        """For a model whose weights need not be there. `folder`: where the requests' LoRAs are, by their names."""
        shapes, loras, words = parameter_shapes(model), list[Lora](), dict[str, Tensor]()
        for use in uses:
            path = lora_path(use.file, folder)
            if use.hash and lora_hash(path) != use.hash:
                problem = "is not what it was when the clip was asked for"
                raise WeightsError("lora", use.file, problem, "ask for the clip again")
            loras.append(read_lora(path, shapes))
            for word, row in loras[-1].words.items():
                if word in words:
                    problem = f'teaches the word "{word}", which another of the LoRAs teaches, too'
                    raise WeightsError("lora", use.file, problem, "use one of the two")
                words[word] = row
        return cls(uses=uses, loras=tuple(loras), words=words)

    def apply(self, model: nn.Module, name: str = "") -> None:
        """To the whole model or, with its `name`, to a part of it."""
        if any_merged(self.uses):  # then all are
            parts = [part_of(lora.weights, name) if name else lora.weights for lora in self.loras]
            merge_loras_into(model, list(zip(parts, [use.strength for use in self.uses], strict=True)))
            return
        for use, lora in zip(self.uses, self.loras, strict=True):
            apply_lora(model, part_of(lora.weights, name) if name else lora.weights, use.strength)

    def remove(self, model: nn.Module) -> None:
        remove_lora(model)

"""All weights of a transformer that learn from somebody's clips."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from linnet.errors import InvalidInput
from linnet.loaded_model import LoadedModel
from linnet.models.transformer import Transformer
from linnet.train.clips import Learner
from linnet.train.distributed import ALONE, Ranks
from linnet.train.lora import new_words
from linnet.train.sharded import whole
from linnet.train.state import save_weights
from linnet.weights.files import LATENT_BIAS, LATENT_SCALE, TRANSFORMER_PREFIX
from linnet.weights.load import load_into


def make_full_learner(model: LoadedModel, transformer: Transformer, captions: list[str]) -> Learner:
    """InvalidInput for captions with words that a closed vocabulary lacks: the text encoder does not learn."""
    words = new_words(model.tokenizer, captions) if model.spec.closed_vocabulary else []
    if words:
        problem = f"of the captions ({', '.join(words[:5])}) are not known to {model.spec.name}"
        remedy = "use `linnet train lora`, which teaches words, or write other captions"
        raise InvalidInput("words", len(words), problem, remedy)
    for parameter in transformer.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()  # it may be mapped from the file
    return Learner(transformer.requires_grad_(True))


@dataclass(frozen=True, kw_only=True)
class TransformerFile:
    """How what was learnt is written: a file that stands in for the model's own transformer."""

    model: LoadedModel
    learner: Learner
    ranks: Ranks = ALONE

    def write(self, path: Path) -> Path:
        """Of a transformer that is spread over several processes, all have to call this, and the first one writes."""
        transformer = self.learner.transformer
        weights = {
            TRANSFORMER_PREFIX + name: whole(tensor).detach().cpu()
            for name, tensor in transformer.state_dict().items()
        }
        if not self.ranks.main:
            return path
        space = self.model.latent_space
        save_weights(
            path,
            weights,
            asdict(transformer.config),
            exact={LATENT_SCALE: space.scale.cpu(), LATENT_BIAS: space.bias.cpu()},
        )
        return path

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """The file's numbers in the place of those that learn."""
        config = self.learner.transformer.config
        saved = load_into(lambda: Transformer(config), path, prefix=TRANSFORMER_PREFIX)
        for name, tensor in self.learner.transformer.state_dict().items():
            tensor.copy_(saved.state_dict()[name])

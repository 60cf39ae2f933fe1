"""A LoRA from a file, in whatever layout it is, and into one."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from linnet.errors import InvalidInput
from linnet.filesystem import complete, make_folder, system_errors, write_text
from linnet.models.lora import LoraLinear, LoraWeights
from linnet.records import read_object_or_nothing
from linnet.weights.load import read
from linnet.weights.lora_files import (
    DIFFUSERS_CONFIG,
    FOLDED,
    PEFT_CONFIG,
    PEFT_FILE,
    WORD_ROWS,
    WORDS,
    LoraHeader,
    read_lora_header,
)
from linnet.weights.lora_formats import (
    FOLDERS,
    IN_A_CONFIG,
    LOW_RANK_ONLY,
    WITH_ALPHA,
    Layout,
    Role,
    Shape,
    key_of,
    name_in,
)

IMPLEMENTATION = "linnet"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """What it has for each module of a model, by the model's own names, and what its file says of it. `words` are those
    that it teaches a model with a closed vocabulary, each with its row of the text encoder's table. `layout` is that
    of the file; `notes` say what the file leaves open."""

    weights: Mapping[str, LoraWeights]
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Tensor] = field(default_factory=dict)
    layout: Layout = "original"
    notes: tuple[str, ...] = ()

    @property
    def ranks(self) -> list[int]:
        """Each once, rising."""
        return sorted({weights.rank for weights in self.weights.values() if weights.rank})


def parameter_shapes(model: nn.Module) -> dict[str, Shape]:
    """By the names that its parameters have without LoRAs."""
    inner = {f"{name}.base" for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    shapes: dict[str, Shape] = {}
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        if ".adapters." not in f".{name}":
            shapes[f"{path.removesuffix('.base') if path in inner else path}.{own}"] = tuple(parameter.shape)
    return shapes


# --- reading ----------------------------------------------------------------------------------------------------------


def read_lora(path: Path, parameters: Mapping[str, Shape]) -> Lora:
    """The LoRA in a file, or in PEFT's or diffusers' folder, for a model whose parameters have these shapes (see
    `parameter_shapes`). WeightsError, before a tensor is read, for a key that is of nothing in the model or for one of
    another shape."""
    source = read_lora_header(path, parameters)
    tensors = dict(read([source.header], source.header.tensors))
    metadata = {name: text for name, text in source.header.metadata.items() if name not in OWN_METADATA}
    folded = read_object_or_nothing(source.header.metadata.get(FOLDED, ""))
    rslora = bool(tensors.get("use_rslora_flag", torch.tensor(0)))
    weights: dict[str, LoraWeights] = {}
    for module, roles in source.keys.modules.items():
        own = {role: tensors[key] for role, key in roles.items()}
        weights[module] = weights_of(source, module, own, rslora=rslora, folded=folded.get(module))
    return Lora(
        weights=weights,
        metadata=metadata,
        words=dict(zip(source.words, tensors.get(WORD_ROWS, ()), strict=True)),
        layout=source.layout,
        notes=source.notes,
    )


OWN_METADATA = frozenset({FOLDED, WORDS, DIFFUSERS_CONFIG, "format"})  # made anew when the LoRA is written


def weights_of(
    source: LoraHeader,
    module: str,
    tensors: Mapping[Role, Tensor],
    *,
    rslora: bool = False,
    folded: float | None = None,
) -> LoraWeights:
    """`folded`: the alpha that is multiplied into `up` already, in a layout without alphas."""
    down, up = tensors.get("down"), tensors.get("up")
    stored = float(tensors["alpha"].float()) if "alpha" in tensors else None
    made = LoraWeights(
        dora_scale=tensors["dora_scale"].flatten() if "dora_scale" in tensors else None,
        diff=tensors.get("diff"),
        diff_bias=tensors.get("diff_bias"),
        diff_modulation=tensors.get("diff_modulation"),
        factors=factors_of(source, module, tensors, stored),
    )
    if down is None or up is None:
        return made
    rank = len(down)
    alpha = source.alpha(module, rank, stored, rslora=rslora)
    if folded:
        up, alpha = (up.float() * (rank / folded)).to(up.dtype), float(folded)
    made = replace(made, down=down, up=up, alpha=alpha)
    if "up_bias" in tensors:  # of PEFT, scaled as the product is
        bias = made.scale * tensors["up_bias"].float()
        made = replace(made, diff_bias=bias if made.diff_bias is None else bias + made.diff_bias.float())
    return made


def factors_of(
    source: LoraHeader, module: str, tensors: Mapping[Role, Tensor], stored: float | None
) -> tuple[Tensor, Tensor] | None:
    """LoKr's, with its scale in the first. Two whole factors have none, except in PEFT."""
    if not any(role.startswith("w") for role in tensors):
        return None
    rank, first, second = 0, tensors.get("w1"), tensors.get("w2")
    if first is None:
        rank = len(tensors["w1_b"])
        first = tensors["w1_a"].float() @ tensors["w1_b"].float()
    if second is None:
        a, b = tensors["w2_a"].float(), tensors["w2_b"].float()
        rank = len(b)
        second = torch.einsum("ij...,ip,jr->pr...", tensors["t2"].float(), a, b) if "t2" in tensors else a @ b
    if source.is_lokr and isinstance(source.config.get("r"), int):
        rank = source.config["r"]
    if not rank:
        return first, second
    return first.float() * (source.alpha(module, rank, stored) / rank), second


# --- writing ----------------------------------------------------------------------------------------------------------


def write_lora(path: Path, lora: Lora, layout: Layout = "original", *, overwrite: bool = True) -> Path:
    """Write it as other programs read it; the file of the weights. `path` is a file or, of PEFT's and diffusion-pipe's
    layout, a folder. InvalidInput for what the layout has no place for. It appears complete, or not at all."""
    file = path
    if layout in FOLDERS:
        if path.suffix == ".safetensors":
            problem = f"is a file's name, and the layout {layout} is a folder"
            raise InvalidInput("output", path, problem, "name a folder")
        file = path / PEFT_FILE
    elif path.suffix != ".safetensors":
        raise InvalidInput("output", path, "does not end in .safetensors", "name it so")
    metadata = {**described(lora, path.stem), **lora.metadata}
    tensors: dict[str, Tensor] = {}
    folded: dict[str, float] = {}
    for module, weights in lora.weights.items():
        kept = weights
        if layout not in WITH_ALPHA | IN_A_CONFIG and weights.up is not None and weights.scale != 1:
            kept = replace(weights, up=(weights.up.float() * weights.scale).to(weights.up.dtype))
            folded[module] = weights.alpha
        for role, tensor in parts_of(kept, layout, module):
            tensors[key_of(layout, module, role)] = tensor
    if folded:
        metadata[FOLDED] = json.dumps(folded, separators=(",", ":"))
    if lora.words:
        tensors[WORD_ROWS] = torch.stack(list(lora.words.values()))
        metadata[WORDS] = json.dumps(list(lora.words))
    if layout == "diffusers":
        config = {f"transformer.{name}": value for name, value in peft_config(lora, layout).items()}
        metadata[DIFFUSERS_CONFIG] = json.dumps(config, indent=2, sort_keys=True)
    if layout in FOLDERS:
        make_folder(path)
    with complete(file, overwrite=overwrite) as part, system_errors():
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, part, {"format": "pt"} | metadata)
        part.chmod(0o644)  # save_file keeps it to its owner
    if layout in FOLDERS:
        write_text(path / PEFT_CONFIG, json.dumps(peft_config(lora, layout), indent=2, sort_keys=True) + "\n")
    return file


def parts_of(weights: LoraWeights, layout: Layout, module: str) -> Iterator[tuple[Role, Tensor]]:
    """A module's tensors as the layout holds them."""
    parts: dict[Role, Tensor | None] = {"down": weights.down, "up": weights.up}
    if weights.rank and layout in WITH_ALPHA:
        parts["alpha"] = torch.tensor(weights.alpha, dtype=torch.float32)
    if (lengths := weights.dora_scale) is not None:
        parts["dora_scale"] = lengths[:, None] if layout in WITH_ALPHA else lengths
    others: dict[Role, Tensor | None] = {
        "diff": weights.diff,
        "diff_bias": weights.diff_bias,
        "diff_modulation": weights.diff_modulation,
        "w1": weights.factors[0] if weights.factors else None,
        "w2": weights.factors[1] if weights.factors else None,
    }
    for role, tensor in others.items():
        if tensor is not None and layout in LOW_RANK_ONLY:
            problem = f"has no place for the {'LoKr' if role in ('w1', 'w2') else role} of {module}"
            raise InvalidInput("layout", layout, problem, "use the layout original")
    yield from ((role, tensor) for role, tensor in (parts | others).items() if tensor is not None)


def described(lora: Lora, title: str) -> dict[str, str]:
    """The metadata that other programs look for, where the LoRA says nothing itself."""
    ranks = {str(rank) for rank in lora.ranks}
    alphas = {f"{weights.alpha:g}" for weights in lora.weights.values() if weights.rank}
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "linum-v2/lora",
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": title,
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
    }


def peft_config(lora: Lora, layout: Layout) -> dict[str, Any]:
    """As PEFT writes it. Alphas are the ranks where the layout has none."""
    own = {name_in(layout, module): weights for module, weights in lora.weights.items() if weights.rank}
    ranks = {name: weights.rank for name, weights in own.items()}
    alphas = {name: weights.alpha if layout in IN_A_CONFIG else weights.rank for name, weights in own.items()}
    rank, alpha = usual(ranks.values()), usual(alphas.values())
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": lora.metadata.get("ss_base_model_version", ""),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(name): own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {re.escape(name): own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(own),
        "lora_dropout": 0.0,
        "use_dora": any(weights.dora_scale is not None for weights in own.values()),
        "use_rslora": False,
        "lora_bias": False,
        "bias": "none",
        "inference_mode": True,
    }


def usual(numbers: Any) -> Any:
    """The most frequent."""
    return Counter(numbers).most_common(1)[0][0] if numbers else 1

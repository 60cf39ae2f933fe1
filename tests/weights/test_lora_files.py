"""A LoRA's file, in the layouts that other programs write and read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linnet.errors import InvalidInput, WeightsError
from linnet.models.lora import LoraWeights
from linnet.weights.lora import Lora, parameter_shapes, read_lora, write_lora
from linnet.weights.lora_formats import LAYOUTS, PEFT, Layout, name_in_diffusers
from tiny_models import SMALL, close, draw, random_model

SHAPES = parameter_shapes(random_model())
Q, FFN, TEXT = "blocks.0.self_attn.q", "blocks.1.ffn.2", "text_embedding.0"


def low_rank(module: str, rank: int, alpha: float, seed: int = 1) -> LoraWeights:
    o, i = SHAPES[f"{module}.weight"]
    return LoraWeights(draw(rank, i, seed=seed), draw(o, rank, seed=seed + 1), alpha)


MIXED = Lora(
    weights={Q: low_rank(Q, 4, 2.0), FFN: low_rank(FFN, 2, 8.0, 3), TEXT: low_rank(TEXT, 4, 2.0, 5)},
    metadata={"ss_base_model_version": "linum-v2-360p", "ss_steps": "100"},
    words={"circle": draw(6, seed=9)},
)


def written(tmp_path: Path, lora: Lora, layout: Layout) -> Path:
    path = tmp_path / (layout if layout in ("peft", "diffusion-pipe") else f"{layout}.safetensors")
    write_lora(path, lora, layout)
    return path


def same(out: Mapping[str, LoraWeights], reference: Mapping[str, LoraWeights]) -> None:
    assert out.keys() == reference.keys()
    for module, weights in reference.items():
        assert out[module].alpha == weights.alpha
        for name, tensor in vars(weights).items():
            if isinstance(tensor, Tensor):
                assert torch.equal(getattr(out[module], name), tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_again(tmp_path: Path, layout: Layout) -> None:
    lora = read_lora(written(tmp_path, MIXED, layout), SHAPES)
    same(lora.weights, MIXED.weights)
    assert lora.layout == layout
    assert torch.equal(lora.words["circle"], MIXED.words["circle"])
    assert lora.metadata["ss_steps"] == "100"
    assert lora.metadata["modelspec.architecture"] == "linum-v2/lora"


def test_the_original_layout_is_as_comfyui_and_wan_know_it(tmp_path: Path) -> None:
    tensors = load_file(written(tmp_path, replace(MIXED, words={}), "original"))
    assert tensors["diffusion_model.blocks.0.self_attn.q.lora_down.weight"].shape == (4, SMALL.dim)
    assert tensors["diffusion_model.blocks.0.self_attn.q.lora_up.weight"].shape == (SMALL.dim, 4)
    assert tensors["diffusion_model.blocks.0.self_attn.q.alpha"] == 2.0
    assert len(tensors) == 9


@pytest.mark.parametrize("layout", ["original", "peft", "diffusers", "kohya", "ai-toolkit"])
def test_dora_is_written_and_read(tmp_path: Path, layout: Layout) -> None:
    weights = {Q: replace(low_rank(Q, 2, 1.0), dora_scale=draw(SMALL.dim).abs())}
    same(read_lora(written(tmp_path, Lora(weights=weights), layout), SHAPES).weights, weights)


def test_a_layout_refuses_what_it_has_no_place_for(tmp_path: Path) -> None:
    lora = Lora(weights={Q: LoraWeights(factors=(draw(4, 4), draw(8, 8)))})
    same(read_lora(written(tmp_path, lora, "original"), SHAPES).weights, lora.weights)
    with pytest.raises(InvalidInput, match=rf'layout "peft": has no place for the LoKr of {Q}'):
        written(tmp_path, lora, "peft")
    assert not (tmp_path / "peft").exists()


# --- what others write ------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path = tmp_path / "lora.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def change_in(tmp_path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Tensor:
    """Of Q's weight, at strength 1."""
    change = read_lora(saved(tmp_path, tensors, metadata or None), SHAPES).weights[Q].change()
    assert change is not None
    return change


DOWN, UP = draw(4, SMALL.dim), draw(SMALL.dim, 4, seed=2)
FLAT = "lora_unet_blocks_0_self_attn_q"


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"diffusion_model.{Q}.lora_A.weight", f"diffusion_model.{Q}.lora_B.weight"),
        (f"diffusion_model.{Q}.lora_A.default.weight", f"diffusion_model.{Q}.lora_B.default.weight"),
        (f"{Q}.lora_down.weight", f"{Q}.lora_up.weight"),
        ("transformer.blocks.0.attn1.to_q.lora_A.weight", "transformer.blocks.0.attn1.to_q.lora_B.weight"),
        ("blocks.0.attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q.lora_B.weight"),
    ],
)
def test_without_an_alpha_the_rank_is_one(tmp_path: Path, down: str, up: str) -> None:
    close(change_in(tmp_path, {down: DOWN, up: UP}), UP @ DOWN)


def test_kohyas_alpha(tmp_path: Path) -> None:
    """By its tensor, else by the metadata, else 1, which is said."""
    both = {f"{FLAT}.lora_down.weight": DOWN, f"{FLAT}.lora_up.weight": UP}
    close(change_in(tmp_path, {**both, f"{FLAT}.alpha": torch.tensor(2.0)}), UP @ DOWN / 2)
    close(change_in(tmp_path, both, ss_network_alpha="16"), 4 * UP @ DOWN)
    close(change_in(tmp_path, both), UP @ DOWN / 4)
    (note,) = read_lora(saved(tmp_path, both), SHAPES).notes
    assert "holds no alpha; 1 is taken" in note
    flagged = {**both, f"{FLAT}.alpha": torch.tensor(2.0), "use_rslora_flag": torch.tensor(True)}
    close(change_in(tmp_path, flagged), UP @ DOWN)  # 2 / sqrt(4)


def test_lokr_in_all_its_parts(tmp_path: Path) -> None:
    w1_a, w1_b, w2_a, w2_b = draw(4, 2), draw(2, 4, seed=2), draw(8, 2, seed=3), draw(2, 8, seed=4)
    name = f"diffusion_model.{Q}"
    split = {f"{name}.lokr_w1": w1_a @ w1_b, f"{name}.lokr_w2_a": w2_a, f"{name}.lokr_w2_b": w2_b}
    whole = torch.kron(w1_a @ w1_b, w2_a @ w2_b)
    close(change_in(tmp_path, {**split, f"{name}.alpha": torch.tensor(1.0)}), whole / 2)
    both = {f"{name}.lokr_w1": w1_a @ w1_b, f"{name}.lokr_w2": w2_a @ w2_b}
    close(
        change_in(tmp_path, {**both, f"{name}.alpha": torch.tensor(1e10)}), whole
    )  # as ai-toolkit writes it
    parts = {f"{name}.lokr_w1_a": w1_a, f"{name}.lokr_w1_b": w1_b}
    close(change_in(tmp_path, {**parts, f"{name}.lokr_w2": w2_a @ w2_b}), whole)


def test_lightx2vs_differences(tmp_path: Path) -> None:
    modulation, norm, bias = draw(1, 6, SMALL.dim), draw(SMALL.dim), draw(SMALL.dim, seed=2)
    tensors = {
        "diffusion_model.blocks.0.diff_m": modulation,
        "diffusion_model.blocks.0.self_attn.norm_q.diff": norm,
        f"diffusion_model.{Q}.diff_b": bias,
        f"diffusion_model.{Q}.diff": draw(SMALL.dim, SMALL.dim),
    }
    lora = read_lora(saved(tmp_path, tensors), SHAPES).weights
    same(
        lora,
        {
            "blocks.0": LoraWeights(diff_modulation=modulation),
            "blocks.0.self_attn.norm_q": LoraWeights(diff=norm),
            Q: LoraWeights(diff_bias=bias, diff=draw(SMALL.dim, SMALL.dim)),
        },
    )


@pytest.mark.parametrize(
    ("key", "shape", "problem"),
    [
        ("diffusion_model.blocks.9.self_attn.q.lora_A.weight", (4, 32), "is of nothing in this model"),
        ("lora_te_text_model_encoder.lora_down.weight", (4, 32), "is of nothing in this model"),
        (f"diffusion_model.{Q}.hada_w1_a", (4, 32), "is of nothing in this model"),
        ("diffusion_model.blocks.0.cross_attn.k.diff_b", (32,), "is of nothing in this model"),
        (f"diffusion_model.{Q}.lora_A.weight", (4, 32), "lacks the one that belongs to it"),
        (f"diffusion_model.{Q}.diff", (32, 33), r"of shape \[32, 33\], which should be \[32, 32\]"),
        ("diffusion_model.blocks.0.diff_m", (1, 2, 32), r"which should be \[1, 6, 32\]"),
    ],
)
def test_a_tensor_that_fits_nothing_is_named(tmp_path: Path, key: str, shape: Any, problem: str) -> None:
    with pytest.raises(WeightsError, match=f'{key}"? ?.*{problem}'):
        read_lora(saved(tmp_path, {key: torch.zeros(shape)}), SHAPES)


def test_a_lora_of_another_width_is_refused(tmp_path: Path) -> None:
    down = f"diffusion_model.{Q}.lora_A.weight"
    both = {down: draw(4, 2 * SMALL.dim), f"diffusion_model.{Q}.lora_B.weight": draw(2 * SMALL.dim, 4)}
    with pytest.raises(WeightsError, match=r"lora_A\.weight.*\[4, 64\], which should be \[4, 32\]"):
        read_lora(saved(tmp_path, both), SHAPES)


def test_words_and_their_rows_are_as_many(tmp_path: Path) -> None:
    path = saved(
        tmp_path, {f"diffusion_model.{Q}.diff": draw(32, 32)}, {"linnet.words": json.dumps(["a", "b"])}
    )
    with pytest.raises(WeightsError, match=r"names 2 words .* and has 0 rows"):
        read_lora(path, SHAPES)


# --- what the libraries themselves write ------------------------------------------------------------------------------


def randomise(model: nn.Module) -> None:
    """PEFT begins with an `up` of zeros."""
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if "lora_" in name:
            parameter.data = draw(*parameter.shape, seed=number) * 0.3


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 8, "rank_pattern": {"ffn.2": 2}, "alpha_pattern": {r"blocks.0.*\.q": 3}},
        {"lora_alpha": 6, "use_rslora": True},
        {"lora_alpha": 4, "use_dora": True},
        {"lora_alpha": 4, "lora_bias": True},
    ],
)
@pytest.mark.filterwarnings("ignore:Adapter .default.")  # of its own vectors of a bias
def test_what_peft_writes_is_what_peft_merges(tmp_path: Path, settings: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    base, targets = random_model(), ["self_attn.q", "cross_attn.q", "ffn.2"]
    model = peft.get_peft_model(random_model(), peft.LoraConfig(r=4, target_modules=targets, **settings))
    randomise(model)
    model.save_pretrained(tmp_path)
    lora, merged = read_lora(tmp_path, SHAPES), dict(model.merge_and_unload().named_parameters())
    assert lora.layout == "peft"
    assert len(lora.weights) == 6
    for module, weights in lora.weights.items():
        close(
            weights.merged(base.get_parameter(f"{module}.weight").detach()),
            merged[f"{module}.weight"].detach(),
        )
        if weights.diff_bias is not None:
            changed = base.get_parameter(f"{module}.bias") + weights.diff_bias
            close(changed.detach(), merged[f"{module}.bias"].detach())


def test_peft_without_its_config_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {f"{PEFT}{Q}.lora_A.weight": DOWN, f"{PEFT}{Q}.lora_B.weight": UP})
    with pytest.raises(WeightsError, match=r"lacks adapter_config\.json"):
        read_lora(path, SHAPES)


def test_peft_reads_what_is_written_for_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    weights = {name: MIXED.weights[name] for name in (Q, FFN)}
    write_lora(tmp_path / "peft", Lora(weights=weights), "peft")
    model = peft.PeftModel.from_pretrained(random_model(), tmp_path / "peft").merge_and_unload()
    for module, own in weights.items():
        expected = own.merged(random_model().get_parameter(f"{module}.weight").detach())
        close(model.get_parameter(f"{module}.weight").detach(), expected)


@pytest.mark.parametrize("saver", ["model", "pipeline"])
def test_what_diffusers_writes(tmp_path: Path, saver: str) -> None:
    diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    shape = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "ffn_dim": 48,
        "num_layers": 2,
        "text_dim": 12,
    }
    model = diffusers.WanTransformer3DModel(**shape)
    targets = ["attn1.to_q", "attn2.to_out.0", "ffn.net.0.proj"]
    model.add_adapter(
        peft.LoraConfig(r=4, lora_alpha=6, rank_pattern={"attn1.to_q": 2}, target_modules=targets)
    )
    randomise(model)
    layers = peft.get_peft_model_state_dict(model, adapter_name="default")
    if saver == "model":
        model.save_lora_adapter(tmp_path)
    else:
        config = model.peft_config["default"].to_dict()
        diffusers.WanPipeline.save_lora_weights(tmp_path, layers, transformer_lora_adapter_metadata=config)
    lora = read_lora(tmp_path, SHAPES)
    assert (lora.layout, len(lora.weights), lora.weights[Q].rank) == ("diffusers", 6, 2)
    for module, weights in lora.weights.items():
        name = name_in_diffusers(module)
        product = layers[f"{name}.lora_B.weight"] @ layers[f"{name}.lora_A.weight"]
        change = weights.change()
        assert change is not None
        close(change, product * 6 / weights.rank)

"""Products in FP8, computed from the same 8-bit numbers where no card can: their error, and what a card is asked."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from linnet.errors import InvalidInput
from linnet.models import fp8
from linnet.models.fp8 import E4M3, Fp8Linear, multiply_in_fp8, product_in_fp8, scaled_rows
from linnet.models.quantised import QuantisedLinear, quantise, store_in
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.plan.execution import ExecutionConfig, recorded
from linnet.runtime.device import check_fp8

SMALL = TransformerConfig(dim=64, ffn_dim=128, num_heads=2, num_layers=2, text_len=16, text_dim=16)


def in_float8(model: Transformer) -> Transformer:
    """The same model with its blocks stored in float8."""
    state = model.state_dict()
    stored = store_in("float8", Transformer(SMALL))
    for path, layer in stored.named_modules():
        if isinstance(layer, QuantisedLinear):
            weight, scale = quantise(state[f"{path}.weight"], E4M3)
            state |= {f"{path}.weight": weight, f"{path}.scale": scale.float()}
    stored.load_state_dict(state, assign=True)
    return stored.requires_grad_(False)


def forward(model: Transformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, SMALL.channels, 2, 4, 6, generator=generator)
    with torch.inference_mode():
        text = model.encode_text([torch.randn(3, SMALL.text_dim, generator=generator)])
        return model(latents, torch.tensor([500.0]), text)


def test_a_block_in_fp8_is_a_few_percent_off() -> None:
    model = Transformer(SMALL).initialise(torch.Generator().manual_seed(0)).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for path in ("time_projection.1", "head.head", "blocks.0.cross_attn.o", "blocks.1.cross_attn.o"):
        model.get_parameter(f"{path}.weight").normal_(
            std=0.1, generator=generator
        )  # which say nothing at first
    exact, stored = forward(model), forward(in_float8(model))
    both = forward(multiply_in_fp8(in_float8(model)))
    whole = exact.norm()
    of_weights, of_both = float((stored - exact).norm() / whole), float((both - exact).norm() / whole)
    print(f"relative error of two blocks: float8 weights {of_weights:.2%}, FP8 products {of_both:.2%}")
    assert 0.001 < of_weights < of_both < 0.06


def test_rows_of_all_sizes_use_the_whole_format() -> None:
    x = torch.randn(4, 32) * torch.tensor([[1e-6], [1.0], [1e4], [0.0]])
    for kind in (torch.float32, torch.bfloat16):
        rows, scale = scaled_rows(x.to(kind))
        assert rows[:3].float().abs().amax(1).tolist() == [448.0] * 3
        back = rows.float() * scale
        assert torch.isfinite(back).all()
        assert torch.allclose(back, x, rtol=0.07, atol=float(scale.max()) * 2**-9)
        assert (back[3] == 0).all()


def test_a_card_is_asked_for_what_it_has() -> None:
    """By torch's own checks of dtypes, layouts and scales, on tensors that are not there."""
    layer = Fp8Linear(64, 48, bias=True, format="float8").to(torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = torch.empty(10, 64, device="cuda").to(E4M3)
        weight = torch.empty(48, 64, device="cuda").to(E4M3)
        scales = torch.empty(10, 1, device="cuda"), torch.empty(48, 1, device="cuda", dtype=torch.bfloat16)
        bias = torch.empty(48, device="cuda", dtype=torch.bfloat16)
        out = product_in_fp8(rows, scales[0], weight, scales[1], bias)
        assert (out.shape, out.dtype) == ((10, 48), torch.bfloat16)
        with pytest.raises(RuntimeError):
            product_in_fp8(rows, scales[1][:10], weight, scales[0], bias)
    assert layer(torch.randn(2, 3, 64)).shape == (2, 3, 48)


def test_the_card_does_the_product_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a card multiplies is what the emulation multiplies."""
    seen: dict[str, Any] = {}

    def scaled_mm(a: torch.Tensor, b: torch.Tensor, **more: Any) -> torch.Tensor:
        seen.update(more)
        assert (a.dtype, b.dtype, b.stride()[0]) == (E4M3, E4M3, 1)
        product = a.float() @ b.float() * more["scale_a"] * more["scale_b"]
        return (product + more["bias"].float()).to(more["out_dtype"])

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    layer = Fp8Linear(32, 16, bias=True, format="float8")
    weight, scale = quantise(torch.randn(16, 32), E4M3)
    state = {"weight": weight, "scale": scale, "bias": torch.randn(16).bfloat16()}
    layer.load_state_dict(state, assign=True)
    x = torch.randn(5, 32).bfloat16()
    emulated = layer(x)
    monkeypatch.setattr(fp8, "product_of_copies", product_in_fp8)
    assert torch.equal(layer(x), emulated)
    assert (seen["scale_a"].shape, seen["scale_b"].shape) == ((5, 1), (1, 16))


def test_who_cannot_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r'fp8 "cpu": has no products in FP8; leave it out'):
        check_fp8(torch.device("cpu"))
    monkeypatch.setattr("linnet.runtime.device.is_here", lambda name: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 3060")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(InvalidInput, match=r'fp8 "NVIDIA GeForce RTX 3060": has no products in FP8'):
        check_fp8(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    check_fp8(torch.device("cuda"))


def test_a_clip_says_it_and_repeats_it() -> None:
    with pytest.raises(InvalidInput, match="multiplies float8 weights, not those in int8"):
        ExecutionConfig(fp8=True, transformer_format="int8")
    record = ExecutionConfig(fp8=True, transformer_format="float8", batched_guidance=True).record()
    assert record == {"fp8": True, "transformer_format": "float8", "batched_guidance": True}
    assert recorded(record).items() >= record.items()
    older = recorded({"transformer_format": "float8"})
    assert (older.get("fp8"), older.get("batched_guidance")) == (False, False)

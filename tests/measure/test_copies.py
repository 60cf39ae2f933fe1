"""A forward pass on a card waits for nothing from the host: no tensor crosses between the two inside it."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from linnet.measure import fake
from linnet.measure.fake import Card
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.sampling.denoise import denoise
from linnet.sampling.flow import sigmas

SMALL = TransformerConfig(dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_len=8, text_dim=12)


def watched_copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with what crosses between the two from now on."""
    crossed: list[str] = []
    moved = fake.moved

    def watched(func: Any, x: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        out = moved(func, x, *given, **more)
        if out.device.type != x.device.type:
            crossed.append(f"{tuple(x.shape)} from {x.device.type} to {out.device.type}")
        return out

    monkeypatch.setattr(fake, "moved", watched)
    return crossed


@pytest.mark.parametrize("chunk", [None, 6])
def test_nothing_crosses_inside_a_forward_pass(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    crossed = watched_copies(monkeypatch)
    card = Card()
    with torch.device("meta"):
        model = Transformer(SMALL)
    card.hold(model, torch.bfloat16)
    with card.recording():
        text = model.encode_text([torch.empty((3, SMALL.text_dim), device=card.device)])
        latents = torch.empty((1, SMALL.channels, 3, 4, 6), device=card.device)
        timestep = torch.empty(1, device=card.device)
        crossed.clear()  # what came before is once a prompt
        model(latents, timestep, text, token_chunk=chunk)
        assert crossed == []
        torch.empty(2).to(card.device)
        assert crossed == ["(2,) from cpu to cuda"]  # it would be seen


class Copies(TorchDispatchMode):
    """Counts what crosses from main memory to a device that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and out.is_meta:
            self.seen.append(tuple(out.shape))
        return out


def test_the_noise_levels_of_a_run_cross_once() -> None:
    noise = torch.empty((2, 16, 3, 4, 6), device="meta")
    with Copies() as copies:
        for step in denoise(lambda latents, timestep: latents * timestep[0], noise, sigmas(5, shift=3.0)):
            assert step.latents.is_meta
    assert copies.seen == [(5,)]

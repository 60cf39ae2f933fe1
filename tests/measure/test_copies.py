"""A forward pass on a card waits for nothing from the host: no tensor crosses between the two inside it."""

from typing import Any

import pytest
import torch

from linnet.measure import fake
from linnet.measure.fake import Card
from linnet.models.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_len=8, text_dim=12)


@pytest.mark.parametrize("chunk", [None, 6])
def test_nothing_crosses_inside_a_forward_pass(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    crossed: list[str] = []
    moved = fake.moved

    def watched(func: Any, x: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        out = moved(func, x, *given, **more)
        if out.device.type != x.device.type:
            crossed.append(f"{tuple(x.shape)} from {x.device.type} to {out.device.type}")
        return out

    monkeypatch.setattr(fake, "moved", watched)
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

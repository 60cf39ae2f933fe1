"""A training step on a card that is not there: fake tensors, forward and backward, and the memory that they took.

What runs is the code that trains. The card's tensors are fake ones of the CPU, since the backward pass of PyTorch asks
for a driver of any other device; what waits in main memory is on a device of another name. Attention takes what the
flash and memory-efficient kernels take.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.geometry import Size, latent_grid
from linnet.measure.fake import FLASH_WIDTH, Card, aten
from linnet.models import attention
from linnet.models.lora import LowRank, targets_in, wrapped
from linnet.models.quantised import store_in
from linnet.models.transformer import Transformer, linum_v2
from linnet.plan.training import TrainingExecution, TrainingWorkload, is_resident
from linnet.train.blocks import TrainedBlock
from linnet.train.flow import squared_error
from linnet.train.released import steps_in_backward
from linnet.weights.files import FLOAT32_PARTS

CARD, MAIN_MEMORY = "cpu", "lazy"  # devices that stand for the two


def simulate_step(workload: TrainingWorkload, execution: TrainingExecution, size: Size, frames: int) -> int:
    """Bytes of tensors on the card at the most, in one step of a Linum v2 model after the first."""
    with torch.device("meta"):
        model = Transformer(linum_v2())
    if execution.base in ("int8", "float8"):
        store_in(execution.base, model)
    card = Card(CARD)
    dtype = torch.float32 if execution.base == "float32" else torch.bfloat16
    count = len(model.blocks)
    for index, block in enumerate(model.blocks):
        here = execution.resident_blocks is None or is_resident(index, execution.resident_blocks, count)
        card.hold(block, dtype, CARD if here else MAIN_MEMORY)
    for name, part in model.named_children():
        if name != "blocks":
            card.hold(part, torch.float32 if name in FLOAT32_PARTS else dtype)
    with card.mode, card.ledger, attending():
        learning = learning_of(model, workload)
        if execution.released:
            kept = [torch.empty_like(p) for p in learning] if workload.averaged else []
            optimisers = [torch.optim.AdamW(learning)]
            for _ in range(2):  # the first step makes the optimiser's state
                with steps_in_backward(optimisers):
                    step(model, workload, execution, size, frames)
        else:
            kept = [torch.empty_like(p) for p in learning for _ in range(int(workload.copies))]
            for p in learning:
                p.grad = torch.empty_like(p)
            step(model, workload, execution, size, frames)
        del kept
    return card.ledger.peaks[CARD]


def learning_of(model: Transformer, workload: TrainingWorkload) -> list[nn.Parameter]:
    if workload.kind == "full":
        return list(model.requires_grad_(True).parameters())
    model.requires_grad_(False)
    learning: list[nn.Parameter] = []
    for name, layer in targets_in(model, workload.targets):
        outward, inward = layer.weight.shape
        rank = workload.rank
        down, up = torch.empty(rank, inward), torch.empty(outward, rank)
        adapter = LowRank(down, up, alpha=float(rank))
        wrapped(model, name).append(adapter)
        learning += adapter.parameters()
    return learning


def step(
    model: Transformer, workload: TrainingWorkload, execution: TrainingExecution, size: Size, frames: int
) -> None:
    """Forward and backward for a batch, as `train.clips` does them."""
    device, batch = torch.device(CARD), workload.batch
    blocks: Any = [TrainedBlock(block, device, checkpointed=execution.checkpointed) for block in model.blocks]
    data = torch.empty(batch, model.config.channels, *latent_grid(frames, size))
    rows = torch.empty(batch, workload.text_tokens, model.config.text_dim)
    lengths = torch.full((batch,), workload.text_tokens)
    context = model.encode_padded_text(rows, lengths, blocks=blocks)

    def run(latents: Tensor, timestep: Tensor, text: Any) -> Tensor:
        return model(latents, timestep, text, blocks=blocks)

    known = torch.empty(batch, data.shape[2], dtype=torch.bool)
    noise, sigma = torch.empty_like(data), torch.empty(batch)
    error = squared_error(run, context, data, noise, sigma, known, sigma).mean((1, 3, 4))
    loss = ((error * ~known).sum(1) / (~known).sum(1)).sum()
    del error, context
    torch.autograd.backward(loss)


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **settings: Any
) -> Tensor:
    """With what its backward pass keeps."""
    assert query.shape[-1] <= FLASH_WIDTH
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False)[0]
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled()
    )[0]


@contextmanager
def attending() -> Iterator[None]:
    """Attention by the kernels of a card, whatever its length."""
    with (
        patch.object(F, "scaled_dot_product_attention", attend),
        patch.object(attention, "PLAIN_LENGTH", 0),
    ):
        yield

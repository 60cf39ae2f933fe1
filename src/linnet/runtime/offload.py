"""A text encoder that is too large to hold: its weights pass through memory, layer by layer, once for all prompts.

Axes: M model width; _ tokens, of each prompt its own number.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linnet.models.text import T5Encoder
from linnet.weights.files import Header
from linnet.weights.load import fill, read_rows

M = TypeVar("M", bound=nn.Module)

PAGE = 4096  # bytes


def encode_streamed(
    encoder: T5Encoder,
    headers: Sequence[Header],
    prompts: Sequence[Int[Tensor, "1 _"]],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    watch: Callable[[int, int], object] = lambda done, total: None,
) -> list[Float[Tensor, "1 _ M"]]:
    """What the encoder, once it is loaded, answers to the ids of each prompt: the same numbers.

    `encoder` and `headers` are what `weights.load.matched` gives: a model on the meta device, where it is again
    afterwards, and files that are known to hold it. At most two layers (an attention and a feed-forward net) are in
    memory at a time, and of the token table the rows that are needed. `watch` hears of the layers that are `done`.
    """
    layers = {
        f"encoder.block.{i}.layer.{j}.": layer
        for i, block in enumerate(encoder.encoder.block)
        for j, layer in enumerate(block.layer)
    }
    load = partial(loaded, headers=headers, device=device, dtype=dtype)
    with torch.inference_mode():
        states = [read_rows(headers, "shared.weight", ids[0].tolist())[None].to(device) for ids in prompts]
        biases: list[Tensor] = []
        for done, layer in enumerate(passing(layers, load), 1):
            # The first layer owns the table of the bias that all share.
            biases = biases or [encoder.position_bias(torch.ones_like(ids, device=device)) for ids in prompts]
            states = [layer(x, bias) for x, bias in zip(states, biases, strict=True)]
            watch(done, len(layers))
        norm = load(encoder.encoder.final_layer_norm, prefix="encoder.final_layer_norm.")
        states = [norm(x) for x in states]
        norm.to("meta")
    return states


def passing(parts: dict[str, M], load: Callable[..., M]) -> Iterator[M]:
    """Each part with its weights, which it loses when the next is asked for; that one is read meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        todo = [partial(reader.submit, load, part, prefix=prefix) for prefix, part in parts.items()]
        coming = todo[0]()
        for follow in [*todo[1:], None]:
            part = coming.result()
            if follow:
                coming = follow()
            yield part
            part.to("meta")


def loaded(
    part: M, *, headers: Sequence[Header], device: torch.device | str, dtype: torch.dtype, prefix: str
) -> M:
    """The part with its weights, in memory: those that stay mapped from the file are read by touching each page."""
    fill(part, headers, device=device, dtype=dtype, prefix=prefix)
    for weight in part.parameters():
        if weight.device.type == "cpu":
            weight.detach().view(torch.uint8).flatten()[::PAGE].sum()
    return part

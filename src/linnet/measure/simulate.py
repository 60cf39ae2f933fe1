"""A plan put to the test without a card: each stage of a full-size run, on fake tensors, and the memory it took.

What runs is the code that would run on the card; only the weights come from nowhere, and what would be fetched ahead
in a thread is fetched in turn. Of the transformer's blocks, which are alike, a few run and stand for all.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from linnet.catalog import Format
from linnet.geometry import latent_grid
from linnet.loras import numbers_in
from linnet.measure.allocator import EMPTY_CACHE, MIB, Event
from linnet.measure.fake import Card
from linnet.models.fp8 import multiply_in_fp8
from linnet.models.lora import LoraShape, add_lora, remove_lora, set_adapters, take_adapters, wrapped
from linnet.models.quantised import store_in
from linnet.models.text import T5Encoder, t5_xxl
from linnet.models.transformer import PATCH, Block, TextContext, Transformer, linum_v2
from linnet.models.vae import VAE, Past, VAEConfig
from linnet.plan.execution import PREVIEW_TILING
from linnet.plan.passes import in_one_batch
from linnet.plan.plan import Plan, Row
from linnet.runtime import offload, stream, transfer
from linnet.runtime.tiles import decode_tiled
from linnet.sampling.denoise import Guidance, GuidedVelocity, per_clip
from linnet.sampling.flow import TIMESTEPS
from linnet.weights.files import FLOAT32_PARTS

M = TypeVar("M", bound=nn.Module)

STAGE_NAMES: tuple[Row, ...] = ("text", "encode", "denoise", "decode")
STEADY = 4  # latent frames after which decoding holds no more than before
RUN = 3  # blocks that run for all: the first, one to compare with, and the one that is repeated
# Of the libraries for products, held for as long as the process lives (32 MiB for each of two on Hopper, less on other
# cards), and an assumption of what a convolution takes for itself while it runs.
PRODUCT_WORKSPACES, CONVOLUTION_WORKSPACE = 64 * MIB, 64 * MIB


class Peak(NamedTuple):
    """Bytes of tensors, on the card and in main memory; allowances and workspaces are not among them."""

    device: int
    system: int


def simulate(plan: Plan, stage: Row) -> Peak:
    """What a stage of a Linum v2 plan for a card holds at its peak."""
    card = STAGES[stage](plan)
    return Peak(card.peak, card.system_peak)


def events_of(plan: Plan, stages: Container[Row] = STAGE_NAMES) -> list[Event]:
    """What a Linum v2 plan for a card asks of the card's allocator, one stage after another, workspaces included."""
    events, last = [Event(1, PRODUCT_WORKSPACES)], 1
    for stage in plan.stages:
        if stage.stage not in stages:
            continue
        if stage.stage == "decode" and not plan.transformer_stays:
            events.append(EMPTY_CACHE)  # as the pipeline does when it drops the transformer
        own = STAGES[stage.stage](plan).ledger.events
        events += [Event(last + key, size) for key, size in (*own, *left(own))]
        last += max(key for key, _ in own)
    return events


def left(events: Sequence[Event]) -> list[Event]:
    """The end of what is still there."""
    live: dict[int, Event] = {}
    for key, size in events:
        if size:
            live[key] = Event(key, 0)
        else:
            del live[key]
    return list(live.values())


def text(plan: Plan) -> Card:
    card, dtype = Card(), dtype_of(plan)
    encoder = text_encoder(plan)
    kept = transformer(card, plan) if plan.transformer_stays else None  # from the clip before
    waiting_autoencoder(card, plan)
    with card.recording():
        ids = torch.empty((1, plan.spec.max_prompt_tokens), dtype=torch.int64, device=card.device)
        if plan.text_resident:
            card.hold(encoder, dtype)
            encoder(ids, torch.ones_like(ids))
        else:
            with streaming(card):
                offload.encode_streamed(encoder, [], [ids], device=card.device, dtype=dtype)
    del kept
    return card


def denoise(plan: Plan) -> Card:
    card, request = Card(), plan.request
    grid = latent_grid(request.frames, request.size)
    beside(card, plan)
    model, blocks = transformer(card, plan)
    decoder = waiting_autoencoder(card, plan)
    with card.recording():
        rows = torch.empty((plan.spec.max_prompt_tokens, model.config.text_dim), device=card.device)
        prompt, negative = (model.encode_text([rows], blocks=blocks) for _ in range(2))

        def run(latents: Tensor, timestep: float, text: TextContext) -> Tensor:
            few = Few(card, blocks or model.blocks, model.config.num_layers)
            some = replace(text, keys=text.keys[:RUN], values=text.values[:RUN])
            # Which a compiled block keeps twice.
            compiled = residual_stream(plan, latents) if plan.execution.compiled else None
            chunk = plan.execution.token_chunk
            velocity = model(latents, per_clip(timestep, latents), some, blocks=few, token_chunk=chunk)
            del compiled
            return velocity

        guided = GuidedVelocity(
            model=run,
            prompt=prompt,
            negative=negative,
            guidance=Guidance(rescale=request.apg_rescale),
            batched=in_one_batch(plan.spec, plan.execution),
        )
        latents = torch.empty((plan.clips, model.config.channels, *grid), device=card.device)
        for _ in range(2):  # from the second on there is a running difference
            velocity = guided(latents, TIMESTEPS / 2)
            denoised = latents - velocity
            latents = latents + velocity
            del velocity
            preview(card, plan, decoder, denoised)
    return card


def residual_stream(plan: Plan, latents: Tensor) -> Tensor:
    """As large as that of the tokens that go through a block at once."""
    tokens = math.prod(latents.shape[2:]) // PATCH**2
    most = min(tokens, plan.execution.token_chunk or tokens)
    return torch.empty((len(latents), most, linum_v2().dim), device=latents.device)


class Few:
    """The first of a transformer's blocks, in turn; the last of them is written down as often as there are more."""

    def __init__(self, card: Card, blocks: Iterable[Block], count: int) -> None:
        self.card, self.blocks, self.count = card, blocks, count

    def __iter__(self) -> Iterator[Block]:
        events, starts = self.card.ledger.events, []
        for block in islice(self.blocks, RUN):
            starts.append(len(events))
            yield block
        before, start = starts[-2:]
        self.card.ledger.repeat(before, start, self.count - RUN)


def waiting_autoencoder(card: Card, plan: Plan) -> VAE | None:
    """The autoencoder where it waits while the transformer works; None if that is not on the card."""
    if plan.autoencoder_waits == "file":
        return None
    on_card = plan.autoencoder_waits == "device"
    model = meta(lambda: VAE(VAEConfig()))
    kept = card.hold(
        model, getattr(torch, plan.execution.autoencoder_dtype), card.device if on_card else "cpu"
    )
    return kept if on_card else None


def preview(card: Card, plan: Plan, here: VAE | None, denoised: Tensor) -> None:
    """The first frame of what the model expects, by an autoencoder that comes for it alone if it is not there."""
    kind = getattr(torch, plan.execution.autoencoder_dtype)
    model: VAE = here or card.fill(meta(lambda: VAE(VAEConfig())), kind)
    with copies():
        for _ in decode_tiled(model, denoised[:1, :, :1], PREVIEW_TILING):
            pass


def transformer(card: Card, plan: Plan) -> tuple[Transformer, stream.BlockStream | None]:
    """With the blocks that stay, and what brings the others, whose copies wait in main memory."""
    model, dtype, stay = network(plan), dtype_of(plan), plan.execution.resident_blocks
    adapters, count = loras(card, plan), len(model.blocks)
    if stay is None:
        card.hold(model, dtype)
        for i, block in enumerate(model.blocks):
            put_on(block, adapters.get(i, {}))
        return model, None
    here = [model.blocks[i] for i in range(count) if stream.is_resident(i, stay, count)]
    for name, part in model.named_children():
        if name != "blocks":
            card.hold(part, torch.float32 if name in FLOAT32_PARTS else dtype)
    for block in here:
        card.hold(block, dtype)
    away = [block for block in model.blocks if block not in here]
    if plan.execution.blocks_from == "memory":
        for block in away:
            card.hold(deepcopy(block), dtype, "cpu")
    with patch.object(stream, "room_for", lambda block, device, dtype: card.hold(deepcopy(block), dtype)):
        blocks = stream.BlockStream(
            model.blocks, nothing, device=card.device, dtype=dtype, ahead=False, adapters=adapters
        )
    for i, block in enumerate(model.blocks):
        if block in here:
            put_on(block, adapters.get(i, {}))
    return model, blocks


def network(plan: Plan) -> Transformer:
    """On the meta device, its blocks stored and multiplied as the plan says."""
    model = stored(meta(lambda: Transformer(linum_v2())), plan.execution.transformer_format)
    return multiply_in_fp8(model) if plan.execution.fp8 else model


def text_encoder(plan: Plan) -> T5Encoder:
    return stored(meta(lambda: T5Encoder(t5_xxl())), plan.execution.text_format)


def stored(module: M, format: Format | None) -> M:
    if format is None:
        return module
    with torch.device("meta"):
        return store_in(format, module)


def loras(card: Card, plan: Plan) -> dict[int, dict[str, nn.ModuleList]]:
    """Of each block, on the card: one LoRA on all targets, with as many numbers as the plan's have, or nearly."""
    if not (numbers := numbers_in(plan.request.loras)):
        return {}
    with torch.device("meta"):
        model = Transformer(linum_v2())
        each = sum(parameter.numel() for parameter in add_lora(model, LoraShape(rank=1)))
        remove_lora(model)
        add_lora(model, LoraShape(rank=max(1, round(numbers / each))))
    adapters_of: dict[int, dict[str, nn.ModuleList]] = {}
    for i, block in enumerate(model.blocks):
        adapters_of[i] = take_adapters(block)
        for adapters in adapters_of[i].values():
            with card.mode:
                kept = {
                    name: torch.empty(parameter.shape, dtype=dtype_of(plan), device=card.device)
                    for name, parameter in adapters.named_parameters()
                }
                adapters.load_state_dict(kept, assign=True)
            card.modules.append(adapters)
            for parameter in adapters.parameters():
                card.ledger.see(parameter)
    return adapters_of


def put_on(block: Block, adapters: Mapping[str, nn.ModuleList]) -> None:
    for name in adapters:
        wrapped(block, name)
    set_adapters(block, adapters)


def nothing(index: int) -> tuple[()]:
    """The weights of a block, as a fake card needs them."""
    return ()


def encode(plan: Plan) -> Card:
    card, (width, height) = Card(), plan.request.size
    kept, model = autoencoder(card, plan)
    with card.recording():
        steady = min(plan.workload.encoded_frames, 4 * STEADY + 1)
        for latents in model.encode_stream(
            torch.empty((1, 3, 1, height, width), device=card.device) for _ in range(steady)
        ):
            latents.cpu()
    del kept
    return card


def autoencoder(card: Card, plan: Plan) -> tuple[object, VAE]:
    """With what stays on the card beside it."""
    beside(card, plan)
    if plan.autoencoder_waits == "memory":
        waiting_autoencoder(card, plan)
    kept = transformer(card, plan) if plan.transformer_stays else None
    return kept, card.hold(meta(lambda: VAE(VAEConfig())), getattr(torch, plan.execution.autoencoder_dtype))


def decode(plan: Plan) -> Card:
    card, request, tiling = Card(), plan.request, plan.execution.tiling
    frames, *sides = latent_grid(request.frames, request.size)
    kept, model = autoencoder(card, plan)
    with card.recording(), lowered(plan.request.decoder_dtype == "bfloat16"):
        latents = torch.empty((1, model.config.z_dim, frames, *sides), device=card.device)
        if tiling:
            steady = latents.narrow(2, 0, min(tiling.chunk + 1, frames))
            with copies():
                for video in decode_tiled(model, steady, tiling, pasts=plan.execution.pasts):
                    del video
        else:
            past = Past()
            for part in latents.narrow(2, 0, min(STEADY, frames)).split(1, dim=2):
                model.decode(part, past).cpu()
    del kept
    return card


STAGES: dict[Row, Callable[[Plan], Card]] = {
    "text": text,
    "encode": encode,
    "denoise": denoise,
    "decode": decode,
}


def reserve(like: Tensor, device: torch.device, **settings: Any) -> Tensor:
    """Memory that no driver locks."""
    return torch.empty_like(like, device=device)


class Aside(transfer.Aside):
    """A stream of copies beside the computation, without the stream."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, None

    @property
    def is_apart(self) -> bool:
        return True


@contextmanager
def copies() -> Iterator[None]:
    with patch.object(transfer, "reserve", reserve), patch.object(transfer, "Aside", Aside):
        yield


@contextmanager
def lowered(enabled: bool) -> Iterator[None]:
    """torch.autocast to bfloat16 for a card that is not there, which torch.autocast itself refuses."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", enabled)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()


def beside(card: Card, plan: Plan) -> None:
    """The text encoder, where it stays."""
    if plan.text_resident:
        card.hold(text_encoder(plan), dtype_of(plan))


def meta(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build()


def dtype_of(plan: Plan) -> torch.dtype:
    return getattr(torch, plan.request.dtype)


class Inline:
    """An executor without threads: a fake card sees only the thread that it was made in."""

    def __init__(self, **settings: Any) -> None: ...

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, function: Callable[..., Any], *args: Any, **settings: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*args, **settings))
        return future


@contextmanager
def streaming(card: Card) -> Iterator[None]:
    """Weights come from nowhere instead of files."""

    def fill(part: nn.Module, headers: Any, *, dtype: torch.dtype, **settings: Any) -> nn.Module:
        return card.fill(part, dtype)

    def read_rows(headers: Any, name: str, rows: Any) -> Tensor:
        return torch.empty(len(rows), t5_xxl().d_model)

    with ExitStack() as stack:
        for name, stand_in in (("fill", fill), ("read_rows", read_rows), ("ThreadPoolExecutor", Inline)):
            stack.enter_context(patch.object(offload, name, stand_in))
        # torch itself would swap the tensors inside of the parameters, which the tally's weak references forbid.
        stack.enter_context(
            patch.object(nn.Module, "to", lambda part, to: card.fill(part, torch.float32, to))
        )
        stack.enter_context(patch.object(FakeTensor, "tolist", lambda ids: [0] * ids.numel()))
        yield

"""The transformer against recordings of the published one, and against slower ways to say the same."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linnet.measure import fake
from linnet.models import attention
from linnet.models.attention import GELU, Linear, attend, attend_plainly, nearness, rotary_tables, rotate
from linnet.models.transformer import TextContext, Transformer, TransformerConfig, equal_chunk, linum_v2
from linnet.runtime.compile import compile_blocks
from live import Live
from tiny_models import LATENTS, SMALL, TIMESTEP, draw, random_model

RECORDINGS = sorted((Path(__file__).parents[1] / "golden").glob("dit_*.safetensors"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the checks of shapes, through which torch.compile cannot see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def close(out: Tensor, reference: Tensor, tolerance: float = 1e-6) -> None:
    assert out.shape == reference.shape
    assert (out - reference).norm() <= tolerance * reference.norm()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_published_transformer(path: Path, training: bool) -> None:
    with safe_open(path, framework="pt") as file:
        config = TransformerConfig(**json.loads(file.metadata()["config"]))
        recorded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = Transformer(config)
    model.load_state_dict({k.removeprefix("state.model."): v for k, v in recorded.items() if "state." in k})
    texts = [recorded[f"input.text.{i}"] for i in range(len(recorded["input.latents"]))]
    with torch.set_grad_enabled(training):  # Training takes another way through attention.
        out = model(recorded["input.latents"], recorded["input.timestep"], model.encode_text(texts))
    close(out, recorded["output.velocity"])


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 3


def test_linum_v2_has_the_published_size() -> None:
    with torch.device("meta"):
        model = Transformer(linum_v2())
    assert sum(p.numel() for p in model.parameters()) == 2_008_051_904


@torch.no_grad()
def test_folded_padding_equals_attended_padding() -> None:
    model = random_model()
    text = draw(3, SMALL.text_dim)
    folded = model.encode_text([text])
    padded = model.encode_text([F.pad(text, (0, 0, 0, SMALL.text_len - 3))])
    assert folded.bias.shape == (1, 4)
    assert padded.bias[0, :8].eq(0).all()
    close(model(LATENTS, TIMESTEP, folded), model(LATENTS, TIMESTEP, padded))
    shorter = TextContext(folded.keys, folded.values, folded.bias.where(folded.bias == 0, -torch.inf))
    assert (model(LATENTS, TIMESTEP, shorter) - model(LATENTS, TIMESTEP, folded)).norm() > 1e-3


@torch.no_grad()
def test_samples_of_a_batch_do_not_know_each_other() -> None:
    model = random_model()
    texts = [draw(2, SMALL.text_dim), draw(SMALL.text_len, SMALL.text_dim, seed=2)]
    together = model(LATENTS, TIMESTEP, model.encode_text(texts))
    contexts = [model.encode_text([text]) for text in texts]
    alone = torch.cat([model(LATENTS[i : i + 1], TIMESTEP[i : i + 1], contexts[i]) for i in range(2)])
    close(together, alone)
    close(model(LATENTS, TIMESTEP, contexts[0].join(contexts[1])), alone)
    close(
        model(LATENTS, TIMESTEP, contexts[1].join(contexts[0]))[1], model(LATENTS, TIMESTEP, contexts[0])[1]
    )
    close(model(LATENTS, TIMESTEP, contexts[0].repeat(2)), model(LATENTS, TIMESTEP, contexts[0]))


@torch.no_grad()
def test_what_lies_beyond_a_text_does_not_count() -> None:
    model = random_model()
    states = draw(2, 5, SMALL.text_dim)
    context = model.encode_padded_text(states, torch.tensor([2, 5]))
    close(
        model(LATENTS, TIMESTEP, context),
        model(LATENTS, TIMESTEP, model.encode_text([states[0, :2], states[1]])),
    )


def test_training_begins_with_silence_and_reaches_everything() -> None:
    fresh = Transformer(SMALL).initialise(torch.Generator().manual_seed(0))
    text = fresh.encode_text([draw(3, SMALL.text_dim)])
    assert not fresh(LATENTS, TIMESTEP, text).any()

    model = random_model()
    states = [draw(3, SMALL.text_dim)]
    model(LATENTS, TIMESTEP, model.encode_text(states)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_attention_begins_with_a_sense_of_place() -> None:
    grid, width = (5, 6, 7), 64
    tables = rotary_tables(grid, width, torch.device("cpu"))
    centre = (2, 3, 3)
    for axes in ((0, 1, 2), (1, 2), (0,)):
        constant = nearness(width, axes, strength=1.0).expand(1, 5 * 6 * 7, 1, width)
        turned = rotate(constant, tables)[0, :, 0]
        product = (turned @ turned.T).view(*grid, *grid)[centre]
        assert product.max() == pytest.approx(product[centre].item())
        for axis in range(3):
            along = product[tuple(slice(None) if a == axis else at for a, at in enumerate(centre))]
            near = [along[centre[axis] + step] for step in (0, 1, 2)]
            assert (near[0] > near[1] > near[2]) if axis in axes else along.allclose(along[0])


def test_initialise_follows_its_generator() -> None:
    first, second, third = (
        Transformer(SMALL).initialise(torch.Generator().manual_seed(seed)).state_dict() for seed in (4, 4, 5)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["blocks.0.ffn.0.weight"], third["blocks.0.ffn.0.weight"])


@torch.no_grad()
@pytest.mark.parametrize("way", ["weights", "autocast"])
def test_bfloat16_stays_near_and_leaves_the_residual_stream_alone(way: str) -> None:
    model, text = random_model(), [draw(3, SMALL.text_dim)]
    reference = model(LATENTS, TIMESTEP, model.encode_text(text))
    if way == "weights":
        for module in model.modules():
            if isinstance(module, Linear | torch.nn.Conv3d):
                module.bfloat16()
    streams: list[Tensor] = []

    def watch(_: torch.nn.Module, inputs: object, out: tuple[Tensor, object]) -> None:
        streams.append(out[0])

    for block in model.blocks:
        block.register_forward_hook(watch)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        out = model(LATENTS, TIMESTEP, model.encode_text(text))
    assert {x.dtype for x in (out, streams[0], streams[1])} == {torch.float32}
    close(out, reference, 2e-2)
    assert (out - reference).norm() > 1e-5 * reference.norm()  # It was bfloat16 indeed.


def test_compiled_blocks_equal_eager_ones(unchecked: None) -> None:
    """In training, too. The backend traces but compiles nothing, so that no C++ compiler is needed here."""
    gradients = []
    for compiled in (False, True):
        model = random_model()
        if compiled:
            compile_blocks(model.blocks, backend="aot_eager", fullgraph=True)
        out = model(LATENTS, TIMESTEP, model.encode_text([draw(3, SMALL.text_dim)]))
        out.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    close(gradients[1], gradients[0], 1e-5)


class Counting:
    """A backend that traces, and counts how often it is asked."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return aot_eager(graph, inputs)


@pytest.mark.parametrize(("chunk", "graphs"), [(None, 1), (9, 2)])
@torch.no_grad()
def test_prompts_of_every_length_are_compiled_once(unchecked: None, chunk: int | None, graphs: int) -> None:
    """And all blocks, and all chunks: of what makes keys and values, and of what follows."""
    torch.compiler.reset()
    config = replace(SMALL, num_layers=3, text_len=64)
    plain, model, backend = random_model(config=config), random_model(config=config), Counting()
    compile_blocks(model.blocks, backend=backend, fullgraph=True)
    for length in range(1, 61, 2):
        text = [draw(length, SMALL.text_dim)]
        out = model(LATENTS, TIMESTEP, model.encode_text(text), token_chunk=chunk)
        close(out, plain(LATENTS, TIMESTEP, plain.encode_text(text)))
    assert backend.graphs == graphs


@pytest.mark.parametrize("chunk", [None, 8])
def test_nothing_crosses_between_host_and_card_in_a_forward(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy would wait for the card, 80 times a clip. The card is not there; nor are numbers that could be read."""
    crossed: list[str] = []
    original = fake.moved

    def moved(func: Any, x: Tensor, *given: Any, **more: Any) -> Tensor:
        result = original(func, x, *given, **more)
        if result.device.type != x.device.type:
            crossed.append(f"{x.device} to {result.device}")
        return result

    class Constants(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.tensor, torch.as_tensor, torch.from_numpy):
                crossed.append(str(func))
            return func(*args, **(kwargs or {}))

    class Crossing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor) and x.dim()]
            if len({x.device.type for x in tensors}) > 1:
                crossed.append(str(func))
            return result

    monkeypatch.setattr(fake, "moved", moved)
    card = fake.Card()
    with torch.device("meta"):
        model = card.hold(Transformer(SMALL), torch.bfloat16)
    with card.recording():
        states = [torch.empty(3, SMALL.text_dim, device="cuda")]
        text = model.encode_text(states)  # once a prompt, and with a length that crosses
        latents, timestep = torch.empty(1, 16, 2, 8, 8, device="cuda"), torch.empty(1, device="cuda")
        crossed.clear()
        with Constants(), Crossing():
            out = model(latents, timestep, text, token_chunk=chunk)
        assert crossed == []
        with Constants(), Crossing():
            out.cpu()
        assert crossed != []


@torch.no_grad()
def test_more_sizes_than_are_kept_compiled_are_compiled_anew(
    unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch itself would go on without its compiler, and say nothing."""
    monkeypatch.setattr("linnet.runtime.compile.SIZES", 2)
    torch.compiler.reset()
    model, backend = random_model(), Counting()
    compile_blocks(model.blocks, backend=backend)
    text = model.encode_text([draw(3, SMALL.text_dim)])
    for frames in (1, 2, 3, 4, 5):
        model(draw(1, 16, frames, 4, 4), TIMESTEP[:1], text)
    assert backend.graphs == 5
    model(draw(1, 16, 5, 4, 4), TIMESTEP[:1], text)
    assert backend.graphs == 5


def test_plain_attention_equals_the_fused_one() -> None:
    query, key, value = draw(2, 3, 7, 8), draw(2, 3, 5, 8, seed=2), draw(2, 3, 5, 8, seed=3)
    bias = torch.tensor([[0.0, 0, 0, -torch.inf, 1.5], [0, 0, 0, 0, -torch.inf]])[:, None, None]
    for b in (bias, None):
        close(attend_plainly(query, key, value, b), F.scaled_dot_product_attention(query, key, value, b))


def test_plain_attention_is_for_training_on_short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(attention, "attend_plainly", lambda *a: calls.append(1) or a[0])
    query = draw(1, 1, 4, 8)
    attend(query, query, query)
    assert not calls
    attend(query.requires_grad_(), query, query)
    assert calls
    monkeypatch.setattr(attention, "PLAIN_LENGTH", 3)
    attend(query, query, query)
    assert len(calls) == 1


def test_both_forms_of_gelu_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-12, 12, 4001)
    fused = GELU()(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(GELU()(x), fused, rtol=1e-5, atol=1e-6)
    assert GELU()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("chunk", [1, 7, 27, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_tokens_in_chunks_are_tokens_at_once(chunk: int, dtype: torch.dtype) -> None:
    model = random_model()
    for layer in (
        module for block in model.blocks for module in block.modules() if isinstance(module, Linear)
    ):
        layer.to(dtype)
    text = model.encode_text([draw(3, SMALL.text_dim).to(dtype)])
    close(
        model(LATENTS, TIMESTEP, text, token_chunk=chunk),
        model(LATENTS, TIMESTEP, text),
        1e-6 if dtype == torch.float32 else 1e-2,
    )


def test_without_gradients_the_result_is_the_same() -> None:
    model = random_model()
    text = model.encode_text([draw(3, SMALL.text_dim)])
    with torch.no_grad():
        quick = model(LATENTS, TIMESTEP, text)
    close(quick, model(LATENTS, TIMESTEP, text).detach())
    chunked = model(LATENTS, TIMESTEP, text, token_chunk=5)  # with gradients it means nothing
    chunked.sum().backward()
    close(chunked.detach(), quick)


@torch.no_grad()
def test_tokens_in_chunks_take_less_memory() -> None:
    """The feed-forward net's 64 numbers a number, and what the others make on the way, exist for one chunk only."""
    config = replace(SMALL, ffn_dim=64 * SMALL.dim)
    model, latents = random_model(config=config), draw(1, 16, 8, 16, 16)
    text = model.encode_text([draw(3, SMALL.text_dim)])
    stream = 4 * SMALL.dim * 8 * 8 * 8
    with Live() as whole:
        model(latents, TIMESTEP[:1], text)
    with Live() as chunked:
        model(latents, TIMESTEP[:1], text, token_chunk=16)
    assert whole.peak > 64 * stream
    # The padded latents (2), itself, keys and values, and the hidden layer of one chunk of 32 (64 / 32, twice).
    assert chunked.peak < 10 * stream


@torch.no_grad()
def test_neither_all_queries_nor_all_that_attention_makes_ever_exist() -> None:
    model, latents = (
        random_model(config=replace(SMALL, dim=256, ffn_dim=256, num_heads=8)),
        draw(1, 16, 8, 16, 16),
    )
    text = model.encode_text([draw(3, SMALL.text_dim)])
    with Live() as chunked:
        model(latents, TIMESTEP[:1], text, token_chunk=16)
    stream = 4 * 256 * 8 * 8 * 8
    assert (
        chunked.peak < 3.9 * stream
    )  # the stream, keys, values, tables (0.25) and chunks of a thirty-second


def test_chunks_are_of_one_length() -> None:
    """For every clip of Linum v2 and any chunk that a plan takes."""
    for tokens in (11_960, 28_520, 46_800, 111_600):
        for most in (1024, 4096, 16_384):
            chunk = equal_chunk(tokens, most)
            assert chunk <= most
            assert tokens % chunk == 0
            assert tokens // chunk <= 1.5 * -(-tokens // most) + 1
    assert equal_chunk(7 * 10**6 + 1, 10**6) == 875_001  # no divisor near: the last is shorter


def test_blocks_may_come_from_elsewhere() -> None:
    model = random_model()
    text = model.encode_text([draw(3, SMALL.text_dim)], blocks=iter(list(model.blocks)))
    swapped = list(model.blocks)[::-1]
    out = model(LATENTS, TIMESTEP, text, blocks=iter(list(model.blocks)))
    close(out, model(LATENTS, TIMESTEP, text), 0.0)
    assert not torch.equal(out, model(LATENTS, TIMESTEP, text, blocks=swapped))
    with pytest.raises(ValueError, match="argument"):
        model(LATENTS, TIMESTEP, text, blocks=swapped[:1])

"""For every test: types and shapes in linnet's signatures are checked at each call, and the models that the
user of this machine may have do not count.

`LINNET_TEST_DTYPE=float32` or `bfloat16` forces what `default_dtype` finds, here and in the processes that tests start
where this CPU has both; otherwise it is what suits the machine.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("linnet", "type_checks.checked")  # before the first import of linnet
# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pulled models lie: nowhere yet."""
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What linnet finds out once and remembers does not go into the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        if forced := os.environ.get("LINNET_TEST_DTYPE"):
            force_dtype(forced, patch)
        yield


def force_dtype(name: str, patch: pytest.MonkeyPatch) -> None:
    """Let `default_dtype` find this one: a CPU with instructions for bfloat16, and which of the two it found faster."""
    if name not in ("float32", "bfloat16"):
        raise pytest.UsageError(f"LINNET_TEST_DTYPE={name}: use float32 or bfloat16")
    import torch

    from linnet.runtime import device

    found = {**getattr(torch.cpu, "get_capabilities", dict)(), "avx512_bf16": True, "amx_bf16": False}
    patch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    with pytest.MonkeyPatch.context() as once:
        # What it finds now is remembered in the tests' own cache, which the processes that they start look into, too.
        once.setattr(device, "seconds_of_product", lambda dtype: float(str(dtype) != f"torch.{name}"))
        device.default_dtype("cpu")
    assert str(device.default_dtype("cpu")) == f"torch.{name}"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as seedling's, of networks so small that a clip takes no time; their weights are random."""
    import torch

    from linnet.catalog import SEEDLING
    from linnet.data.vocabulary import write_tokenizer
    from linnet.models.tae import TAE, TAEConfig
    from linnet.models.text import T5Config, T5Encoder
    from linnet.models.transformer import Transformer, TransformerConfig
    from linnet.train.state import save_weights
    from linnet.weights.files import TRANSFORMER_PREFIX

    folder = tmp_path_factory.mktemp("tiny")
    words = write_tokenizer(folder / SEEDLING.tokenizer_dir)
    text = T5Config(vocab_size=words, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, gated=True)
    flow = TransformerConfig(dim=32, ffn_dim=32, num_heads=2, num_layers=1, text_len=32, text_dim=16)
    tiny = TAEConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, transformer, autoencoder = T5Encoder(text).initialise(), Transformer(flow), TAE(tiny)
    video = {TRANSFORMER_PREFIX + name: weight for name, weight in transformer.state_dict().items()}
    save_weights(folder / SEEDLING.text_encoder_dir, encoder.state_dict(), asdict(text))
    save_weights(folder / SEEDLING.transformer_file, video, asdict(flow))
    save_weights(folder / SEEDLING.autoencoder_file, autoencoder.state_dict(), asdict(tiny))
    return folder


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))

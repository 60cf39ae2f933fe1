"""Where a model runs: limits of containers are seen, and what cannot fit is refused with what can."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from linnet.catalog import CATALOG, SEEDLING
from linnet.errors import InvalidInput, WeightsError
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.request import Request, make_request
from linnet.runtime import memory
from linnet.runtime.device import cgroup_folders, host_memory, processors, resolve_device
from linnet.runtime.doctor import doctor
from linnet.runtime.memory import LINUM_V2, estimate, refuse_if_too_large, shape_of
from linnet.weights.load import load_into
from linnet.weights.store import ModelFiles

LINUM = CATALOG["linum-v2-360p"]
GB = 1_000_000_000
CONFIG = TransformerConfig(dim=64, ffn_dim=256, num_heads=2, num_layers=2, text_len=8, text_dim=32)
TEXT = T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, gated=True)
TINY = TAEConfig(encoder_width=8, decoder_widths=(16, 8, 8, 8))


def put(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.fixture
def system(tmp_path: Path) -> tuple[Path, Path]:
    """(/proc, /sys/fs/cgroup) of a machine with 16 GB free."""
    put(tmp_path / "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable: {16 * GB // 1024} kB")
    return tmp_path / "proc", tmp_path / "cgroup"


def test_a_container_s_memory_limit_counts_in_version_2(system: tuple[Path, Path]) -> None:
    proc, cgroups = system
    assert host_memory(proc, cgroups) == 16 * GB // 1024 * 1024
    put(proc / "self/cgroup", "0::/outer/inner")
    for name, limit, used in (("outer/inner", "max", 1), ("outer", 8 * GB, 5 * GB)):
        put(cgroups / name / "memory.max", limit)
        put(cgroups / name / "memory.current", used)
        put(cgroups / name / "memory.stat", "anon 7\ninactive_file 1000000000")
    assert host_memory(proc, cgroups) == 4 * GB  # the outer limit, whose file pages can be dropped


def test_a_container_s_memory_limit_counts_in_version_1(system: tuple[Path, Path]) -> None:
    proc, cgroups = system
    put(proc / "self/cgroup", "3:cpu,cpuacct:/\n4:memory:/docker/of-the-host\n0::/")
    put(cgroups / "memory/memory.limit_in_bytes", 2 * GB)
    put(cgroups / "memory/memory.usage_in_bytes", 3 * GB)
    put(cgroups / "memory/memory.stat", "inactive_file 5\ntotal_inactive_file 500000000")
    assert host_memory(proc, cgroups) == 0
    put(cgroups / "memory/memory.limit_in_bytes", 2**63 - 4096)  # how version 1 says "no limit"
    assert host_memory(proc, cgroups) == 16 * GB // 1024 * 1024


@pytest.mark.parametrize(("quota", "share"), [("150000 100000", 1.5), ("max 100000", None)])
def test_a_container_s_share_of_processors(
    system: tuple[Path, Path], quota: str, share: float | None
) -> None:
    proc, cgroups = system
    put(proc / "self/cgroup", "0::/box")
    put(cgroups / "box/cpu.max", quota)
    assert processors(next(cgroup_folders("cpu", proc, cgroups))) == share


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda", "mps")
    for name, problem in (("cuda:99", "has none"), ("tpu", "is not a device linnet knows")):
        with pytest.raises(InvalidInput, match=rf'^device "{name}": .*{problem}; use auto or cpu'):
            resolve_device(name)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    """A tiny model with all of seedling's parts."""
    for name, module in {
        "transformer": Transformer(CONFIG),
        "text": T5Encoder(TEXT),
        "tiny": TAE(TINY),
    }.items():
        prefix = "model." if name == "transformer" else ""
        state = {prefix + key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, tmp_path / f"{name}.safetensors")
    transformer, text, tiny = (tmp_path / f"{name}.safetensors" for name in ("transformer", "text", "tiny"))
    return ModelFiles(transformer=transformer, autoencoder=tiny, text_encoder=text, tokenizer=text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_as_the_loader_will_hold_them(files: ModelFiles, dtype: torch.dtype) -> None:
    def held(module: nn.Module) -> int:
        return sum(parameter.nbytes for parameter in module.parameters())

    shape = shape_of(files)
    transformer = load_into(lambda: Transformer(CONFIG), files.transformer, dtype=dtype, prefix="model.")
    assert shape.transformer.bytes(dtype) == pytest.approx(held(transformer), rel=0.02)
    text = load_into(lambda: T5Encoder(TEXT), files.text_encoder, dtype=dtype)
    assert shape.text.bytes(dtype) == pytest.approx(held(text), rel=0.02)
    assert shape.autoencoder.bytes(dtype) == held(load_into(lambda: TAE(TINY), files.autoencoder))
    assert (shape.dim, shape.ffn_dim) == (CONFIG.dim, CONFIG.ffn_dim)


def test_a_request_that_fits_is_let_through(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(SEEDLING, prompt="a star", dtype="float32")
    need = refuse_if_too_large(SEEDLING, files, request, device="cpu")
    assert max(need) > 0
    monkeypatch.setattr(memory, "available_memory", lambda device: max(need))
    assert refuse_if_too_large(SEEDLING, files, request, device="cpu") == need
    monkeypatch.setattr(memory, "available_memory", lambda device: max(need) - 1)
    with pytest.raises(InvalidInput, match=r"^memory "):
        refuse_if_too_large(SEEDLING, files, request, device="cpu")


def test_a_file_of_another_kind_is_refused_by_name(files: ModelFiles) -> None:
    with pytest.raises(WeightsError, match=r'tiny.safetensors": is not a video transformer'):
        shape_of(replace(files, transformer=files.autoencoder))


@pytest.mark.parametrize(
    ("left", "clips", "remedy"),
    [
        (12 * GB, 1, "use --dtype bfloat16"),
        (13 * GB, 4, "use --dtype bfloat16 and one seed at a time"),
        (22 * GB, 4, "use --dtype bfloat16"),
        (22 * GB, 5, "use one seed at a time"),
        (4 * GB, 1, "close other programs, or use --model seedling"),
    ],
)
def test_what_is_too_large_is_refused_with_a_change_that_fits(
    monkeypatch: pytest.MonkeyPatch, files: ModelFiles, left: int, clips: int, remedy: str
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: left)
    monkeypatch.setattr(memory, "shape_of", lambda files: LINUM_V2)
    request = make_request(LINUM, prompt="a fox", seconds=5, dtype="float32")
    line = rf'^memory "{left / GB:.1f} GB": is free on cpu, and the (denoise|decode) stage .* GB; {remedy}$'
    with pytest.raises(InvalidInput, match=line):
        refuse_if_too_large(LINUM, files, request, device="cpu", clips=clips)
    if remedy.startswith("use"):
        assert changed(request, remedy, clips) <= left


def changed(request: Request, remedy: str, clips: int) -> int:
    """Peak bytes once the remedy is followed."""
    if "bfloat16" in remedy:
        request = replace(request, dtype="bfloat16")
    if found := re.search(r"--seconds ([\d.]+)", remedy):
        request = make_request(LINUM, like=request, seconds=float(found[1]))
    return max(estimate(LINUM, LINUM_V2, request, clips=1 if "one seed" in remedy else clips))


def test_the_doctor_s_facts_are_plain_values() -> None:
    facts = doctor()
    assert facts["devices"][-1]["device"] == "cpu"
    assert facts["packages"]["torch"] == torch.__version__
    fitting = {found["model"]: found for found in facts["models"]}
    assert fitting["linum-v2-720p"]["needs_bytes"]["5"] > fitting["linum-v2-360p"]["needs_bytes"]["5"]

"""Where a model runs: limits of containers are seen, devices that are not there are refused."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._utils import _get_device_index
from typer.testing import CliRunner

import linnet
from linnet.catalog import find
from linnet.cli import app
from linnet.errors import InvalidInput
from linnet.measure.doctor import doctor
from linnet.plan.host import cgroup_folders, host_memory, installed_memory, processors
from linnet.plan.plan import SizedModel
from linnet.request import make_request
from linnet.runtime import device
from linnet.runtime.device import default_dtype, resolve_device
from linnet.runtime.machine import resolve_machine, with_free_memory
from linnet.weights.store import locate
from linnet.wording import format_bytes

GB = 1_000_000_000


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


def test_the_doctor_s_facts_are_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both ask what is free, which other programs change in between.
    monkeypatch.setattr("linnet.runtime.machine.host_memory", lambda: 16 * GB)
    facts = doctor()
    assert facts["devices"][-1]["device"] == "cpu"
    assert facts["packages"]["torch"] == torch.__version__
    fitting = {found["model"]: found for found in facts["models"]}
    assert fitting["linum-v2-720p"]["needs_bytes"] > fitting["linum-v2-360p"]["needs_bytes"]
    for name, found in fitting.items():  # what `linnet plan` says of the same clip
        model = SizedModel.of(find(name), locate(find(name)))
        plan = resolve_machine().plan_or_nearest(model, make_request(find(name), prompt="any", seed=0))
        assert (found["needs_bytes"], found["fits"]) == (plan.peak_bytes, plan.fits())


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 8.6 GB that also drives a screen: others hold 1.9 GB of it, and this process 0.5 GB."""
    cuda = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "mem_get_info": (62 * GB // 10, 86 * GB // 10),
        "memory_reserved": GB // 2,
        "get_device_name": "GeForce RTX 4060",
        "get_device_capability": (8, 9),
        "get_device_properties": SimpleNamespace(total_memory=86 * GB // 10),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda *given, value=value: value)
    monkeypatch.setattr("linnet.runtime.machine.may_have_gpu", lambda: True)


def test_a_card_with_a_screen_is_planned_by_what_is_free(screen: None) -> None:
    assert resolve_machine().budget.device == 62 * GB // 10
    allowed = resolve_machine(vram="8GB").budget
    assert (allowed.device, allowed.others, allowed.allowed) == (67 * GB // 10, 19 * GB // 10, 8 * GB)
    less = resolve_machine(vram="6GB")
    assert (less.budget.device, less.budget.limited) == (6 * GB, {"vram"})
    # What a person allowed stays the most, if others let go of theirs.
    assert with_free_memory(resolve_machine(vram="8GB")).budget.allowed == 8 * GB
    assert resolve_machine("cuda", vram="24GB", here=False).budget.device == 24 * GB  # another card


def test_plan_and_doctor_say_what_others_hold_of_a_card(screen: None) -> None:
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, [*words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    words = ("plan", "--model", "linum-v2-360p", "--ram", "12GB", "--vram", "8GB")
    shown = said(*words)
    assert "of the 6.7 GB that are free on cuda" in shown
    held = "Other programs and the driver hold 1.9 GB of cuda's memory now, so less is free than the 8.0 GB allowed."
    assert held in shown
    assert json.loads(said(*words, "--json"))["budget"]["others_bytes"] == 19 * GB // 10
    assert "GeForce RTX 4060, 6.2 GB free, 1.9 GB held by other programs and the driver" in said("doctor")
    larger = ("plan", "--model", "linum-v2-720p", "--seconds", "5", "--ram", "3GB", "--vram", "8GB")
    refused = CliRunner().invoke(app, [*larger])
    assert refused.exit_code == 2


@pytest.mark.parametrize("segments", ["expandable", "classic"])
def test_a_plan_says_what_classic_segments_would_need(segments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", f"expandable_segments:{segments == 'expandable'}")
    words = ["plan", "--model", "linum-v2-360p", "--device", "cuda", "--vram", "12GB", "--ram", "12GB"]
    taken = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    shown = CliRunner().invoke(app, words).stdout
    classic = format_bytes(taken["classic_device_bytes"])
    if segments == "expandable":
        assert taken["classic_device_bytes"] > 1.05 * taken["peak_device_bytes"]
        assert f"as on Windows, PyTorch would take {classic} of the card for this." in shown
    else:
        assert taken["classic_device_bytes"] == taken["peak_device_bytes"] <= 12 * GB
        assert f"PyTorch has no expandable segments here: {classic} include the gaps" in shown


@pytest.mark.parametrize("dtype", ["banana", "float16"])
def test_a_dtype_that_no_clip_can_tell_is_refused(dtype: Any) -> None:
    with pytest.raises(
        InvalidInput,
        match=rf'^dtype "{dtype}": is not known; (did you mean bfloat16\? )?use auto, float32 or bfloat16$',
    ):
        linnet.load("seedling", dtype=dtype)


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_a_cpu_computes_in_what_it_multiplies_faster(
    faster: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    features = {"cpu_name": "a CPU", "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    tried: list[torch.dtype] = []

    def seconds(dtype: torch.dtype) -> float:
        tried.append(dtype)
        return 1.0 if dtype == faster else 2.0

    monkeypatch.setattr(device, "seconds_of_product", seconds)
    assert [default_dtype("cpu"), default_dtype("cpu")] == [faster, faster]
    assert len(tried) == 2  # remembered
    features["amx_bf16"] = True
    assert default_dtype("cpu") == torch.bfloat16
    assert len(tried) == 2  # known without trying


@pytest.mark.parametrize(("name", "card"), [("cuda", 2), ("cuda:1", 1)])
def test_a_card_is_limited_by_its_number(name: str, card: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(fraction: float, device: Any) -> None:
        index = _get_device_index(device)  # as torch's own does, which refuses "cuda"
        limits.append((fraction, index))

    limits: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=80 * GB)
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    device.limit_memory(name, 8 * GB)
    assert limits == [(0.1, card)]


def test_more_memory_than_the_machine_has_is_refused(
    system: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proc, cgroups = system
    put(proc / "self/cgroup", "0::/box")
    put(cgroups / "box/memory.max", 3000)
    assert installed_memory(proc, cgroups) == 3000
    monkeypatch.setattr(device, "installed_memory", lambda: 24 * GB)
    device.check_there("cpu", vram=None, ram=24 * GB)
    with pytest.raises(InvalidInput, match=r'^ram "500 GB": is more than there is, 24 GB; use less'):
        linnet.load("seedling", ram=500 * GB)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda card: SimpleNamespace(total_memory=8 * GB)
    )
    with pytest.raises(InvalidInput, match=r'^vram "9.0 GB": is more than there is, 8.0 GB'):
        device.check_there("cuda:0", vram=9 * GB, ram=None)


def test_products_are_timed_in_one_thread_and_the_others_come_back() -> None:
    threads = torch.get_num_threads()
    assert 0 < device.seconds_of_product(torch.float32) < 10
    assert torch.get_num_threads() == threads


@pytest.mark.skipif("LINNET_TEST_DTYPE" not in os.environ, reason="LINNET_TEST_DTYPE forces no dtype")
def test_the_dtype_that_the_tests_force_is_found() -> None:
    assert str(default_dtype("cpu")) == f"torch.{os.environ['LINNET_TEST_DTYPE']}"

"""Where a model runs: limits of containers are seen, devices that are not there are refused."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._utils import _get_device_index

import linnet
from linnet.catalog import find
from linnet.errors import InvalidInput
from linnet.measure.doctor import doctor
from linnet.plan.host import cgroup_folders, host_memory, installed_memory, processors
from linnet.plan.workload import SizedModel
from linnet.request import make_request
from linnet.runtime import device
from linnet.runtime.device import default_dtype, resolve_device
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import locate

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


def test_the_doctor_s_facts_are_plain_values() -> None:
    facts = doctor()
    assert facts["devices"][-1]["device"] == "cpu"
    assert facts["packages"]["torch"] == torch.__version__
    fitting = {found["model"]: found for found in facts["models"]}
    assert fitting["linum-v2-720p"]["needs_bytes"] > fitting["linum-v2-360p"]["needs_bytes"]
    for name, found in fitting.items():  # what `linnet plan` says of the same clip
        model = SizedModel.of(find(name), locate(find(name)))
        plan = resolve_machine().plan_or_nearest(model, make_request(find(name), prompt="any", seed=0))
        assert (found["needs_bytes"], found["fits"]) == (plan.peak_bytes, plan.fits())


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

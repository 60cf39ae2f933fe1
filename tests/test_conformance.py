"""The recordings pass, and a recording that differs does not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from linnet import conformance
from linnet.conformance import KINDS, Row, check, main

GOLDEN = Path(__file__).parent / "golden"
RECORDINGS = sorted(GOLDEN.glob("*.safetensors"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recording(path: Path) -> None:
    rows = check(path)
    assert rows
    assert [row for row in rows if not row.holds] == []


def test_every_kind_is_recorded() -> None:
    assert {path.stem.partition("_")[0] for path in RECORDINGS} == KINDS.keys()


def changed(path: Path, to: Path, **changes: Tensor | None) -> Path:
    """A copy with some tensors replaced, or left out where None."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: t for name, t in (tensors | changes).items() if t is not None}
    save_file(tensors, to, metadata)
    return to


def tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


DIT, E2E = GOLDEN / "dit_small.safetensors", GOLDEN / "e2e_small.safetensors"


def test_rows_are_printed_and_misses_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DIT), str(GOLDEN / "apg_eta.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["dit_small.safetensors", "velocity"],
        *(["apg_eta.safetensors", f"{i}.guided"] for i in range(3)),
    ]
    output = tensor(DIT, "output.velocity")
    for i, wrong in enumerate((output * (1 + 3e-6), output[:1], output * torch.nan)):
        missed = changed(DIT, tmp_path / f"dit_{i}.safetensors", **{"output.velocity": wrong})
        assert main([str(missed), str(DIT)]) == 1
        first, second = capsys.readouterr().out.splitlines()
        assert first.endswith("MISS")
        assert second.endswith("ok")


def test_a_norm_with_another_epsilon_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.nn.LayerNorm.__init__
    monkeypatch.setattr(torch.nn.LayerNorm, "__init__", lambda self, dim, eps: original(self, dim, eps=1e-6))
    assert not any(row.holds for row in check(DIT))


def test_noise_must_come_out_of_the_seeds(tmp_path: Path) -> None:
    start = tensor(E2E, "input.noise")
    path = changed(E2E, tmp_path / "e2e_noise.safetensors", **{"input.noise": start.nextafter(start + 1)})
    assert [(row.output, row.holds) for row in check(path)] == [
        ("noise", False),
        ("frames", True),
        ("latents", True),
    ]


def test_what_cannot_be_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vae_cut.safetensors").write_bytes((GOLDEN / "vae_1f.safetensors").read_bytes()[:1000])
    (tmp_path / "unet_1.safetensors").write_bytes(DIT.read_bytes())
    save_file({"output.x": torch.ones(1)}, tmp_path / "dit_plain.safetensors")
    save_file({}, tmp_path / "apg_half.safetensors", {"config": json.dumps({"steps": 1})})
    cases = {
        tmp_path / "absent_1.safetensors": "unknown kind",
        tmp_path / "dit_absent.safetensors": "No such file",
        tmp_path / "unet_1.safetensors": "unknown kind",
        tmp_path / "vae_cut.safetensors": "error",
        tmp_path / "dit_plain.safetensors": "no config",
        tmp_path / "apg_half.safetensors": "input.0.cond",
        changed(
            DIT, tmp_path / "dit_lacks.safetensors", **{"state.model.head.norm.bias": None}
        ): "head.norm.bias",
        changed(DIT, tmp_path / "dit_extra.safetensors", **{"state.model.odd": torch.ones(1)}): "odd",
        changed(DIT, tmp_path / "dit_more.safetensors", **{"output.more": torch.ones(1)}): "output.more",
    }
    for path, word in cases.items():
        assert main([str(path)]) == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert word in line
        assert "error: " in line
    # The others are still run.
    assert main([str(tmp_path / "dit_absent.safetensors"), str(DIT)]) == 1
    assert capsys.readouterr().out.splitlines()[1].endswith("ok")


def test_not_a_number_never_holds() -> None:
    assert not Row("x", float("nan"), 1.0).holds
    assert conformance.relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert conformance.relative_error(torch.ones(2), torch.zeros(2)) == float("inf")

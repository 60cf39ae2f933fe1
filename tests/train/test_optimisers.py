"""Every optimiser by its name: what it keeps, that a stopped run goes on exactly, and steps in the backward pass."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from linnet.catalog import SEEDLING
from linnet.errors import InvalidInput
from linnet.train.config import LoopConfig
from linnet.train.loop import train
from linnet.train.optimisers import ELSEWHERE, make_optimisers
from linnet.train.settings import TrainingSettings
from training_runs import losses

NAMES = ("adamw", "muon", *ELSEWHERE)


class Square:
    """Two layers that learn a matrix. What is large enough of them is kept in 8 bits by adamw8bit."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)).to(dtype)
        self.model.register_parameter("rows", nn.Parameter(torch.zeros(3, dtype=dtype)))
        for p in self.model.parameters():
            p.data = 0.1 * torch.randn(p.shape, generator=generator).to(dtype)

    def loss(self, step: int, rng: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(16, 64, generator=generator)
        made = self.model(x.to(next(self.model.parameters()).dtype)).float()
        rows = self.model.get_parameter("rows").float()
        return (made - x.roll(1, 1)).square().mean() + (rows - 1).square().mean(), {}

    def sample(self, folder: Path, step: int) -> None: ...


def config(optimiser: Any) -> LoopConfig:
    return LoopConfig(
        steps=12,
        learning_rate=1.0 if optimiser == "prodigy" else 1e-3,
        optimiser=optimiser,
        slower=(("rows", 10.0),),
        warmup=2,
        precision="float32",
        clip_norm=0.0,
        log_every=1,
        checkpoint_every=100,
        sample_every=1000,
    )


def wanted(optimiser: str) -> None:
    if optimiser in ELSEWHERE:
        pytest.importorskip(ELSEWHERE[optimiser].module, exc_type=ImportError)


@pytest.mark.parametrize("optimiser", NAMES)
def test_a_stopped_run_repeats_the_unbroken_one(
    optimiser: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted(optimiser)
    chosen = config(optimiser)
    train(Square(), chosen, tmp_path / "whole")
    for stop in (5, 9, None):
        train(Square(), chosen, tmp_path / "stopped", stop_at=stop)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    states = [(tmp_path / run / "state.safetensors").read_bytes() for run in ("whole", "stopped")]
    assert states[0] == states[1]
    assert losses(tmp_path / "whole")[12] < losses(tmp_path / "whole")[1]
    assert capsys.readouterr().out == ""  # which is for results alone


@pytest.mark.parametrize("optimiser", [name for name in NAMES if name != "prodigy"])
def test_steps_in_the_backward_pass_are_the_same_ones(optimiser: str, tmp_path: Path) -> None:
    """Also where both take turns; and no two gradients exist at once."""
    wanted(optimiser)
    chosen = config(optimiser)
    train(Square(), chosen, tmp_path / "kept")
    task, most = Square(), [0]
    weights = list(task.model.parameters())
    for p in weights:
        p.register_hook(lambda _: most.append(sum(each.grad is not None for each in weights)))
    train(task, chosen, tmp_path / "released", released=True)
    assert max(most) <= 1
    for released, stop in ((True, 4), (False, 8), (True, None)):
        train(Square(), chosen, tmp_path / "turns", released=released, stop_at=stop)
    assert losses(tmp_path / "released") == pytest.approx(losses(tmp_path / "kept"), abs=1e-5)
    assert losses(tmp_path / "turns") == pytest.approx(losses(tmp_path / "kept"), abs=1e-5)
    last = [
        json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[-1]) for run in ("kept", "turns")
    ]
    assert last[0]["gradient"] == pytest.approx(last[1]["gradient"], rel=1e-4)


@pytest.mark.parametrize("optimiser", ["adamw8bit", "came"])
def test_what_is_kept_beside_bfloat16_weights_keeps_its_own_numbers(optimiser: str, tmp_path: Path) -> None:
    wanted(optimiser)
    chosen = config(optimiser)
    train(Square(torch.bfloat16), chosen, tmp_path / "whole")
    for stop in (6, None):
        train(Square(torch.bfloat16), chosen, tmp_path / "stopped", stop_at=stop)
    states = [(tmp_path / run / "state.safetensors").read_bytes() for run in ("whole", "stopped")]
    assert states[0] == states[1]


def test_what_adamw8bit_keeps_is_in_8_bits() -> None:
    wanted("adamw8bit")
    task = Square()
    (optimiser,) = make_optimisers(task.model, config("adamw8bit"))
    task.loss(0, None, torch.Generator())[0].backward()
    optimiser.step()
    kept = optimiser.state[task.model.get_parameter("0.weight")]["exp_avg"]
    assert kept.codes.dtype == torch.uint8


def test_prodigy_finds_the_rate_itself() -> None:
    assert TrainingSettings(optimiser="prodigy").for_clips(SEEDLING, 24).learning_rate == 1.0
    assert (
        TrainingSettings(optimiser="prodigy", learning_rate=0.5).for_clips(SEEDLING, 24).learning_rate == 0.5
    )


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ELSEWHERE["came"]._replace(module="not_there")
    monkeypatch.setitem(ELSEWHERE, "came", missing)
    with pytest.raises(InvalidInput, match="run `pip install came-pytorch`, or use adamw"):
        make_optimisers(Square().model, replace(config("came")))

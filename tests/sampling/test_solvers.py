"""What makes fewer or cheaper steps: solvers against diffusers' schedulers and a flow whose solution is known;
guidance on a part of the steps; steps without the model."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

import linnet
from linnet.catalog import SEEDLING
from linnet.models.transformer import TextContext
from linnet.request import make_request
from linnet.sampling import solvers
from linnet.sampling.denoise import Guidance, GuidedVelocity, denoise, levels_between
from linnet.sampling.flow import TIMESTEPS, sigmas
from linnet.sampling.solvers import SOLVERS, START, History, predicted
from linnet.sampling.step_cache import CachedVelocity

SHAPE = (1, 4, 2, 3, 3)
SETTINGS: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def toy_velocity(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(2 * x) * (1 + sigma) - 0.3 * x.flip(-1) * math.cos(3 * sigma)


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_the_same_path_as_diffusers(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the limit of what a long step continues, which diffusers has not."""
    monkeypatch.setattr(solvers, "LONGEST", math.inf)
    scheduler: Any = (
        DPMSolverMultistepScheduler(**SETTINGS)
        if name == "dpm++"
        else UniPCMultistepScheduler(**SETTINGS, solver_order=2, solver_type="bh2")
    )
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas
    ours = theirs = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    history = START
    for index, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(toy_velocity(theirs, float(levels[index])), timestep, theirs).prev_sample
        ours, history = SOLVERS[name](ours, toy_velocity(ours, float(levels[index])), levels, index, history)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_long_step_continues_no_more_of_a_change_than_a_step_of_the_lasts_length() -> None:
    levels = torch.tensor([0.8, 0.6, 0.05, 0.0])  # the second step is four times the first, as solvers count
    before, clean = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    assert solvers.stride(levels, 1) > 2 * solvers.stride(levels, 0)
    assert predicted(clean, levels, 1, History((before,))).item() == pytest.approx(1.5)


MEAN, SPREAD = 0.7, 2.0


def gaussian_velocity(x: Tensor, timestep: float) -> Tensor:
    """Of the flow from noise to data with this mean and spread."""
    sigma = timestep / TIMESTEPS
    signal = 1 - sigma
    noise = sigma * (x - signal * MEAN) / (signal**2 * SPREAD**2 + sigma**2)
    clean = MEAN + signal * SPREAD**2 * (x - signal * MEAN) / (signal**2 * SPREAD**2 + sigma**2)
    return noise - clean


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpm++", 2), ("unipc", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    """Twice the steps, a 2^order-th of the error, from a level of exactly 1 to one of 0."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (40, 80, 160):
        *_, last = denoise(gaussian_velocity, noise, torch.linspace(1, 0, steps + 1), SOLVERS[name])
        errors.append(float((last.latents - (MEAN + SPREAD * noise)).norm()))
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.35


def run(velocity: Any, steps: int = 12) -> Tensor:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    *_, last = denoise(velocity, noise, sigmas(steps, 3.0))
    return last.latents


def test_reuse_decides_and_a_replay_of_its_decisions_is_the_same() -> None:
    calls: list[float] = []

    def velocity(x: Tensor, timestep: float) -> Tensor:
        calls.append(timestep)
        return gaussian_velocity(x, timestep)

    exact = run(velocity)
    all_calls = list(calls)
    found = []
    for threshold in (0.0, 0.2, 0.4):
        calls.clear()
        reuse = CachedVelocity(velocity=velocity, count=12, threshold=threshold)
        latents = run(reuse)
        assert calls == [t for i, t in enumerate(all_calls) if i not in reuse.skipped]
        assert not {0, 1, 11} & set(reuse.skipped)
        again = run(CachedVelocity(velocity=velocity, count=12, skip=frozenset(reuse.skipped)))
        assert torch.equal(again, latents)
        found.append((len(reuse.skipped), float((latents - exact).norm() / exact.norm())))
    (none, no_error), (some, error), (more, larger) = found
    assert none == 0
    assert no_error == 0
    assert 0 < some < more < 9
    assert 0 < error < larger < 0.1


def test_what_changes_evenly_is_continued_exactly() -> None:
    def even(x: Tensor, timestep: float) -> Tensor:
        return torch.full_like(x, 3.0) + timestep / 100

    skipping = CachedVelocity(velocity=even, count=12, skip=frozenset({2, 3, 4, 7, 8, 10}))
    torch.testing.assert_close(run(skipping), run(even), rtol=1e-4, atol=1e-4)


def test_a_held_velocity_makes_one_long_step_of_several() -> None:
    """Which stays near where velocities swing, and their continued changes would grow."""
    calls: list[float] = []

    def swinging(x: Tensor, timestep: float) -> Tensor:
        calls.append(timestep)
        return gaussian_velocity(x, timestep) + 0.3 * (-1) ** len(calls)

    left_out = frozenset({3, 4, 6, 7, 9, 10})
    held = run(CachedVelocity(velocity=gaussian_velocity, count=12, skip=left_out, hold=True))
    levels = sigmas(12, 3.0)[[index for index in range(13) if index not in left_out]]
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    *_, last = denoise(gaussian_velocity, noise, levels)
    torch.testing.assert_close(held, last.latents)
    errors = []
    for hold in (True, False):
        calls.clear()
        skipping = CachedVelocity(velocity=swinging, count=12, skip=left_out, hold=hold)
        errors.append(float((run(skipping) - run(gaussian_velocity)).norm()))
    assert errors[0] < errors[1]


def test_guidance_acts_within_its_interval_and_its_momentum_rests_outside() -> None:
    texts = [TextContext((), (), torch.full((1, 1), float(name))) for name in (0, 1)]
    calls: list[tuple[float, bool]] = []

    def model(x: Tensor, timestep: float, text: TextContext) -> Tensor:
        calls.append((timestep, bool(text.bias[0, 0])))
        return x * (1 + text.bias[0, 0])

    levels = sigmas(10, 3.0)
    guidance = Guidance(momentum=-0.5, rescale=0.0, levels=levels_between(levels, 0.3, 0.7))
    velocity = GuidedVelocity(model=model, prompt=texts[0], negative=texts[1], guidance=guidance)
    noise = torch.ones(SHAPE)
    running = []
    for _ in denoise(velocity, noise, levels):
        running.append(velocity.momentum_buffer)
    guided = [timestep for timestep, negative in calls if negative]
    assert guided == [float(TIMESTEPS * level) for level in levels[3:7]]
    assert running[2] is None
    assert len({id(state) for state in running[3:7]}) == 4
    assert all(state is running[6] for state in running[7:])
    assert levels_between(levels, 0.0, 1.0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "steady"),
    [
        ({"solver": "dpm++"}, True),
        ({"solver": "unipc", "guidance_until": 0.5}, True),
        ({"steps": SEEDLING.momentum_steps - 1}, True),
        ({}, False),
        ({"profile": "fast"}, False),
        ({"profile": "draft"}, False),
    ],
)
def test_momentum_does_not_swing_where_a_solver_looks_back_or_steps_are_few(
    settings: dict[str, Any], steady: bool, tiny_model: Path
) -> None:
    """At its limit, momentum m is a guidance of scale / (1 - m) without it."""
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu", dtype="float32")
    common: dict[str, Any] = {"prompt": "a red star", "frames": 1, "seed": 1, **settings}
    swinging = make_request(SEEDLING, **common, guidance=3.0, apg_momentum=-0.5)
    limit = make_request(SEEDLING, **common, guidance=2.0, apg_momentum=0.0)
    (*_, one), (*_, other) = pipeline.runner.sample(swinging), pipeline.runner.sample(limit)
    assert torch.allclose(one.latents, other.latents, rtol=1e-3, atol=1e-3) == steady

"""The flow, the guidance and the loop."""

import math
from collections.abc import Generator
from typing import Any, cast

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from linnet.models.latents import linum_v2_latents
from linnet.models.transformer import TextContext, Transformer, TransformerConfig
from linnet.sampling.denoise import Guidance, GuidedVelocity, Model, apg, cfg, denoise, per_clip
from linnet.sampling.flow import add_noise, noise, sample_sigmas, shifted, sigmas, velocity_target
from linnet.sampling.solvers import euler

SHAPE = (2, 16, 2, 3, 4)


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 7.5])
def test_schedule_and_step_equal_those_of_diffusers(steps: int, shift: float) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(steps)
    ours = sigmas(steps, shift)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=2e-7, atol=1e-7)

    x, velocity = draw(0), draw(1)
    theirs = scheduler.step(velocity, scheduler.timesteps[0], x).prev_sample
    torch.testing.assert_close(euler(x, velocity, ours, 0)[0], theirs)


def test_equal_steps_end_at_nothing() -> None:
    torch.testing.assert_close(sigmas(4, 1.0, "trailing"), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    high = sigmas(3, 8.0, "trailing")
    torch.testing.assert_close(high, torch.tensor([1.0, 16 / 17, 0.8, 0.0]))


def test_noise_depends_on_the_seed_alone() -> None:
    assert torch.equal(noise(7, SHAPE[1:]), noise(7, SHAPE[1:]))
    assert not torch.equal(noise(7, SHAPE[1:]), noise(8, SHAPE[1:]))
    assert torch.equal(noise(2**32 + 7, SHAPE[1:]), noise(7, SHAPE[1:]))
    drawn = noise(7, SHAPE[1:])
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn.bfloat16().float(), drawn)


def test_noising_and_its_velocity_agree() -> None:
    data, eps = draw(0), draw(1)
    sigma = torch.tensor([0.25, 1.0])
    x = add_noise(data, eps, sigma)
    torch.testing.assert_close(x[0], 0.75 * data[0] + 0.25 * eps[0])
    assert torch.equal(x[1], eps[1])
    step = sigma.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(x - step * velocity_target(data, eps), data)


def test_training_levels_are_logit_normal_and_shifted() -> None:
    drawn = sample_sigmas(20_000, shift=1.0, mean=0.5, std=0.8, generator=torch.Generator().manual_seed(0))
    logits = drawn.logit()
    assert abs(logits.mean() - 0.5) < 0.02
    assert abs(logits.std() - 0.8) < 0.02
    high = sample_sigmas(20_000, shift=3.0, mean=0.5, std=0.8, generator=torch.Generator().manual_seed(0))
    # A shift of s is an addition of log(s) to the logit.
    torch.testing.assert_close(high.logit(), logits + math.log(3), rtol=1e-3, atol=1e-3)
    assert shifted(0.5, 3.0) == 0.75


def test_cfg() -> None:
    cond, null = draw(0), draw(1)
    assert torch.equal(cfg(cond, null, 1.0), cond)
    torch.testing.assert_close(cfg(cond, null, 4.0), null + 4 * (cond - null))


def test_apg_keeps_only_what_is_orthogonal() -> None:
    cond, null = draw(0), draw(1)
    guided, _ = apg(cond, null, None, scale=5.0, momentum=0.0, eta=0.0, rescale=0.0)
    pushed = (guided - cond).double().flatten(1)
    along = (pushed * cond.double().flatten(1)).sum(1) / (
        pushed.norm(dim=1) * cond.double().flatten(1).norm(dim=1)
    )
    assert along.abs().max() < 1e-6
    assert pushed.norm() > 1
    whole, _ = apg(cond, null, None, scale=5.0, momentum=0.0, eta=1.0, rescale=0.0)
    torch.testing.assert_close(whole, cond + 5 * (cond - null))


def test_apg_bounds_each_frame_and_remembers() -> None:
    cond, null = draw(0), draw(1)
    null[:, :, 1] = cond[:, :, 1] - 1e-3  # One frame with next to no difference: it is not to be scaled up.
    settings = {"scale": 1.0, "momentum": -0.5, "eta": 1.0, "rescale": 2.0}
    guided, running = apg(cond, null, None, **settings)
    norms = (guided - cond).norm(dim=(1), keepdim=True).flatten(3).norm(dim=3)[:, 0]
    torch.testing.assert_close(norms[:, 0], torch.full((2,), 2.0))
    torch.testing.assert_close(guided[:, :, 1], cond[:, :, 1] + 1e-3)
    assert torch.equal(running, cond - null)
    _, running = apg(cond, null, running, **settings)
    torch.testing.assert_close(running, 0.5 * (cond - null))
    same, _ = apg(cond, cond, None, **settings)
    assert torch.equal(same, cond)


def test_apg_loses_nothing_in_float32_over_many_numbers() -> None:
    """As many as a large clip's latents have in a sample; torch's norm is off by one in a hundred thousand there."""
    cond = torch.randn(1, 16, 8, 90, 160, generator=torch.Generator().manual_seed(0))
    null = cond.roll(1) * 0.1 + cond
    settings = {"scale": 10.0, "momentum": 0.0, "eta": 0.3, "rescale": 20.0}
    (narrow, _), (wide, _) = (
        apg(cond, null, None, **settings),
        apg(cond.double(), null.double(), None, **settings),
    )
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-6, atol=1e-6)


def test_denoising_a_straight_flow_arrives() -> None:
    """Where the velocity is exact, any number of steps gives the data, and every preview shows it."""
    data, eps = draw(0), draw(1)
    seen = []

    def velocity(latents: Tensor, timestep: float) -> Tensor:
        assert latents.dtype == torch.float32
        assert not torch.is_grad_enabled()
        seen.append(timestep)
        return velocity_target(data, eps)

    levels = sigmas(4, 3.0)
    steps = list(denoise(velocity, eps, levels))
    assert torch.is_grad_enabled()
    torch.testing.assert_close(steps[-1].latents, data, rtol=1e-5, atol=1e-5)
    for step in steps:
        torch.testing.assert_close(step.denoised, data, rtol=1e-5, atol=1e-5)
    assert [(s.index, s.count) for s in steps] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [s.sigma for s in steps] == levels[1:].tolist()
    assert seen == (1000 * levels[:-1]).tolist()


def test_denoising_goes_no_further_than_it_is_asked() -> None:
    calls = []
    steps = cast("Generator", denoise(lambda x, t: calls.append(1) or x, draw(0), sigmas(10, 3.0)))
    assert not calls
    next(steps)
    steps.close()
    assert len(calls) == 1


CONFIG = TransformerConfig(dim=16, ffn_dim=24, num_heads=2, num_layers=1, text_len=6, text_dim=8)


@pytest.fixture(scope="module")
def model() -> Transformer:
    generator = torch.Generator().manual_seed(0)
    model = Transformer(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


@pytest.fixture(scope="module")
def run(model: Transformer) -> Model:
    return lambda latents, timestep, text: model(latents, per_clip(timestep, latents), text)


@pytest.mark.parametrize("method", ["apg", "cfg"])
@torch.no_grad()
def test_one_batch_equals_two_passes_equals_each_alone(model: Transformer, run: Model, method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    prompt, negative = (model.encode_text([torch.randn(n, 8, generator=generator)]) for n in (5, 1))
    guidance = Guidance(method="apg" if method == "apg" else "cfg", scale=3.0)
    start, levels = torch.stack([noise(seed, SHAPE[1:]) for seed in (3, 4)]), sigmas(3, 3.0)

    def last_of(start: Tensor, batched: bool) -> Tensor:
        velocity = GuidedVelocity(
            model=run, prompt=prompt, negative=negative, guidance=guidance, batched=batched
        )
        return list(denoise(velocity, start, levels))[-1].latents

    in_turn = last_of(start, False)
    torch.testing.assert_close(last_of(start, True), in_turn, rtol=1e-4, atol=1e-4)
    alone = torch.cat([last_of(start[i : i + 1], True) for i in range(2)])
    torch.testing.assert_close(alone, in_turn, rtol=1e-4, atol=1e-4)
    unguided = list(denoise(lambda x, t: run(x, t, prompt), start, levels))[-1].latents
    assert (unguided - in_turn).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("guidance", [Guidance(scale=0.0), Guidance(method="cfg", scale=1.0)])
def test_no_guidance_costs_one_pass(model: Transformer, run: Model, guidance: Guidance) -> None:
    text = model.encode_text([torch.ones(2, 8)])
    calls = []

    def counted(latents: Tensor, timestep: float, text: TextContext) -> Tensor:
        calls.append(1)
        return run(latents, timestep, text)

    velocity = GuidedVelocity(model=counted, prompt=text, negative=text, guidance=guidance)
    x = draw(0)
    assert torch.equal(velocity(x, 500.0), run(x, 500.0, text))
    assert len(calls) == 1


def test_latent_space() -> None:
    space = linum_v2_latents()
    x = draw(5)
    torch.testing.assert_close(space.leave(space.enter(x)), x)
    torch.testing.assert_close(space.enter(x)[:, 15], (x[:, 15] - 0.5444) / 0.9530 * 0.5)

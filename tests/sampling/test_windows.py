"""Long clips: windows that share their say, and are the plain way where there is but one."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.direct.samplers import Renoised
from linnet.errors import InvalidInput
from linnet.models.transformer import TextContext
from linnet.plan.passes import in_a_ring, in_a_row
from linnet.request import make_request
from linnet.sampling.autoregressive import autoregressive
from linnet.sampling.denoise import Velocity
from linnet.sampling.flow import sigmas
from linnet.sampling.keep_frames import CONDITIONING_NOISE
from linnet.sampling.local_attention import local_attention
from linnet.sampling.solvers import euler
from linnet.sampling.windows import Windowed, free_noise, shares_of

NO_TEXT = TextContext((), (), torch.zeros(1, 1))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int]:
    window = draw(st.integers(2, 31))
    return draw(st.integers(1, 400)), window, draw(st.integers(1, window - 1))


@given(layouts(), st.sampled_from([in_a_row, in_a_ring]))
def test_the_windows_say_adds_up_to_one_in_every_frame(layout, arrange) -> None:
    frames, window, overlap = layout
    windows = arrange(frames, window, overlap)
    total = torch.zeros(frames)
    for place, weight in zip(windows.places, shares_of(windows), strict=True):
        assert len(place) <= window
        assert (weight > 0).all()
        total.index_add_(0, torch.tensor(place), weight)
    assert torch.allclose(total, torch.ones(frames), atol=1e-5)


@given(layouts())
def test_neighbours_overlap_as_asked(layout) -> None:
    frames, window, overlap = layout
    places = in_a_row(frames, window, overlap).places
    assert places[0][0] == 0
    assert places[-1][-1] == frames - 1
    for one, next_ in pairwise(places):
        assert one[-1] - next_[0] + 1 >= overlap


def test_one_window_is_plain_denoising_exactly(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    plain = make_request(SEEDLING, prompt="a red star", frames=25, steps=3, seed=1)
    windowed = make_request(SEEDLING, like=plain, window=25, window_overlap=12)
    (*_, one), (*_, other) = pipeline.runner.sample(plain), pipeline.runner.sample(windowed)
    assert torch.equal(one.latents, other.latents)


def test_a_short_clip_is_the_last_frames_of_one_that_the_model_knows(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")

    def clip(frames: int) -> np.ndarray:
        request = make_request(SEEDLING, prompt="a red star", frames=frames, steps=2, seed=1)
        return np.stack(list(pipeline.frames(pipeline.plan(request))))

    known = clip(25)
    for frames in (5, 9, 13, 21):
        assert np.array_equal(clip(frames), known[-frames:])
    assert len(clip(1)) == 1  # as it was trained
    assert [SEEDLING.denoised_frames(frames) for frames in (1, 5, 25, 29, 49)] == [1, 25, 25, 29, 49]


def test_windows_of_a_model_without_regard_for_time_are_the_model() -> None:
    def model(latents, timestep, text):
        assert latents.shape[2] <= 5
        return latents.sin()

    latents = torch.randn(1, 4, 23, 2, 2)
    for arrange in (in_a_row, in_a_ring):
        velocity = Windowed(model, arrange(23, 5, 2))(latents, 1.0, NO_TEXT)
        assert torch.allclose(velocity, latents.sin(), atol=1e-6)


@settings(deadline=None)  # a busy machine takes its time
@given(st.integers(1, 400))
def test_a_loops_windows_are_turned_until_every_frame_was_first(frames: int) -> None:
    seen: list[int] = []

    def model(latents: torch.Tensor, timestep: float, text: TextContext) -> torch.Tensor:
        seen.append(int(latents[0, 0, 0, 0, 0]))
        return latents

    numbered = torch.arange(float(frames)).view(1, 1, -1, 1, 1)
    windowed = Windowed(model, in_a_ring(frames, frames, 1))
    for level in range(frames):
        for _ in range(2):  # guidance asks twice at a level
            assert torch.allclose(windowed(numbered, 1.0 + level, NO_TEXT), numbered)
    assert seen[::2] == seen[1::2]
    assert sorted(seen[::2]) == list(range(frames))


def test_noise_repeats_in_another_order() -> None:
    first = torch.randn(4, 6, 2, 2)
    noise = free_noise(first, 40, 3, seed=0)
    assert torch.equal(noise[:, :6], first)
    assert all(any(torch.equal(frame, known) for known in first.unbind(1)) for frame in noise.unbind(1))
    for start in range(0, 34, 3):  # what a window sees is the first one's, in another order
        seen = noise[:, start : start + 6].flatten(2).sum((0, 2)).sort().values
        assert torch.allclose(seen, first.flatten(2).sum((0, 2)).sort().values)


@pytest.mark.parametrize(("settings", "frames"), [({"frames": 133}, 133), ({"frames": 33, "loop": True}, 32)])
def test_long_clips_and_loops_are_written_recorded_and_repeated(
    settings, frames, tiny_model, tmp_path: Path
) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    request = make_request(SEEDLING, prompt="a red star", steps=2, seed=1, **settings)
    clip = pipeline.generate(request, tmp_path / "one.mp4")
    assert media.probe(clip.path).frames == frames
    again = make_request(SEEDLING, like=clip.request)
    assert again == clip.request
    assert pipeline.generate(again, tmp_path / "two.mp4").path.read_bytes() == clip.path.read_bytes()


def test_each_window_goes_on_from_the_frames_it_shares_with_the_last() -> None:
    windows, noise, levels = in_a_row(11, 5, 2), torch.randn(1, 4, 11, 2, 2), sigmas(3, 2.0)
    runs: list[list[torch.Tensor]] = []

    def fresh() -> Velocity:
        runs.append([])

        def velocity(latents: torch.Tensor, timestep: float) -> torch.Tensor:
            runs[-1].append(latents)
            return latents.roll(1, 2).sin()

        return velocity

    given = {0: torch.randn(1, 4, 2, 2), -1: torch.randn(1, 4, 2, 2)}
    steps = list(autoregressive(fresh, noise, levels, euler, windows, given=given, seed=0))
    assert [(step.index, step.count) for step in steps] == [(index, 9) for index in range(9)]
    for before, after in pairwise(steps[2::3]):
        done = windows.places[before.index // 3][-1] + 1
        assert torch.allclose(after.latents[:, :, :done], before.latents[:, :, :done], atol=1e-5)
    shown = steps[-1].latents
    for number, (place, seen) in enumerate(zip(windows.places, runs, strict=True)):
        known = {0} if number == 0 else set(range(windows.places[number - 1][-1] + 1))
        known |= {windows.frames - 1}
        for index, frame in enumerate(place):
            level = (1 - CONDITIONING_NOISE * levels[0]) * shown[:, :, frame] + CONDITIONING_NOISE * levels[
                0
            ] * noise[:, :, frame]
            assert torch.allclose(
                seen[0][:, :, index], level if frame in known else noise[:, :, frame], atol=1e-5
            )
    for frame, picture in given.items():
        assert torch.allclose(shown[:, :, frame], picture, atol=1e-5)


def test_only_windows_with_a_frame_of_their_own_take_turns() -> None:
    windows, noise, levels = in_a_row(11, 5, 2), torch.randn(1, 4, 11, 2, 2), sigmas(6, 2.0)
    asked: list[int] = []

    def fresh() -> Velocity:
        asked.append(0)

        def velocity(latents: torch.Tensor, timestep: float) -> torch.Tensor:
            asked[-1] += 1
            return latents.sin()

        return velocity

    given = {0: torch.randn(1, 4, 2, 2)}
    steps = list(
        autoregressive(fresh, noise, levels, euler, windows, given=given, seed=0, resampling_steps=3)
    )
    assert [step.index for step in steps] == list(range(18))
    assert asked == [6 + 2 * 2, 6, 6]  # the second and the third step of the early half again, twice


def test_windows_that_follow_each_other_do_not_know_their_neighbours_in_a_batch(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu", dtype="float32")
    request = make_request(SEEDLING, prompt="a red star", frames=133, steps=2, seed=1)
    assert request.onward
    *_, both = pipeline.runner.sample(request, [1, 2])
    for number, seed in enumerate((1, 2)):
        *_, alone = pipeline.runner.sample(request, [seed])
        assert torch.allclose(both.latents[number], alone.latents[0], atol=1e-4)


def test_only_windows_in_a_row_go_onward() -> None:
    for frames, loop in ((49, False), (241, True)):
        assert not make_request(SEEDLING, prompt="a red star", frames=frames, loop=loop).onward
        with pytest.raises(InvalidInput, match="onward"):
            make_request(SEEDLING, prompt="a red star", frames=frames, loop=loop, onward=True)
    long = make_request(SEEDLING, prompt="a red star", frames=241)
    assert make_request(SEEDLING, like=long).onward
    together = make_request(SEEDLING, like=long, onward=False)
    assert not make_request(SEEDLING, like=together).onward


def test_a_clip_made_from_another_has_its_windows_together(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    request = make_request(SEEDLING, prompt="a red star", frames=133, steps=2, seed=1)
    sampler = Renoised(clip=torch.zeros(1, 16, 34, 9, 16), strength=0.5)
    with pytest.raises(InvalidInput, match="together"):
        next(pipeline.runner.sample(request, sampler=sampler))
    *_, last = pipeline.runner.sample(replace(request, onward=False), sampler=sampler)
    assert last.latents.shape[2] == 34


def test_a_loops_decoder_has_seen_its_end(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    latents = torch.randn(1, 16, 9, 9, 16)
    once = [frame for frames in pipeline.runner.decode_loop(latents) for frame in frames]
    twice = [
        frame for frames in pipeline.runner.decode_loop(torch.cat([latents, latents], 2)) for frame in frames
    ]
    assert len(once) == 36
    assert max(abs(a.astype(int) - b).max() for a, b in zip(once, twice[36:], strict=True)) <= 1


def test_the_longest_clip_takes_no_more_windows_at_once() -> None:
    request = make_request(SEEDLING, prompt="a red star", seconds=300)
    assert (request.window, request.frames) == (SEEDLING.window, 7201)
    assert math.isclose(request.seconds, 300)


@pytest.mark.parametrize("far", [0.0, 0.2])
def test_a_span_is_attention_in_which_what_is_far_counts_less(far: float) -> None:
    tokens, frames, span = 3, 7, 2
    query, key, value = torch.randn(3, 2, 4, tokens * frames, 8)
    frame = torch.arange(tokens * frames) // tokens
    apart = (frame[:, None] - frame).abs() > span
    weights = (query @ key.transpose(-1, -2) / math.sqrt(8)).exp() * torch.where(apart, far, 1.0)
    expected = weights / weights.sum(-1, keepdim=True) @ value
    near = local_attention(tokens, span, far=far)
    assert torch.allclose(near(query, key, value), expected, atol=1e-6)


def test_a_span_over_the_whole_clip_is_plain_denoising(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    plain = make_request(SEEDLING, prompt="a red star", frames=25, steps=3, seed=1)
    (*_, one), (*_, other) = (
        pipeline.runner.sample(request) for request in (plain, make_request(SEEDLING, like=plain, span=24))
    )
    assert torch.allclose(one.latents, other.latents, atol=1e-5)
    *_, narrow = pipeline.runner.sample(make_request(SEEDLING, like=plain, span=4))
    assert not torch.allclose(one.latents, narrow.latents, atol=1e-3)


def test_a_span_takes_the_place_of_an_earlier_clips_windows_and_they_of_it() -> None:
    windowed = make_request(SEEDLING, prompt="a red star", frames=241)
    spanned = make_request(SEEDLING, like=windowed, span=24)
    assert (spanned.window, spanned.window_overlap, spanned.span) == (0, 0, 24)
    assert make_request(SEEDLING, like=spanned, span=0) == windowed
    again = make_request(SEEDLING, like=spanned, window=49, window_overlap=24)
    assert (again.window, again.span) == (49, 0)


def test_a_span_makes_long_clips_without_windows(tiny_model) -> None:
    pipeline = linnet.load("seedling", weights=tiny_model, device="cpu")
    request = make_request(SEEDLING, prompt="a red star", frames=201, span=16, steps=2, seed=1)
    assert request.window == 0
    *_, last = pipeline.runner.sample(request)
    assert last.latents.shape[2] == 51
    assert last.latents.isfinite().all()

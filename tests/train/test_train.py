"""The trainer: it learns, and a run that is killed again and again repeats the unbroken one."""

import os
import random
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from linnet.cli.train import app
from linnet.data import cache
from linnet.data.cache import LatentCache, cached_latents
from linnet.data.synthetic import FPS, lasts, moment, render, sample_scene
from linnet.data.vocabulary import write_tokenizer
from linnet.errors import InvalidInput
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder, Tokenizer
from linnet.models.transformer import TransformerConfig
from linnet.train.autoencoder import AutoencoderConfig, AutoencoderTask
from linnet.train.config import LoopConfig
from linnet.train.flow import FlowConfig, look_around
from linnet.train.loop import randomness, train
from linnet.train.synthetic import SyntheticFlow, hard
from training_runs import losses

LOOP = LoopConfig(
    steps=40,
    learning_rate=1e-3,
    optimiser="muon",
    warmup=5,
    log_every=1,
    checkpoint_every=4,
    sample_every=1000,
)


def flow_task(folder: Path) -> SyntheticFlow:
    words = write_tokenizer(folder / "tokenizer.json")
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(12)]
    latents = torch.randn(12, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    config = FlowConfig(
        transformer=TransformerConfig(
            dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_len=32, text_dim=16, freq_dim=16
        ),
        text=T5Config(vocab_size=words, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, gated=True),
        tokens=48,
        lengths=((0, ((1, 0.3), (3, 0.7))), (20, ((3, 1.0),))),
    )
    return SyntheticFlow(
        config, LatentCache(scenes, [0] * 12, latents), Tokenizer.open(folder / "tokenizer.json")
    )


def test_from_the_focus_on_fine_shapes_are_frequent(tmp_path: Path) -> None:
    usual, rng = flow_task(tmp_path), random.Random(0)
    scenes = [sample_scene(rng) for _ in range(40)]
    shown = torch.tensor([scene.shape in ("moon", "star") for scene in scenes]).half().view(-1, 1, 1, 1, 1)
    config = replace(usual.config, focus_from=5, hard_scenes=1.0, fine_shapes=1e6)
    task = SyntheticFlow(
        config, LatentCache(scenes, [0] * 40, shown.expand(-1, 16, 3, 4, 4)), usual.tokenizer
    )
    for step, focused in ((4, False), (5, True)):
        assert bool((task.batch(step, rng).latents > 0).all()) is focused


def test_from_the_focus_on_hard_scenes_and_noise_are_frequent(tmp_path: Path) -> None:
    usual, rng = flow_task(tmp_path), random.Random(0)
    scenes = [sample_scene(rng) for _ in range(60)]
    moments = [moment(rng, scene) for scene in scenes]
    hardness = [hard(*clip) for clip in zip(scenes, moments, strict=True)]
    assert any(moments)
    assert not all(hardness)
    shown = torch.tensor(hardness).half().view(-1, 1, 1, 1, 1)
    config = replace(usual.config, focus_from=5, hard_scenes=1e6, almost_noise=0.5)
    task = SyntheticFlow(config, LatentCache(scenes, moments, shown.expand(-1, 16, 3, 4, 4)), usual.tokenizer)
    noise = torch.Generator().manual_seed(0)
    for step, focused in ((4, False), (5, True)):
        assert bool((task.batch(step, rng).latents > 0).all()) is focused  # hard scenes alone
        share = (task.sigmas(step, 2000, noise) > 0.99).float().mean().item()
        assert abs(share - (0.5 if focused else 0.0)) < 0.05


def test_some_of_the_longest_clips_go_on_from_given_frames(tmp_path: Path) -> None:
    usual, rng = flow_task(tmp_path), random.Random(0)
    count = torch.arange(6).half().view(1, 1, 6, 1, 1)  # each latent frame shows its number
    later = (torch.arange(12) % 2).half().view(12, 1, 1, 1, 1)  # and by a half whether its clip begins later
    moments = [7 * (n % 2) for n in range(12)]
    scenes = [replace(scene, motion="left") for scene in usual.cache.scenes]
    cache = LatentCache(scenes, moments, (count + later / 2).expand(12, 16, 6, 4, 4))
    config = replace(usual.config, onward_from=20, onward=0.5, most_given=2)
    task = SyntheticFlow(config, cache, usual.tokenizer)
    task.scale, task.bias = torch.ones(16), torch.zeros(16)
    seen = {False: set(), True: set()}
    for step in (0, 19, *range(20, 80)):
        batch, _, given = task.batch(step, rng)
        for clip, known in zip(batch, given, strict=True):
            numbers = clip[0, :, 0, 0]
            assert torch.equal(numbers, numbers[0] + torch.arange(len(numbers)))
            seen[known > 0].add((step >= 20, known, numbers[0].item()))
    assert seen[False] == {(False, 0, 0.0), (False, 0, 0.5), (True, 0, 0.0)}  # from then on none begins later
    starts = [start + part for start in range(4) for part in (0.0, 0.5)]
    assert seen[True] == {(True, known, start) for known in (1, 2) for start in starts}
    with pytest.raises(InvalidInput, match="begins with its scene"):
        SyntheticFlow(config, LatentCache(cache.scenes, [7] * 12, cache.latents), usual.tokenizer)


def test_what_has_come_to_rest_goes_on_past_the_end_of_its_clip(tmp_path: Path) -> None:
    usual, rng = flow_task(tmp_path), random.Random(0)
    count = torch.arange(13).half().view(1, 1, 13, 1, 1)  # the last begins at two seconds
    scenes = [replace(usual.cache.scenes[0], motion=motion) for motion in ("grows", "spins")]
    task = SyntheticFlow(
        replace(usual.config, onward_from=0, onward=1.0),
        LatentCache(scenes, [0, 0], count.expand(2, 16, 13, 4, 4)),
        usual.tokenizer,
    )
    starts = [{task.anywhere(rng, clip, 3)[0] for _ in range(300)} for clip in (0, 1)]
    assert starts == [set(range(13)), set(range(11))]
    assert task.cut(0, 11, 3)[0, :, 0, 0].tolist() == [11, 12, 12]


def test_what_is_given_is_less_noisy_and_not_learnt(tmp_path: Path) -> None:
    task = flow_task(tmp_path)
    onward = {"onward_from": 0, "onward": 1.0, "most_given": 1}
    task.config = replace(task.config, lengths=((0, ((3, 1.0),)),), tokens=400, **onward)
    asked: list[torch.Tensor] = []
    losses: list[float] = []
    for wrong in (0.0, 1000.0):

        def answer(_: object, given: tuple, out: torch.Tensor, wrong: float = wrong) -> torch.Tensor:
            asked.append(given[0])
            return out + wrong * (torch.arange(3) == 0).view(1, 1, 3, 1, 1)

        hook = task.model.transformer.register_forward_hook(answer)
        losses.append(task.loss(0, *randomness(0, 0))[0].item())
        hook.remove()
    assert losses[0] == losses[1]
    data = task.batch(0, randomness(0, 0)[0]).latents
    away = (asked[0] - data).square().mean((1, 3, 4))  # of each clip and frame: by as much as there is noise
    assert (away[:, 0] < away[:, 1]).all()


def test_the_text_encoder_begins_by_looking_around() -> None:
    config = T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=4, gated=True)
    text = T5Encoder(config).initialise(torch.Generator().manual_seed(0))
    before = text.position_bias(torch.ones(1, 9, dtype=torch.long))
    look_around(text)
    more = (text.position_bias(torch.ones(1, 9, dtype=torch.long)) - before)[0, :, 4]  # from the middle word
    seen = [[place - 4 for place in row.nonzero().flatten().tolist()] for row in more]
    assert seen == [[1], [-1], [-2, 2], []]


def test_clips_begin_at_any_moment_of_what_moves_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 12)
    tiny = TAE(TAEConfig(encoder_width=4, decoder_widths=(4, 4, 4, 4))).initialise().eval()

    def cached() -> LatentCache:
        return cached_latents(tiny, "tiny", tmp_path, clips=24, frames=5, seed=3)

    found = cached()
    later = [n for n, start in enumerate(found.moments) if start]
    assert later
    assert all(found.moments[n] < FPS * lasts(found.scenes[n].motion) for n in later)
    for n in (0, *later):
        pixels = torch.from_numpy(render(found.scenes[n], 5, start=found.moments[n]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            latents = tiny.encode(pixels.permute(0, 3, 1, 2)[None].float() / 255, lead=3)[0]
        assert torch.equal(found.latents[n], latents.transpose(0, 1).half())
    assert torch.equal(cached().latents, found.latents)


@pytest.mark.usefixtures("one_thread")
def test_twenty_kills_change_no_loss(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(flow_task(tmp_path), LOOP, whole)

    rng, kills = random.Random(5), 0
    while True:
        child = os.fork()
        if child == 0:
            train(flow_task(tmp_path), LOOP, broken)
            os._exit(0)
        if kills < 20:
            time.sleep(rng.uniform(0.02, 0.2))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    assert kills >= 5, "the run ended before it was killed often: make it longer"
    assert losses(broken) == losses(whole)
    assert (broken / "state.safetensors").read_bytes() == (whole / "state.safetensors").read_bytes()


def test_another_configuration_does_not_resume(tmp_path: Path) -> None:
    task = flow_task(tmp_path)
    short = LoopConfig(steps=2, learning_rate=1e-3)
    train(task, short, tmp_path / "run")
    with pytest.raises(InvalidInput, match="learning_rate"):
        train(task, LoopConfig(steps=2, learning_rate=2e-3), tmp_path / "run")


def test_a_restart_goes_on_from_a_run_that_could_have_been_the_last() -> None:
    settings = {"learning_rate": 1.0, "warmup": 3, "cooldown": 0.5}
    first, second = LoopConfig(steps=10, **settings), LoopConfig(steps=20, **settings)
    both = LoopConfig(steps=30, restarts=(10,), **settings)
    rates = [both.rate(step) for step in range(30)]
    assert rates == [first.rate(step) for step in range(10)] + [second.rate(step) for step in range(20)]
    assert max(rates) == 1.0
    assert rates[:3] == rates[10:13] == [1 / 3, 2 / 3, 1.0]
    assert rates[9] == 0.2


def test_the_command_says_that_there_is_no_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.train.recipes.RECIPES", {"seedling": lambda recipe, watch: "made"})
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["seedling", "--device", "cpu", "--output", str(tmp_path)]
    said, quiet = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--quiet"]))
    assert "linnet[train]" in said.stderr
    assert said.stdout == quiet.stdout == "made\n"
    assert not quiet.stderr


def test_flow_matching_learns(tmp_path: Path) -> None:
    """With one clip to remember, the loss falls well below 2, that of predicting nothing."""
    usual = flow_task(tmp_path)
    one = LatentCache(usual.cache.scenes[:1], [0], usual.cache.latents[:1])
    task = SyntheticFlow(usual.config, one, usual.tokenizer)
    loop = LoopConfig(steps=60, learning_rate=1e-2, optimiser="muon", warmup=5, log_every=1)
    train(task, loop, tmp_path / "run")
    seen = losses(tmp_path / "run")
    assert seen[1] > 1.7
    assert sum(seen[i] for i in range(51, 61)) / 10 < 1.75


def test_the_autoencoder_learns_to_copy() -> None:
    task = AutoencoderTask(
        AutoencoderConfig(
            model=TAEConfig(encoder_width=8, decoder_widths=(16, 12, 8, 8)), batch=2, frames=5, crop=24
        )
    )
    optimiser = torch.optim.AdamW(task.model.parameters(), 3e-3)
    seen = []
    for step in range(30):
        loss, _ = task.loss(step, *randomness(0, 0))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0]


def test_randomness_depends_on_seed_and_step_alone() -> None:
    def draw(seed: int, step: int) -> tuple[float, float]:
        rng, generator = randomness(seed, step)
        return rng.random(), torch.rand(1, generator=generator).item()

    assert draw(3, 7) == draw(3, 7)
    assert len({draw(seed, step) for seed in (0, 1) for step in (0, 1)}) == 4


def test_a_run_shows_what_it_has_learnt(tmp_path: Path) -> None:
    from linnet.train.recipes import SHOWN, TAE, TINY, SampledFlow

    usual = flow_task(tmp_path)
    task = SampledFlow(usual.config, usual.cache, usual.tokenizer, TAE(TINY).eval())
    task.sample(tmp_path / "samples", 7)
    with Image.open(tmp_path / "samples" / "000007.png") as sheet:
        assert sheet.height % len(SHOWN) == 0


def test_a_quick_look_encodes_no_more_clips_than_its_steps_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linnet.train import recipes

    asked: list[int] = []

    class Enough(Exception):
        pass

    def encode(*given: object, clips: int, **more: object) -> None:
        asked.append(clips)
        raise Enough

    monkeypatch.setattr(recipes, "cached_latents", encode)
    monkeypatch.setattr(recipes, "autoencoder", lambda recipe, watch: None)
    monkeypatch.setattr(recipes, "load_into", lambda build, path, device: recipes.TAE(recipes.TINY))
    (tmp_path / "autoencoder.safetensors").write_bytes(b"")
    monkeypatch.setattr(recipes, "read_config", lambda path: asdict(recipes.TINY))
    monkeypatch.setattr(recipes, "fingerprint", lambda paths: "")
    for steps in (2, None):
        with pytest.raises(Enough):
            recipes.seedling(recipes.Recipe(folder=tmp_path, steps=steps), lambda part, report: None)
    assert asked == [280, 12_000]


def test_encoding_tells_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from linnet.train.recipes import paced

    told: list[object] = []
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr("linnet.train.recipes.time", SimpleNamespace(monotonic=lambda: next(clock)))
    look = paced(told.append)
    look(100, 200)
    look(150, 200)
    assert told[-1].seconds_left == 10.0  # type: ignore[attr-defined]


def test_a_short_cache_grows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = TAE(TAEConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8))).eval()
    few, more = (cached_latents(tiny, "tiny", tmp_path, clips=n, frames=5, seed=3) for n in (2, 3))
    assert (len(few), len(more)) == (2, 3)
    assert torch.equal(more.latents[:2], few.latents)

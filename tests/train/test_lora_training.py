"""A folder of clips becomes a LoRA: the loop, the file, and what a run promises."""

import json
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.data.buckets import Bucket
from linnet.data.encoded import Encoded
from linnet.data.example import draw_example
from linnet.data.known import SHAPES
from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.models.lora import LoraShape, add_lora, apply_lora
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.pipeline import Pipeline
from linnet.runtime.machine import resolve_machine
from linnet.train.blocks import trained_blocks
from linnet.train.clips import ClipsConfig, ClipsTask, Learner, Texts
from linnet.train.config import LoopConfig
from linnet.train.distributed import ALONE, Ranks
from linnet.train.loop import Best, randomness, train
from linnet.train.lora import first_row
from linnet.train.optimisers import make_optimisers
from linnet.train.order import Order
from linnet.train.prepare import prepare_training, run_training
from linnet.train.prior import WithPrior
from linnet.train.settings import TrainingSettings
from linnet.train.sharded import shard
from linnet.train.state import saved_step
from linnet.train.timesteps import timesteps
from linnet.weights.lora import parameter_shapes, read_lora
from linnet.weights.store import resolve
from training_runs import losses


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of README's section on teaching, in a short form."""
    folder = tmp_path_factory.mktemp("clips") / "circles"
    draw_example(folder, clips=3, frames=5)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_clips_becomes_a_lora_that_teaches_a_word(clips: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-circle"
    words = ["train", "lora", str(clips), "--model", "seedling", "--output", str(run)]
    words += ["--steps", "2", "--batch", "2", "--rank", "4", "--held-out", "0.3", "--validate-every", "2"]
    words += [
        "--keep",
        "best",
        "--preview",
        "a red circle grows",
        "--prior",
        "1",
        "--stills",
        "2",
        "--crops",
        "1",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{run / 'my-circle.safetensors'}\n"
    with safe_open(run / "my-circle.safetensors", "pt") as file:
        assert json.loads(file.metadata()["linnet.words"]) == ["circle"]
        assert file.metadata()["ss_base_model_version"] == "seedling"
        assert file.get_tensor("diffusion_model.blocks.0.self_attn.q.alpha").item() == 4
    assert (run / "my-circle-best.safetensors").is_file()
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "held_out", "held_out/0.5"} <= last.keys()
    assert (run / "samples" / "000002.png").is_file()

    pipeline = linnet.load("seedling", device="cpu")
    transformer = pipeline.model.transformer
    saved = read_lora(run / "my-circle.safetensors", parameter_shapes(transformer))
    pipeline.model.learn_words(saved.words)
    request = linnet.make_request(pipeline.spec, prompt="a red circle grows", seed=0, frames=5)
    apply_lora(transformer, saved.weights)
    taught = np.stack([*media.read_frames(pipeline.generate(request, tmp_path / "taught.mp4").path)])
    without, preview = (
        np.stack([*media.read_frames(run / "samples" / name)]) for name in ("without-1.mp4", "000002-1.mp4")
    )
    assert (taught == preview).all()
    assert (taught != without).any()


def test_blocks_in_main_memory_are_previewed_too(clips: Path, tmp_path: Path) -> None:
    """The preview is a clip that the saved file gives; nothing of the model is read anew for it."""
    settings = TrainingSettings(steps=1, rank=4, prior=0, stills=0, previews=("a red star",), preview_every=1)
    machine = resolve_machine("cpu", dtype="float32", threads=1)
    ready = prepare_training(
        clips, model="seedling", output=tmp_path / "run", settings=settings, machine=machine
    )
    streamed = replace(ready.plan.execution, checkpointed=True, resident_blocks=2)
    run_training(replace(ready, plan=replace(ready.plan, execution=streamed)))
    (request,) = ready.requests()
    pipeline = linnet.load("seedling", device="cpu", dtype="float32", threads=1)
    saved = read_lora(
        tmp_path / "run" / "run-000001.safetensors", parameter_shapes(pipeline.model.transformer)
    )
    apply_lora(pipeline.model.transformer, saved.weights)
    taught = np.stack([*media.read_frames(pipeline.generate(request, tmp_path / "taught.mp4").path)])
    preview = np.stack([*media.read_frames(tmp_path / "run" / "samples" / "000001-1.mp4")])
    without = np.stack([*media.read_frames(tmp_path / "run" / "samples" / "without-1.mp4")])
    assert (preview == taught).all()
    assert (preview != without).any()


def test_every_epoch_shows_each_clip_once_and_batches_hold_one_bucket() -> None:
    buckets = ["wide"] * 5 + ["tall"] * 2
    order = Order(lambda number: random.Random(number).sample(range(7), 7), buckets, 2, seed=0)
    batches = [order[index] for index in range(8)]
    for epoch in (batches[:4], batches[4:]):
        assert sorted(sample for batch in epoch for sample in batch) == list(range(7))
        assert all(len({buckets[sample] for sample in batch}) == 1 for batch in epoch)
    assert batches[:4] != batches[4:]
    assert [order[index] for index in (5, 1)] == [batches[5], batches[1]]


def test_noise_levels_follow_the_named_distribution(tmp_path: Path) -> None:
    even = (torch.arange(1000) + 0.5) / 1000
    assert torch.equal(timesteps("uniform", shift=3)(even), even)
    usual = timesteps("logit-normal", shift=3)(even)
    assert torch.allclose(usual[499:501].mean(), torch.tensor(0.75), atol=1e-3)  # the median, shifted
    assert (usual.diff() >= 0).all()
    file = tmp_path / "weights.txt"
    file.write_text("0\n1\n3\n0\n")
    weighted = timesteps(str(file), shift=3)(even)
    assert weighted.histc(4, 0, 1).tolist() == [0, 250, 750, 0]
    file.write_text("1\nmany\n")
    with pytest.raises(InvalidInput, match='"many" as its number 2'):
        timesteps(str(file), shift=3)
    with pytest.raises(InvalidInput, match="timesteps"):
        timesteps("logitnormal", shift=3)


def test_all_weights_learn_and_the_file_stands_in_for_the_transformer(tmp_path: Path) -> None:
    run = tmp_path / "all"
    stars = tmp_path / "stars"
    draw_example(stars, clips=1, frames=5)
    (stars / "circle-01.txt").write_text("a red star moves left")
    words = ["train", "full", str(stars), "--model", "seedling"]
    words += [
        "--device",
        "cpu",
        "--output",
        str(run),
        "--steps",
        "1",
        "--ema",
        "0",
        "--learning-rate",
        "1e-3",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    files = replace(resolve(SEEDLING), transformer=run / "all.safetensors")
    own, learnt = (
        Pipeline.open(SEEDLING, each).model.transformer.state_dict() for each in (resolve(SEEDLING), files)
    )
    assert own.keys() == learnt.keys()
    assert sum(not torch.equal(own[name], learnt[name]) for name in own) > len(own) / 2


# --- runs that are broken off, and runs of several processes ---------------------------------------------------------


class FixedTexts(Texts):
    """Of each caption states that depend on it alone."""

    def __init__(self) -> None:
        pass

    def __call__(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [torch.randn(4, 8, generator=torch.Generator().manual_seed(len(each))) for each in captions]
        return torch.stack(rows), torch.full((len(rows),), 4)


class FewClips:
    """Nine clips in two buckets."""

    buckets = (*["long"] * 6, *["short"] * 3)
    training, held_out = tuple(range(9)), ()

    def epoch(self, seed: int, number: int) -> list[int]:
        return random.Random(f"{seed}/{number}").sample(range(9), 9)

    def sample(self, index: int) -> Encoded:
        frames = 3 if index < 6 else 1
        latents = torch.randn(4, frames, 4, 4, generator=torch.Generator().manual_seed(index))
        bucket = Bucket(Size(32, 32), 4 * frames - 3)
        return Encoded(latents=latents, text=None, caption="a" * index, bucket=bucket)

    def text(self, caption: str) -> torch.Tensor:
        raise NotImplementedError


def tiny_task(
    *, full: bool = False, dropout: float = 0.0, checkpointed: bool = False, ranks: Ranks = ALONE
) -> ClipsTask:
    config = TransformerConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_len=8, text_dim=8, freq_dim=16, channels=4
    )
    generator = torch.Generator().manual_seed(0)
    transformer = Transformer(config).initialise(generator).requires_grad_(False)
    torch.nn.init.normal_(transformer.head.head.weight, generator=generator)
    if full:
        transformer.requires_grad_(True)
    else:
        add_lora(transformer, LoraShape(rank=4, dropout=dropout), generator)
    blocks = trained_blocks(transformer, torch.device("cpu"), random=dropout > 0) if checkpointed else None
    chosen = ClipsConfig(batch=4, shift=3.0, first_frame=0.3)
    return ClipsTask(Learner(transformer), FewClips(), FixedTexts(), chosen, blocks=blocks, ranks=ranks)


LOOP = LoopConfig(
    steps=40,
    learning_rate=1e-2,
    warmup=2,
    accumulation=2,
    precision="float32",
    log_every=1,
    checkpoint_every=3,
    sample_every=1000,
)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_killed_ten_times_repeats_the_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny_task(dropout=0.1), LOOP, whole)
    rng, kills = random.Random(3), 0
    while True:
        batches = rng.randrange(4, 14) if kills < 10 else 10**6
        child = os.fork()
        if child == 0:  # which kills itself at that batch, in the middle of a step
            task = tiny_task(dropout=0.1)
            loss = task.loss

            def deadly(*given: Any, loss: Any = loss, left: list[int] = [batches]) -> Any:  # noqa: B006
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return loss(*given)

            task.loss = deadly  # type: ignore[method-assign]
            train(task, LOOP, broken)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    assert kills == 10
    assert losses(broken) == losses(whole)
    assert (broken / "state.safetensors").read_bytes() == (whole / "state.safetensors").read_bytes()


@pytest.mark.parametrize("full", [False, True], ids=["replicas", "sharded"])
@pytest.mark.usefixtures("one_thread")
def test_two_processes_learn_as_one(full: bool, tmp_path: Path) -> None:
    """A LoRA's replicas add up their gradients; of all weights each process has a part, also after a stop."""
    train(tiny_task(full=full), LOOP, tmp_path / "one")
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=rank, world_size=2
            )
            ranks = Ranks(rank, 2)
            for stop in (7, None):
                task = tiny_task(full=full, ranks=ranks)
                if full:
                    shard(task.model.transformer, ranks, "cpu")
                train(task, LOOP, tmp_path / "two", ranks=ranks, stop_at=stop)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two == pytest.approx(one, abs=1e-5)
    assert one[40] != one[39]


def test_checkpointed_blocks_have_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        task = tiny_task(dropout=0.2, checkpointed=checkpointed)
        task.loss(0, *randomness(0, 0))[0].backward()
        gradients.append([p.grad for p in task.model.parameters() if p.requires_grad])
    assert len(gradients[0]) == 40
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_gradients_of_checkpointed_blocks_that_are_released_give_the_same_losses(tmp_path: Path) -> None:
    chosen = replace(LOOP, steps=6, accumulation=1, clip_norm=0.0)
    train(tiny_task(full=True), chosen, tmp_path / "kept")
    train(tiny_task(full=True, checkpointed=True), chosen, tmp_path / "released", released=True)
    assert losses(tmp_path / "released") == pytest.approx(losses(tmp_path / "kept"), abs=1e-5)


def test_clips_that_are_kept_are_to_stay_as_they_are_without_the_lora() -> None:
    task = tiny_task()
    clips = [task.clips.sample(index) for index in range(2)]
    data = torch.stack([clip.latents for clip in clips])
    given = (["a", "b"], data, torch.randn_like(data), torch.tensor([0.5, 0.9]), torch.zeros(2).bool())
    untrained = task.errors(*given, torch.ones(2), [True, False])
    assert untrained[0] < 1e-8 < untrained[1]
    for parameter in task.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    trained = task.errors(*given, torch.ones(2), [True, False])
    assert trained[0] > 1e-8
    trained[0].backward()  # reaches the LoRA, which is switched on again
    assert all(p.grad is not None for p in task.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kept", [(), (8,)])
def test_without_its_caption_a_clip_is_to_stay_as_it_is_where_any_is_kept(kept: tuple[int, ...]) -> None:
    """Guidance moves away from what the model shows without a caption."""
    given = tiny_task()
    config = replace(given.config, caption_dropout=1.0)
    task = ClipsTask(given.model, given.clips, given.texts, config, kept=kept)
    error, _ = task.loss(0, random.Random(0), torch.Generator().manual_seed(0))
    assert (error.item() < 1e-8) == bool(kept)


def test_clips_of_the_models_own_are_shown_as_often_as_the_datasets(tmp_path: Path) -> None:
    """As clips for clips, and as images for images."""
    long, still = Bucket(Size(32, 32), 9), Bucket(Size(32, 32), 1)

    class Mixed(FewClips):
        buckets = (*[long] * 6, *[still] * 3)

    path = tmp_path / "0.safetensors"
    save_file({"latents": torch.ones(4, 3, 4, 4)}, path)
    both = WithPrior(Mixed(), ["a", "b"], [path, path], long)
    order = both.epoch(0, 0)
    assert sorted(order)[:9] == list(range(9))
    assert [both.buckets[index] for index in sorted(order)[9:]] == [long] * 6 + [still] * 3
    assert {both.sample(index).latents.shape[1] for index in (9, 10)} == {3}
    assert [both.sample(index).caption for index in (11, 12)] == ["a", "b"]
    assert both.sample(12).latents.shape == (4, 1, 4, 4)


def test_a_new_word_begins_among_those_whose_place_it_takes() -> None:
    model = linnet.load("seedling", device="cpu").model
    table = model.text.resident().shared.weight.float()
    shapes = [model.encode(shape).ids[0] for shape in SHAPES]
    row = first_row(model, "cross", ["a Cross moves left", "a red cross"])
    assert torch.equal(row, table[shapes].mean(0))
    anything = first_row(
        model, "cross", ["a cross is a star"]
    )  # names no colour and no motion: either may be meant
    assert torch.equal(anything, table[: model.text.resident().config.vocab_size].mean(0))


def test_what_suits_a_model_is_chosen_where_a_person_chooses_nothing() -> None:
    chosen = TrainingSettings().for_clips(SEEDLING, 24)
    assert {name: getattr(chosen, name) for name in SEEDLING.teaching} == SEEDLING.teaching
    other = TrainingSettings(prior=0, steps=50).for_clips(SEEDLING, 24)
    assert (other.prior, other.steps, other.warmup) == (0, 50, 5)


def test_muon_takes_a_loras_matrices() -> None:
    task = tiny_task()
    (only,) = make_optimisers(task.model, replace(LOOP, optimiser="muon"))
    assert isinstance(only, torch.optim.Muon)
    assert len(only.param_groups[0]["params"]) == sum(p.requires_grad for p in task.model.parameters()) == 40


def test_the_best_file_is_of_the_lowest_held_out_loss_also_after_a_stop(tmp_path: Path) -> None:
    held_out = {2: 0.5, 4: 0.3, 6: 0.4, 8: 0.35}  # the second is lowest, and the run is stopped after it
    chosen = replace(LOOP, steps=8, validate_every=2, checkpoint_every=1)
    for stop in (5, None):
        task, steps = tiny_task(), iter([2, 4] if stop else [6, 8])
        task.validate = lambda steps=steps: {"held_out": held_out[next(steps)]}  # type: ignore[method-assign]
        written: list[Path] = []

        def write(path: Path, written: list[Path] = written) -> None:
            path.write_text("weights")
            written.append(path)

        train(task, chosen, tmp_path / "run", stop_at=stop, best=Best(tmp_path / "best", write))
        assert len(written) == (2 if stop else 0)


def test_a_run_goes_on_with_its_own_settings_alone(tmp_path: Path) -> None:
    short = replace(LOOP, steps=2)
    train(tiny_task(), short, tmp_path / "run", described={"rank": 4})
    with pytest.raises(InvalidInput, match=r'rank "8": the run in .* was begun with 4'):
        train(tiny_task(), short, tmp_path / "run", described={"rank": 8})
    with pytest.raises(InvalidInput, match=r'steps "4": the run in .* was begun with 2'):
        train(tiny_task(), replace(LOOP, steps=4), tmp_path / "run", described={"rank": 4})
    train(tiny_task(), replace(short, sample_every=7), tmp_path / "run", described={"rank": 4})


def test_memory_that_runs_out_is_told_with_the_step(tmp_path: Path) -> None:
    task = tiny_task()
    loss = task.loss

    def greedy(step: int, *given: Any) -> Any:
        if step == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss(step, *given)

    task.loss = greedy  # type: ignore[method-assign]
    with pytest.raises(InvalidInput, match=r"in step 5 .*Tried to allocate.*use a smaller batch") as told:
        train(task, LOOP, tmp_path / "run")
    assert f"the last saved state is in {tmp_path / 'run'}" in told.value.problem
    assert saved_step(tmp_path / "run" / "state.safetensors") == 3

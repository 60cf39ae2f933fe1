"""A folder of clips becomes a LoRA: the loop, the file, and what a run promises."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

import linnet
from linnet import media
from linnet.cli import app
from linnet.data import synthetic
from linnet.errors import InvalidInput
from linnet.models.lora import apply_lora
from linnet.train.order import Order
from linnet.train.timesteps import timesteps
from linnet.weights.lora import parameter_shapes, read_lora


def draw_clips(folder: Path, shape: str, count: int, *, frames: int = 5) -> Path:
    """Clips of a shape that seedling does not know, each with its caption."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = random.Random(number)
        triple = (shape, rng.choice(tuple(synthetic.COLOURS)), rng.choice(synthetic.MOTIONS))
        scene = synthetic.sample_scene(rng, triples=(triple,))
        path = folder / f"{number:02}.mp4"
        with media.open_writer(
            path, width=synthetic.WIDTH, height=synthetic.HEIGHT, fps=24, metadata={}, overwrite=False
        ) as writer:
            writer.write(synthetic.render(scene, frames))
        path.with_suffix(".txt").write_text(synthetic.caption(scene, rng))
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clips(tmp_path_factory.mktemp("clips") / "crosses", "cross", 3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_clips_becomes_a_lora_that_teaches_a_word(clips: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-cross"
    words = ["train", "lora", str(clips), "--model", "seedling", "--device", "cpu", "--output", str(run)]
    words += ["--steps", "2", "--batch", "2", "--rank", "4", "--held-out", "0.3", "--validate-every", "2"]
    words += ["--preview", "a red cross spins", "--prior", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{run / 'my-cross.safetensors'}\n"
    with safe_open(run / "my-cross.safetensors", "pt") as file:
        assert json.loads(file.metadata()["linnet.words"]) == ["cross"]
        assert file.metadata()["ss_base_model_version"] == "seedling"
        assert file.get_tensor("diffusion_model.blocks.0.self_attn.q.alpha").item() == 4
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss", "held_out", "held_out/0.5"} <= last.keys()
    assert (run / "samples" / "000002.png").is_file()

    pipeline = linnet.load("seedling", device="cpu")
    transformer = pipeline.model.transformer
    saved = read_lora(run / "my-cross.safetensors", parameter_shapes(transformer))
    pipeline.model.learn_words(saved.words)
    request = linnet.make_request(pipeline.spec, prompt="a red cross spins", seed=0, frames=5)
    apply_lora(transformer, saved.weights)
    taught = np.stack([*media.read_frames(pipeline.generate(request, tmp_path / "taught.mp4").path)])
    without, preview = (
        np.stack([*media.read_frames(run / "samples" / name)]) for name in ("without-1.mp4", "000002-1.mp4")
    )
    assert (taught == preview).all()
    assert (taught != without).any()


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

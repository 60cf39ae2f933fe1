"""The model that ships in the package, all the way from a prompt to a file."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import linnet
from linnet import media
from linnet.catalog import SEEDLING
from linnet.clip import Clip, Progress
from linnet.evaluate.parse import parse
from linnet.pipeline import Pipeline
from linnet.request import make_request
from linnet.weights.files import fingerprint
from linnet.weights.store import resolve

PROMPT = "a large red star moves right on a blue background"


Dtype = Literal["float32", "bfloat16"]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return linnet.load("seedling", device="cpu")


def test_a_prompt_becomes_what_it_says(pipeline: Pipeline, tmp_path: Path) -> None:
    request = make_request(SEEDLING, prompt=PROMPT, seconds=2, seed=1)
    seen: list[Progress] = []
    clip = pipeline.generate(request, tmp_path / "clip.mp4", watch=seen.append)
    frames = list(media.read_frames(clip.path))
    assert len(frames) == 49
    assert {shape.shape for shape in frames} == {(72, 128, 3)}
    sight = parse(frames)
    assert (sight.shape, sight.colour, sight.background) == ("star", "red", "blue")
    assert [p.done for p in seen if p.stage == "denoise"] == list(range(request.steps + 1))
    assert seen[-1].stage == "decode"
    assert seen[-1].done == seen[-1].total == 49


def test_the_same_request_gives_the_same_bytes_and_a_clip_its_own_request(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    request = make_request(SEEDLING, prompt=PROMPT, seconds=0.5, steps=2)  # a drawn seed
    first = pipeline.generate(request, tmp_path / "first.mp4")
    inside = Clip.from_metadata(first.path, media.read_metadata(first.path))
    assert inside.request == replace(request, dtype=str(pipeline.model.dtype).removeprefix("torch."))
    assert inside.model_hash == fingerprint(pipeline.model.files.weights)
    again = make_request(SEEDLING, like=inside.request)
    second = linnet.load("seedling", device="cpu").generate(again, tmp_path / "second.mp4")
    assert digest(first.path) == digest(second.path)


# In float32 a clip is the same in a batch, but for the rounding of its pixels. In bfloat16 products of other sizes
# round otherwise, and each step goes on from that: the clip shows the same, and its edges differ a little.
@pytest.mark.parametrize(("dtype", "most", "mean"), [("float32", 1, 0.01), ("bfloat16", 64, 1.0)])
def test_a_clip_does_not_depend_on_its_neighbours(dtype: Dtype, most: int, mean: float) -> None:
    pipeline = linnet.load("seedling", device="cpu", dtype=dtype)
    request = make_request(SEEDLING, prompt=PROMPT, seconds=0.5, seed=11, steps=4)
    assert torch.equal(pipeline.runner.noise(request, [5, 11, 7])[1:2], pipeline.runner.noise(request, [11]))
    *_, together = pipeline.runner.sample(request, [5, 11, 7])
    *_, alone = pipeline.runner.sample(request)
    frames = [
        np.concatenate(list(pipeline.runner.decode(latents))).astype(int)
        for latents in (together.latents[1:2], alone.latents)
    ]
    difference = abs(frames[0] - frames[1])
    assert difference.max() <= most
    assert difference.mean() <= mean


@pytest.mark.parametrize(("solver", "steps"), [("euler", 8), ("dpm++", 8), ("unipc", 10)])
def test_few_steps_are_enough_for_each_solver(pipeline: Pipeline, solver: Any, steps: int) -> None:
    """With momentum that swings from step to step they gave neither the shape nor the background."""
    request = make_request(SEEDLING, prompt=PROMPT, seed=1, steps=steps, solver=solver)
    *_, last = pipeline.runner.sample(request)
    sight = parse(np.concatenate(list(pipeline.runner.decode(last.latents))))
    assert (sight.shape, sight.colour, sight.background) == ("star", "red", "blue")


@pytest.mark.parametrize("stage", ["text", "denoise", "decode"])
def test_a_stop_leaves_nothing(pipeline: Pipeline, tmp_path: Path, stage: str) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == stage and progress.done:
            raise KeyboardInterrupt

    request = make_request(SEEDLING, prompt=PROMPT, seconds=0.5, steps=2)
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate(request, tmp_path / "clip.mp4", watch=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_ships_says_what_made_it() -> None:
    files = resolve(SEEDLING)
    folder = files.transformer.parent
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 40e6
    recipe = json.loads((folder / "recipe.json").read_text())
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == recipe["loop"]["steps"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_words_are_learnt_and_forgotten(pipeline: Pipeline) -> None:
    model, prompt = pipeline.model, "a red cross spins"
    rows = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    old = model.text_states("a red star spins")[0].clone()
    model.learn_words({"cross": rows[0]})
    first = model.text_states(prompt)[0].clone()
    model.learn_words({"cross": rows[1]})
    assert not torch.equal(model.text_states(prompt)[0], first)
    model.learn_words({"ring": rows[1], "cross": rows[0]})
    assert torch.equal(model.text_states(prompt)[0], first)
    model.learn_words({})
    assert model.tokenizer.unknown(prompt) == ["cross"]
    assert torch.equal(model.text_states("a red star spins")[0], old)

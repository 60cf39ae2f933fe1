"""Caches of latents and text states: by content, whole or not there, and their size known before."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load

from linnet.catalog import SEEDLING
from linnet.cli import app
from linnet.data import cache_plan, encoded
from linnet.data.buckets import TrainingClip, clips_in
from linnet.data.dataset import read_dataset
from linnet.data.encoded import Cache, encode_dataset
from linnet.data.frames import read_frames
from linnet.errors import InvalidInput
from linnet.model_runner import ModelRunner
from linnet.pipeline import Pipeline
from linnet.weights.store import resolve
from made_clips import textured, write_clip

CAPTIONS = {"a.mp4": "a red star", "b.mp4": "a blue moon", "c.png": "a red star"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "a.mp4", textured(13))
    write_clip(folder / "b.mp4", textured(6, seed=1))
    Image.fromarray(textured(1, seed=2)[0]).save(folder / "c.png")
    for name, caption in CAPTIONS.items():
        (folder / name).with_suffix(".txt").write_text(caption)
    return folder


@pytest.fixture
def pipeline(tiny_model: Path) -> Pipeline:
    return Pipeline.open(SEEDLING, resolve(SEEDLING, weights=tiny_model))


def clips_of(folder: Path, cache: Path) -> list[TrainingClip]:
    clips, left_out = clips_in(read_dataset(folder), SEEDLING, cache)
    assert not left_out
    return clips


def test_latents_and_states_are_those_of_the_model(folder: Path, tmp_path: Path, pipeline: Pipeline) -> None:
    cache = tmp_path / "cache"
    clips = clips_of(folder, cache)
    plan = Cache(cache, pipeline.model).plan(clips)
    assert (plan.new, plan.new_texts, plan.bytes) == (3, 3, plan.whole)  # two captions, and the empty one
    data = encode_dataset(pipeline, clips, cache)
    written = sum(
        file.stat().st_size for kind in ("latents", "text") for file in (cache / kind).rglob("*.safetensors")
    )
    assert 0.4 * plan.bytes < written <= plan.bytes  # the tensors here are small beside their headers
    assert [bucket.frames for bucket in data.buckets] == [13, 5, 1]
    for index, clip in enumerate(clips):
        sample = data.sample(index)
        expected = pipeline.runner.encode_frames(lambda clip=clip: read_frames(clip))[0]
        torch.testing.assert_close(sample.latents, expected, atol=2e-3, rtol=2e-3)
        assert sample.text is not None
        assert torch.equal(sample.text, pipeline.model.text_states(clip.sample.caption)[0])
    assert torch.equal(data.text(""), pipeline.model.text_states("")[0])
    assert sorted(data.epoch(seed=1, number=0)) == [0, 1, 2]


def test_what_did_not_change_is_not_encoded_again(
    folder: Path, tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = encode_dataset(pipeline, clips_of(folder, cache), cache)
    made: list[str] = []
    monkeypatch.setattr(
        ModelRunner,
        "encode_frames",
        lambda self, frames, _real=ModelRunner.encode_frames: made.append("clip") or _real(self, frames),
    )
    (folder / "a.mp4").rename(folder / "z.mp4")
    (folder / "a.txt").rename(folder / "z.txt")
    (folder / "b.mp4").touch()
    moved = folder.rename(tmp_path / "elsewhere")
    again = encode_dataset(pipeline, clips_of(moved, cache), cache)
    assert not made
    assert sorted(again.latents) == sorted(first.latents)
    (moved / "b.txt").write_text("a green moon")  # a caption alone
    write_clip(moved / "z.mp4", textured(13, seed=9))
    changed = encode_dataset(pipeline, clips_of(moved, cache), cache)
    assert len(made) == 1
    assert changed.texts.keys() == {"a red star", "a green moon", ""}
    changed.latents[0].write_bytes(changed.latents[0].read_bytes()[:-1])  # as a full disk leaves it
    with pytest.raises(InvalidInput, match="is missing or damaged"):
        changed.sample(0)
    encode_dataset(pipeline, clips_of(moved, cache), cache).sample(0)
    assert len(made) == 2


def test_a_large_set_is_packed_and_read_from_archives(
    folder: Path, tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    data = encode_dataset(pipeline, clips_of(folder, cache), cache)
    before = [data.sample(index) for index in range(3)]
    assert data.shards.pack("latents", data.latents, most=1) == 3  # each too large to share an archive
    data.pack()
    assert not list(cache.rglob("*.safetensors"))
    monkeypatch.setattr(ModelRunner, "encode_frames", None)  # nothing is encoded again
    clips = clips_of(folder, cache)
    assert Cache(cache, pipeline.model).plan(clips).bytes == 0
    again = encode_dataset(pipeline, clips, cache)
    for index, sample in enumerate(before):
        assert torch.equal(again.sample(index).latents, sample.latents)
        assert sample.text is not None
        assert torch.equal(again.text(sample.caption), sample.text)
    monkeypatch.undo()

    with tarfile.open(archive := again.shards.members[again.latents[0].stem].archive) as tar:
        names = tar.getnames()
        record = json.load(tar.extractfile(names[1]))  # type: ignore[arg-type]
    key = again.latents[0].stem
    assert names == [f"{key}.safetensors", f"{key}.json"]
    assert (record["name"], record["content"]) == ("a.mp4", clips[0].content)
    archive.write_bytes(archive.read_bytes()[:700])  # as a full disk leaves it
    with pytest.raises(InvalidInput, match="is missing or damaged"):
        again.sample(0)
    assert Cache(cache, pipeline.model).plan(clips).new == 1
    healed = encode_dataset(pipeline, clips, cache)
    assert torch.equal(healed.sample(0).latents, before[0].latents)


def test_webdataset_reads_the_archives(folder: Path, tmp_path: Path, pipeline: Pipeline) -> None:
    webdataset = pytest.importorskip("webdataset")
    data = encode_dataset(pipeline, clips_of(folder, tmp_path / "cache"), tmp_path / "cache")
    data.pack()
    (archive,) = (tmp_path / "cache" / "shards").glob("latents-*.tar")
    samples = {
        each["__key__"]: each for each in webdataset.WebDataset(str(archive), shardshuffle=False).decode()
    }
    assert samples.keys() == {path.stem for path in data.latents}
    first = samples[data.latents[0].stem]
    assert first["json"]["name"] == "a.mp4"
    assert torch.equal(load(first["safetensors"])["latents"].float(), data.sample(0).latents)


def test_no_room_for_the_caches(
    folder: Path,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cache_plan.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 50_010_000}))
    cache = tmp_path / "cache"
    given = ["data", "cache", str(folder), "--model", "seedling", "--weights", str(tiny_model)]
    with pytest.raises(SystemExit) as ended:
        app([*given, "--cache", str(cache)])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "kB to write" in told
    assert f'error: cache "{cache}": has 50 MB free, and the caches need 50 MB; make room' in told
    assert not (cache / "latents").exists()


def test_a_clip_that_changes_meanwhile_is_refused(
    folder: Path, tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = clips_of(folder, tmp_path / "cache")
    write_clip(folder / "b.mp4", textured(6, seed=5))
    with pytest.raises(InvalidInput, match=r"b\.mp4.*changed while it was read"):
        encode_dataset(pipeline, clips, tmp_path / "cache")
    assert not encoded.is_whole(Cache(tmp_path / "cache", pipeline.model).latents_of(clips[1]), "latents")

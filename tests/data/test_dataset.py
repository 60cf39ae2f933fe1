"""Folders of clips: what is read from them, and which frames are trained on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linnet.catalog import find
from linnet.data.buckets import Bucket, clips_of, crops_of, length_for, parts_of, sizes_of
from linnet.data.dataset import Dataset, Options, Sample, epoch_order, read_dataset
from linnet.data.frames import frames_of, read_frames
from linnet.data.probe import content_hash, probe
from linnet.errors import InvalidInput
from linnet.geometry import Size
from made_clips import textured, write_clip

SEEDLING, LINUM = find("seedling"), find("linum-v2-360p")


def touch(folder: Path, *names: str, **captions: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"-")
    for stem, caption in captions.items():
        (folder / f"{stem}.txt").write_text(caption)
    return folder


def named(dataset: Dataset) -> dict[str, str]:
    return {sample.name: sample.caption for sample in dataset.samples}


def test_captions_stand_beside_clips_or_in_a_table(tmp_path: Path) -> None:
    folder = touch(tmp_path / "d", "a.mp4", "b.png", "c.mov", "sub/d.webm", a="a  dog\n runs ", e="lonely")
    (folder / "captions.jsonl").write_text(
        "\ufeff" + '{"file": "b.png", "caption": "a dog"}\n\n{"file_name": "z.mp4", "text": "gone"}\n'
    )
    (folder / "metadata.csv").write_text('file_name,text\nsub/d.webm,"a dog, asleep"\na.mp4,not this\n')
    (folder / "notes.pdf").write_bytes(b"-")
    (folder / "link.mp4").symlink_to(folder / "missing.mp4")
    os.mkfifo(folder / "pipe.mp4")
    dataset = read_dataset(folder)
    assert named(dataset) == {"a.mp4": "a dog runs", "b.png": "a dog", "sub/d.webm": "a dog, asleep"}
    assert {each.name: each.fault for each in dataset.left_out} == {
        "c.mov": "no caption",
        "e.txt": "caption without a clip",
        "z.mp4": "caption without a clip",
        "notes.pdf": "not a clip",
        "link.mp4": "broken link",
        "pipe.mp4": "not a clip",
    }


def test_settings_of_several_folders(tmp_path: Path) -> None:
    touch(tmp_path / "few", "1.mp4", "2.mp4", **{"1": "one sks dog", "2": "two"})
    touch(tmp_path / "many", *(f"{n}.mp4" for n in range(8)), **{str(n): f"clip {n}" for n in range(8)})
    (tmp_path / "dataset.yaml").write_text(
        "trigger: sks dog\ncaption_dropout: 0\nheld_out: [few/2.mp4]\n"
        "folders:\n- {path: few, weight: 1, crop: [1, 2, 3, 4]}\n- {path: many, weight: 1, trigger: '', long: split}\n"
    )
    dataset = read_dataset(tmp_path)
    assert named(dataset)["few/1.mp4"] == "one sks dog"
    assert named(dataset)["few/2.mp4"] == "sks dog, two"
    assert named(dataset)["many/3.mp4"] == "clip 3"
    assert dataset.caption_dropout == 0
    assert [sample.name for sample in dataset.held_out] == ["few/2.mp4"]
    assert dataset.samples[0].options.crop == (1, 2, 3, 4)
    few, many = (
        sum(s.repeats for s in dataset.samples if s.name.startswith(name)) for name in ("few", "many")
    )
    assert few == pytest.approx(many)
    assert few + many == pytest.approx(10)
    epochs = [epoch_order([2.5, 0.25], seed=1, epoch=epoch) for epoch in range(400)]
    assert {epoch.count(0) for epoch in epochs} == {2, 3}
    assert 0.15 < sum(epoch.count(1) for epoch in epochs) / 400 < 0.35
    assert epochs[7] == epoch_order([2.5, 0.25], seed=1, epoch=7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trigge: x", "not a setting; did you mean trigger"),
        ("repeats: 0", 'repeats "0" is out of range'),
        ("crop: [1, 2]", "is not four sides"),
        ("held_out: 1", 'held_out "1" is out of range'),
        ("held_out: [x.mp4]", "is no clip of the dataset"),
        ("long: whole", "use middle or split"),
        ("folders: [{path: nowhere}]", "is missing"),
        ("a: [", "is not YAML (line 1)"),
        ("trigger: &a x\nlong: *a", "refers to an earlier value"),
        ("- 1", "is not a list of settings"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", a="a", b="b")
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_dataset(tmp_path)
    assert said in str(caught.value)


def test_a_folder_with_nothing_to_train_on_says_why(tmp_path: Path) -> None:
    for name, files, captions, said in (
        ("empty", (), {}, "is empty"),
        ("clips", ("a.mp4",), {}, "has 1 clip and no captions; write a .txt file"),
        ("captions", (), {"a": "x", "b": "y"}, "has 2 captions and no clips"),
        ("other", ("a.pdf",), {}, "no clip or image that can be used (a.pdf"),
    ):
        with pytest.raises(InvalidInput) as caught:
            read_dataset(touch(tmp_path / name, *files, **captions))
        assert said in str(caught.value)
    with pytest.raises(InvalidInput, match="is missing"):
        read_dataset(tmp_path / "nowhere")
    (tmp_path / "clips" / "captions.jsonl").write_text('{"file": "a.mp4"}\n')
    with pytest.raises(InvalidInput, match="line 1 names no caption"):
        read_dataset(tmp_path / "clips")


def test_what_is_held_out_stays_when_clips_are_added(tmp_path: Path) -> None:
    names = [f"{n}.mp4" for n in range(40)]
    folder = touch(tmp_path, *names, **{str(n): "x" for n in range(40)})
    before = {sample.name for sample in read_dataset(folder).held_out}
    assert len(before) == 4
    touch(folder, "40.mp4", **{"40": "x"})
    assert len({sample.name for sample in read_dataset(folder).held_out} & before) >= 3
    assert not read_dataset(folder, held_out=0).held_out


# --- buckets and frames -----------------------------------------------------------------------------------------------


def sample_of(path: Path, **options: object) -> Sample:
    return Sample(path=path, name=path.name, caption="x", options=Options(**options))  # pyright: ignore[reportArgumentType]


def test_frames_are_chosen_by_their_times_and_bars_are_cropped(tmp_path: Path) -> None:
    scene = textured(72)
    barred = np.zeros((72, 64, 64, 3), np.uint8)
    barred[:, 7:55] = scene
    # Half of the frames are shown twice as long: the clip lasts 72 + 36 frames of 1/24 s.
    times = [index / 24 for index in range(36)] + [(36 + 2 * index) / 24 for index in range(36)]
    path = write_clip(tmp_path / "a.mp4", barred, times=times)
    probed = probe(path)
    assert probed.survey.content == (0, 7, 64, 55)
    (clip,) = clips_of(sample_of(path), probed, SEEDLING)
    assert clip.bucket == Bucket(Size(128, 72), 49)
    assert clip.order[:7] == tuple(range(29, 36)) or clip.order[0] >= 28
    assert clip.order[-2] == clip.order[-3] or clip.order[-1] == clip.order[-2]
    assert read_frames(clip).shape == (49, 72, 128, 3)
    parts = clips_of(sample_of(path, long="split", bars=False, crop=(0, 7, 0, 9)), probed, SEEDLING)
    assert [part.bucket.frames for part in parts] == [49, 49, 9]
    assert parts[0].order[0] == 0
    assert parts[0].box == (0, 7, 64, 55)
    same, *crops = crops_of(clip, 3)
    assert same.box == clip.box
    assert [crop.box for crop in crops_of(clip, 3)] == [same.box, *(crop.box for crop in crops)]
    assert len({crop.box for crop in crops}) == 3
    for crop in crops:
        assert 0.85 * 64 - 1 <= crop.box.size.width <= 64
        assert crop.box.left >= 0
        assert crop.box.right <= 64
        assert crop.box.top >= 7
        assert crop.box.bottom <= 55
        assert read_frames(crop).shape == read_frames(clip).shape
    assert sum(crop.sample.repeats for crop in (same, *crops)) == clip.sample.repeats
    (linum,) = clips_of(sample_of(path), probed, LINUM)
    assert linum.bucket.frames == 109  # of 108: 4.5 s end with the last frame once more
    assert linum.order[-2:] == (71, 71)
    assert linum.bucket.size == Size(544, 416)
    first = next(frames_of(linum))
    assert first.mean(axis=(1, 2))[[0, -1]].min() > 80  # no row of the bars is left


def test_images_and_turned_clips(tmp_path: Path) -> None:
    Image.fromarray(textured(1)[0]).save(tmp_path / "a.png")
    (clip,) = clips_of(sample_of(tmp_path / "a.png"), probe(tmp_path / "a.png"), LINUM)
    assert clip.bucket == Bucket(Size(544, 416), 1)
    assert read_frames(clip).shape == (1, 416, 544, 3)
    turned = probe(write_clip(tmp_path / "t.mp4", textured(12), turn=90))
    assert (turned.survey.turned, turned.survey.size) == (90, Size(48, 64))
    (clip,) = clips_of(sample_of(tmp_path / "t.mp4"), turned, LINUM)
    assert clip.bucket == Bucket(Size(416, 544), 13)
    tiny = probe(write_clip(tmp_path / "s.mp4", textured(3)))
    with pytest.raises(InvalidInput, match=r"is too short: it lasts 0\.125 s"):
        clips_of(sample_of(tmp_path / "s.mp4"), tiny, LINUM)
    with pytest.raises(InvalidInput, match="the crop leaves too few"):
        clips_of(sample_of(tmp_path / "t.mp4", crop=(0, 40, 0, 40)), turned, LINUM)


def test_lengths_and_sizes_of_buckets() -> None:
    for spec in (SEEDLING, LINUM):
        assert all(spec.allows(size) for size in sizes_of(spec))
        for count in range(1, 200):
            assert length_for(count, spec) <= min(count, spec.max_frames)
            assert length_for(count, spec) % 4 == 1
    assert [len(part) for part in parts_of(300, LINUM)] == [121, 121, 49]


def test_a_survey_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, path = tmp_path / "cache", write_clip(tmp_path / "a.mp4", textured(6))
    first = probe(path, cache)
    reads = []
    monkeypatch.setattr(
        "linnet.inputs.reader.survey", lambda *given: reads.append(given) or (first.survey, first.thumbnails)
    )
    renamed = path.rename(tmp_path / "b.mp4")
    renamed.touch()
    again = probe(renamed, cache)
    assert again.survey == first.survey
    assert all(np.array_equal(a, b) for a, b in zip(again.thumbnails, first.thumbnails, strict=True))
    assert not reads
    content = renamed.read_bytes()
    facts = renamed.stat()
    renamed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(renamed, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # of the same size and time
    assert content_hash(renamed, cache) != first.content
    probe(renamed, cache)
    assert len(reads) == 1
    for note in (cache / "surveys").iterdir():
        note.write_bytes(json.dumps({}).encode())
    assert probe(renamed, cache).survey == first.survey

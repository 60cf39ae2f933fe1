"""`linnet data curate` on made videos: where cuts are found, what fades are taken for, and why pieces are left out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.cli import app
from linnet.data import curate_run
from linnet.data.curate import CurateSettings
from linnet.data.curate_run import curate as run
from linnet.data.curate_state import analysis_key, kept_analysis
from linnet.data.scenes import find_scenes
from linnet.errors import InvalidInput
from linnet.inputs import clips, reader
from made_clips import textured, write_clip

WIDE, HIGH = 64, 48


def faded(frames: np.ndarray, first: int, last: int, ground: int = 0) -> np.ndarray:
    """Out of the plain `ground` over the `first` frames, into it over the `last`."""
    share = np.ones(len(frames))
    share[:first] = np.linspace(0, 1, first, endpoint=False)
    share[len(frames) - last :] = np.linspace(1, 0, last)
    mixed = frames * share[:, None, None, None] + ground * (1 - share[:, None, None, None])
    return mixed.round().astype(np.uint8)


def make_videos(folder: Path) -> None:
    folder.mkdir()
    scenes = [textured(count, WIDE, HIGH, seed=seed) for seed, count in enumerate((60, 70, 140))]
    write_clip(folder / "cuts.mp4", np.concatenate(scenes))
    black = np.zeros((8, HIGH, WIDE, 3), np.uint8)
    dimmed, lit, bright, back = (textured(84, WIDE, HIGH, seed=seed) for seed in (10, 11, 12, 13))
    through_black = [faded(dimmed, 0, 20), black, faded(lit, 20, 0)]
    through_white = [faded(bright, 0, 12, 255), faded(back, 12, 0, 255)]
    write_clip(folder / "fades.mp4", np.concatenate([*through_black, *through_white]))
    barred = np.zeros((60, 64, WIDE, 3), np.uint8)
    barred[:, 9:53] = textured(60, WIDE, 44, seed=20)
    write_clip(folder / "letterbox.mp4", barred)
    write_clip(folder / "still.mp4", textured(1, WIDE, HIGH, seed=30).repeat(60, 0))
    again = np.concatenate([textured(60, WIDE, HIGH, seed=40), scenes[0]])
    write_clip(folder / "duplicate.mp4", again, options={"crf": "26"})
    write_clip(folder / "dark.mp4", textured(60, WIDE, HIGH, seed=50) // 10)
    (folder / "page.mp4").write_text("<html>404</html>")


def curate(raw: Path, out: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(["data", "curate", str(raw), "--out", str(out), *more])
    return int(ended.value.code or 0)


def test_six_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "clips"
    make_videos(raw)
    assert curate(raw, out, "--json", "--sheet", str(tmp_path / "sheet.png")) == 0
    result = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)

    cuts = by_source["cuts.mp4"]
    assert [row["scene"] for row in cuts] == [
        [0, 58],
        [62, 128],
        [132, 270],
        [132, 270],
    ]  # two frames off each cut
    assert [row["frames"] for row in cuts] == [49, 61, 61, 61]
    assert cuts_of(out, cuts[0]) == (60, 130)
    # One cut is there, between the scenes in the middle; none of the fades is taken for one.
    assert cuts_of(out, by_source["fades.mp4"][0]) == (176,)
    for row, (first, stop) in zip(
        by_source["fades.mp4"], [(0, 64), (112, 176), (176, 248), (272, 344)], strict=True
    ):
        begin, end = row["scene"]
        assert first <= begin <= first + 4
        assert stop - 4 <= end <= stop
        assert row["kept"]

    (letterbox,) = by_source["letterbox.mp4"]
    assert letterbox["crop"] == [0, 9, 64, 53]
    assert clips.probe(out / str(letterbox["file"])).size == (64, 44)
    (still,), (dark,), (page,) = (by_source[f"{name}.mp4"] for name in ("still", "dark", "page"))
    assert str(still["reason"]).startswith("still: motion")
    assert str(dark["reason"]).startswith("dark: brightness")
    assert str(page["reason"]).startswith("cannot be used: cannot be read")
    other, copy = by_source["duplicate.mp4"]
    assert other["kept"]
    assert str(copy["reason"]) == f"duplicate of {cuts[0]['file']}"
    assert result["left_out"] == {"still": 1, "dark": 1, "cannot be used": 1, "duplicate": 1}

    kept = [row for row in rows if row["kept"]]
    assert {row["file"] for row in kept} == {file.name for file in out.glob("*.mp4")}
    first = clips.scan(out / kept[0]["file"], clips.Limits(seconds=10))
    assert len(first.times) == kept[0]["frames"]
    note = reader.record_in(clips.note_in(out / kept[0]["file"]))
    assert note is not None
    assert "generated" not in note
    assert note["curated"]["source"] == kept[0]["source"]


def test_dissolves_are_left_out() -> None:
    """Of scenes that stand still and that move, short and long; a lamp that is dimmed and a fast camera are none."""
    film = textured(1, WIDE, HIGH, seed=60).repeat(90, 0)
    blends: list[range] = []
    for seed, length in ((61, 8), (62, 16), (63, 24)):
        blends.append(range(len(film) - length, len(film)))
        film = dissolved(film, textured(90, WIDE, HIGH, seed=seed), length)
    scenes = scenes_of(film)
    assert len(scenes) == 4
    assert (scenes[0].start, scenes[-1].stop) == (0, len(film))
    for before, after, blend in zip(scenes, scenes[1:], blends, strict=False):
        assert blend.start - 8 <= before.stop <= blend.start + 1
        assert blend.stop - 1 <= after.start <= blend.stop + 8
    light = 1 - 0.6 * np.sin(np.linspace(0, np.pi, 120))[:, None, None, None]
    lamp = (textured(120, WIDE, HIGH, seed=64) * light).round().astype(np.uint8)
    for frames in (lamp, textured(120, WIDE, HIGH, seed=65, speed=3)):
        assert scenes_of(frames) == (range(0, 120),)


def scenes_of(frames: np.ndarray) -> tuple[range, ...]:
    return find_scenes((number / 24, frame) for number, frame in enumerate(frames)).scenes


def dissolved(before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """The last frames of one scene blend into the first of the other."""
    share = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    blend = (1 - share) * before[-length:] + share * after[:length]
    return np.concatenate([before[:-length], blend.round().astype(np.uint8), after[length:]])


def cuts_of(out: Path, row: dict[str, Any]) -> tuple[int, ...]:
    """As the analysis of the row's video has them."""
    key = analysis_key(str(row["sha256"]), CurateSettings())
    analysis = kept_analysis(out / ".linnet" / "analyses", key)
    assert analysis is not None
    return analysis.cuts


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tmp_path / "raw", tmp_path / "clips"
    raw.mkdir()
    for seed, name in enumerate(("a", "b", "c")):
        write_clip(raw / f"{name}.mp4", textured(60, WIDE, HIGH, seed=seed))
    settings, analysed = CurateSettings(), list[str]()
    real = curate_run.analyse

    def analyse(path: Path, *more: Any) -> Any:
        analysed.append(path.name)
        return real(path, *more)

    monkeypatch.setattr(curate_run, "analyse", analyse)

    def stop_at(stage: str, number: int) -> Any:
        def tell(now: str, done: int, total: int) -> None:
            if (now, done) == (stage, number):
                raise KeyboardInterrupt

        return tell

    with pytest.raises(KeyboardInterrupt):
        run(raw, out, settings, tell=stop_at("videos", 1))
    assert not list(out.glob("*.mp4"))
    with pytest.raises(KeyboardInterrupt):
        run(raw, out, settings, tell=stop_at("clips", 1))
    first = {file: file.stat().st_mtime_ns for file in out.glob("*.mp4")}
    assert first
    done = run(raw, out, settings)
    assert len(done.kept) == 3
    assert done.new < 3
    assert all(file.stat().st_mtime_ns == time for file, time in first.items())
    assert sorted(set(analysed)) == ["a.mp4", "b.mp4", "c.mp4"]
    assert len(analysed) <= 5  # what was kept is not analysed again, and two may be under way at a stop

    (out / done.kept[0].file).unlink()  # its owner did not like it
    (out / ".linnet" / "written.jsonl").write_text(  # and a kill came before the note of the last one
        "".join(json.dumps({"file": row.file}) + "\n" for row in done.kept[:2]) + '{"fi'
    )
    again = run(raw, out, settings)
    assert (again.new, len(again.kept)) == (0, 2)
    assert again.rows[0].reason.startswith("removed")
    with pytest.raises(InvalidInput, match=r"min_motion.*was 6 when the clips in .* were cut"):
        run(raw, out, replace(settings, min_motion=7.0))
    assert len(run(raw, tmp_path / "try", replace(settings, min_motion=300.0), dry_run=True).kept) == 0
    assert not list((tmp_path / "try").glob("[!.]*"))
    other = tmp_path / "other"
    other.mkdir()
    (other / done.kept[1].file).write_bytes(b"mine")
    with pytest.raises(InvalidInput, match="is there already, and is not the clip"):
        run(raw, other, settings)
    assert (other / done.kept[1].file).read_bytes() == b"mine"


def test_a_folder_without_videos(tmp_path: Path) -> None:
    for make, problem in ((Path.mkdir, "is empty"), (lambda path: None, "is missing")):
        make(path := tmp_path / problem.replace(" ", "-"))
        with pytest.raises(InvalidInput, match=problem):
            run(path, tmp_path / "out", CurateSettings())
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="is inside the folder of the videos"):
        run(tmp_path, tmp_path / "out", CurateSettings())

"""`linnet data check` on files with every fault: each is named, none ends the command, none is changed."""

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from linnet.cli import app
from made_clips import textured, turn_in_header, write_clip

WIDE, HIGH = 128, 72
LONG = " ".join(["a red star"] * 11)  # 33 words, and the model sees 32 tokens
CAPTION = "a red star"


def make_clips(folder: Path) -> dict[str, set[str]]:
    """Files with a caption each, and what is to be said of them. Each that can be seen shows a scene of its own."""
    expected: dict[str, set[str]] = {}
    seeds = iter(range(1000))

    def scene(frames: int = 25, width: int = WIDE, height: int = HIGH) -> np.ndarray:
        return textured(frames, width, height, seed=next(seeds))

    def add(name: str, *faults: str) -> Path:
        expected[name] = set(faults)
        path = folder / name
        path.with_suffix(".txt").write_text(CAPTION)
        return path

    def barred(left: int, top: int, right: int, bottom: int) -> np.ndarray:
        frames = np.zeros((25, HIGH, WIDE, 3), np.uint8)
        inside = scene(25, WIDE - left - right, HIGH - top - bottom)
        frames[:, top : HIGH - bottom, left : WIDE - right] = inside
        return frames

    plain = scene(49)
    write_clip(add("plain.mp4"), plain)
    write_clip(add("vp9.webm"), scene())
    write_clip(add("lossless.avi"), scene())
    uneven = [index / 24 + (0.03 if index % 5 == 4 else 0) for index in range(25)]
    write_clip(add("uneven.mp4", "variable frame rate"), scene(), times=uneven)
    paused = [index / 24 + (index > 12) for index in range(25)]
    write_clip(add("paused.mkv", "variable frame rate"), scene(), times=paused)
    write_clip(add("30fps.mp4", "resampled"), scene(30), rate=30)
    write_clip(add("16fps.mp4", "resampled"), scene(20), rate=16)
    for degrees in (90, 180, 270):
        sides = (HIGH, WIDE) if degrees % 180 else (WIDE, HIGH)
        write_clip(add(f"turned{degrees}.mp4", "rotated"), scene(25, *sides), turn=degrees)
    write_clip(add("mirrored.mp4", "cannot be read"), scene())
    turn_in_header(folder / "mirrored.mp4", 0, mirror=True)
    write_clip(add("pq.mp4", "HDR"), scene(), color_trc=16, color_primaries=9, colorspace=9)
    write_clip(add("hlg.mp4", "HDR"), scene(), color_trc=18, color_primaries=9, colorspace=9)
    write_clip(add("letterbox.mp4", "black bars", "odd shape", "small"), barred(0, 18, 0, 18))
    write_clip(add("pillarbox.mp4", "black bars", "odd shape", "small"), barred(37, 0, 37, 0))
    write_clip(add("window.mp4", "black bars"), barred(17, 9, 15, 9))
    write_clip(add("3frames.mp4", "too short"), scene(3))
    write_clip(add("long.mp4", "too long"), scene(80))
    write_clip(add("cut.mp4", "cut in the middle"), np.concatenate([scene(20), scene(20)]))
    for name in ("half.mp4", "half.mkv"):
        half = write_clip(add(name, "truncated"), scene(49))
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    write_clip(add("noindex.mp4", "damaged"), scene())
    content = (folder / "noindex.mp4").read_bytes().replace(b"moov", b"xxxx")
    (folder / "noindex.mp4").write_bytes(content)
    add("noise.mp4", "not a clip").write_bytes(np.random.default_rng(0).bytes(3000))
    add("page.mp4", "not a clip").write_text("<html>404</html>")
    add("empty.mp4", "empty file").write_bytes(b"")
    add("old.flv", "format").write_bytes(b"FLV\1" + bytes(99))
    add("same.mp4", "duplicate").write_bytes((folder / "plain.mp4").read_bytes())
    write_clip(add("recoded.mp4", "near-duplicate"), plain, options={"crf": "30"})
    write_clip(add("blank.mp4", "blank"), np.full((25, HIGH, WIDE, 3), 90, np.uint8))
    write_clip(add("still.mp4", "still"), scene(1).repeat(25, 0))
    write_clip(add("dark.mp4", "dark"), scene() // 10)
    write_clip(add("wide.mp4", "odd shape", "small"), scene(25, 256, 32))
    write_clip(add("tiny.avi", "small", "resampled"), scene(20, 47, 27), rate=20)
    interlaced = {"x264-params": "interlaced=1:tff=1"}
    write_clip(add("interlaced.mp4", "interlaced"), scene(), options=interlaced)
    with av.open(str(add("song.mp4", "no video")), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.rate = 44_100
        container.mux([*stream.encode(sound), *stream.encode()])
    Image.fromarray(scene(1)[0]).save(add("photo.png"))
    Image.fromarray(scene(1)[0]).save(add("cutoff.png", "truncated"))
    (folder / "cutoff.png").write_bytes((folder / "cutoff.png").read_bytes()[:900])
    frames = [Image.fromarray(frame) for frame in scene(8)]
    frames[0].save(add("animation.gif", "resampled"), save_all=True, append_images=frames[1:], duration=100)
    write_clip(add("line\nbreak é.mp4"), scene())

    write_clip(folder / "nocaption.mp4", scene())
    write_clip(add("emptycaption.mp4", "no caption"), scene()).with_suffix(".txt").write_text(" \n")
    write_clip(add("latin.mp4", "no caption"), scene()).with_suffix(".txt").write_bytes(b"caf\xe9")
    write_clip(add("wordy.mp4", "long caption"), scene()).with_suffix(".txt").write_text(LONG)
    (folder / "lonely.txt").write_text(CAPTION)
    (folder / "captions.jsonl").write_text(json.dumps({"file": "gone.mp4", "caption": CAPTION}))
    (folder / "notes.pdf").write_bytes(b"%PDF-1.7")
    outside = write_clip(folder.parent / "outside.mp4", scene())
    add("link.mp4").symlink_to(outside)
    add("broken.mp4", "broken link").symlink_to(folder / "nowhere.mp4")
    (folder / "broken.txt").unlink()
    (folder / "round").symlink_to(folder)
    return expected | {
        "nocaption.mp4": {"no caption"},
        "lonely.txt": {"caption without a clip"},
        "gone.mp4": {"caption without a clip"},
        "notes.pdf": {"not a clip"},
        "round": {"link to a folder"},
    }


def state_of(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        str(file): (
            (facts := file.stat()).st_mtime_ns,
            facts.st_ctime_ns,
            facts.st_mode,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in files
    }


def test_every_fault_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    expected = make_clips(folder)
    assert len(expected) >= 40
    before = state_of(folder)
    sheet = tmp_path / "sheet.png"
    given = ["data", "check", str(folder), "--model", "seedling", "--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as ended:
        app([*given, "--sheet", str(sheet), "--json"])
    assert ended.value.code == 0
    result = json.loads(capsys.readouterr().out)
    names = {file["file"]: {finding["name"] for finding in file["findings"]} for file in result["files"]}
    assert names == expected
    used = {file["file"] for file in result["files"] if file["used"]}
    fatal = ("too short", "damaged", "not a clip", "empty file", "format", "no video", "no caption")
    assert not used & {name for name, faults in expected.items() if faults & set(fatal)}
    words = {
        (file["file"], finding["name"]): finding["words"]
        for file in result["files"]
        for finding in file["findings"]
    }
    assert words["window.mp4", "black bars"].startswith(
        "left 17, top 9, right 15, bottom 9 pixels are cropped"
    )
    assert words["wordy.mp4", "long caption"] == "has over 32 tokens; the model does not see: red star"
    assert words["same.mp4", "duplicate"] == "has the same bytes as plain.mp4"
    assert "0.83 s" in words["cut.mp4", "cut in the middle"]
    assert state_of(folder) == before
    with Image.open(sheet) as picture:
        assert picture.width > 1000
    with pytest.raises(SystemExit):
        app([*given, "--no-sheet"])
    _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(expected)
    assert any(row.startswith("plain.mp4\t2.042\t128x72\t128x72, 49 frames") for row in rows)


def test_a_folder_without_clips_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    for command in ("check", "cache"):
        with pytest.raises(SystemExit) as ended:
            app(["data", command, str(lonely), "--model", "seedling"])
        assert ended.value.code == 2
        assert "is empty; put clips and their captions into it" in capsys.readouterr().err
    (lonely / "a.txt").write_text(CAPTION)
    for command in ("check", "cache"):
        with pytest.raises(SystemExit):
            app(["data", command, str(lonely), "--model", "seedling"])
        assert "has 1 caption and no clips; put the clips beside" in capsys.readouterr().err
    assert [file.name for file in lonely.iterdir()] == ["a.txt"]

"""Pictures and clips of other programs: what is shown of each kind, what is refused, and within which limits."""

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageCms, PngImagePlugin

from linnet.direct.footage import open_source, read_image
from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.inputs import child, clips, colour, folders, pictures, reader, timing
from linnet.inputs.clips import Limits, Notes

SIZE = Size(64, 48)
RED, BLUE = (220, 30, 30), (30, 60, 220)
ALL = Limits(seconds=301)


def scene(count: int = 5) -> list[np.ndarray]:
    """A red square that moves right on blue."""
    frames = np.tile(np.array(BLUE, np.uint8), (count, SIZE.height, SIZE.width, 1))
    for index, frame in enumerate(frames):
        frame[16:32, 8 + 4 * index : 24 + 4 * index] = RED
    return [*frames]


def encode(
    path: Path,
    frames: Sequence[Any],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    stamps: Sequence[int] | None = None,
    matrix: Colorspace = Colorspace.ITU709,
    wide: ColorRange | None = None,
    options: dict[str, str] | None = None,
    **tags: Any,
) -> Path:
    """A clip as another program writes it; stamps in 24ths of a second; `tags` are the codec context's."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24, options={"crf": "4", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            layout = "rgba" if frame.shape[-1] == 4 else "rgb48le" if frame.dtype == np.uint16 else "rgb24"
            picture = av.VideoFrame.from_ndarray(frame, format=layout)
            picture = picture.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=wide)
            picture.pts, picture.time_base = stamps[index] if stamps else index, Fraction(1, 24)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def seen(path: Path) -> tuple[list[np.ndarray], clips.Scan]:
    found = clips.scan(path, ALL)
    frames = list(clips.frames(path))
    assert len(frames) == len(found.times)
    return frames, found


def close(frame: np.ndarray, most: int = 8) -> bool:
    """Whether the square and the background have the colours that they were drawn in."""
    apart = [np.abs(frame[y, x].astype(int) - rgb).max() for (y, x), rgb in (((24, 16), RED), ((4, 4), BLUE))]
    return max(apart) <= most


# --- pictures -------------------------------------------------------------------------------------------------


def profile(name: Literal["LAB", "XYZ", "sRGB"]) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def adobe_rgb() -> bytes:
    """A profile whose primaries and gamma are not those of sRGB: sRGB's own, with red and green columns exchanged."""
    data = bytearray(profile("sRGB"))
    tags = {
        bytes(data[i : i + 4]): i for i in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12)
    }
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    data[red : red + 8], data[green : green + 8] = data[green : green + 8], data[red : red + 8]
    return bytes(data)


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    drawn = scene(1)[0]
    Image.fromarray(drawn[..., [1, 0, 2]]).save(tmp_path / "a.png", icc_profile=adobe_rgb())
    assert close(read_image(tmp_path / "a.png", SIZE), 2)
    opaque = np.full((*drawn.shape[:2], 1), 255, np.uint8)
    with_alpha = np.concatenate([drawn[..., [1, 0, 2]], opaque], -1)
    Image.fromarray(with_alpha).save(tmp_path / "b.png", icc_profile=adobe_rgb())
    assert close(pictures.read(tmp_path / "b.png", print), 2)
    notes = Notes()
    Image.fromarray(drawn).save(tmp_path / "c.png", icc_profile=b"no profile")
    assert close(pictures.read(tmp_path / "c.png", notes.add), 0)
    assert notes == ["the colour profile of c.png cannot be used: its colours are taken as sRGB"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "YCbCr", "HSV"])
def test_every_mode_of_a_picture_is_shown(mode: str, tmp_path: Path) -> None:
    """Black and white are the same in all of them."""
    drawn = np.zeros((48, 64), np.uint8)
    drawn[:24] = 255
    image: Image.Image = Image.fromarray(drawn)
    if mode == "I;16":
        image = Image.fromarray(drawn.astype(np.uint16) * 257)
    else:
        image = (
            image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV") else image.convert(mode)
        )
    ending = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    if mode in ("PA", "HSV"):
        shown = pictures.as_shown(image, tmp_path, print)
    else:
        image.save(tmp_path / f"a.{ending}")
        shown = pictures.read(tmp_path / f"a.{ending}", print)
    assert np.abs(shown.astype(int) - drawn[..., None]).max() <= 2


def test_a_picture_with_much_text_opens(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 1_200_000, zip=True)
    Image.fromarray(scene(1)[0]).save(tmp_path / "a.png", pnginfo=text)
    assert close(read_image(tmp_path / "a.png", SIZE), 0)
    assert reader.read_metadata(tmp_path / "a.png") is None


@pytest.mark.parametrize(
    "error", [ValueError, IndexError, SyntaxError, struct.error, RuntimeError, MemoryError]
)
def test_whatever_a_decoder_raises_is_one_line(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*what: Any, **more: Any) -> None:
        raise error("broken\nin two lines")

    Image.fromarray(scene(1)[0]).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", breaks)
    for use in (
        pictures.size_of,
        lambda path: pictures.read(path, print),
        lambda path: list(clips.frames(path)),
    ):
        with pytest.raises(InvalidInput) as caught:
            use(tmp_path / "a.png")
        assert "\n" not in str(caught.value)


def test_a_video_is_no_picture_and_a_picture_no_clip(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a video; use `video`"):
        read_image(encode(tmp_path / "a.mp4", scene()), SIZE)
    for ending in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
        Image.fromarray(scene(1)[0]).save(tmp_path / f"a.{ending}")
        with pytest.raises(InvalidInput, match=rf'video ".*a\.{ending}": is a still image; use `image`'):
            clips.scan(tmp_path / f"a.{ending}", ALL)
    (tmp_path / "a.png").rename(tmp_path / "b.mp4")  # whatever its name says
    with pytest.raises(InvalidInput, match="is a still image"):
        clips.scan(tmp_path / "b.mp4", ALL)


# --- animations and folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_each_frame_of_an_animation_stands_as_long_as_it_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    first, *rest = [Image.fromarray(frame) for frame in scene(4)]
    more: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first.save(
        path,
        kind,
        save_all=True,
        append_images=rest,
        duration=[40, 1000, 40, 0 if kind == "GIF" else 10],
        **more,
    )
    frames, found = seen(path)
    assert found.times == pytest.approx([0, 0.04, 1.04, 1.08])
    assert found.end == pytest.approx(1.18)  # none, or 10 ms, is a tenth of a second in all browsers
    order = open_source(path, SIZE, 24).order
    assert [order.count(number) for number in range(4)] == [1, 24, 1, 2]
    assert all(close(frame[:, 4 * index :] if index else frame, 40) for index, frame in enumerate(frames))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_what_alpha_hides_is_white_in_animations(kind: str, tmp_path: Path) -> None:
    hidden = [
        np.dstack([frame, np.where(frame[..., 0] == RED[0], 255, 0)]).astype(np.uint8) for frame in scene(3)
    ]
    first, *rest = [Image.fromarray(frame) for frame in hidden]
    more = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    path = tmp_path / f"a.{kind.lower()}"
    first.save(path, kind, save_all=True, append_images=rest, duration=40, disposal=2, **more)
    for index, frame in enumerate(clips.frames(path)):
        assert frame[4, 4].tolist() == [255, 255, 255]
        assert np.abs(frame[24, 16 + 4 * index].astype(int) - RED).max() <= 4


def test_a_folder_of_pictures_is_a_clip_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10, 11):
        Image.new("RGB", SIZE, (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"._{number}.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    frames, found = seen(tmp_path)
    assert [int(frame[0, 0, 0]) for frame in frames] == [1, 2, 10, 11]
    assert found.end == pytest.approx(4 / 24)
    assert [int(frame[0, 0, 0]) for frame in open_source(tmp_path, SIZE, 24).frames()] == [1, 2, 10, 11]
    (tmp_path / "request.json").write_text('{"request": {"fps": 12}}')
    assert clips.scan(tmp_path, ALL).end == pytest.approx(4 / 12)
    for text in ("[" * 100_000, '{"request": 3}', '{"request": {"fps": "fast"}}', "\udcff"):
        (tmp_path / "request.json").write_bytes(text.encode(errors="surrogateescape"))
        assert folders.pace_of(tmp_path) == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    with pytest.raises(
        InvalidInput, match=r'file ".*3\.png": is 8x8, and 1\.png in the same folder is 64x48'
    ):
        open_source(tmp_path, SIZE, 24)


# --- videos ---------------------------------------------------------------------------------------------------

TAGGED: dict[str, Any] = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
BT2020: dict[str, Any] = {"colorspace": 9, "color_primaries": 9, "color_range": 1}


@pytest.mark.parametrize(
    ("matrix", "wide", "tags"),
    [
        (Colorspace.ITU709, ColorRange.MPEG, TAGGED),
        (Colorspace.ITU709, ColorRange.JPEG, TAGGED | {"color_range": 2}),
        (Colorspace.ITU601, ColorRange.MPEG, {"colorspace": 6, "color_primaries": 6, "color_trc": 6}),
        (Colorspace.ITU709, ColorRange.MPEG, {"color_primaries": 1}),  # no matrix, but primaries
        (Colorspace.ITU601, ColorRange.MPEG, {}),  # below 720 lines
    ],
)
def test_matrix_and_range_of_a_clip_are_heeded(
    matrix: Colorspace, wide: ColorRange, tags: dict[str, Any], tmp_path: Path
) -> None:
    frames, found = seen(encode(tmp_path / "a.mkv", scene(), matrix=matrix, wide=wide, **tags))
    assert close(frames[0])
    assert any("does not name its colour matrix: read as BT.601" in note for note in found.notes) == (
        not tags
    )


def test_what_names_no_matrix_is_bt709_from_720_lines_on() -> None:
    small, large = (av.VideoFrame(*size, "yuv420p") for size in ((640, 480), (1280, 720)))
    assert (colour.matrix_of(small), colour.matrix_of(large)) == (Colorspace.ITU601, Colorspace.ITU709)
    assert colour.matrix_of(av.VideoFrame(64, 48, "rgb24")) is None


def high_range(frame: np.ndarray, transfer: int) -> np.ndarray:
    """The frame as it is put into HLG or PQ by BT.2408: white at 75 % of the signal, or 203 nits."""
    linear = colour.linear_light(frame / 255, 13) @ np.linalg.inv(np.array(colour.TO_SRGB[9])).T
    linear = np.maximum(linear, 0)
    if transfer == colour.HLG:
        scene_light = linear * colour.hybrid_log_gamma(np.array([0.75]))[0]
        bright = 0.17883277 * np.log(np.maximum(12 * scene_light - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene_light <= 1 / 12, np.sqrt(3 * scene_light), bright)
    elif transfer == colour.PQ:
        power = (linear * 203 / 10_000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        signal = colour.srgb_signal(linear)
    return (signal * 65535).round().astype(np.uint16)


@pytest.mark.parametrize(("transfer", "kind"), [(colour.HLG, "HLG"), (colour.PQ, "PQ"), (14, None)])
def test_wide_and_high_range_colours_are_brought_to_srgb(
    transfer: int, kind: str | None, tmp_path: Path
) -> None:
    frames = [high_range(frame, transfer) for frame in scene(3)]
    tags: dict[str, Any] = {**BT2020, "color_trc": transfer}
    path = encode(tmp_path / "a.mkv", frames, "libx265", "yuv444p10le", matrix=Colorspace.BT2020, **tags)
    shown, found = seen(path)
    assert close(shown[0])
    assert [note for note in found.notes if "HDR" in note] == (
        [f"a.mkv is HDR ({kind}): its colours are brought to those of usual screens"] if kind else []
    )


@pytest.mark.parametrize(
    ("codec", "pixels", "ending"),
    [("prores_ks", "yuva444p10le", "mov"), ("libvpx-vp9", "yuva420p", "webm"), ("ffv1", "bgra", "mkv")],
)
def test_what_alpha_hides_is_white_in_videos(codec: str, pixels: str, ending: str, tmp_path: Path) -> None:
    hidden = [
        np.dstack([frame, np.where(frame[..., 0] == RED[0], 255, 0)]).astype(np.uint8) for frame in scene(3)
    ]
    for frame in hidden:
        frame[frame[..., 3] == 0] = (0, 255, 0, 0)
    options = {"profile": "4444"} if codec == "prores_ks" else {"crf": "4", "b": "0", "auto-alt-ref": "0"}
    options = {} if codec == "ffv1" else options
    path = encode(tmp_path / f"a.{ending}", hidden, codec, pixels, options=options, **TAGGED)
    shown, _ = seen(path)
    assert len(shown) == 3
    assert shown[0][44, 60].min() >= 245
    assert np.abs(shown[0][24, 16].astype(int) - RED).max() <= 16


def test_the_clip_is_the_stream_that_is_no_cover(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4", scene(), **TAGGED)
    cover = io.BytesIO()
    Image.new("RGB", (300, 300), (0, 255, 0)).save(cover, "JPEG")
    with av.open(str(tmp_path / "clip.mp4")) as old, av.open(str(tmp_path / "a.mkv"), "w") as container:
        art: Any = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 300, 300, "yuvj420p"
        art.disposition = Disposition.attached_pic
        track = container.add_stream_from_template(old.streams.video[0])
        picture = av.VideoFrame.from_ndarray(np.full((300, 300, 3), (0, 255, 0), np.uint8), format="rgb24")
        container.mux(art.encode(picture.reformat(format="yuvj420p")))
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                container.mux(packet)
        container.mux(art.encode())
    shown, found = seen(tmp_path / "a.mkv")
    assert (len(shown), found.size) == (5, SIZE)
    assert close(shown[0])


def test_joined_transport_streams_are_read_to_the_end(tmp_path: Path) -> None:
    first, second = (encode(tmp_path / f"{n}.ts", scene(n), **TAGGED).read_bytes() for n in (5, 4))
    (tmp_path / "a.ts").write_bytes(first + second)
    shown, found = seen(tmp_path / "a.ts")
    assert len(shown) == 9
    assert found.end == pytest.approx(9 / 24, abs=0.01)
    assert "start again or leap" in " ".join(found.notes)


@pytest.mark.parametrize("wild", [10**9, 24 * 400, -(10**6)])
@pytest.mark.parametrize("where", [0, 2, 4])
def test_one_wild_time_stamp_costs_one_frame_its_place(wild: int, where: int) -> None:
    stamps: list[float | None] = [index / 24 for index in range(5)]
    stamps[where] = wild / 24
    times, mended = timing.continuous(stamps, 1 / 24)
    assert times == pytest.approx([index / 24 for index in range(5)])
    assert mended >= 1


def test_stamps_that_are_missing_or_pause_are_believed() -> None:
    assert timing.continuous([0, None, 2, 12], 1)[0] == pytest.approx([0, 1, 2, 12])
    assert timing.continuous([0, 1, 1, 2], 1) == ([0, 1, 1, 2], 0)
    assert timing.continuous([], 1) == ([], 0)


def test_a_wild_stamp_in_a_file_ends(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", scene(), stamps=[0, 1, 2, 3, 24 * 10**5], **TAGGED)
    assert len(open_source(path, SIZE, 24).order) <= 6


def test_interlaced_frames_are_made_whole(tmp_path: Path) -> None:
    """Fields of two moments are combs where something moves; made whole, a line is like the one below it."""
    moments = scene(10)
    combed = []
    for even, odd in zip(moments[::2], moments[1::2], strict=True):
        frame = even.copy()
        frame[1::2] = odd[1::2]
        combed.append(frame)
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    path = encode(tmp_path / "a.mp4", combed, options=options, **TAGGED)
    shown, found = seen(path)
    assert "is interlaced: its fields are made into whole frames" in " ".join(found.notes)

    def comb(frame: np.ndarray) -> float:
        inside = frame[17:31].astype(int)
        return float(np.abs(inside[1:] - inside[:-1]).mean())

    assert comb(shown[2]) < comb(combed[2]) / 3


def test_containers_that_are_not_read_name_those_that_are(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flv", scene())
    with pytest.raises(InvalidInput, match=r"cannot be read as a clip; use \.mp4, .*folder of pictures"):
        open_source(path, SIZE, 24)


# --- limits ---------------------------------------------------------------------------------------------------


def claiming(path: Path, samples: int) -> Path:
    """An .mp4 whose table says that it has so many samples of one size."""
    data = encode(path, scene(), **TAGGED).read_bytes()
    place = data.index(b"stsz") + 4
    count = struct.unpack(">I", data[place + 8 : place + 12])[0]
    assert count == 5
    path.write_bytes(data[: place + 4] + struct.pack(">II", 4, samples) + data[place + 12 :])
    return path


def test_a_table_of_eighty_million_samples_is_one_line(tmp_path: Path) -> None:
    path = claiming(tmp_path / "a.mp4", 80_000_000)
    with pytest.raises(InvalidInput) as caught:
        reader.scan(path, ALL)
    assert "\n" not in str(caught.value)


SPEND = """
import sys, time
from linnet.inputs import child
def answers(asked):
    {body}
    yield {{}}, None
child.answers = answers
child.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = bytearray(3_000_000_000)", "takes too much memory to read; make it smaller or shorter"),
        ("time.sleep(600)", "takes over 1 s to read; make it smaller or shorter"),
        ("import os; os.abort()", r"breaks the program that reads it \(SIGABRT\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "takes over 60 s to read"),
    ],
)
def test_what_takes_too_much_is_refused(
    body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = subprocess.Popen

    def spending(command: list[str], **more: Any) -> Any:
        assert command[-1] == "linnet.inputs.child"
        return begin([sys.executable, "-c", SPEND.format(body=body)], **more)

    monkeypatch.setattr(subprocess, "Popen", spending)
    monkeypatch.setattr(reader, "WAIT", 1.0)
    with pytest.raises(InvalidInput, match=words):
        reader.probe(tmp_path / "any.mp4")


def test_the_child_has_limits_and_no_torch() -> None:
    code = (
        "import sys, resource; from linnet.inputs import child, clips, videos, joint; child.limit();"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0],"
        "'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(child.MEMORY), str(child.SECONDS), "False"]
    assert (child.MEMORY <= 1.5e9, child.SECONDS <= 60) == (True, True)


class Cancelled(Exception):
    """As a worker's report raises when its job is gone."""


@pytest.mark.parametrize(
    "use",
    [
        lambda path, tick: reader.scan(path, ALL, tick),
        lambda path, tick: next(reader.frames(path, [0], tick)),
    ],
)
def test_whoever_waits_can_cancel_and_the_child_ends(
    use: Callable[[Path, Callable[[], None]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "slow.mp4")  # which nobody ever writes to
    children: list[Any] = []
    begin = subprocess.Popen

    def noted(*command: Any, **more: Any) -> Any:
        children.append(begin(*command, **more))
        return children[-1]

    def tick() -> None:
        raise Cancelled

    monkeypatch.setattr(subprocess, "Popen", noted)
    with pytest.raises(Cancelled):
        use(tmp_path / "slow.mp4", tick)
    assert [one.returncode is not None for one in children] == [True]


def test_the_child_reads_no_modules_from_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("json.py", "numpy.py", "av.py"):
        Path(name).write_text("raise SystemExit('mine')")
    Image.fromarray(scene(1)[0]).save("a.png")
    assert reader.picture_size(Path("a.png")) == SIZE

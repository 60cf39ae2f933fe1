"""Clips in files: complete or not there, the same bytes each time, their record and colours inside."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from linnet import media
from linnet.errors import InvalidInput
from linnet.filesystem import complete
from linnet.geometry import Size
from made_clips import textured, write_clip

ENDINGS = [".mp4", ".webm", ".mkv", ".gif", ".webp", ""]
EXACT = [".mkv", ".gif", ".webp", ""]  # those that take odd sizes
RECORD = {"prompt": 'a "fox" \\ fährt\n🦊 ' * 40, "seed": 2**32 - 1, "request": {"fps": 24}}
WIDTH, HEIGHT, COUNT = 64, 64, 12


def scene(count: int = COUNT, width: int = WIDTH, height: int = HEIGHT) -> media.Frames:
    """A red square that moves over a noisy blue ground."""
    grey = np.random.default_rng(0).integers(0, 40, (height, width, 1), np.uint8)
    ground = grey + np.array([0, 20, 150], np.uint8)
    frames = np.repeat(ground[None], count, axis=0)
    for i, frame in enumerate(frames):
        frame[8:24, 2 * i : 2 * i + 16] = 230, 20, 30
    return frames


def write(path: Path, frames: media.Frames, record: dict[str, Any] = RECORD, **settings: Any) -> Path:
    height, width = frames.shape[1:3]
    settings = {"fps": 24, "overwrite": False} | settings
    with media.open_writer(path, width=width, height=height, metadata=record, **settings) as writer:
        for start in range(0, len(frames), 4):
            writer.write(frames[start : start + 4])
    return path


def write_all(path: Path, frames: Iterable[media.Frames]) -> None:
    with media.open_writer(path, width=WIDTH, height=HEIGHT, fps=24, metadata={}) as writer:
        for some in frames:
            writer.write(some)


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_can_be_read(tmp_path: Path, ending: str) -> None:
    frames = scene()
    path = write(tmp_path / f"clip{ending}", frames)
    read = list(media.read_frames(path))
    assert len(read) == COUNT
    error = np.abs(np.stack(read).astype(int) - frames)
    assert error.mean() < {".gif": 4, ".mkv": 0.0001, "": 0.0001}.get(ending, 6)
    assert media.read_metadata(path) == RECORD
    found = media.probe(path)
    assert (found.size, found.frames) == (Size(WIDTH, HEIGHT), COUNT)
    assert found.fps == pytest.approx(24, rel=0.02 if ending == ".gif" else 1e-3)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_still_is_a_clip_of_one_frame(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"clip{ending}", scene(1))
    assert [frame.shape for frame in media.read_frames(path)] == [(HEIGHT, WIDTH, 3)]
    assert media.read_metadata(path) == RECORD


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_clip_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    frames, other = scene(), tmp_path / f"other{ending}"
    one = write(tmp_path / f"one{ending}", frames)
    with media.open_writer(other, width=WIDTH, height=HEIGHT, fps=24, metadata=RECORD) as writer:
        writer.write(frames)  # all at once, and in another file
    assert content(one) == content(other)
    different = write(tmp_path / f"different{ending}", frames, RECORD | {"seed": 1})
    assert content(one) != content(different)


def test_clips_encoded_at_once_have_the_bytes_of_one_alone(tmp_path: Path) -> None:
    found = [write_clip(tmp_path / f"{seed}.mp4", textured(60, 64, 64, seed=seed)) for seed in (0, 1)]
    clips = [[*media.read_frames(path)][:49] for path in found]

    def encoded(number: int) -> bytes:
        path = tmp_path / f"{number} again.mp4"
        with media.open_writer(path, width=64, height=64, fps=24, metadata={}) as writer:
            for frame in clips[number % 2]:
                writer.write(frame[None])
        return path.read_bytes()

    alone = [encoded(-2), encoded(-1)]
    with ThreadPoolExecutor(4) as pool:
        assert all(data == alone[number % 2] for number, data in enumerate(pool.map(encoded, range(60))))


def test_mp4_plays_while_it_loads_and_names_its_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", scene())
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context: Any = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert container.streams.video[0].average_rate == 24
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1


def test_the_encoder_uses_as_many_threads_on_every_machine(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"  # x264 uses one thread for less height, and notes its settings in the file
    with media.open_writer(path, width=640, height=360, fps=24, metadata=RECORD) as writer:
        writer.write(np.zeros((1, 360, 640, 3), np.uint8))
    assert b" threads=2 " in path.read_bytes()


def plane_mean(plane: Any) -> float:
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
    return float(rows[: plane.height, : plane.width].mean())


# BT.709 in limited range, from the standard's own coefficients.
@pytest.mark.parametrize("ending", [".mp4", ".webm"])
@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [((255, 0, 0), (63, 102, 240)), ((0, 255, 0), (173, 42, 26)), ((255, 255, 255), (235, 128, 128))],
)
def test_colours_are_those_of_bt709(
    tmp_path: Path, ending: str, rgb: tuple[int, ...], yuv: tuple[int, ...]
) -> None:
    flat = np.broadcast_to(np.array(rgb, np.uint8), (3, HEIGHT, WIDTH, 3)).copy()
    path = write(tmp_path / f"clip{ending}", flat)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        planes = [plane_mean(plane) for plane in frame.planes]
    assert planes == pytest.approx(yuv, abs=2.5)
    assert np.stack(list(media.read_frames(path))).mean((0, 1, 2)) == pytest.approx(rgb, abs=5)


def test_a_file_that_names_another_matrix_is_read_by_it(tmp_path: Path) -> None:
    path, bt601 = tmp_path / "clip.mp4", 5
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.colorspace = bt601
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane, value in zip(frame.planes, (81, 90, 240), strict=True):  # BT.601's red
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace = bt601
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (read,) = media.read_frames(path)
    assert read.mean((0, 1)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize("ending", EXACT)
def test_odd_sizes_where_the_format_has_them(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"clip{ending}", scene(2, 51, 33))
    assert [frame.shape for frame in media.read_frames(path)] == [(33, 51, 3)] * 2


@pytest.mark.parametrize("ending", ENDINGS)
def test_few_frames_are_kept(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "WAITING", 2)
    alive: list[weakref.ref[Any]] = []
    with media.open_writer(
        tmp_path / f"clip{ending}", width=WIDTH, height=HEIGHT, fps=24, metadata={}
    ) as writer:
        for _ in range(COUNT):
            frames = scene(1)
            alive.append(weakref.ref(frames))
            writer.write(frames)
            del frames
            assert sum(ref() is not None for ref in alive) <= 3  # two wait, and one is encoded


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_thread_changes_no_byte(tmp_path: Path, ending: str) -> None:
    frames, path = scene(), tmp_path / f"plain{ending}"
    with media.open_writer(path, width=WIDTH, height=HEIGHT, fps=24, metadata=RECORD).target as writer:
        writer.write(frames)  # the writer without a thread
    assert content(path) == content(write(tmp_path / f"threaded{ending}", frames))


def test_encoding_and_waiting_are_timed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = threading.Event()
    add = media.VideoWriter.add
    monkeypatch.setattr(media.VideoWriter, "add", lambda *given: (slow.wait(0.02), add(*given)))
    with media.open_writer(tmp_path / "clip.mkv", width=WIDTH, height=HEIGHT, fps=24, metadata={}) as writer:
        writer.write(scene())
        handed_over = writer.waited
    assert writer.encoding >= 0.02 * COUNT
    assert (
        handed_over < 0.02 * COUNT <= writer.waited
    )  # all of it at the end, when nothing was left to decode


def failing_at(count: int, error: BaseException) -> Callable[..., None]:
    """A writer's `add` that fails at that frame."""

    def add(writer: media.Writer, frame: media.Frame) -> None:
        if writer.count == count:
            raise error

    return add


def test_what_fails_in_encoding_stops_whoever_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(media.VideoWriter, "add", failing_at(3, full))
    decoded = 0

    def decoding() -> Iterator[media.Frames]:
        nonlocal decoded
        for _ in range(10**6):  # without end, if nobody hears of it
            decoded += 1
            yield scene(1)

    with pytest.raises(InvalidInput, match="disk is full"):
        write_all(tmp_path / "clip.mkv", decoding())
    assert decoded < 100
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encoder")]


def test_ctrl_c_while_frames_wait_and_again_while_they_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes while the encoder is still at a frame of the file that the first one gives up."""
    begun, go = threading.Event(), threading.Event()
    encoded: list[int] = []

    def add(writer: media.Writer, frame: media.Frame) -> None:
        begun.set()
        assert go.wait(10)
        encoded.append(writer.count)

    def press() -> None:
        begun.wait(10)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        go.set()

    monkeypatch.setattr(media.VideoWriter, "add", add)
    presser = threading.Thread(target=press)

    def decoding() -> Iterator[media.Frames]:
        yield from np.split(scene(), COUNT)
        presser.start()
        presser.join()

    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path / "clip.mkv", decoding())
    assert encoded == [0]  # those that waited are dropped
    assert list(tmp_path.iterdir()) == []


# --- what cannot be written ------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(limit: int) -> Iterator[None]:
    """Past this many bytes no file of this process grows, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_room_even_to_begin(tmp_path: Path, ending: str) -> None:
    record = {"prompt": "x" * 2**17}  # more than any buffer: it is written at once where it comes first
    with files_of_at_most(10), pytest.raises(InvalidInput, match="File too large"):
        write(tmp_path / f"clip{ending}", scene(), record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_full_disk_leaves_nothing(tmp_path: Path, ending: str, share: float) -> None:
    sizes = [len(data) for data in content(write(tmp_path / f"whole{ending}", scene())).values()]
    folder = tmp_path / "full"
    folder.mkdir()
    limit = min(max(sizes) - 1, int(share * max(sizes)))  # one byte is enough to fail
    with files_of_at_most(limit), pytest.raises(InvalidInput, match="File too large") as error:
        write(folder / f"clip{ending}", scene())
    assert "\n" not in str(error.value)
    assert list(folder.iterdir()) == []


def breaking(frames: media.Frames, error: type[BaseException]) -> Any:
    """Frames of which the third four are not to be had."""

    class Breaking(np.ndarray):
        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice) and index.start == 8:
                raise error
            return super().__getitem__(index)

    return frames.view(Breaking)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_nothing_new(tmp_path: Path, ending: str, error: type[BaseException]) -> None:
    path = write(tmp_path / f"clip{ending}", scene())
    before = content(path)
    with pytest.raises(error):
        write(path, breaking(scene(), error), overwrite=True)
    assert content(path) == before
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from linnet import media
with media.open_writer(Path(sys.argv[1]), width=64, height=48, fps=24, metadata={}) as writer:
    writer.write(np.zeros((8, 48, 64, 3), np.uint8))
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert list(media.read_frames(write(path, scene())))  # and what it left is in nobody's way


def test_a_clip_needs_a_frame_of_its_size(tmp_path: Path) -> None:
    for frames, problem in ((scene(0), "needs a frame"), (scene(1, 32, 16), "32x16")):
        with (
            pytest.raises(ValueError, match=problem),
            media.open_writer(
                tmp_path / "clip.mp4", width=WIDTH, height=HEIGHT, fps=24, metadata={}
            ) as writer,
        ):
            writer.write(frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_only_an_explicit_overwrite_replaces(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"clip{ending}", scene())
    with pytest.raises(InvalidInput, match="is there already"):
        write(path, scene(3))
    write(path, scene(3), overwrite=True)
    assert len(list(media.read_frames(path))) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    writer = media.open_writer(path, width=WIDTH, height=HEIGHT, fps=24, metadata={})
    writer.__enter__()
    writer.write(scene())
    path.write_text("mine")
    with pytest.raises(InvalidInput, match="is there already"):
        writer.__exit__(None, None, None)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for path in (tmp_path, tmp_path / "." / ""):
        with pytest.raises(InvalidInput, match="other things"):
            write(path, scene(), overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def refusals() -> Iterator[Any]:
    def case(name: str, width: int, match: str, prepare: Callable[[Path], object] = bool) -> Any:
        return pytest.param(name, width, match, prepare, id=name)

    yield case("clip.avi", 64, r"\.avi.*\.mp4, \.webm, \.mkv, \.gif, \.webp.*PNG")
    yield case("clip.mp4", 63, r'size "63x64".*even')
    yield case("clip.webm", 63, r'size "63x64".*even')
    yield case("plain/clip.mp4", 64, "Not a directory", lambda at: (at / "plain").write_text(""))
    yield case(f"{'x' * 252}.mp4", 64, "too long")
    yield case(f"none/{'x' * 252}.mp4", 64, "too long")
    yield case("nul\0.mp4", 64, "null character")
    yield case("folder.mp4", 64, "is a folder", lambda at: (at / "folder.mp4").mkdir())
    yield case("plain", 64, "is a file", lambda at: (at / "plain").write_text(""))


@pytest.mark.parametrize(("name", "width", "match", "prepare"), [*refusals()])
def test_refusals(
    tmp_path: Path, name: str, width: int, match: str, prepare: Callable[[Path], object]
) -> None:
    prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match=match):
        write(tmp_path / name, scene(1, width), overwrite=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_dash_is_no_folder_and_missing_folders_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="standard output"):
        write(Path("-"), scene(1))
    assert list(tmp_path.iterdir()) == []
    write(Path("some/where/clip.gif"), scene(1))
    assert (tmp_path / "some/where/clip.gif").is_file()


def test_two_writers_of_one_name_and_one_process_number(tmp_path: Path) -> None:
    """As two containers with one volume see each other: whole clips under the name, and one winner."""
    path = tmp_path / "clip.mkv"
    for overwrite in (True, False):
        path.unlink(missing_ok=True)
        first, second = (
            media.open_writer(path, width=WIDTH, height=HEIGHT, fps=24, metadata={}, overwrite=overwrite)
            for _ in range(2)
        )
        first.__enter__()
        first.write(scene(8))
        second.__enter__()
        second.write(scene(4))
        first.__exit__(None, None, None)
        assert media.probe(path).frames == 8
        with nullcontext() if overwrite else pytest.raises(InvalidInput, match="is there already"):
            second.__exit__(None, None, None)
        assert media.probe(path).frames == (4 if overwrite else 8)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["0" * 246, "é" * 120, os.fsdecode(b"caf\xe9" * 50)])
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str, ending: str) -> None:
    path = write(tmp_path / f"{name}{ending}", scene(2), {"file": name})
    assert media.read_metadata(path) == {"file": name}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_is_taken_once_also_where_there_are_no_links(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "note.txt"
    with complete(path, overwrite=False) as part:
        part.write_text("first")
    with pytest.raises(InvalidInput, match="is there already"), complete(path, overwrite=False) as part:
        part.write_text("second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("note.txt", "first")]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_that_cannot_be_written_to(ending: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be written"):
        write(Path(f"/proc/self/clip{ending}"), scene(1))


# --- what cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use", [media.read_metadata, media.probe, lambda path: list(media.read_frames(path))]
)
def test_what_is_no_clip(tmp_path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(InvalidInput, match="is missing"):
        use(tmp_path / "none.mp4")
    for name in ("text.mp4", "text.webm", "text.gif", "text.webp", "text.png", "text"):
        (tmp_path / name).write_text("no clip at all")
        with pytest.raises(InvalidInput, match="cannot be read"):
            use(tmp_path / name)


@pytest.mark.parametrize("side", [12, 15])  # of which Pillow warns, and which it refuses
@pytest.mark.filterwarnings("error")
def test_an_image_of_too_many_pixels_is_refused_in_a_line(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (side, side)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InvalidInput, match="has over 0 million pixels; make it smaller"):
        media.probe(tmp_path / "large.png")


def test_grey_of_16_bits_is_not_white(tmp_path: Path) -> None:
    for name, value in (("0.png", 0), ("1.png", 30_000), ("2.png", 65_535)):
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(tmp_path / name)
    assert [frame.mean() for frame in media.read_frames(tmp_path)] == [0, 117, 255]
    assert next(media.read_frames(tmp_path / "1.png")).mean() == 117
    Image.new("F", (4, 6), 0.5).save(tmp_path / "float.tiff")
    (tmp_path / "float.tiff").rename(tmp_path / "float.png")
    with pytest.raises(InvalidInput, match="has pixels of 32 bits"):
        next(media.read_frames(tmp_path / "float.png"))


def test_a_list_of_files_is_not_followed(tmp_path: Path) -> None:
    """Neither to other files nor onto the network."""
    write(tmp_path / "clip.mp4", scene())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(media.read_frames(tmp_path / "list.mp4"))


def test_a_clip_without_a_record(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = "holiday"
        stream: Any = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(WIDTH, HEIGHT, "yuv420p")))
        container.mux(stream.encode())
    assert media.read_metadata(path) is None
    (tmp_path / "images").mkdir()
    assert media.read_metadata(tmp_path / "images") is None

"""Clips that begin from pictures and from other clips: what is given is kept, and what cannot be is refused."""

import re
import shlex
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import linnet
from linnet import media
from linnet.catalog import SEEDLING, find
from linnet.cli import app
from linnet.clip import Clip
from linnet.data.synthetic import Scene, render
from linnet.direct.colours import graded, look_up_table
from linnet.direct.conditions import Colours, Conditions, begins_at, still
from linnet.direct.extend import join, open_old
from linnet.direct.footage import frames_in, length_for, open_source, paced, read_image
from linnet.direct.samplers import Edited, Renoised, differences
from linnet.errors import InvalidInput
from linnet.evaluate.measures import apart, path_of
from linnet.geometry import Size
from linnet.model_runner import ModelRunner
from linnet.models.tae import TAE, TAEConfig
from linnet.pipeline import Pipeline
from linnet.request import make_request
from linnet.sampling.denoise import denoise
from linnet.sampling.flow import TIMESTEPS, sigmas
from linnet.sampling.keep_frames import CONDITIONING_NOISE, KeptFrames, noisier
from linnet.sampling.solvers import SOLVERS, euler

SCENE = Scene(shape="star", colour="red", size="large", background="blue", motion="left", x=96, y=36)
PROMPT = "a large red star moves left on a blue background"
SIZE = Size(128, 72)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Pipeline:
    return linnet.load("seedling", weights=tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "drawn.mp4"
    write(path, render(SCENE, 29))
    return path


def write(path: Path, frames: Any, size: Size = SIZE) -> None:
    with media.open_writer(path, width=size.width, height=size.height, fps=24, metadata={}) as writer:
        writer.write(frames)


def turn(path: Path, *matrix: int) -> None:
    """Have players turn the clip."""
    data = path.read_bytes()
    place = data.index(b"tkhd") + 44  # of the track's matrix
    a, b, c, d = (value << 16 for value in matrix)
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])


def foreign(path: Path) -> None:
    """A clip that another program encoded."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "refs": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for frame in render(SCENE, 5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def command(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def swirl(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    """A velocity that depends on everything."""
    return latents.roll(1, 2).sin() + timestep / TIMESTEPS


# --- ways from noise to a clip --------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_held_is_reached_exactly_whatever_the_solver(solver: str) -> None:
    shown = {0: torch.randn(1, 4, 3, 3), -1: torch.randn(1, 4, 3, 3)}
    noise, levels = torch.randn(2, 4, 5, 3, 3), sigmas(8, 3.0)
    *_, last = KeptFrames(frames=shown, seed=1)(swirl, noise, levels, SOLVERS[solver])
    for frame, known in shown.items():
        assert torch.allclose(last.latents[:, :, frame], known.expand(2, -1, -1, -1), atol=1e-5)
    assert (last.index, last.count) == (7, 8)


def test_what_is_held_is_half_as_noisy_as_the_rest_when_the_model_sees_it() -> None:
    noise, seen = torch.randn(1, 4, 50, 30, 30), []

    def model(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        seen.append((timestep / TIMESTEPS, latents[:, :, 0].std().item()))
        return swirl(latents, timestep)

    shown = torch.zeros(1, 4, 30, 30)
    list(KeptFrames(frames={0: shown}, seed=1, resampling_steps=3)(model, noise, sigmas(6, 3.0), euler))
    assert len(seen) > 6
    assert all(spread == pytest.approx(CONDITIONING_NOISE * level, rel=0.1) for level, spread in seen)


def test_noise_that_comes_back_has_the_level_of_where_it_came_from() -> None:
    x = 0.3 * torch.randn(1, 1, 20, 50, 50)
    assert noisier(x, torch.randn(x.shape), 0.3, 0.8).std().item() == pytest.approx(0.8, rel=0.02)


def test_all_of_the_steps_from_a_clip_are_plain_denoising() -> None:
    clip, noise, levels = torch.randn(1, 4, 5, 3, 3), torch.randn(1, 4, 5, 3, 3), sigmas(6, 3.0)
    *_, plain = denoise(swirl, noise, levels)
    *_, from_clip = Renoised(clip=clip, strength=1.0)(swirl, noise, levels, euler)
    assert torch.equal(plain.latents, from_clip.latents)
    assert len(list(Renoised(clip=clip, strength=0.5)(swirl, noise, levels, euler))) == 3


def test_the_note_tells_the_noise_level_that_the_model_sees_first() -> None:
    request = make_request(SEEDLING, prompt=PROMPT, steps=50)
    clip, noise, seen = torch.zeros(1, 4, 2, 3, 3), torch.randn(1, 4, 2, 3, 3), []

    def model(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        seen.append(timestep / TIMESTEPS)
        return swirl(latents, timestep)

    list(Renoised(clip=clip, strength=0.4)(model, noise, sigmas(50, request.shift), euler))
    assert begins_at(request, 0.4) == f"begins at noise level {seen[0]:.2f} (20 of 50 steps)"
    assert len(seen) == 20
    assert 0.4 < seen[0] < 1


def test_a_clip_of_a_length_that_no_model_makes_is_refused_by_its_name(drawn: Path) -> None:
    linum = find("linum-v2-360p")
    with pytest.raises(
        InvalidInput, match=r'^video ".*drawn.mp4": has 29 frames .*makes 2 to 300.*; give a longer'
    ):
        frames_in(drawn, linum)
    with pytest.raises(InvalidInput, match=r"300 seconds .*; name a part of it with `seconds`$"):
        length_for(linum, drawn, 7206, shorten="name a part of it with `seconds`")
    assert (length_for(linum, drawn, 7204), frames_in(drawn, SEEDLING)) == (7201, 29)


def test_an_edit_to_what_is_there_already_changes_nothing() -> None:
    clip, noise = torch.randn(1, 4, 5, 3, 3), torch.randn(1, 4, 5, 3, 3)
    *_, last = Edited(clip=clip, source=swirl, strength=0.8, seed=1)(swirl, noise, sigmas(6, 3.0), euler)
    assert torch.allclose(last.latents, clip, atol=1e-5)


def test_an_edit_changes_what_the_two_prompts_see_otherwise_and_nothing_else() -> None:
    def elsewhere(x: torch.Tensor, timestep: float) -> torch.Tensor:
        shifted = swirl(x, timestep)
        shifted[:, :, 2, 1, 1] += 3.0
        return shifted

    clip, noise = torch.randn(1, 4, 5, 3, 3), torch.randn(1, 4, 5, 3, 3)
    within = differences(clip, swirl, elsewhere, seed=1)
    assert within[0, 0, 2, 1, 1] == 1
    assert within.sum() == 1

    def another(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return swirl(x, timestep) + 1

    course = Edited(clip=clip, source=swirl, strength=0.8, seed=1, plain=(swirl, elsewhere))
    *_, last = course(another, noise, sigmas(6, 3.0), euler)
    changed = (last.latents - clip).abs() > 1e-5
    assert changed[0, :, 2, 1, 1].all()
    assert changed.sum() == 4


# --- pictures in ----------------------------------------------------------------------------------------------


def test_frames_encoded_one_by_one_are_those_of_the_whole_clip() -> None:
    model = TAE(TAEConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8)))
    video = torch.rand(1, 13, 3, 16, 24)
    with torch.no_grad():
        whole = model.encode(video, lead=3)
        parts = (part.transpose(1, 2) * 2 - 1 for part in video.split(5, 1))
        stream = torch.cat(list(model.encode_stream(parts)), 2)
    assert torch.allclose(stream.transpose(1, 2), whole, atol=1e-5)


def test_the_first_frame_is_the_images(pipeline: Pipeline, tmp_path: Path) -> None:
    Image.fromarray(render(SCENE, 1)[0]).save(tmp_path / "first.png")
    request = make_request(SEEDLING, prompt=PROMPT, frames=13, steps=4, seed=1)
    way = Conditions(image=tmp_path / "first.png").conditioning(pipeline, request)
    *_, last = pipeline.runner.sample(request, sampler=way.sampler)
    known = pipeline.runner.encode_frames(lambda: [read_image(tmp_path / "first.png", SIZE)])
    alone = next(pipeline.runner.decode(known))[0].astype(int)
    assert np.abs(next(pipeline.runner.decode(last.latents))[0] - alone).max() <= 1


def test_a_short_clip_ends_with_its_last_image(pipeline: Pipeline, tmp_path: Path) -> None:
    """It is the first frames of a longer one, whose last frame is not the clip's."""
    Image.fromarray(render(SCENE, 1)[0]).save(tmp_path / "last.png")
    request = make_request(SEEDLING, prompt=PROMPT, frames=13, steps=2, seed=1)
    way = Conditions(last_image=tmp_path / "last.png").conditioning(pipeline, request)
    *_, last = pipeline.runner.sample(request, sampler=way.sampler)
    picture = read_image(tmp_path / "last.png", SIZE)
    known = pipeline.runner.encode_frames(lambda: still(picture))
    torch.testing.assert_close(last.latents[:, :, -1], known[:, :, -1], rtol=1e-4, atol=1e-4)


def test_a_clip_remembers_its_image_and_finds_it_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(SCENE, 1)[0]).save("first.png")
    common = ("--model", "seedling", "--weights", tiny_model, "--quiet")
    first = command(
        *("generate", PROMPT, *common, "--seconds", 1, "--steps", 2, "--seed", 1),
        *("--image", "first.png", "--output", "one.mp4"),
    )
    assert first.exit_code == 0, first.output
    assert command("generate", *common, "--like", "one.mp4", "--output", "two.mp4").exit_code == 0
    assert Path("one.mp4").read_bytes() == Path("two.mp4").read_bytes()
    Image.fromarray(render(SCENE, 9)[8]).save("first.png")
    other = command("generate", *common, "--like", "one.mp4", "--output", "three.mp4")
    assert other.exit_code == 2
    assert "image" in other.stderr


def test_what_is_given_is_laid_over_what_an_earlier_clip_tells(tmp_path: Path, drawn: Path) -> None:
    first, last = tmp_path / "first.png", tmp_path / "last.png"
    for path, frame in zip((first, last), render(SCENE, 2), strict=True):
        Image.fromarray(frame).save(path)
    clip, video = tmp_path / "clip.mp4", drawn.parent / "clip.mp4"
    image = Conditions(image=first, fit="pad").record()
    followed = Conditions(video=drawn).record() | {"strength": 0.6}
    cases: tuple[tuple[Path, dict[str, Any], dict[str, Any], dict[str, Any]], ...] = (
        (clip, image, {}, {"image": first, "fit": "pad"}),
        (clip, image, {"last_image": last}, {"image": first, "last_image": last, "fit": "pad"}),
        (clip, image, {"image": last, "fit": "crop"}, {"image": last, "fit": "crop"}),
        (clip, image, {"video": drawn}, {"video": drawn, "fit": "pad"}),
        (
            *(video, followed | {"colours": "prompt"}, {"strength": 0.9}),
            {"video": drawn, "strength": 0.9, "colours": "prompt"},
        ),
        (
            video,
            followed,
            {},
            {"video": drawn, "strength": 0.6, "colours": "clip"},
        ),  # before there was a choice
        (video, followed, {"image": first}, {"image": first}),
        (clip, {"edits": {}, "strength": 0.5}, {"image": first}, {"image": first}),
    )
    for where, record, given, expected in cases:
        assert Conditions.from_record(where, record, **given) == Conditions(**expected)
    with pytest.raises(InvalidInput, match="there is none"):
        Conditions.from_record(clip, {}, fit="crop")


def test_windows_that_lead_to_a_last_image_are_made_together(tiny_model: Path, tmp_path: Path) -> None:
    Image.fromarray(render(SCENE, 1)[0]).save(tmp_path / "last.png")
    result = command(
        *("generate", PROMPT, "--last-image", tmp_path / "last.png", "--seconds", 4, "--steps", 1),
        *("--model", "seedling", "--weights", tiny_model, "--output", tmp_path / "a.mp4"),
    )
    assert result.exit_code == 0, result.output
    assert "made together" in result.stderr
    made = Clip.from_metadata(tmp_path / "a.mp4", media.read_metadata(tmp_path / "a.mp4")).request
    assert made.window
    assert not made.onward


def test_a_clip_that_follows_a_video_is_as_long(drawn: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = command(
        *("generate", PROMPT, "--video", drawn, "--strength", 0.5, "--steps", 2, "--seed", 1, "--quiet"),
        *("--model", "seedling", "--weights", tiny_model, "--output", tmp_path / "other.mp4"),
    )
    assert result.exit_code == 0, result.output
    assert media.probe(tmp_path / "other.mp4").frames == media.probe(drawn).frames


def test_a_clip_takes_the_colours_of_another_and_keeps_its_outlines() -> None:
    before = render(SCENE, 5)
    # The same in another colour, and a little beside: as a draft has it.
    after = np.roll(render(replace(SCENE, colour="yellow"), 5), (3, -4), (1, 2))
    table = look_up_table(zip(before, after, strict=True))
    graded_frames = np.stack(list(graded(before, table)))
    assert np.abs(graded_frames.astype(int) - render(replace(SCENE, colour="yellow"), 5)).mean() < 2
    assert apart(path_of(graded_frames), path_of(before)) < 1
    same = look_up_table(zip(before, before, strict=True))
    assert np.abs(np.stack(list(graded(before, same))).astype(int) - before).max() <= 1


def test_a_video_sets_out_in_its_own_colours_where_asked(drawn: Path, pipeline: Pipeline) -> None:
    request = pipeline.settled(make_request(SEEDLING, prompt=PROMPT, frames=29, steps=2, seed=1))
    own = pipeline.runner.encode_frames(lambda: media.read_frames(drawn))
    ways: tuple[tuple[Colours, bool], ...] = (("clip", True), ("prompt", False))
    for colours, kept in ways:
        way = Conditions(video=drawn, colours=colours).conditioning(pipeline, request)
        assert isinstance(way.sampler, Renoised)
        assert torch.equal(way.sampler.clip, own) == kept
        assert way.direction["colours"] == colours


def test_images_and_clips_are_turned_upright(tmp_path: Path) -> None:
    upright = np.zeros((72, 128, 3), np.uint8)
    upright[:36, :64] = 255  # its top left corner
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", SIZE), upright)

    write(tmp_path / "a.mp4", np.rot90(upright)[None].copy().repeat(3, 0), Size(72, 128))
    turn(tmp_path / "a.mp4", 0, 1, -1, 0)  # a quarter turn clockwise
    shown = next(open_source(tmp_path / "a.mp4", SIZE, 24).frames())
    assert np.abs(shown.astype(int) - upright).mean() < 4


def test_a_picture_of_16_bits_is_turned_too(tmp_path: Path) -> None:
    upright = np.full((72, 128), 30_000, np.uint16)
    upright[:36, :64] = 65_535
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", SIZE)[..., 0], np.where(upright == 65_535, 255, 117))


def test_pixels_that_are_not_square_are_shown_as_a_player_does(drawn: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for frame in render(SCENE, 3):
            narrow = np.asarray(Image.fromarray(frame).resize((96, 72)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(narrow, format="rgb24")))
        container.mux(stream.encode())
    shown = next(open_source(tmp_path / "a.mp4", SIZE, 24).frames())
    assert np.abs(shown.astype(int) - next(media.read_frames(drawn))).mean() < 8  # its colours have no name
    with pytest.raises(InvalidInput, match="pixels that are not square"):
        open_old(tmp_path / "a.mp4", make_request(SEEDLING, prompt=PROMPT))


def test_a_clip_that_lacks_its_end_is_noted(drawn: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write(path, render(SCENE, 49))
    assert open_source(path, SIZE, 24).notes == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(path, SIZE, 24)
    assert 5 < len(source.order) < 40
    assert re.match(r"a\.mkv says that it lasts 2\.0 s, and has pictures for [01]\.\d s", source.notes[0])


def test_frames_that_stand_for_different_times_are_resampled_and_it_is_said(tmp_path: Path) -> None:
    assert paced([0, 1 / 24, 2 / 24], 24) == [0, 1, 2]
    assert paced([0, 1 / 12, 2 / 12], 24) == [0, 0, 1, 1, 2, 2]
    assert paced([0, 1 / 48, 2 / 48, 3 / 48], 24) == [0, 2]
    with av.open(str(tmp_path / "odd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 24)
        for frame, when in zip(render(SCENE, 6), (0, 1, 2, 5, 6, 9), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = when, Fraction(1, 24)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    source = open_source(tmp_path / "odd.mp4", SIZE, 24)
    assert list(source.order[:10]) == [0, 1, 2, 2, 2, 3, 4, 4, 4, 5]
    assert "resampled" in source.notes[0]


# --- going on -------------------------------------------------------------------------------------------------


def packets(path: Path, kind: str = "video") -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def test_extending_keeps_every_packet_and_adds_frames(drawn: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = command(
        *("extend", drawn, "--prompt", PROMPT, "--seconds", 1, "--steps", 2, "--seed", 1),
        *("--model", "seedling", "--weights", tiny_model, "--output", tmp_path / "longer.mp4", "--quiet"),
    )
    assert result.exit_code == 0, result.output
    old, new = packets(drawn), packets(tmp_path / "longer.mp4")
    assert new[: len(old)] == old
    assert len(new) == len(old) + 24
    frames = list(media.read_frames(tmp_path / "longer.mp4"))
    assert len(frames) == 29 + 24
    assert all(np.array_equal(a, b) for a, b in zip(frames, media.read_frames(drawn), strict=False))
    direction = (media.read_metadata(tmp_path / "longer.mp4") or {})["direction"]
    assert direction["kept"] == 29
    assert sorted(path.name for path in tmp_path.iterdir()) == ["longer.mp4"]
    again = command(
        "generate", "--like", tmp_path / "longer.mp4", "--weights", tiny_model, "--model", "seedling"
    )
    assert "by `linnet extend`; give that command again" in again.stderr


def test_a_clip_that_cannot_go_on_is_refused_before_anything_is_made(
    drawn: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ModelRunner, "encode_frames", None)  # nothing may come so far
    foreign(Path("foreign.mp4"))
    write(Path("one.mp4"), render(SCENE, 1))  # begins when it is decoded: what follows would have to, before
    common = ("--prompt", PROMPT, "--seconds", 1, "--model", "seedling", "--weights", tiny_model, "--quiet")
    for words, answer in (
        (("foreign.mp4",), 'file "foreign.mp4": was encoded with other settings than linnet\'s'),
        (("one.mp4",), 'file "one.mp4": has packets in an order after which new ones cannot come'),
        ((drawn, "--output", "b.webm"), 'output "b.webm": is no .mp4'),
        ((drawn, "--output", "b"), 'output "b": is no .mp4'),
        ((drawn, "--output", "one.mp4"), 'output "one.mp4": is there already'),
    ):
        result = command("extend", *words, *common)
        assert (result.exit_code, answer in result.stderr) == (2, True), result.output
    assert list(open_old(drawn, make_request(SEEDLING, prompt=PROMPT)).order) == list(range(29))


def test_what_cannot_go_on_packet_by_packet_is_encoded_anew(tiny_model: Path, tmp_path: Path) -> None:
    """A folder of pictures, another program's clip, one of another shape: with --reencode any clip is extended."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(render(SCENE, 29), 1):
        Image.fromarray(frame).save(folder / f"{number}.png")
    write(tmp_path / "wide.webm", render(SCENE, 29)[:, :64], Size(128, 64))
    common = ("--prompt", PROMPT, "--seconds", 1, "--model", "seedling", "--weights", tiny_model, "--quiet")
    for name, more in (("pictures", ()), ("wide.webm", ("--fit", "pad"))):
        output = tmp_path / f"{name}.mp4"
        asked = ("extend", tmp_path / name, *common, "--steps", 2, "--seed", 1, "--output", output)
        refused = command(*asked)
        assert (refused.exit_code, "use --reencode" in refused.stderr) == (2, True), refused.output
        if more:
            assert "give --reencode, too" in command(*asked, *more).stderr
        assert command(*asked, "--reencode", *more).exit_code == 0
        assert (media.probe(output).frames, media.probe(output).size) == (29 + 24, SIZE)
        direction = (media.read_metadata(output) or {})["direction"]
        assert (direction["kept"], direction["reencoded"]) == (29, True)
    frames = list(media.read_frames(tmp_path / "pictures.mp4"))
    assert np.abs(frames[10].astype(int) - render(SCENE, 29)[10]).mean() < 6


def test_a_folder_of_pictures_is_followed_and_edited_like_a_clip(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    write(folder, render(SCENE, 13))
    (folder / "._00000.png").write_bytes(b"a Mac's")
    common = ("--steps", 2, "--seed", 1, "--model", "seedling", "--weights", tiny_model, "--quiet")
    followed, edited = tmp_path / "a.mp4", tmp_path / "b.mp4"
    words = ("generate", PROMPT, "--video", folder, "--colours", "clip", "--output", followed)
    assert command(*words, *common).exit_code == 0
    words = ("edit", folder, "--from", PROMPT, "--to", PROMPT.replace("red", "pink"), "--output", edited)
    result = command(*words, *common)
    assert result.exit_code == 0, result.output
    assert [media.probe(path).frames for path in (followed, edited)] == [13, 13]
    direction = (media.read_metadata(followed) or {})["direction"]
    assert direction["video"]["file"] == "own"
    made = Conditions.from_record(
        followed, direction
    )  # found again beside the clip, and known by its pictures
    assert made.video == folder
    Image.new("RGB", SIZE).save(folder / "00003.png")
    with pytest.raises(InvalidInput, match=r"is not what a\.mp4 was made from"):
        Conditions.from_record(followed, direction)


def test_sound_is_kept_where_packets_are_and_else_left_out_with_a_word(drawn: Path, tmp_path: Path) -> None:
    with av.open(str(drawn)) as old, av.open(str(tmp_path / "loud.mp4"), "w") as container:
        picture = container.add_stream_from_template(old.streams.video[0])
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                container.mux(packet)
        for index in range(20):
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 1024 * index
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    join(tmp_path / "loud.mp4", drawn, tmp_path / "twice.mp4", metadata={"a": 1}, overwrite=False)
    assert packets(tmp_path / "twice.mp4") == packets(drawn) * 2
    assert packets(tmp_path / "twice.mp4", "audio") == packets(tmp_path / "loud.mp4", "audio") != []
    assert media.probe(tmp_path / "twice.mp4").fps == pytest.approx(24)
    assert open_source(tmp_path / "loud.mp4", SIZE, 24).notes == ("the sound of loud.mp4 is left out",)


@pytest.mark.parametrize(("name", "extra"), [("edit", ("--from", PROMPT, "--to", PROMPT)), ("refine", ())])
def test_clips_are_edited_and_refined(
    name: str, extra: tuple[str, ...], drawn: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = command(
        *(name, drawn, *extra, *(() if extra else ("--prompt", PROMPT)), "--steps", 2, "--seed", 1),
        *("--model", "seedling", "--weights", tiny_model, "--output", tmp_path / "other.mp4", "--quiet"),
    )
    assert result.exit_code == 0, result.output
    assert media.probe(tmp_path / "other.mp4").frames == 29
    assert "direction" in (media.read_metadata(tmp_path / "other.mp4") or {})


@pytest.mark.parametrize(
    ("name", "extra", "profile", "usual"),
    [
        ("edit", ("--to", PROMPT), None, "exact"),
        ("refine", (), None, "exact"),
        ("refine", (), "draft", "draft"),
        ("extend", ("--seconds", 0.167), None, None),
        ("extend", ("--seconds", 0.167), "exact", "exact"),
    ],
)
def test_what_is_made_from_a_draft_takes_no_shortcuts_that_nobody_asked_for(
    name: str, extra: tuple[str, ...], profile: str | None, usual: Any, tiny_model: Path, tmp_path: Path
) -> None:
    draft = make_request(
        SEEDLING, prompt=PROMPT, frames=5, seed=7, profile="draft", steps=6, guidance=2.0, reuse="3,5"
    )
    clip = Clip(path=tmp_path / "draft.mp4", request=draft, model_hash="", version="")
    with media.open_writer(clip.path, width=128, height=72, fps=24, metadata=clip.metadata()) as writer:
        writer.write(render(SCENE, 5))
    chosen = ("--profile", profile) if profile else ()
    result = command(
        name, clip.path, *extra, *chosen, "--weights", tiny_model, "--output", tmp_path / "a.mp4"
    )
    assert result.exit_code == 0, result.output
    made = Clip.from_metadata(tmp_path / "a.mp4", media.read_metadata(tmp_path / "a.mp4")).request
    expected = make_request(SEEDLING, prompt=PROMPT, profile=usual) if usual else draft
    assert (made.steps, made.guidance_until) == (expected.steps, expected.guidance_until)
    assert (made.reuse, made.seed, made.guidance) == ("none", 7, 2.0)


# --- what cannot be -------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (100, 100)).save("square.png")
    Path("broken.mp4").write_bytes(drawn.read_bytes()[:900])
    Path("text.png").write_text("no image")
    Path("drawn.mp4").write_bytes(drawn.read_bytes())
    write(Path("wide.mp4"), np.zeros((3, 64, 128, 3), np.uint8), Size(128, 64))
    write(Path("clip.webm"), render(SCENE, 3))
    Path("turned.mp4").write_bytes(drawn.read_bytes())
    turn(Path("turned.mp4"), -1, 0, 0, -1)
    write(Path("high.mp4"), np.zeros((3, 128, 72, 3), np.uint8), Size(72, 128))
    turn(Path("high.mp4"), 0, 1, -1, 0)
    Path("mirrored.mp4").write_bytes(drawn.read_bytes())
    turn(Path("mirrored.mp4"), -1, 0, 0, 1)
    with av.open("silent.avi", "w") as container:  # a stream without a frame
        container.add_stream("libx264", rate=24, width=128, height=72, pix_fmt="yuv420p")
        container.start_encoding()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "--image square.png",
            'image "square.png": is 100x100, of another shape than 128x72; .*44 % of its height',
        ),
        ("--image text.png", 'file "text.png": cannot be read'),
        ("--image none.png", 'file "none.png": is missing'),
        ("--last-image square.png --fit stretch", 'fit "stretch": is not known; use crop or pad'),
        ("--video broken.mp4", 'file "broken.mp4": cannot be read'),
        ("--video silent.avi", 'video "silent.avi": holds no frame'),
        ("--video wide.mp4", 'video "wide.mp4": is 128x64, of another shape'),
        ("--video drawn.mp4 --seconds 2", 'video "drawn.mp4": has 29 frames at 24 a second, fewer than 49'),
        ("--video drawn.mp4 --strength 1.5", 'strength "1.5": is out of range'),
        ("--video drawn.mp4 --strength 0", 'strength "0.0": is out of range'),
        ("--strength 0.5", 'strength "0.5": is of a video, and there is none'),
        ("--colours clip", 'colours "clip": is of a video, and there is none'),
        ("--video drawn.mp4 --colours mine", 'colours "mine": are not known; use prompt or clip'),
        ("--fit crop", 'fit "crop": is of an image or a video, and there is none'),
        (
            "--video drawn.mp4 --window 25 --autoregressive --dry-run",
            'autoregressive "true": makes each window .* not from a video; leave it out',
        ),
        ("--video drawn.mp4 --image square.png", 'video "drawn.mp4": does not go with an image'),
        ("--image square.png --loop", 'loop "true": has no beginning'),
        ("--image square.png --step-cache 0.1", 'step-cache "0.1": does not go with'),
        ("extend wide.mp4", 'file "wide.mp4": is 128x64, and seedling makes 128x72'),
        ("extend turned.mp4", 'file "turned.mp4": is turned by its player'),
        ("extend high.mp4", 'file "high.mp4": is turned by its player'),
        (
            "extend drawn.mp4 --seconds 400",
            'seconds "400.0": is more than seedling can add here; give 299 or less',
        ),
        ("edit drawn.mp4 --from fox --to moon", 'from "fox": seedling does not know: fox'),
        ("edit drawn.mp4 --from moon --to fox", 'to "fox": seedling does not know: fox'),
        ("edit drawn.mp4 --to moon", 'from "": is not in drawn.mp4, which linnet did not make'),
        ("edit drawn.mp4 --from moon --to ''", 'to "": is empty'),
        ("--video mirrored.mp4", 'video "mirrored.mp4": is mirrored by its player'),
        ("extend clip.webm", 'file "clip.webm": is no .mp4'),
        ("extend drawn.mp4 --seconds 0", 'seconds "0.0": adds nothing'),
        ("refine broken.mp4", 'file "broken.mp4": cannot be read'),
        ("refine drawn.mp4 --ram 200MB", 'ram "0.2 GB": is too little'),
        (
            "extend drawn.mp4 --vram 6GB --device cpu",
            'vram "6.0 GB": is the memory of a card, and cpu is none',
        ),
    ],
)
@pytest.mark.usefixtures("bad")
def test_what_cannot_be_is_refused_in_one_line(words: str, line: str, tiny_model: Path) -> None:
    first, *rest = shlex.split(words)
    name, rest = (first, rest) if not first.startswith("-") else ("generate", [first, *rest])
    prompt = {"generate": (PROMPT,), "edit": ()}.get(name, ("--prompt", PROMPT))
    length = ("--seconds", 1) if name == "generate" and "--seconds" not in rest else ()
    result = command(
        *(name, *rest, *prompt, *length, "--steps", 2, "--seed", 1, "--quiet"),
        *("--model", "seedling", "--weights", tiny_model, "--output", "out.mp4"),
    )
    assert result.exit_code == 2, result.output
    (said,) = result.stderr.splitlines()
    assert re.match(f"error: {line}", said), said
    assert not Path("out.mp4").exists()

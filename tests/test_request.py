"""Requests: what is accepted round-trips exactly, what is refused names field, value and remedy."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.catalog import CATALOG, SEEDLING, ModelSpec, find
from linnet.clip import Clip, default_name
from linnet.errors import InvalidInput
from linnet.geometry import Size, format_seconds, frames_for, seconds_of, token_count
from linnet.records import is_blank
from linnet.request import EXACT, Request, StepCache, make_request

LINUM = CATALOG["linum-v2-360p"]
LARGE = CATALOG["linum-v2-720p"]
specs = st.sampled_from(list(CATALOG.values()))


def readable(text: str) -> bool:
    return not is_blank(text)


grid_frames = st.integers(0, 60).map(lambda k: 4 * k + 1)


@given(grid_frames, st.sampled_from([8, 16, 24, 30]))
def test_frames_survive_the_way_to_seconds_and_back(frames: int, fps: int) -> None:
    assert frames_for(seconds_of(frames, fps), fps) == frames
    assert frames_for(float(format_seconds(seconds_of(frames, fps))), fps) == frames


@given(st.floats(0, 100))
def test_seconds_off_the_grid_name_the_nearest_on_it(seconds: float) -> None:
    try:
        frames = frames_for(seconds)
    except InvalidInput as error:
        first, second = (float(number) for number in re.findall(r"[\d.]+", error.remedy))
        assert frames_for(first) % 4 == frames_for(second) % 4 == 1
        assert abs(frames_for(first) - frames_for(second)) == 4
        assert abs(first - seconds) <= abs(second - seconds) + 0.001
        assert min(first, second) < seconds < max(first, second)
    else:
        assert frames % 4 == 1
        assert abs(seconds_of(frames) - seconds) < 0.00051


@pytest.mark.parametrize(
    ("size", "seconds", "tokens"),
    [("360p", 2, 11_960), ("360p", 5, 28_520), ("720p", 2, 46_800), ("720p", 5, 111_600)],
)
def test_token_counts_are_the_published_ones(size: str, seconds: float, tokens: int) -> None:
    assert token_count(frames_for(seconds), Size.parse(size)) == tokens


@given(st.integers(1, 99_999), st.integers(1, 99_999))
def test_a_size_reads_back_what_it_prints(width: int, height: int) -> None:
    assert Size.parse(str(Size(width, height))) == (width, height)


@given(specs, st.integers(1, 2000), st.integers(1, 2000))
def test_an_allowed_size_fits_the_latent_grid_and_a_refused_one_names_allowed_ones(
    spec: ModelSpec, width: int, height: int
) -> None:
    size = Size(width, height)
    try:
        spec.check_size(size)
    except InvalidInput as error:
        named = [Size.parse(text) for text in re.findall(r"\d+x\d+", error.remedy)]
        assert named
        assert all(spec.allows(other) for other in named)
    else:
        assert width % 8 == height % 8 == 0
        assert size.pixels <= spec.sizes[0].pixels <= 2 * size.pixels


@given(
    st.data(),
    specs,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(readable),
    st.integers(0, 2**32 - 1),
    st.floats(0, 100),
    st.sampled_from(["apg", "cfg"]),
)
def test_a_request_survives_json_and_is_like_itself(data, spec, prompt, seed, guidance, method) -> None:
    frames = data.draw(grid_frames.filter(lambda count: spec.min_frames <= count <= spec.max_frames))
    request = make_request(
        spec, prompt=prompt, seed=seed, frames=frames, guidance=guidance, guidance_method=method
    )
    assert (request.prompt, request.seed, request.guidance) == (prompt, seed, guidance)
    assert make_request(spec, seconds=request.seconds, like=request) == request
    clip = Clip(path=Path("a.mp4"), request=request, model_hash="ab", version="1", choices={"tiles": 2})
    assert Clip.from_metadata(clip.path, json.loads(json.dumps(clip.metadata()))) == clip


def test_defaults_are_the_published_ones_and_the_seed_is_drawn() -> None:
    request = make_request(LINUM, prompt="a fox")
    assert (request.size, request.frames, request.fps) == ((640, 360), 49, 24)
    assert (request.steps, request.guidance, request.shift) == (50, 10.0, 3.0)
    assert (request.apg_momentum, request.apg_eta, request.apg_rescale) == (-0.75, 0.0, 20.0)
    assert len({make_request(LINUM, prompt="a fox").seed for _ in range(8)}) > 1


def test_an_overlap_follows_from_its_window_unless_it_is_given() -> None:
    def overlap(spec: ModelSpec, **settings: Any) -> int:
        return make_request(spec, prompt="a", frames=145, **settings).window_overlap

    assert [overlap(SEEDLING, window=window) for window in (25, 29, 45, 49)] == [12, 16, 24, 24]
    assert overlap(LINUM, window=49) == 24
    assert overlap(SEEDLING, window=25, window_overlap=4) == 4
    earlier = make_request(SEEDLING, prompt="a", frames=145, window=49, window_overlap=40)
    assert overlap(SEEDLING, like=earlier, window=49) == 40
    assert overlap(SEEDLING, like=earlier, window=25) == 12
    assert make_request(SEEDLING, prompt="a", like=earlier, frames=49, window=0).window_overlap == 0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"window": 13}, 'window "13": is not a length .*; use 49, or another 4k\\+1 from 25 to 49$'),
        (
            {"loop": True, "frames": 21},
            'frames "21": makes a loop .* short for seedling; use 25 or more, .* 1 s',
        ),
        (
            {"solver": "unipc", "steps": 9},
            'steps "9": .* solver unipc, .*; use 10 or more, or the solver euler$',
        ),
        ({"solver": "dpm++", "profile": "draft"}, 'steps "2": are too few for the solver dpm'),
    ],
)
def test_what_seedling_never_saw_is_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{line}"):
        make_request(SEEDLING, prompt="a red star", **settings)


def test_what_is_given_wins_over_like_and_like_over_defaults() -> None:
    first = make_request(SEEDLING, prompt="a red star", seed=7, steps=9, frames=13, guidance_method="cfg")
    second = make_request(SEEDLING, like=first, steps=5)
    assert (second.prompt, second.seed, second.steps, second.frames) == ("a red star", 7, 5, 13)
    assert second.guidance_method == "cfg"
    longer = make_request(LINUM, like=first, seconds=2)
    assert (longer.prompt, longer.seed, longer.size) == ("a red star", 7, LINUM.sizes[0])
    assert (longer.steps, longer.guidance_method) == (LINUM.steps, "apg")
    with pytest.raises(InvalidInput, match=r'^frames "13": linum-v2-360p makes 2 to 300 seconds'):
        make_request(LINUM, like=first)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prompt": " \n"}, 'prompt "": is empty; describe'),
        ({"prompt": "a\udc80"}, 'prompt "a?": is not valid UTF-8; '),
        ({"seconds": 2.1}, 'seconds "2.1": is between two frames .*; the nearest is 2.167, then 2$'),
        ({"seconds": 301}, 'seconds "301": linum-v2-360p makes 2 to 300 seconds .*; the nearest is 300$'),
        ({"seconds": 0}, 'seconds "0": .*; the nearest is 2$'),
        ({"seconds": math.nan}, 'seconds "nan": '),
        ({"seconds": math.inf}, 'seconds "inf": '),
        ({"seconds": 2, "frames": 53}, 'frames "53": is not 2 s, which is 49 frames; '),
        ({"frames": 51}, 'frames "51": is not 1 plus a multiple of 4; the nearest is (49|53)$'),
        ({"frames": 7205}, 'frames "7205": .*; the nearest is 7201$'),
        ({"frames": 125, "window": 0}, 'window "0": linum-v2-360p does not see over 121 frames at once; '),
        ({"window": 125}, 'window "125": is not a length .*; use 121, or another 4k\\+1 from 49 to 121$'),
        ({"window": -24}, 'window "-24": is out of range; '),
        ({"window": "25"}, 'window "25": is not a whole number; '),
        (
            {"solver": "dpm++", "steps": 9},
            'steps "9": are too few for .* dpm\\+\\+, .*; use 10 or more, or the',
        ),
        (
            {"frames": 125, "window_overlap": 6},
            'window_overlap "6": is not a part of a window of 121 frames; ',
        ),
        ({"window_overlap": 8}, 'window_overlap "8": is of windows, of which there are none; '),
        ({"span": 6}, 'span "6": is not a distance in frames that the model knows; '),
        ({"frames": 241, "span": 24, "window": 49, "window_overlap": 24}, 'span "24": is of a clip that '),
        ({"span": 24, "loop": True}, 'span "24": is of a clip that the model sees at once'),
        ({"size": "large"}, 'size "large": is not a size; write 360p'),
        ({"size": "0x360"}, 'size "0x360": is not a size; '),
        ({"size": "720p"}, 'size "1280x720": is not a size that linum-v2-360p can make; use 640x360'),
        ({"size": "640x350"}, 'size "640x350": .*; 640x352 is the nearest'),
        ({"steps": 0}, 'steps "0": is out of range; use 1 to 1000$'),
        ({"steps": 2.5}, 'steps "2.5": is not a whole number; '),
        ({"steps": True}, 'steps "True": is not a whole number; '),
        ({"guidance": math.nan}, 'guidance "nan": is out of range; '),
        ({"guidance": "10"}, 'guidance "10": is not a number; '),
        ({"seed": 2**32}, 'seed "4294967296": is out of range; use 0 to 4294967295$'),
        ({"seed": -1}, 'seed "-1": is out of range; '),
        ({"guidance_method": "none"}, 'guidance_method "none": is not known; use apg or cfg$'),
        ({"dtype": "float16"}, 'dtype "float16": is not known; '),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(settings: dict[str, Any], line: str) -> None:
    given: dict[str, Any] = {"prompt": "a fox", **settings}
    with pytest.raises(InvalidInput) as caught:
        make_request(LINUM, **given)
    text = str(caught.value)
    assert re.match(line.replace("?", "[?]"), text), text
    assert "\n" not in text


def test_sizes_beside_the_published_one() -> None:
    for size in ("640x352", "352x640", "480x480", "480x256"):
        assert str(make_request(LINUM, prompt="a fox", size=size).size) == size
    assert make_request(LARGE, prompt="a fox", size="720p").size == (1280, 720)
    for size in ("368x640", "1424x160", "320x176"):  # too many pixels, too wide, too few pixels
        with pytest.raises(InvalidInput, match=size):
            make_request(LINUM, prompt="a fox", size=size)
    with pytest.raises(InvalidInput, match=r"use 128x72$"):
        make_request(SEEDLING, prompt="a fox", size="144x80")


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    assert find("Seedling") is SEEDLING
    with pytest.raises(InvalidInput, match="did you mean linum-v2-720p"):
        find("linum-720p")


@pytest.mark.parametrize(
    "change", [{"steps": "20"}, {"seed": None}, {"fps": 0}, {"width": -8}, {"colour": 1}]
)
def test_a_tampered_record_is_refused(change: dict) -> None:
    record = make_request(SEEDLING, prompt="a fox", seed=1).to_json()
    assert Request.from_json(record).seed == 1
    with pytest.raises(InvalidInput, match=next(iter(change))):
        Request.from_json(record | change)
    with pytest.raises(InvalidInput, match='"prompt": is missing'):
        Request.from_json({k: v for k, v in record.items() if k != "prompt"})


@pytest.mark.parametrize("metadata", [None, {}, {"request": "x", "choices": {}}])
def test_a_file_without_a_request_says_so(metadata: dict | None) -> None:
    with pytest.raises(InvalidInput, match=r'file "b.mp4": holds no linnet request; '):
        Clip.from_metadata(Path("b.mp4"), metadata)


@given(prompt=st.text(min_size=1, max_size=200).filter(readable))
def test_a_clip_is_named_after_its_prompt_within_what_file_systems_hold(prompt: str) -> None:
    name = default_name(make_request(SEEDLING, prompt=prompt, seed=2**32 - 1))
    assert name.endswith(f"-{2**32 - 1}.mp4")
    assert len(name.encode()) <= 160  # of 255: a temporary name is longer
    assert "/" not in name


def test_a_profile_takes_the_place_of_another_and_gives_way_to_what_is_asked() -> None:
    fast = make_request(SEEDLING, prompt="a fox", seed=1, profile="fast")
    exact = make_request(SEEDLING, prompt="a fox", seed=1)
    assert fast != exact
    assert make_request(SEEDLING, like=fast) == fast
    assert make_request(SEEDLING, like=fast, profile="exact") == exact
    assert make_request(SEEDLING, like=exact, profile="fast") == fast
    assert make_request(SEEDLING, prompt="a fox", seed=1, profile="fast", steps=17).steps == 17
    with pytest.raises(InvalidInput, match=r'profile "quick": is not known; use exact, fast or draft'):
        make_request(SEEDLING, prompt="a fox", profile="quick")  # type: ignore[arg-type]
    for spec in CATALOG.values():
        for profile in spec.profiles:
            make_request(spec, prompt="a fox", profile=profile)  # type: ignore[arg-type]


def test_a_record_from_before_the_solvers_is_read_as_it_was_made() -> None:
    record = make_request(SEEDLING, prompt="a fox", seed=1, profile="fast").to_json()
    for name in EXACT:
        del record[name]
    old = Request.from_json(record)
    assert {name: getattr(old, name) for name in EXACT} == EXACT


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("none", StepCache()),
        ("0.05", StepCache(threshold=0.05)),
        ("7", StepCache(skip=frozenset({6}))),
        ("3,10,4", StepCache(skip=frozenset({2, 3, 9}))),
        ("hold:3,4", StepCache(skip=frozenset({2, 3}), hold=True)),
        ("hold:0.05", StepCache(threshold=0.05, hold=True)),
    ],
)
def test_reuse_is_a_change_or_steps(text: str, meaning: StepCache) -> None:
    request = make_request(SEEDLING, prompt="a fox", reuse=text)
    assert request.step_cache == meaning
    assert Request.from_json(request.to_json()).step_cache == meaning


@pytest.mark.parametrize(
    "text", ["", "often", "1.5", "-0.1", "nan.", "2", "1,5", "20", "0", "3,,4", "hold:", "hold:none"]
)
def test_reuse_that_makes_no_sense(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"use none, a change such as 0.05, or steps from 3 to 19"):
        make_request(SEEDLING, prompt="a fox", steps=20, reuse=text)


def test_guidance_on_no_step_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r'guidance interval "0.5:0.5": does not rise'):
        make_request(SEEDLING, prompt="a fox", guidance_from=0.5, guidance_until=0.5)


WRONG_TYPES = [
    *((name, "13") for name in ("frames", "seed", "steps", "guidance", "span", "window", "seconds", "shift")),
    *((name, True) for name in ("frames", "seed", "guidance", "seconds", "size", "prompt")),
    *((name, 13.0) for name in ("frames", "seed", "steps", "window")),
    *(
        (name, [1])
        for name in ("prompt", "negative", "frames", "size", "seconds", "profile", "solver", "loop")
    ),
    *((name, {}) for name in ("reuse", "like", "onward", "apg_eta")),
    *((name, float("nan")) for name in ("frames", "seconds", "guidance")),
    *((name, 10**5000) for name in ("frames", "seed", "seconds", "guidance")),
    ("size", (128, 72)),
    ("like", "clip.mp4"),
]


@pytest.mark.parametrize(
    ("name", "value"),
    WRONG_TYPES,
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: Any) -> None:
    settings: dict[str, Any] = {"prompt": "a red star", name: value}
    with pytest.raises(InvalidInput) as caught:
        make_request(SEEDLING, **settings)
    assert caught.value.field == name
    assert len(str(caught.value)) < 400
    record = make_request(SEEDLING, prompt="a red star").to_json()
    if name in record:
        with pytest.raises(InvalidInput) as caught:
            Request.from_json(record | {name: value})
        assert caught.value.field == name

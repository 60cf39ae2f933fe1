"""What the name of a profile stands for: tuned here, from the catalogue, from the literature, or nothing yet."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

import linnet
from linnet.catalog import CATALOG, SEEDLING
from linnet.cli import app
from linnet.direct.storyboard import read_storyboard
from linnet.errors import InvalidInput
from linnet.media import open_writer, read_metadata
from linnet.plan import profiles
from linnet.plan.profiles import TunedProfile
from linnet.prepare_direct import prepare_edit, prepare_extend, prepare_grid, prepare_refine
from linnet.profiles import carried_on, choose_profile, subject_of
from linnet.request import Request, RequestSettings, make_request
from linnet.serve.batch import read_lines
from linnet.serve.models import Models
from linnet.serve.render import Renderer, RenderSettings
from linnet.serve.schemas import VideoRequest
from linnet.weights.store import ModelFiles, resolve

LINUM = CATALOG["linum-v2-360p"]


@pytest.fixture
def files(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    return resolve(SEEDLING, weights=tiny_model)


def tuned(files: ModelFiles) -> TunedProfile:
    request = make_request(LINUM, prompt="any", seed=0)
    subject = subject_of(LINUM, files, "cpu", request)
    return TunedProfile(
        name="fast", subject=subject, settings={"reuse": "9,11,13"}, compiled=True, faster=2.6
    )


def chosen(files: ModelFiles, **settings: Any) -> Any:
    given: dict[str, Any] = {"profile": "fast", **settings}
    return choose_profile(LINUM, cast(RequestSettings, given), files=lambda: files, device="cpu")


def request_of(settings: RequestSettings) -> Request:
    return make_request(LINUM, prompt="a fox", **{**settings, "seed": 1})


def test_before_it_is_measured_the_error_says_how(files: ModelFiles) -> None:
    with pytest.raises(InvalidInput, match="run `linnet tune --model linum-v2-360p`, or add `untuned`"):
        chosen(files)
    with pytest.raises(InvalidInput, match="run `linnet tune --model linum-v2-360p`"):
        make_request(LINUM, prompt="a fox", profile="fast")


def test_a_tuned_profile_is_used_for_what_it_was_measured_with(files: ModelFiles) -> None:
    profiles.keep(tuned(files))
    found = chosen(files, steps=40)
    assert found.notes == ()
    assert found.record == tuned(files).record
    assert found.compiled is True
    request = request_of(found.settings)
    assert (request.reuse, request.steps, request.guidance_until) == ("9,11,13", 40, 1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "f" * 64}, "other weights"),
        ({"card": "GeForce RTX 4060"}, "another card (GeForce RTX 4060, and this is"),
        ({"frames": 121}, "another length (5 s, and this is 2 s)"),
        ({"torch": "2.0"}, "another torch (2.0, and this is"),
    ],
)
def test_measured_with_something_else_it_goes_on_exact(
    files: ModelFiles, changes: dict[str, Any], words: str
) -> None:
    profile = tuned(files)
    profiles.keep(replace(profile, subject=replace(profile.subject, **changes)))
    found = chosen(files)
    (note,) = found.notes
    assert words in note
    assert "exact is used" in note
    assert found.record is None
    assert request_of(found.settings) == make_request(LINUM, prompt="a fox", seed=1)


def test_a_spoilt_file_is_no_profile(files: ModelFiles) -> None:
    for text in ("", "{", "[]", '{"name": "fast"}', '{"name": "fast", "subject": {"model": 1}}'):
        profiles.keep(tuned(files)).write_text(text)
        with pytest.raises(InvalidInput, match="was not measured"):
            chosen(files)


def test_the_literature_is_named_in_the_clip(files: ModelFiles) -> None:
    found = choose_profile(LINUM, {"profile": "fast"}, untuned=True, files=lambda: files)
    assert found.record is not None
    assert found.record["untuned"] is True
    assert "arXiv 2507.02860" in found.record["sources"]["reuse"]
    assert "arXiv 2507.02860" in found.notes[0]
    request = request_of(found.settings)
    assert (request.reuse, request.guidance_until) == ("0.05", 0.5)
    for settings in ({}, {"profile": "exact"}, {"profile": "draft"}):
        with pytest.raises(InvalidInput, match="profile=fast"):
            choose_profile(LINUM, settings, untuned=True, files=lambda: files)  # type: ignore[arg-type]


def test_untuned_is_true_or_false() -> None:
    wrong: dict[str, Any] = {"untuned": "no"}
    with pytest.raises(InvalidInput, match='untuned "no": is neither true nor false'):
        linnet.generate("a red star", "a.mp4", model="seedling", device="cpu", profile="fast", **wrong)


def test_like_carries_the_profile_on_where_its_settings_stay() -> None:
    earlier = make_request(SEEDLING, prompt="a red star", seed=1, reuse="5,7")
    record = {"name": "fast"}
    assert carried_on(record, earlier, replace(earlier, seed=2, prompt="a blue star")) == record
    assert carried_on(record, earlier, replace(earlier, reuse="none")) is None
    assert carried_on(None, earlier, earlier) is None


# --- wherever a profile is named --------------------------------------------------------------------------------------


@pytest.fixture
def seedling(files: ModelFiles) -> TunedProfile:
    """Tuned for the tiny model, one frame, on this CPU."""
    subject = subject_of(SEEDLING, files, "cpu", make_request(SEEDLING, prompt="any", seed=0, frames=1))
    settings = {"reuse": "hold:4,6", "guidance_until": 0.75}
    profile = TunedProfile(name="fast", subject=subject, settings=settings, faster=2.6)
    profiles.keep(profile)
    profiles.keep(replace(profile, name="draft"))
    return profile


def is_tuned(request: Request) -> bool:
    return (request.reuse, request.guidance_until, request.steps) == ("hold:4,6", 0.75, 20)


def test_plan_uses_a_tuned_profile(seedling: TunedProfile, tiny_model: Path) -> None:
    words = [
        "plan",
        "--model",
        "seedling",
        "--weights",
        str(tiny_model),
        "--profile",
        "fast",
        "--device",
        "cpu",
    ]
    shown = CliRunner().invoke(app, [*words, "--seconds", "0", "--json"])
    assert json.loads(shown.stdout)["steps"] == 20  # the catalogue's fast has 10
    other = CliRunner().invoke(app, words)
    assert (
        "fast was measured with another length (0 s, and this is 2 s): seedling's own fast is used"
        in other.stderr
    )
    assert " 10 steps" in other.stdout


def test_a_grid_uses_a_tuned_draft(seedling: TunedProfile, tiny_model: Path) -> None:
    ready = prepare_grid(
        "a red star",
        {"model": "seedling", "weights": tiny_model, "device": "cpu", "seconds": 0},
        seeds=[1, 2],
    )
    assert [is_tuned(request) for request in ready.requests] == [True, True]
    assert ready.pipeline.profile == replace(seedling, name="draft").record


def test_a_storyboard_uses_a_tuned_profile(seedling: TunedProfile, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text(
        "model: seedling\nseconds: 0\nshots:\n- {prompt: a red star, profile: fast}\n- {prompt: a red star}\n"
    )
    board = read_storyboard(tmp_path / "film.yaml", weights=tiny_model, device="cpu")
    assert [is_tuned(shot.request) for shot in board.shots] == [True, False]
    (tmp_path / "film.yaml").write_text(
        "model: seedling\nprofile: fast\nshots:\n- {prompt: a red star}\n- {prompt: a red star, begin: continue}\n"
    )
    profiles.keep(replace(seedling, subject=replace(seedling.subject, frames=49)))
    first, second = read_storyboard(tmp_path / "film.yaml", weights=tiny_model, device="cpu").shots
    assert is_tuned(first.request)
    assert (second.request.reuse, second.request.guidance_until) == ("none", 0.75)


def test_a_batch_and_a_server_use_a_tuned_profile(
    seedling: TunedProfile, files: ModelFiles, tiny_model: Path, tmp_path: Path
) -> None:
    line = {"prompt": "a red star", "frames": 1, "profile": "fast", "seed": 3}
    (tmp_path / "lines").write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'frames': 5})}\n")
    told: list[str] = []
    lines = read_lines(tmp_path / "lines", SEEDLING, files, device="cpu", tell=told.append)
    assert [is_tuned(make_request(SEEDLING, **each.settings)) for each in lines] == [True, False]
    (note,) = told
    assert "measured with another length" in note

    models = Models("seedling", tiny_model, "cpu")
    request = models.request(VideoRequest(prompt="a red star", num_frames=1, profile="fast", seed=3))
    assert is_tuned(request)
    renderer = Renderer(
        RenderSettings(model="seedling", weights=str(tiny_model), device="cpu", watched=False)
    )
    for steps, record in ((20, seedling.record), (21, None)):
        renderer.make(replace(request, steps=steps), tmp_path / "a.mp4", lambda *what: None)
        assert (read_metadata(tmp_path / "a.mp4") or {})["choices"].get("profile") == record


def test_what_is_made_from_a_clip_uses_a_tuned_profile(
    seedling: TunedProfile, tiny_model: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    with open_writer(clip, width=128, height=72, fps=24, metadata={}) as writer:
        writer.write(np.zeros((5, 72, 128, 3), np.uint8))
    for frames in (5, 9):
        profiles.keep(replace(seedling, subject=replace(seedling.subject, frames=frames)))

    def given(**more: Any) -> Any:
        return {"model": "seedling", "weights": tiny_model, "device": "cpu", "profile": "fast", **more}

    words = "a red star spins"
    remade = (
        prepare_edit(clip, words, given(from_=words)),
        prepare_refine(clip, given(prompt=words)),
        prepare_extend(clip, given(prompt=words, seconds=0.167)),
    )
    for ready in remade:
        request = ready.plan.request
        assert (request.reuse, request.guidance_until, request.steps) == ("none", 0.75, 20)
        assert "note: fast is used without its step cache, which is for clips made from noise" in ready.notes
        assert ready.pipeline.profile is None
    profiles.keep(replace(seedling, subject=replace(seedling.subject, frames=5), settings={"steps": 12}))
    ready = prepare_edit(clip, words, given(from_=words))
    assert ready.plan.request.steps == 12
    assert ready.pipeline.profile is not None
    assert not any("step cache" in note for note in ready.notes)

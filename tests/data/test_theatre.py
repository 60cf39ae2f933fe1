"""The toy theatre: what is held out stays out, captions say what is shown, and a batch is its scenes one by one."""

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from linnet.data.theatre import HEIGHT, WIDTH, captions, motions, places, render, sprites, stage
from linnet.data.theatre.scene import HELD_OUT_SHARE, VARIANTS, Scene, held_out, sample_scene
from linnet.data.theatre.things import THINGS
from linnet.errors import InvalidInput

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def blobs(side: int = 24) -> torch.Tensor:
    """Sprites of the right form that need no font: a coloured ellipse each, higher than wide."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for _ in range(2)), indexing="ij")
    cover = (((x / 0.7) ** 2 + y**2) < 0.9).to(torch.uint8) * 255
    colours = torch.randint(0, 256, (len(THINGS), 3, 1, 1), generator=torch.Generator().manual_seed(0))
    return torch.cat((colours.expand(-1, -1, side, side), cover.expand(len(THINGS), 1, -1, -1)), 1).byte()


@pytest.fixture(scope="module")
def scenery() -> render.Scenery:
    """The places are noise here: painting all of them takes seconds."""
    noise = torch.Generator().manual_seed(0)
    count = len(places.PLACES) * VARIANTS
    skies, far, near = (
        torch.rand(number, 4, 18, 40, generator=noise)
        for number in (count * len(places.TIMES) + len(places.PLAIN), count, count)
    )
    return render.make_scenery(blobs(), skies, far, near)


def scenes(count: int) -> list[Scene]:
    rng = random.Random(7)
    return [sample_scene(rng) for _ in range(count)]


def test_what_is_held_out_is_never_drawn_and_is_a_fixed_share() -> None:
    drawn = scenes(3000)
    assert not any(held_out(*scene.triple) for scene in drawn)
    for scene in drawn:
        if scene.other:  # nor is it seen as another thing's company
            does = scene.motion if scene.relation == "chasing" else "waits"
            assert not held_out(scene.other, scene.backdrop, does)
    triples = [(t.name, place, m) for t in THINGS.values() for place in places.PLACES for m in t.motions]
    kept = sum(held_out(*triple) for triple in triples)
    assert abs(kept / len(triples) - HELD_OUT_SHARE) < 0.01
    assert held_out(
        "fox", "beach", "runs"
    )  # of this version: a hash that changes would mix exam and training
    assert held_out(*sample_scene(random.Random(0), allowed=held_out).triple)


def test_there_are_a_hundred_things_and_no_circle_and_no_cross() -> None:
    assert len(THINGS) >= 100
    assert len({thing.sprite for thing in THINGS.values()}) == len(THINGS)
    names = [name for thing in THINGS.values() for name in (*thing.names, *thing.plurals)]
    assert not {"circle", "cross", "ball", "disc"} & set(names)
    assert {motion for thing in THINGS.values() for motion in thing.motions} == set(motions.MOTIONS)
    assert [THINGS[name].plurals[0] for name in ("fox", "sheep", "butterfly", "bus", "mouse", "dog")] == [
        *("foxes", "sheep", "butterflies", "buses", "mice", "dogs"),
    ]


def test_a_caption_names_what_is_shown_in_words_of_the_vocabulary() -> None:
    rng, known = random.Random(1), set(captions.vocabulary())
    strange = 0
    for scene in scenes(1500):
        for still in (False, True):
            said = captions.caption(scene, rng, still=still)
            thing = THINGS[scene.thing]
            assert any(name in said.lower() for name in (*thing.names, *thing.plurals)), said
            assert not re.search(r"[{}|:]|\s\s|^\s|\s$|\ban? an?\b|\ba [aeio]", said), said
            strange += len(set(re.findall(r"[a-z'-]+", said.lower())) - known)
            if scene.tint:
                assert scene.tint in said.lower()
            if still:
                assert "camera" not in said
    assert 0 < strange < 0.08 * 3000  # words without a meaning, drawn letter by letter
    said = {captions.caption(scenes(1)[0], rng) for _ in range(60)}
    assert len(said) > 30


def test_a_scene_alone_is_the_same_scene_in_a_batch(scenery: render.Scenery) -> None:
    drawn = [
        *scenes(6),
        Scene(thing="fox", backdrop="forest", motion="hides", weather="snow", time="night"),
        Scene(
            thing="car", backdrop="street", motion="drives", tint="blue", camera="pans left", weather="rain"
        ),
        Scene(
            thing="dog", backdrop="room", motion="waits", other="cat", relation="behind", camera="zooms in"
        ),
    ]
    starts = [3 * n for n in range(len(drawn))]
    together = render.render(scenery, stage.set_stage(drawn, starts, 3))
    assert together.shape == (len(drawn), 3, 3, HEIGHT, WIDTH)
    for n, (scene, start) in enumerate(zip(drawn, starts, strict=True)):
        alone = render.render(scenery, stage.set_stage([scene], [start], 3))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=0, atol=1e-6)
        later = render.render(scenery, stage.set_stage([scene], [start + 2], 1))
        torch.testing.assert_close(alone[:, 2:], later, rtol=0, atol=1e-5)


def middle(scenery: render.Scenery, scene: Scene, frames: list[int]) -> list[tuple[float, float, float]]:
    """(x, y, area) of what a thing on a bare background covers, by frame."""
    plain = replace(scene, backdrop="plain", colour="gray")
    with_thing = stage.set_stage([plain] * len(frames), frames, 1)
    bare = with_thing._replace(sprites=torch.full_like(with_thing.sprites, -1))
    apart = (render.render(scenery, with_thing) - render.render(scenery, bare)).abs().amax(2)[:, 0] > 0.02
    found = []
    for picture in apart:
        y, x = picture.nonzero(as_tuple=True)
        found.append((x.float().mean().item(), y.float().mean().item(), float(len(x))))
    return found


def test_motions_show_in_the_pixels(scenery: render.Scenery) -> None:
    def shown(motion: str, thing: str = "fox") -> list[tuple[float, float, float]]:
        return middle(
            scenery, Scene(thing=thing, backdrop="plain", motion=motion, toward="right"), [2, 24, 46]
        )

    for motion, thing in (("walks", "fox"), ("runs", "fox"), ("drives", "car"), ("rolls", "football")):
        (left, _, _), (centre, _, _), (right, _, _) = shown(motion, thing)
        assert left < centre < right, motion
        assert abs((left + right) / 2 - WIDTH / 2) < 6
    assert shown("grows", "apple")[2][2] > 2 * shown("grows", "apple")[0][2]
    assert shown("shrinks", "apple")[2][2] < 0.5 * shown("shrinks", "apple")[0][2]
    assert shown("rises", "sun")[2][1] < shown("rises", "sun")[0][1] - 20
    assert shown("falls", "apple")[0][1] < shown("falls", "apple")[2][1] - 40
    outside, _, inside = shown("enters")
    assert outside[2] < 0.2 * inside[2]


def test_every_motion_is_continuous_and_what_falls_comes_to_rest_on_the_ground() -> None:
    t = np.arange(0, 6, 1 / 24)
    for motion in motions.MOTIONS:
        track = motions.track(motion, t, moves="walks")
        assert np.abs(np.diff(track.x)).max() < 12, motion
        assert np.abs(np.diff(track.y)).max() < 12, motion
        assert track.wide.min() > 0
    assert motions.track("falls", t).y[-1] == 0
    assert motions.track("falls", t).y.max() <= 0
    peaks = motions.track("bounces", t).y
    tops = [-y for a, y, b in zip(peaks, peaks[1:], peaks[2:], strict=False) if y < a and y < b]
    assert tops == sorted(tops, reverse=True)  # a loss at every bounce


def test_a_thing_looks_where_it_goes() -> None:
    def width(thing: str, toward: str) -> float:
        set_ = stage.set_stage([Scene(thing=thing, backdrop="street", motion="waits", toward=toward)], [0], 1)
        return set_.poses[0, 0, 0, 2].item()

    for thing, faces in (("car", -1), ("rocket", 1)):
        assert [width(thing, side) * faces > 0 for side in ("left", "right")] == [False, True], thing
    assert width("clock", "left") == width("clock", "right") > 0


def test_places_are_painted_by_their_variant_alone() -> None:
    for name in ("forest", "room", "plain"):
        far, near, skies = places.paint(name, 1)
        again = places.paint(name, 1)
        assert np.array_equal(far, again[0])
        assert np.array_equal(near, again[1])
        assert set(skies) == set(places.TIMES if places.PLACES[name].outdoors else ("day",))
        assert (far[..., :3] <= far[..., 3:] + 1e-6).all()  # premultiplied
    assert not np.array_equal(places.paint("forest", 0)[0], places.paint("forest", 1)[0])


def test_a_font_without_colours_is_refused_and_packs_of_other_things_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="NotoColorEmoji"):
        sprites.cut_sprites(tmp_path / "nothing.ttf")
    from safetensors.torch import save_file

    save_file({"sprites": blobs()[:2].contiguous()}, tmp_path / "old", {"names": '["dog", "cat"]'})
    with pytest.raises(InvalidInput, match="pack them again"):
        sprites.load_sprites(tmp_path / "old")


@pytest.mark.skipif(not FONT.exists(), reason="needs Debian's fonts-noto-color-emoji")
def test_every_sprite_is_in_the_font_and_fills_its_square(tmp_path: Path) -> None:
    sprites.pack_sprites(FONT, tmp_path / "sprites.safetensors")
    found = sprites.load_sprites(tmp_path / "sprites.safetensors")
    assert found.shape == (len(THINGS), 4, sprites.SIDE, sprites.SIDE)
    assert (sprites.extents(found).amax(1) > 0.9).all()
    assert len({sprite.numpy().tobytes() for sprite in found}) == len(THINGS)


@pytest.mark.parametrize("thing", ["bat", "elephant", "apple", "sun"])
@pytest.mark.parametrize("other", ["bird", "dinosaur", "carrot"])
def test_what_is_above_another_thing_is_whole_and_above_it(thing: str, other: str) -> None:
    scene = Scene(thing=thing, backdrop="meadow", motion="waits", other=other, relation="above")
    below, above = stage.actors(scene, np.zeros(1, np.float32))
    _, y, _, high, _ = above.poses[0]
    assert y - high / 2 >= 0
    top = below.poses[0, 1] - below.poses[0, 3] * (1.0 if below.grounded else 0.5)
    assert y + high / 5 <= top  # two of the largest overlap a little

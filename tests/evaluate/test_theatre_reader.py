"""The reader of theatre clips finds what is drawn and what it does, and takes no smeared thing for a whole one."""

import pytest
import torch
import torch.nn.functional as F

from linnet.data.theatre import render, stage
from linnet.data.theatre.places import PLACES, PLAIN, TIMES
from linnet.data.theatre.scene import VARIANTS, Scene
from linnet.data.theatre.things import THINGS
from linnet.evaluate.theatre import SURE, SpriteReader, read_motion, readable

NAMES = ("fox", "apple", "car", "sun", "football")


@pytest.fixture(scope="module")
def scenery() -> render.Scenery:
    """Sprites of coarse random colours, before places of the same."""
    noise = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (len(THINGS), 3, 4, 4), generator=noise).float()
    sprites = F.interpolate(coarse, 24, mode="nearest")
    sprites = torch.cat((sprites, torch.full_like(sprites[:, :1], 255)), 1).byte()
    count = len(PLACES) * VARIANTS
    skies, far, near = (
        torch.rand(number, 4, 6, 12, generator=noise)
        for number in (count * len(TIMES) + len(PLAIN), count, count)
    )
    return render.make_scenery(sprites, skies, far * far[:, 3:], near * near[:, 3:])


def drawn(scenery: render.Scenery, scene: Scene, frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The frames of a scene, and its bare place at the size that is read."""
    staged = stage.set_stage([scene] * len(frames), frames, 1)
    bare = staged._replace(sprites=torch.full_like(staged.sprites, -1))
    clip = render.render(scenery, staged)[:, 0]
    return clip, F.avg_pool2d(render.render(scenery, bare)[0, 0], 2)


def pixels(clip: torch.Tensor):
    return (clip * 255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("name", "motion"), [("fox", "runs"), ("apple", "grows"), ("sun", "sinks")])
def test_a_thing_and_its_motion_are_read(scenery: render.Scenery, name: str, motion: str) -> None:
    frames = [0, 12, 24, 36, 48]
    scene = Scene(thing=name, backdrop="meadow", motion=motion, toward="right", x=7.0)
    clip, bare = drawn(scenery, scene, frames)
    reader = SpriteReader(scenery, NAMES)
    best, second, *_ = reader.things(pixels(clip), bare, [2])
    assert best.thing == name
    assert best.score > SURE > second.score
    seen = reader.track(pixels(clip), bare, name, range(5))
    assert read_motion(name, "meadow", seen, frames) == motion


def test_a_smeared_or_a_wrong_thing_does_not_pass(scenery: render.Scenery) -> None:
    reader = SpriteReader(scenery, NAMES)
    clip, bare = drawn(scenery, Scene(thing="car", backdrop="meadow", motion="waits", toward="right"), [24])
    smeared = F.avg_pool2d(F.pad(clip, (12, 12, 12, 12), mode="replicate"), 25, 1)
    empty = F.interpolate(bare[None], scale_factor=2, mode="nearest")
    halved = clip.clone()
    halved[..., 128:] = empty[..., 128:]
    for corrupted in (smeared, halved, empty):
        scores = {sight.thing: sight.score for sight in reader.things(pixels(corrupted), bare, [0])}
        assert scores.get("car", 0.0) < SURE
    other, _ = drawn(scenery, Scene(thing="fox", backdrop="meadow", motion="waits", toward="right"), [24])
    assert reader.things(pixels(other), bare, [0])[0].thing == "fox"


def test_a_frame_is_read_at_half_its_size() -> None:
    frame = torch.zeros(144, 256, 3, dtype=torch.uint8)
    frame[:2, :2] = 255
    picture = readable(frame.numpy(), torch.device("cpu"))
    assert picture.shape == (3, 72, 128)
    assert picture[:, 0, 0].tolist() == [1, 1, 1]
    assert picture.sum() == 3

"""The clips on which `linnet tune` measures: prompts of people, motion, stillness, text and darkness, each with a seed.
Those that decide are others than those that were searched on."""

import random
from collections.abc import Sequence
from pathlib import Path

from linnet.catalog import ModelSpec
from linnet.data import synthetic
from linnet.errors import InvalidInput
from linnet.measure.tune.trials import Pair
from linnet.records import read_text

SEED = 7000  # of the first clip; each has its own
PROMPTS = (
    "a woman in a yellow raincoat laughs and turns towards the camera, rain on her face, close up",
    "a motorbike races along a coastal road, the camera flies beside it, fast",
    "a wooden table with a bowl of oranges by a window, nothing moves but the light",
    'a neon sign that says "OPEN" flickers over a diner\'s door at night',
    "a lighthouse in a storm, its beam sweeps over black water, almost dark",
    "two old men play chess in a park, one of them lifts his hand and moves a piece",
    "a flock of starlings turns over a field, seen from below",
    "snow lies on a garden bench, a quiet morning, the camera stands still",
    'a hand writes the word "hello" on a blackboard with chalk',
    "a candle burns in a dark room, its flame leans and rights itself",
    "a child runs through a sprinkler on a lawn, water drops in the sun, slow motion",
    "a train crosses a stone bridge from left to right, smoke drifts over the valley",
    "a still lake at dawn with mountains reflected in it, no wind",
    'a shop window with the words "books and maps" painted on the glass, people walk past',
    "a city street at three in the morning, one taxi passes, wet asphalt",
    "a dancer in a red dress spins on an empty stage, the dress opens like a flower",
)


def pairs_for(
    spec: ModelSpec, count: int, prompts: Sequence[str] | None = None
) -> tuple[list[Pair], list[Pair]]:
    """`count` clips to search on, and as many others to confirm with. The model's own prompts, or those given; where
    they are fewer than the clips, they come again with other seeds."""
    texts = list(prompts) if prompts else own_prompts(spec, 2 * count)
    clips = [Pair(texts[index % len(texts)], SEED + index) for index in range(2 * count)]
    return clips[:count], clips[count:]


def own_prompts(spec: ModelSpec, count: int) -> list[str]:
    if not spec.closed_vocabulary:
        return list(PROMPTS)
    if spec.world != "synthetic":
        return list(spec.examples)
    captions = []
    for index in range(count):
        rng = random.Random(f"tune {index}")
        captions.append(synthetic.caption(synthetic.sample_scene(rng), rng))
    return captions


def read_prompts(path: Path) -> list[str]:
    """A prompt a line; empty lines do not count."""
    prompts = [line.strip() for line in read_text(path, field="prompts").splitlines() if line.strip()]
    if not prompts:
        raise InvalidInput("prompts", path, "has no prompts", "write one on each line")
    return prompts

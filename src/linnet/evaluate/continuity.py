"""Examines what goes beyond one clip: long clips, and those that begin from pictures or from other clips.

Every trial is a scene of the synthetic dataset, worded in full. It is made twice: as linnet makes it, and by the simple
method that linnet has to beat. Only the pixels of the files are measured, read as in `parse`.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from linnet import media
from linnet.data import synthetic
from linnet.data.known import COLOURS
from linnet.data.synthetic import FPS, SPEED, TRAINED, Scene
from linnet.direct.conditions import Conditioning, Conditions
from linnet.direct.edit import STRENGTH, edit
from linnet.direct.extend import extend, open_old, seen_of
from linnet.direct.footage import open_source
from linnet.evaluate.adherence import SEED, Share, draw
from linnet.evaluate.measures import Clip, apart, backdrop, changes, direction_of, path_of, psnr, seam, strays
from linnet.evaluate.parse import parse
from linnet.geometry import latents_in
from linnet.inputs.videos import opened
from linnet.pipeline import Pipeline
from linnet.plan.passes import windows_of
from linnet.request import SEEDS, Request, make_request

LONG = 241  # frames: 10 s
SPAN = 24  # frames: as far as the middle frame of a training clip sees
SHORT = 49  # what seedling was trained on, and the synthetic dataset's motions are made for
ADDED = 24
ON_PATH = 6.0  # pixels
FRAME = np.array([synthetic.WIDTH, synthetic.HEIGHT])
MOVERS = tuple(triple for triple in TRAINED if triple[2] in SPEED)


class Aim(NamedTuple):
    """What a measure is called and ought to reach; `share`: it is the share of the trials in which something holds,
    else the median over them. `most`: the aim is not to be exceeded."""

    words: str
    aim: float
    share: bool = True
    most: bool = False


AIMS: dict[str, Mapping[str, Aim]] = {
    "long": {
        "right": Aim("10 s: shape and colour right in every second", 0.9),
        "seam": Aim("10 s: largest change at a border over inside", 1.2, share=False, most=True),
        "creep": Aim("10 s: background from first to last second, of 255", 4.0, share=False, most=True),
        "frozen": Aim("10 s: movers that stop, turn or jump in any second", 0.1, most=True),
    },
    "together": {
        "right": Aim("10 s, windows together: shape and colour right in every second", 0.9),
        "seam": Aim(
            "10 s, windows together: largest change at a border over inside", 1.2, share=False, most=True
        ),
        "creep": Aim(
            "10 s, windows together: background from first to last second", 4.0, share=False, most=True
        ),
        "frozen": Aim("10 s, windows together: movers that stop, turn or jump in any second", 0.1, most=True),
    },
    "span": {
        "right": Aim("10 s in one pass: shape and colour right in every second", 0.9),
        "creep": Aim("10 s in one pass: background from first to last second", 4.0, share=False, most=True),
        "frozen": Aim("10 s in one pass: movers that stop, turn or jump in any second", 0.1, most=True),
    },
    "extend": {
        "packets": Aim("extend: the old packets are the same", 1.0),
        "direction": Aim("extend: goes on in its direction", 0.85),
    },
    "image": {
        "psnr": Aim("image: first frame, dB", 28.0, share=False),
        "kept": Aim("image: colour and shape kept to the end", 0.85),
        "motion": Aim("image: moves as prompted", 0.75),
    },
    "loop": {
        "seam": Aim("loop, lossless file: last to first over the median change", 1.5, share=False, most=True)
    },
    "video": {
        "colour": Aim("video, strength 0.5: colour of the prompt", 0.9),
        "path": Aim("video, strength 0.5: path within 6 pixels of the input's", 0.9),
    },
    "edit": {
        "colour": Aim("edit: new colour", 0.9),
        "path": Aim("edit: path within 6 pixels of the original's", 0.9),
    },
}
NAIVE = {
    "long": "hard cuts of 2 s clips",
    "together": "hard cuts of 2 s clips",
    "span": "hard cuts of 2 s clips",
    "extend": "from the last frame only",
    "image": "no image",
    "loop": "no loop",
    "video": "no video",
    "edit": "video in, same strength",
}

# A trial's figures by the names in AIMS (1 or 0 for a share), and whatever helps to see why they are what they are.
Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A scene, its wording, the seed for the model, and a folder for its files."""

    scene: Scene
    seed: int
    folder: Path

    @cached_property
    def prompt(self) -> str:
        return self.worded(self.scene)

    @cached_property
    def other(self) -> Scene:
        """The same, in another colour."""
        rng = random.Random(self.seed)
        colours = [name for name in COLOURS if name not in (self.scene.colour, self.scene.background)]
        return replace(self.scene, colour=rng.choice(colours))

    def worded(self, scene: Scene) -> str:
        return synthetic.caption(scene, random.Random(self.seed))

    @cached_property
    def drawn(self) -> Path:
        path = self.folder / "drawn.mp4"
        if not path.exists():
            draw(self.scene, SHORT, path)
        return path


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What makes the clips: a model and the settings of its requests. A file that is there is not made again."""

    pipeline: Pipeline
    settings: Mapping[str, Any]

    def request(
        self, trial: Trial, *, prompt: str | None = None, seed: int | None = None, **more: Any
    ) -> Request:
        seed = trial.seed if seed is None else seed
        made = make_request(
            self.pipeline.spec, prompt=prompt or trial.prompt, seed=seed, **{**self.settings, **more}
        )
        return self.pipeline.settled(made)

    def clip(
        self,
        trial: Trial,
        name: str,
        request: Request,
        conditioning: Callable[[], Conditioning] | None = None,
        *,
        ending: str = ".mp4",
    ) -> Clip:
        path = trial.folder / f"{name}{ending}"
        if not path.exists():
            if conditioning:
                conditioning().generate(self.pipeline, path)
            else:
                self.pipeline.generate(request, path)
        return read(path)


# --- the trials -------------------------------------------------------------------------------------------------------


def try_long(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    request = bench.request(trial, frames=LONG)
    ours = bench.clip(trial, "long", request)
    return long_values(ours, trial.scene, borders_of(request)), cut_values(bench, trial)


def try_together(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    request = bench.request(trial, frames=LONG, onward=False)
    ours = bench.clip(trial, "together", request)
    return long_values(ours, trial.scene, borders_of(request)), cut_values(bench, trial)


def try_span(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    ours = bench.clip(trial, "span", bench.request(trial, frames=LONG, span=SPAN))
    return long_values(ours, trial.scene, ()), cut_values(bench, trial)


def cut_values(bench: Bench, trial: Trial) -> Values:
    """Of as many short clips of the same prompt as make a long one."""
    parts = [
        bench.clip(trial, f"part{part}", bench.request(trial, frames=SHORT, seed=(trial.seed + part) % SEEDS))
        for part in range(-(-LONG // SHORT))
    ]
    return long_values(np.concatenate(parts)[:LONG], trial.scene, range(SHORT, LONG, SHORT))


def long_values(clip: Clip, scene: Scene, borders: Sequence[int]) -> Values:
    """With `seconds`: what is seen in each of them, and so when something breaks.

    What cannot be told from a drawn clip either is not asked: in some seconds an object is too small, or too large for
    the frame, to show its shape.
    """
    places = path_of(clip)
    starts = range(0, len(clip) - FPS + 1, FPS)
    seconds, right = [], True
    for start in starts:
        part, path = clip[start : start + FPS], places[start : start + FPS]
        seen, seen_places = parse(part), path[~np.isnan(path[:, 0])]
        if (seen.shape, seen.colour) != (scene.shape, scene.colour):
            told = parse(synthetic.render(scene, FPS, start=start))
            right &= seen.shape in (scene.shape, told.shape) and seen.colour in (scene.colour, told.colour)
        x, y = (
            np.round(np.median(seen_places, axis=0) % FRAME, 1).tolist() if len(seen_places) else (None, None)
        )
        behind = np.round(backdrop(part).mean(0), 1).tolist()
        seconds.append({"shape": seen.shape, "colour": seen.colour, "x": x, "y": y, "backdrop": behind})
    values: Values = {
        "right": float(right),
        "creep": float(np.abs(backdrop(clip[:FPS]) - backdrop(clip[starts[-1] :][:FPS])).mean()),
        "seconds": seconds,
    }
    if len(borders):
        values["seam"] = seam(changes(clip), borders)
    if scene.motion in SPEED:
        values["frozen"] = float(strays(places, SPEED[scene.motion]))
    return values


def borders_of(request: Request) -> list[int]:
    """The frames at which a window of the request begins or ends."""
    windows = windows_of(request)
    ends = {end for window in windows.places for end in (window[0], window[-1] + 1)} if windows else set()
    return sorted(4 * (end - 1) + 1 for end in ends if 0 < end < latents_in(request.frames))


def try_extend(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    source = open_old(trial.drawn, bench.request(trial, frames=SHORT))
    seen = seen_of(source)
    request, path = bench.request(trial, frames=seen + ADDED), trial.folder / "extended.mp4"
    if not path.exists():
        plan = bench.pipeline.plan(request, encoded_frames=seen)
        extend(bench.pipeline, plan, source, path)
    last = trial.folder / "last.png"
    Image.fromarray(read(trial.drawn)[-1]).save(last)
    from_last = bench.request(trial, frames=ADDED + 1)
    naive = bench.clip(
        trial, "from-last", from_last, lambda: Conditions(image=last).conditioning(bench.pipeline, from_last)
    )
    old, new = packets(trial.drawn), packets(path)

    def goes_on(clip: Clip) -> float:
        return float(direction_of(clip) == trial.scene.motion)

    ours = {"packets": float(new[: len(old)] == old), "direction": goes_on(read(path)[SHORT:])}
    return ours, {"packets": 1.0, "direction": goes_on(naive[1:])}


def try_image(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    image = synthetic.render(trial.scene, 1)[0]
    path = trial.folder / "first.png"
    Image.fromarray(image).save(path)
    request = bench.request(trial, frames=SHORT)
    ours = bench.clip(
        trial, "image", request, lambda: Conditions(image=path).conditioning(bench.pipeline, request)
    )

    def values(clip: Clip) -> Values:
        whole, end = parse(clip), parse(clip[-FPS:])
        expected = trial.scene.shape, trial.scene.colour
        kept = all((sight.shape, sight.colour) == expected for sight in (whole, end))
        motion = float(whole.motion == trial.scene.motion)
        return {"psnr": psnr(clip[0], image), "kept": float(kept), "motion": motion}

    return values(ours), values(bench.clip(trial, "plain", request))


def try_loop(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    def values(clip: Clip) -> Values:
        closing = float(np.abs(clip[0].astype(float) - clip[-1]).mean())
        return {"seam": closing / max(float(np.median(changes(clip))), 1e-6)}

    # Without loss: where a file begins again, H.264 changes more than most of these objects do.
    loop = bench.clip(trial, "loop", bench.request(trial, frames=SHORT, loop=True), ending=".mkv")
    plain = bench.clip(trial, "plain", bench.request(trial, frames=SHORT), ending=".mkv")
    return values(loop), values(plain)


def try_video(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    request = bench.request(trial, prompt=trial.worded(trial.other), frames=SHORT)
    start = Conditions(video=trial.drawn, strength=0.5)
    ours = bench.clip(trial, "video", request, lambda: start.conditioning(bench.pipeline, request))
    naive = bench.clip(trial, "plain-other", request)
    return recoloured(ours, trial), recoloured(naive, trial)


def try_edit(bench: Bench, trial: Trial) -> tuple[Values, Values]:
    request = bench.request(trial, prompt=trial.worded(trial.other), frames=SHORT)
    source = open_source(trial.drawn, request.size, request.fps)

    def edited() -> Conditioning:
        plan = bench.pipeline.plan(request, encoded_frames=request.frames)
        return edit(bench.pipeline, plan, source, trial.prompt)

    ours = bench.clip(trial, "edit", request, edited)
    start = Conditions(video=trial.drawn, strength=STRENGTH)
    naive = bench.clip(trial, "renoised", request, lambda: start.conditioning(bench.pipeline, request))
    return recoloured(ours, trial), recoloured(naive, trial)


def recoloured(clip: Clip, trial: Trial) -> Values:
    away = apart(path_of(clip), path_of(read(trial.drawn)))
    return {
        "colour": float(parse(clip).colour == trial.other.colour),
        "path": float(away <= ON_PATH),
        "away": away,
    }


TRIALS: dict[str, Callable[[Bench, Trial], tuple[Values, Values]]] = {
    "long": try_long,
    "together": try_together,
    "span": try_span,
    "extend": try_extend,
    "image": try_image,
    "loop": try_loop,
    "video": try_video,
    "edit": try_edit,
}
MOVING = ("extend", "video", "edit")  # what is asked about a direction or a path takes movers


# --- files ------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Clip:
    return np.stack(list(media.read_frames(path)))


def packets(path: Path) -> list[bytes]:
    with opened(path) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measure over `trials`, linnet's way and the naive one's; shares with their 95 % intervals."""

    words: str
    aim: float
    most: bool
    ours: float
    naive: float
    naive_way: str
    trials: int
    interval: tuple[float, float] | None = None
    naive_interval: tuple[float, float] | None = None

    @property
    def reached(self) -> bool:
        return self.ours <= self.aim if self.most else self.ours >= self.aim


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The rows, and of each trial, in plain JSON values, what was asked for and all that was found."""

    rows: list[Row]
    trials: list[dict[str, Any]]


def trials_of(name: str, folder: Path, n: int, seed: int = SEED) -> list[Trial]:
    """The first `n` scenes of a kind; fewer are always the beginning of more."""
    made = []
    for index in range(n):
        rng = random.Random(f"continuity {seed} {name in MOVING} {index}")
        scene = synthetic.sample_scene(rng, triples=MOVERS if name in MOVING else TRAINED)
        target = folder / f"{'moving' if name in MOVING else 'any'}-{index:03}"
        target.mkdir(parents=True, exist_ok=True)
        made.append(Trial(scene=scene, seed=rng.randrange(SEEDS), folder=target))
    return made


def examine(
    bench: Bench,
    *,
    folder: Path,
    n: int,
    names: Sequence[str] = tuple(TRIALS),
    watch: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Examination:
    """Make `n` trials of each kind in `folder` and measure them. Clips that are there already are not made again."""
    rows: list[Row] = []
    trials: list[dict[str, Any]] = []
    for name in names:
        results = []
        for trial in trials_of(name, folder, n):
            watch(name, len(results), n)
            ours, naive = TRIALS[name](bench, trial)
            results.append((ours, naive))
            about = {"folder": trial.folder.name, "prompt": trial.prompt, "seed": trial.seed}
            trials.append(
                {"kind": name, **about, "scene": asdict(trial.scene), "linnet": ours, "naive": naive}
            )
        watch(name, n, n)
        rows += summed(name, results)
    return Examination(rows=rows, trials=trials)


def summed(name: str, results: Sequence[tuple[Values, Values]]) -> list[Row]:
    rows = []
    for key, (words, aim, share, most) in AIMS[name].items():
        pairs = [(ours[key], naive[key]) for ours, naive in results if key in ours]
        if not pairs:
            continue
        row: dict[str, Any] = {
            "words": words,
            "aim": aim,
            "most": most,
            "trials": len(pairs),
            "naive_way": NAIVE[name],
        }
        both = zip(*pairs, strict=True)
        if share:
            ours, naive = (Share(int(sum(values)), len(values)) for values in both)
            row |= {"interval": ours.interval, "naive_interval": naive.interval}
            rows.append(Row(ours=ours.rate, naive=naive.rate, **row))
        else:
            ours, naive = map(statistics.median, both)
            rows.append(Row(ours=ours, naive=naive, **row))
    return rows

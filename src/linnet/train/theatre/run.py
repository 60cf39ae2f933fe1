"""A run on the theatre: phases of so many minutes each, whose results leave the machine in small parts.

Its folder holds the full states, from which the same command goes on. What leaves is in one other folder: the averaged
weights in parts of at most 15 MB, `report.json` and a sheet of samples for each phase. A run in an empty folder can go
on from such parts, with new moments and a short warm-up.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any, Literal

import torch
from torch import Tensor

from linnet.data.theatre.render import Scenery, render, set_scenery
from linnet.data.theatre.sprites import load_sprites
from linnet.data.theatre.vocabulary import pieces, write_tokenizer
from linnet.errors import InvalidInput
from linnet.filesystem import make_folder, write_text
from linnet.models.latents import LatentSpace
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, Tokenizer
from linnet.models.transformer import TransformerConfig
from linnet.train.flow import FlowConfig
from linnet.train.loop import Report, Task, randomness, train
from linnet.train.recipes import export
from linnet.train.state import save_weights, saved_step
from linnet.train.theatre.batches import SceneBatches
from linnet.train.theatre.config import TheatreConfig
from linnet.train.theatre.tasks import TheatreAutoencoder, TheatreFlow, measured_space
from linnet.train.weight_files import read_parts, write_parts

Phase = Literal["autoencoder", "stills", "clips"]
PHASES: tuple[Phase, ...] = ("autoencoder", "stills", "clips")
AUTOENCODER, SPACE, FLOW = "autoencoder.", "space.", "flow."  # before the names in the parts
Watch = Callable[[str, Report], None]


@dataclass(frozen=True, kw_only=True)
class TheatreRun:
    """`folder` stays where it is; `leaves` is what is carried away; `begin` holds parts of an earlier run."""

    config: TheatreConfig
    sprites: Path
    folder: Path
    leaves: Path
    device: str = "cpu"
    begin: Path | None = None
    workers: int = 0
    seed: int = 0
    compiled: Literal["none", "blocks", "all"] = "none"  # the transformer's blocks; what draws, too


def run_phases(run: TheatreRun, phases: list[tuple[Phase, float]], watch: Watch) -> list[dict[str, Any]]:
    """Each phase for its minutes; a report of each."""
    make_folder(run.leaves)
    scenery = set_scenery(load_sprites(run.sprites), run.device)
    weights, tokens = latest(run)
    words = write_tokenizer(run.folder / "tokenizer.json", tokens)
    reports = []
    for phase, minutes in phases:
        if phase == "autoencoder":
            # A transformer whose first phase was stopped has left no parts yet.
            begun = (run.folder / "flow" / "state.safetensors").exists()
            if begun or any(name.startswith(FLOW) for name in weights):
                problem = "comes after a transformer has learnt its latents"
                raise InvalidInput("phase", phase, problem, "train stills or clips, or begin a new run")
            learnt, report = learn_to_copy(run, scenery, weights, minutes, watch)
        else:
            learnt, report = learn_to_make(run, scenery, weights, words, phase, minutes, watch)
        weights |= learnt
        reports.append(report)
        leave(run, weights, tokens, report)
    return reports


def latest(run: TheatreRun) -> tuple[dict[str, Tensor], list[str]]:
    """The averaged weights of this folder's last phase or, in a new folder, those to begin with; and their tokens, so
    that captions may have learnt new words since."""
    own = run.folder / "averaged"
    source = own if own.exists() else run.begin
    if source is None:
        return {}, pieces()
    weights, metadata = read_parts(source)
    tokens = metadata.get("tokens") or pieces()
    for name, value in shapes(run.config, len(tokens)).items():
        if metadata.get(name) != value:
            problem = f"holds weights of another {name}: {metadata.get(name)}, not {value}"
            raise InvalidInput("from", str(source), problem, "use the version and --size that made them")
    return weights, tokens


def shapes(config: TheatreConfig, words: int) -> dict[str, Any]:
    """What weights have to agree on, as JSON gives it back."""
    configs = {
        "autoencoder": asdict(config.autoencoder),
        "transformer": asdict(config.transformer()),
        "text": asdict(config.text(words)),
    }
    return json.loads(json.dumps(configs))


def learn_to_copy(
    run: TheatreRun, scenery: Scenery, weights: Mapping[str, Tensor], minutes: float, watch: Watch
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    task = TheatreAutoencoder(run.config, scenery, seed=run.seed)
    begin(task.model, weights, AUTOENCODER)
    with measured(run, "autoencoder", minutes) as report:
        average, last = trained(run, task, "autoencoder", "autoencoder", minutes, watch)
        report |= last | {"clips_per_second": last["steps_per_second"] * run.config.crops}
    task.model.load_state_dict(average)
    task.model.eval()
    space = measured_space(task.model, scenery, run.config, seed=run.seed)
    learnt = {AUTOENCODER + name: value for name, value in average.items()}
    return learnt | {SPACE + "scale": space.scale, SPACE + "bias": space.bias}, report


def learn_to_make(
    run: TheatreRun,
    scenery: Scenery,
    weights: Mapping[str, Tensor],
    words: int,
    phase: Phase,
    minutes: float,
    watch: Watch,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config = run.config
    if SPACE + "scale" not in weights:
        problem = "needs an autoencoder, and there is none"
        raise InvalidInput(
            "phase", phase, problem, "put --phase autoencoder:MINUTES before it, or --from PARTS"
        )
    autoencoder = TAE(config.autoencoder).to(run.device).eval().requires_grad_(False)
    begin(autoencoder, weights, AUTOENCODER)
    tokenizer = Tokenizer.open(run.folder / "tokenizer.json")
    mix = config.stills if phase == "stills" else config.clips
    task = TheatreFlow(
        config,
        scenery,
        autoencoder,
        LatentSpace(weights[SPACE + "scale"], weights[SPACE + "bias"]),
        tokenizer,
        SceneBatches(config, mix, tokenizer, seed=run.seed),
        words=words,
        workers=run.workers,
        draw=torch.compile(render, dynamic=False) if run.compiled == "all" else render,
        seed=run.seed,
    )
    begin(task.model, weights, FLOW)
    task.draw_ahead(saved_step(run.folder / "flow" / "state.safetensors"), pin=run.device.startswith("cuda"))
    if run.compiled != "none":
        for block in task.model.transformer.blocks:
            block.compile(dynamic=False)
    with measured(run, phase, minutes) as report:
        fit_memory(task, run.device)
        began = time.monotonic()
        average, last = trained(run, task, "flow", phase, minutes, watch)
        seconds = time.monotonic() - began
        report |= last | {
            "batches": [list(part) for part in task.batches.mix],
            "clips_per_second": round(task.clips / seconds, 2),
            "frames_per_second": round(task.video_frames / seconds, 1),
        }
    return {FLOW + name: value for name, value in average.items()}, report


def begin(model: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str) -> None:
    """Give a model the averaged weights that there are of it. A state in its folder comes before them."""
    own = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    if own:
        model.load_state_dict(own)


def fit_memory(task: TheatreFlow, device: str) -> None:
    """One step of the largest batch, which also compiles what is compiled; where it does not fit, half of it."""
    if not device.startswith("cuda"):
        return
    task.model.to(device).train()
    length, _, _ = max(task.batches.mix)
    while True:
        clips = next(clips for frames, clips, _ in task.batches.mix if frames == length)
        rng, generator = randomness(0, 0, device)
        try:
            with torch.autocast(device, torch.bfloat16):
                loss, _ = task.loss_of(task.batches.draw(rng, length, clips), generator)
            loss.backward()
        except torch.OutOfMemoryError:
            if clips == 1:
                raise
            task.batches, task.expected = task.batches.halved(), -1
        else:
            break
        finally:
            task.model.zero_grad()
            task.clips = task.video_frames = 0
    torch.cuda.empty_cache()


def trained(
    run: TheatreRun, task: Task, name: str, phase: str, minutes: float, watch: Watch
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The averaged weights, and the last report's numbers."""
    seen: list[Report] = []

    def look(report: Report) -> None:
        seen.append(report)
        watch(phase, report)

    folder = run.folder / name
    average = train(task, run.config.loops[name], folder, device=run.device, watch=look, minutes=minutes)
    newest = max((folder / "samples").glob("*.png"))
    copyfile(newest, run.leaves / f"sheet-{phase}.png")
    steady = seen[len(seen) // 2 :]  # the first steps compile
    pace = sum(report.seconds_a_step for report in steady) / len(steady)
    numbers = {key: round(value, 5) for key, value in seen[-1].numbers.items()}
    return average, {"step": seen[-1].step, "steps_per_second": round(1 / pace, 4), **numbers}


@contextmanager
def measured(run: TheatreRun, phase: str, minutes: float):
    """A report to be filled in; what the whole phase took, compiling and the sheet included, is added."""
    began = time.monotonic()
    cuda = run.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    report: dict[str, Any] = {"phase": phase, "minutes": minutes, "torch": torch.__version__}
    report["device"] = torch.cuda.get_device_name() if cuda else run.device
    yield report
    report["seconds_in_all"] = round(time.monotonic() - began, 1)
    if cuda:
        report["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)


def leave(run: TheatreRun, weights: dict[str, Tensor], tokens: list[str], report: dict[str, Any]) -> None:
    """Write the parts, here to go on from and there to be carried away, and add to the report."""
    metadata = shapes(run.config, len(tokens)) | {"tokens": tokens}
    for folder in (run.folder / "averaged", run.leaves):
        write_parts(folder, weights, metadata)
    path = run.leaves / "report.json"
    earlier = json.loads(path.read_text()) if path.exists() else []
    write_text(path, json.dumps([*earlier, report], indent=1) + "\n")


@dataclass(frozen=True)
class Shipped:
    """See `recipes.Exported`."""

    config: FlowConfig
    scale: Tensor
    bias: Tensor


def export_parts(source: Path, folder: Path) -> None:
    """The model's four files as `weights.load` reads them and as the package ships them, from a run's parts."""
    weights, metadata = read_parts(source)
    make_folder(folder)
    words = write_tokenizer(folder / "tokenizer.json", metadata.get("tokens"))
    if words != metadata["text"]["vocab_size"]:
        problem = f"was trained with {metadata['text']['vocab_size']} tokens; this version has {words}"
        raise InvalidInput("from", str(source), problem, "use the version that trained it")
    flow = {name.removeprefix(FLOW): value for name, value in weights.items() if name.startswith(FLOW)}
    copy = {n.removeprefix(AUTOENCODER): v for n, v in weights.items() if n.startswith(AUTOENCODER)}
    tiny = TAEConfig.from_json(metadata["autoencoder"])
    save_weights(folder / "autoencoder.safetensors", copy, asdict(tiny))
    shape = FlowConfig(
        transformer=TransformerConfig(**metadata["transformer"]), text=T5Config(**metadata["text"])
    )
    export(Shipped(shape, weights[SPACE + "scale"], weights[SPACE + "bias"]), flow, folder)

"""`linnet train`"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli import Group, fail
from linnet.cli.options import LoadOptions, Quiet, Threads, grouped, number, one_of, option, whole
from linnet.cli.terminal import bars, format_bytes, note
from linnet.wording import format_count

if TYPE_CHECKING:
    from linnet.train.loop import Report
    from linnet.train.prepare import PreparedTraining

UNITS = {"latents": "clip", "files": "file", "captions": "caption", "prior": "clip"}
MOST_LISTED = 20  # files that are not used

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, help="Train a model.")


@app.callback()
def train() -> None:
    """Train a model: a LoRA or all of it from your own clips, or one of linnet's small models from nothing."""


Folder = Annotated[
    Path,
    typer.Argument(
        help="Folder of clips and images, each with a .txt caption.", metavar="FOLDER", show_default=False
    ),
]
Output = Annotated[
    Path | None,
    option(
        "output",
        "Folder of the run; its name is the file's. By default FOLDER-lora, or FOLDER-full.",
        metavar="DIR",
    ),
]


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How long, how fast, and in what order."""

    steps: Annotated[
        int | None,
        whole(
            "steps",
            "Steps; by default 100 for each clip, 500 to 3000; of seedling 400.",
            least=1,
        ),
    ] = None
    batch: Annotated[
        int | None, whole("batch", "Clips in a step; by default 1, and 4 for seedling.", least=1)
    ] = None
    accumulation: Annotated[
        int, whole("accumulation", "Batches whose gradients are added up for a step.", least=1)
    ] = 1
    learning_rate: Annotated[
        float | None,
        number(
            "learning-rate",
            "By default 1e-4 for a LoRA (seedling: 1e-3) and 1e-5 for all weights.",
            above=0,
        ),
    ] = None
    optimiser: Annotated[
        str,
        one_of(
            "optimiser",
            "adamw (default), muon, adamw8bit (needs torchao), prodigy or came (need their packages).",
            *("adamw", "muon", "adamw8bit", "prodigy", "came"),
        ),
    ] = "adamw"
    schedule: Annotated[
        str,
        one_of(
            "schedule",
            "Of the learning rate: wsd (default: constant, then down to 0), linear, cosine or constant.",
            *("wsd", "linear", "cosine", "constant"),
        ),
    ] = "wsd"
    warmup: Annotated[int | None, whole("warmup", "Steps in which the learning rate rises.", least=0)] = None
    clip_norm: Annotated[
        float,
        number("clip-norm", "Largest norm of all gradients together; 1 by default, 0 for no limit.", least=0),
    ] = 1.0
    weight_decay: Annotated[float, number("weight-decay", "Weight decay; 0.01 by default.", least=0)] = 0.01
    ema: Annotated[
        float, number("ema", "Decay of the averaged weights, which are what is saved; 0: none.", least=0)
    ] = 0.99
    seed: Annotated[int, whole("seed", "Seed of the order, the noise and the first weights.", least=0)] = 0


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What the model is shown."""

    task: Annotated[
        str,
        one_of(
            "task",
            "text-to-video (default), or image-to-video: the first frame of some samples is given.",
            *("text-to-video", "image-to-video"),
        ),
    ] = "text-to-video"
    first_frame: Annotated[
        float | None,
        number("first-frame", "Of image-to-video, the share of samples with a first frame; 0.5.", least=0),
    ] = None
    timesteps: Annotated[
        str,
        option(
            "timesteps",
            "Noise levels: logit-normal (default, with the model's shift), uniform, or a file of weights.",
            metavar="NAME",
        ),
    ] = "logit-normal"
    caption_dropout: Annotated[
        float | None, number("caption-dropout", "Share of samples without a caption; 0.1.", least=0)
    ] = None
    held_out: Annotated[
        float | None,
        number(
            "held-out", "Share of clips that are kept for the held-out loss; 0.1 from 20 clips on.", least=0
        ),
    ] = None
    stills: Annotated[
        int | None,
        whole(
            "stills",
            "Frames of each clip that are trained on as images, too; by default 0, of seedling 9.",
            least=0,
        ),
    ] = None
    crops: Annotated[
        int | None,
        whole(
            "crops",
            "Random crops of each clip and still that are trained on, too; by default 0.",
            least=0,
        ),
    ] = None
    prior: Annotated[
        int | None,
        whole(
            "prior",
            "Clips of the model's own that it also trains on, so that it forgets less; by default 0, of seedling 32.",
            least=0,
        ),
    ] = None
    prior_prompts: Annotated[
        Path | None,
        option("prior-prompts", "File with prompts for the --prior clips, one per line.", metavar="FILE"),
    ] = None
    previews: Annotated[
        list[str] | None,
        option("preview", "A prompt to make previews of; several times for several.", metavar="PROMPT"),
    ] = None
    preview_every: Annotated[
        int | None, whole("preview-every", "Steps between two saved files and their previews.", least=1)
    ] = None
    checkpoint_every: Annotated[
        int | None, whole("checkpoint-every", "Steps between two saved training states.", least=1)
    ] = None
    validate_every: Annotated[
        int | None, whole("validate-every", "Steps between two held-out losses; 0: none.", least=0)
    ] = None
    keep: Annotated[
        str,
        one_of("keep", "last (default), or best: also the file at the lowest held-out loss.", "last", "best"),
    ] = "last"


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """The LoRA itself."""

    rank: Annotated[int, whole("rank", "Rank; 32 by default.", least=1)] = 32
    alpha: Annotated[float | None, number("alpha", "Alpha; by default the rank.", above=0)] = None
    dropout: Annotated[float, number("dropout", "Dropout before the LoRA; 0 by default.", least=0)] = 0.0
    dora: Annotated[bool, option("dora", "Learn directions and lengths apart (DoRA).")] = False
    targets: Annotated[
        str,
        option("targets", "Layers that it changes; by default q,k,v,o,ffn.", metavar="NAMES"),
    ] = "q,k,v,o,ffn"
    base: Annotated[
        str | None,
        one_of(
            "base",
            "Format of the frozen weights: bfloat16, int8 or float8; by default what fits.",
            *("bfloat16", "int8", "float8"),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is shown."""

    gpus: Annotated[
        int, whole("gpus", "GPUs that train together; with --device cpu, processes.", least=1)
    ] = 1
    dry_run: Annotated[bool, option("dry-run", "Show the plan and train nothing.")] = False
    quiet: Quiet = False
    as_json: Annotated[bool, option("json", "Print one JSON line a report.")] = False


@app.command()
@grouped
def lora(
    folder: Folder,
    model: LoadOptions,
    loop: LoopOptions,
    clips: ClipOptions,
    adapter: LoraOptions,
    run: RunOptions,
    output: Output = None,
) -> None:
    """Teach a model something from your own clips, in a small file that is used with --lora.

    The plan is shown first: what is trained, memory and time. The folder of the run holds the LoRA, a log (log.jsonl
    and TensorBoard's), previews and the training state. If a run was stopped or killed, the same command continues it.
    """
    names = tuple(name.strip() for name in adapter.targets.split(",") if name.strip())
    teach(
        "lora", folder, output, model, run, {**vars(loop), **vars(clips), **vars(adapter), "targets": names}
    )


@app.command()
@grouped
def full(
    folder: Folder,
    model: LoadOptions,
    loop: LoopOptions,
    clips: ClipOptions,
    run: RunOptions,
    output: Output = None,
) -> None:
    """Train all weights of a model's transformer on your own clips; the result is used with --transformer.

    It takes far more memory than a LoRA. Otherwise it is as `linnet train lora`.
    """
    teach("full", folder, output, model, run, {**vars(loop), **vars(clips)})


def teach(
    kind: str,
    folder: Path,
    output: Path | None,
    model: LoadOptions,
    run: RunOptions,
    chosen: dict[str, Any],
) -> None:
    from linnet.train.settings import TrainingSettings  # it and what follows take seconds to import

    settings = TrainingSettings(**{**chosen, "kind": kind, "previews": tuple(chosen["previews"] or ())})
    from linnet.catalog import find
    from linnet.runtime.device import resolve_device
    from linnet.runtime.machine import resolve_machine
    from linnet.train.distributed import join, launch, own_device
    from linnet.train.prepare import prepare_training, run_training
    from linnet.weights.store import default_model

    if run.gpus > 1 and "WORLD_SIZE" not in os.environ and not run.dry_run:
        fail_with(launch([sys.executable, "-m", "linnet", *sys.argv[1:]], run.gpus))
        return
    spec = find(model.model) if model.model else default_model(model.weights)[0]
    device = own_device(resolve_device(model.device or "auto"))
    ranks = join(device or "cpu")
    run = run if ranks.main else replace(run, quiet=True, as_json=False)
    machine = resolve_machine(device, threads=model.threads, vram=model.vram, ram=model.ram)
    where = output or folder.with_name(f"{folder.resolve().name}-{kind}")
    with reports(run, where) as (show, watch):

        def tell(stage: str, done: int, total: int) -> None:
            show(stage, "", done, total, unit=UNITS.get(stage, "step"))

        ready = prepare_training(
            folder,
            model=spec.name,
            output=where,
            settings=settings,
            machine=machine,
            weights=model.weights,
            processes=max(run.gpus, ranks.count),
            tell=tell,
        )
        if not run.quiet:
            for each in ready.left_out[:MOST_LISTED]:
                note(f"note: {each.name} is not used: {each.problem}")
            if len(ready.left_out) > MOST_LISTED:
                note(
                    f"note: {len(ready.left_out) - MOST_LISTED:,} more are not used; see `linnet data check`"
                )
        if run.as_json:
            print(json.dumps({"plan": ready.plan.to_json()}))
        elif not run.quiet:
            show_plan(ready)
        if run.dry_run:
            return
        made = run_training(ready, watch=lambda report: watch("train", report), tell=tell, ranks=ranks)
    if ranks.main and not run.as_json:
        print(made)


def fail_with(status: int) -> None:
    """End as the processes did that were started; what is wrong they have said."""
    if status:
        sys.exit(status if status > 0 else 1)


def show_plan(ready: "PreparedTraining") -> None:
    """What is trained, memory for each bucket, time, and that it fits."""
    plan, chosen = ready.plan, ready.settings
    work, execution = plan.workload, plan.execution
    of = f"rank {chosen.rank} on {', '.join(chosen.targets)}" if chosen.kind == "lora" else "all weights"
    steps = f"{format_count(chosen.steps or 0, 'step')} of {format_count(chosen.batch or 1, 'clip')}"
    note(
        f"{ready.spec.name} on {work.device}: {of}, {work.trainable / 1e6:.1f} million trainable parameters; {steps}"
    )
    rows = [
        [str(bucket), str(bucket.clips), format_bytes(size), seconds_in_words(seconds)]
        for bucket, size, seconds in plan.buckets
    ]
    if plan.preview:
        rows.append(["previews", "", format_bytes(plan.preview), ""])
    note_table(["bucket", "clips", "memory", "a step"], rows)
    base = [f"weights in {execution.base}"]
    if execution.checkpointed:
        base.append("blocks computed again in the backward pass")
    if execution.released:
        base.append("gradients released one by one")
    if execution.resident_blocks is not None:
        base.append(f"{execution.resident_blocks} of {work.shape.layers} blocks on the card")
    note(", ".join(base))
    places = {"vram": ("on the card", plan.device_bytes), "ram": ("in main memory", plan.system_bytes)}
    for name, limit in work.budget.limits.items():
        where, needed = places[name]
        source = "allowed" if name in work.budget.limited else "free"
        note(f"It fits: {format_bytes(needed)} of the {format_bytes(limit)} that are {source} {where}.")
    if plan.seconds_a_step is not None:
        hours = plan.seconds_a_step * (chosen.steps or 0) * chosen.accumulation / 3600
        note(f"About {hours:.1f} hours.")


def seconds_in_words(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds:.1f} s"


def note_table(heads: list[str], rows: list[list[str]]) -> None:
    """On stderr, whose columns fit."""
    widths = [max(len(row[n]) for row in [heads, *rows]) for n in range(len(heads))]
    for row in [heads, *rows]:
        note("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def recipe(name: str) -> Callable[..., None]:
    """The command of a recipe, which trains from nothing."""

    def train_recipe(
        output: Annotated[
            Path | None, option("output", f"Folder of the run; by default runs/{name}.", metavar="DIR")
        ] = None,
        steps: Annotated[
            int | None, whole("steps", "Fewer steps than the recipe has, for a quick test.", least=1)
        ] = None,
        device: Annotated[
            str, one_of("device", "cpu or cuda; by default the fastest here.", "cpu", "cuda")
        ] = "auto",
        threads: Threads = None,
        quiet: Quiet = False,
        as_json: Annotated[bool, option("json", "Print one JSON line a report.")] = False,
    ) -> None:
        from linnet.runtime.device import resolve_device  # it and what follows take seconds to import
        from linnet.train.recipes import RECIPES, Recipe

        folder = output or Path("runs") / name
        where = resolve_device(device)
        if threads:
            import torch

            torch.set_num_threads(threads)
        run = RunOptions(quiet=quiet, as_json=as_json)
        if not quiet:
            note(f"{name} on {where}, in {folder}")
        with reports(run, folder) as (_, watch):
            made = RECIPES[name](Recipe(folder=folder, device=where, steps=steps), watch)
        if not as_json:
            print(made)

    train_recipe.__doc__ = f"""Train {RECIPE_TITLES[name]} from nothing, on clips that linnet draws.

    The folder of the run holds the weights, a log (log.jsonl and TensorBoard's), sample clips and the training
    state. If a run was stopped or killed, the same command continues it.
    """
    return train_recipe


RECIPE_TITLES = {"seedling": "a model like seedling", "autoencoder": "seedling's autoencoder"}
for _name in RECIPE_TITLES:
    app.command(_name)(recipe(_name))


@contextmanager
def reports(run: RunOptions, folder: Path):
    """A bar's `show`, and who is told of a part's reports; Ctrl-C says how to go on."""
    if not run.quiet and find_spec("tensorboard") is None:
        note("note: there is no TensorBoard here, only log.jsonl; run `pip install 'linnet[train]'` for both")
    try:
        with bars(quiet=run.quiet or run.as_json) as show:

            def watch(part: str, report: "Report") -> None:
                numbers = {"step": report.step, "steps": report.steps, **report.numbers}
                unit = UNITS.get(part, "step")
                show(part, in_words(report), report.step, report.steps, unit=unit)
                ended = report.step == report.steps
                if run.as_json and (unit == "step" or ended):
                    line = {"part": part, **numbers, "seconds_a_step": report.seconds_a_step}
                    print(json.dumps(line), flush=True)
                elif ended and not run.quiet and not run.as_json and not sys.stderr.isatty():
                    note(f"{part}: {format_count(report.steps, unit)} done, {in_words(report)}".rstrip(", "))

            yield show, watch
    except KeyboardInterrupt:
        fail(f"stopped; the same command continues from the last state in {folder}", 130)


def in_words(report: "Report") -> str:
    """Loss, held-out loss and memory, where the part has them."""
    numbers = report.numbers
    words = [f"loss {numbers['loss']:.4f}"] if "loss" in numbers else []
    if "held_out" in numbers:
        words.append(f"held out {numbers['held_out']:.4f}")
    if "memory" in numbers and "gradient" in numbers:
        words.append(f"{numbers['memory']:.1f} GB")
    return ", ".join(words)

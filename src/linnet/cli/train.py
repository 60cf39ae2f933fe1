"""`linnet train`"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnet.cli import fail
from linnet.cli.options import Quiet, Threads, completing, one_of, option, whole
from linnet.cli.terminal import bars, note
from linnet.errors import InvalidInput
from linnet.wording import choices, format_count

if TYPE_CHECKING:
    from linnet.train.loop import Report

UNITS = {"latents": "clip"}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="seedling or autoencoder.",
            metavar="RECIPE",
            show_default=False,
            autocompletion=completing(lambda: ("seedling", "autoencoder")),
        ),
    ],
    output: Annotated[
        Path | None, option("output", "Folder of the run; by default runs/RECIPE.", metavar="DIR")
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
    """Train a model.

    The folder of the run holds the weights, a log (log.jsonl and TensorBoard's), sample clips and the training
    state. If a run was stopped or killed, the same command continues it.
    """
    from linnet.runtime.device import resolve_device  # it and what follows take seconds to import
    from linnet.train.recipes import RECIPES, Recipe

    if recipe not in RECIPES:
        raise InvalidInput("recipe", recipe, "there is no such recipe", choices(recipe, RECIPES))
    folder = output or Path("runs") / recipe
    where = resolve_device(device)
    if threads:
        import torch

        torch.set_num_threads(threads)
    if not quiet:
        note(f"{recipe} on {where}, in {folder}")
        if find_spec("tensorboard") is None:
            note(
                "note: there is no TensorBoard here, only log.jsonl; run `pip install 'linnet[train]'` for both"
            )
    try:
        with bars(quiet=quiet or as_json) as show:

            def watch(part: str, report: "Report") -> None:
                numbers = {"step": report.step, "steps": report.steps, **report.numbers}
                unit = UNITS.get(part, "step")
                show(part, in_words(report), report.step, report.steps, unit=unit)
                ended = report.step == report.steps
                if as_json and (unit == "step" or ended):
                    print(json.dumps({"part": part, **numbers, "seconds_a_step": report.seconds_a_step}))
                elif ended and not quiet and not as_json and not sys.stderr.isatty():
                    note(f"{part}: {format_count(report.steps, unit)} done, {in_words(report)}".rstrip(", "))

            made = RECIPES[recipe](Recipe(folder=folder, device=where, steps=steps), watch)
    except KeyboardInterrupt:
        fail(f"stopped; the same command goes on from the last state in {folder}", 130)
    if not as_json:
        print(made)


def in_words(report: "Report") -> str:
    """The loss, where the part has one."""
    return f"loss {report.numbers['loss']:.4f}" if "loss" in report.numbers else ""

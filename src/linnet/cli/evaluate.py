"""`linnet evaluate`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.catalog import CATALOG, find
from linnet.cli import Group, fail
from linnet.cli.evaluate_theatre import theatre
from linnet.cli.options import (
    Device,
    GuidanceScale,
    Profile,
    Steps,
    Threads,
    Weights,
    number,
    one_of,
    option,
    whole,
)
from linnet.cli.terminal import bars, note, print_table
from linnet.errors import InvalidInput
from linnet.filesystem import write_text
from linnet.geometry import format_seconds
from linnet.request import make_request
from linnet.wording import choices, format_count, format_number, in_a_row

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)

VERBS = {"generate": "generating", "draw": "drawing what was asked"}


app.command()(theatre)


def kinds() -> list[str]:
    from linnet.evaluate.continuity import TRIALS  # takes seconds to import

    return list(TRIALS)


@app.callback()
def evaluate() -> None:
    """Measure how well a model follows its prompts."""


@app.command()
def adherence(
    model: Annotated[
        str, one_of("model", "A name from `linnet models`; seedling by default.", *CATALOG)
    ] = "seedling",
    n: Annotated[int, whole("n", "How many clips; 200 by default.", least=1)] = 200,
    held_out: Annotated[
        bool,
        option("held-out", "Ask only for combinations of shape, colour and motion kept out of training."),
    ] = False,
    seconds: Annotated[float, number("seconds", "Length of each clip; 2 by default.")] = 2.0,
    output: Annotated[
        Path | None,
        option("output", "Folder for clips and report; by default adherence-MODEL.", metavar="DIR"),
    ] = None,
    seed: Annotated[
        int | None, whole("seed", "Seed of the questions; another seed asks other questions.")
    ] = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Annotated[bool, option("quiet", "Print nothing but the table and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line instead of the table.")] = False,
) -> None:
    """Count how often a model's clips show what their prompts ask for.

    The prompts describe scenes of the synthetic dataset in full: shape, colour, size, background and motion.
    Each clip is judged by its pixels. The table has the share of right clips with its 95 % interval, the share
    that the same reader gets right on drawn clips, and the share of a random guess. A run that was
    stopped goes on where it was.
    """
    spec = find(model)
    settings = {"seconds": seconds, "steps": steps, "guidance": guidance}
    usual = make_request(spec, prompt="any", seed=0, **settings).to_json()

    from linnet import load  # it and what follows take seconds to import
    from linnet.evaluate import report
    from linnet.evaluate.adherence import SEED, Question, examine

    pipeline = load(spec.name, weights=weights, device=device, threads=threads)
    kind = "-held-out" if held_out else ""
    folder = output or Path(f"adherence-{spec.name}{kind}")
    subject = {
        "model": spec.name,
        "weights": pipeline.model_hash,
        "device": pipeline.model.device.type,
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        "request": {name: value for name, value in usual.items() if name not in ("prompt", "seed", "dtype")},
    }
    if not quiet:
        note(f"{format_count(n, 'clip')} of {spec.name} on {pipeline.model.device}, kept in {folder}")

    def make(question: Question, path: Path) -> None:
        request = make_request(spec, prompt=question.prompt, seed=question.seed, **settings)
        pipeline.generate(request, path)

    try:
        with bars(quiet=quiet or as_json) as show:
            examination = examine(
                make,
                folder=folder,
                n=n,
                held_out=held_out,
                seconds=seconds,
                seed=SEED if seed is None else seed,
                subject=subject,
                watch=lambda stage, done, total: show(VERBS[stage], "", done, total, unit="clip"),
            )
    except KeyboardInterrupt:
        fail(f"stopped; the clips in {folder} are kept, and the same command goes on", 130)
    split = "held-out" if held_out else "trained"
    title = f"{spec.name}: {format_count(n, 'clip')} of {format_seconds(seconds)} s, {split} combinations"
    written = report.write_report(examination, folder, title=title)
    if as_json:
        print(json.dumps({"output": str(folder), "clips": n, **examination.summary()}))
        return
    print_table(report.HEADS, report.rows(examination))
    if not quiet:
        note(f"{in_a_row(written)} {'is' if len(written) == 1 else 'are'} in {folder}")


@app.command()
def continuity(
    model: Annotated[
        str, one_of("model", "A name from `linnet models`; seedling by default.", *CATALOG)
    ] = "seedling",
    n: Annotated[int, whole("n", "How many trials of each kind; 20 by default.", least=1)] = 20,
    only: Annotated[
        list[str] | None,
        option(
            "only",
            "long, together, span, extend, image, loop, video or edit; may be given several times.",
            metavar="KIND",
            values=kinds,
        ),
    ] = None,
    profile: Profile = None,
    output: Annotated[
        Path | None,
        option("output", "Folder for clips and report; by default continuity-MODEL.", metavar="DIR"),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Annotated[bool, option("quiet", "Print nothing but the table and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line instead of the table.")] = False,
) -> None:
    """Compare long clips, and clips from images or other clips, with those of a simple method.

    Everything is measured on the pixels of the files. A stopped run continues with the same command. report.jso
    n has the figures of each trial, and what each second of a long clip shows.
    """
    spec = find(model)
    settings: dict[str, Any] = {"profile": profile}
    usual = make_request(spec, prompt="any", seed=0, **settings).to_json()

    from linnet import load  # it and what follows take seconds to import
    from linnet.evaluate import continuity as measuring
    from linnet.evaluate.adherence import claim

    for name in only or ():
        if name not in measuring.TRIALS:
            raise InvalidInput("only", name, "is not known", choices(name, measuring.TRIALS))
    pipeline = load(spec.name, weights=weights, device=device, threads=threads)
    folder = output or Path(f"continuity-{spec.name}")
    sampling = {name: value for name, value in usual.items() if name not in ("prompt", "seed", "dtype")}
    subject = {"model": spec.name, "weights": pipeline.model_hash, "device": pipeline.model.device.type}
    claim(folder, {"subject": subject, "request": sampling})
    names = [name for name in measuring.TRIALS if not only or name in only]
    try:
        with bars(quiet=quiet or as_json) as show:
            result = measuring.examine(
                measuring.Bench(pipeline=pipeline, settings=settings),
                folder=folder,
                n=n,
                names=names,
                watch=lambda name, done, total: show(name, "", done, total, unit="trial"),
            )
    except KeyboardInterrupt:
        fail(f"stopped; the clips in {folder} are kept, and the same command goes on", 130)
    rows = [asdict(row) for row in result.rows]
    report = {"subject": subject, "request": sampling, "n": n, "rows": rows}
    write_text(folder / "report.json", json.dumps({**report, "trials": result.trials}, indent=1))
    if as_json:
        print(json.dumps({"output": str(folder), **report}))
        return
    print_table(
        ("what", "aim", "linnet", "simple", "simple method", "trials"),
        [
            (
                row.words,
                f"{'at most' if row.most else 'at least'} {format_number(row.aim)}",
                figure(row.ours, row.interval),
                figure(row.naive, row.naive_interval),
                row.naive_way,
                str(row.trials),
            )
            for row in result.rows
        ],
    )


def figure(value: float, interval: tuple[float, float] | None) -> str:
    """A share with its 95 % interval, or any other figure."""
    return f"{value:.3g}" if interval is None else "{:.0%} ({:.0%} to {:.0%})".format(value, *interval)

"""`linnet evaluate`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.catalog import find
from linnet.cli import Group
from linnet.cli.evaluate_theatre import theatre
from linnet.cli.examining import (
    ReportOptions,
    SeedlingOptions,
    examining,
    print_result,
    sampling_of,
    subject_of,
)
from linnet.cli.options import GuidanceScale, Profile, Steps, grouped, number, option, whole
from linnet.cli.terminal import note
from linnet.errors import InvalidInput
from linnet.filesystem import write_text
from linnet.geometry import format_seconds
from linnet.request import make_request
from linnet.wording import choices, format_count, format_number

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)

VERBS = {"generate": "generating", "draw": "drawing what was asked"}


app.command()(grouped(theatre))


def kinds() -> list[str]:
    from linnet.evaluate.continuity import TRIALS  # takes seconds to import

    return list(TRIALS)


@app.callback()
def evaluate() -> None:
    """Measure how well a model follows its prompts."""


@app.command()
@grouped
def adherence(
    *,
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
    load: SeedlingOptions,
    result: ReportOptions,
) -> None:
    """Count how often a model's clips show what their prompts ask for.

    The prompts describe scenes of the synthetic dataset in full: shape, colour, size, background and motion.
    Each clip is judged by its pixels. The table has the share of right clips with its 95 % interval, the share
    that the same reader gets right on drawn clips, and the share of a random guess. If the command is stopped, the
    same command continues it.
    """
    spec = find(load.model)
    settings = {"seconds": seconds, "steps": steps, "guidance": guidance}
    usual = make_request(spec, prompt="any", seed=0, **settings).to_json()

    import linnet  # it and what follows take seconds to import
    from linnet.evaluate import report
    from linnet.evaluate.adherence import SEED, Question, examine

    pipeline = linnet.load(**vars(load))
    kind = "-held-out" if held_out else ""
    folder = output or Path(f"adherence-{spec.name}{kind}")
    if not result.quiet:
        note(f"{format_count(n, 'clip')} of {spec.name} on {pipeline.model.device}, kept in {folder}")

    def make(question: Question, path: Path) -> None:
        request = make_request(spec, prompt=question.prompt, seed=question.seed, **settings)
        pipeline.generate(request, path)

    with examining(folder, result) as show:
        examination = examine(
            make,
            folder=folder,
            n=n,
            held_out=held_out,
            seconds=seconds,
            seed=SEED if seed is None else seed,
            subject=subject_of(pipeline, usual),
            watch=lambda stage, done, total: show(VERBS[stage], "", done, total, unit="clip"),
        )
    split = "held-out" if held_out else "trained"
    title = f"{spec.name}: {format_count(n, 'clip')} of {format_seconds(seconds)} s, {split} combinations"
    files = report.write_report(examination, folder, title=title)
    record = {"clips": n, **examination.summary()}
    print_result(folder, files, record, report.HEADS, report.rows(examination), result)


@app.command()
@grouped
def continuity(
    *,
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
    load: SeedlingOptions,
    result: ReportOptions,
) -> None:
    """Compare long clips, and clips from images or other clips, with those of a simple method.

    Everything is measured on the pixels of the files. report.json has the figures of each trial, and what each
    second of a long clip shows. If the command is stopped, the same command continues it.
    """
    spec = find(load.model)
    settings: dict[str, Any] = {"profile": profile}
    usual = make_request(spec, prompt="any", seed=0, **settings).to_json()

    import linnet  # it and what follows take seconds to import
    from linnet.evaluate import continuity as measuring
    from linnet.evaluate.adherence import claim

    for name in only or ():
        if name not in measuring.TRIALS:
            raise InvalidInput("only", name, "is not known", choices(name, measuring.TRIALS))
    pipeline = linnet.load(**vars(load))
    folder = output or Path(f"continuity-{spec.name}")
    subject = {"model": spec.name, "weights": pipeline.model_hash, "device": pipeline.model.device.type}
    claimed = {"subject": subject, "request": sampling_of(usual)}
    claim(folder, claimed)
    with examining(folder, result) as show:
        compared = measuring.examine(
            measuring.Bench(pipeline=pipeline, settings=settings),
            folder=folder,
            n=n,
            names=[name for name in measuring.TRIALS if not only or name in only],
            watch=lambda name, done, total: show(name, "", done, total, unit="trial"),
        )
    report = {**claimed, "n": n, "rows": [asdict(row) for row in compared.rows]}
    write_text(folder / "report.json", json.dumps({**report, "trials": compared.trials}, indent=1))
    rows = [
        (
            row.words,
            f"{'at most' if row.most else 'at least'} {format_number(row.aim)}",
            figure(row.ours, row.interval),
            figure(row.naive, row.naive_interval),
            row.naive_way,
            str(row.trials),
        )
        for row in compared.rows
    ]
    heads = ("what", "aim", "linnet", "simple", "simple method", "trials")
    print_result(folder, ["report.json"], report, heads, rows, result)


def figure(value: float, interval: tuple[float, float] | None) -> str:
    """A share with its 95 % interval, or any other figure."""
    return f"{value:.3g}" if interval is None else "{:.0%} ({:.0%} to {:.0%})".format(value, *interval)

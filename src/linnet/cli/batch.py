"""`linnet batch`"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from linnet.cli import fail
from linnet.cli.options import Anyway, LoraOptions, Model, Weights, WorkerOptions, grouped, option
from linnet.cli.problems import with_options
from linnet.cli.terminal import bars, note
from linnet.filesystem import check_folder, make_folder
from linnet.wording import format_count, format_duration

if TYPE_CHECKING:
    from linnet.serve.batch import BadLines, Count

MOST_SAID = 100  # bad lines

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@grouped
def batch(
    prompts: Annotated[
        Path,
        typer.Argument(
            help='Text file: each line a prompt, or {"prompt": ..., "seed": ..., "seconds": ...}.',
            metavar="FILE",
        ),
    ],
    out: Annotated[
        Path, option("output", "Folder for the clips and manifest.jsonl.", also=("--out",), metavar="DIR")
    ],
    *,
    model: Model = None,
    weights: Weights = None,
    workers: WorkerOptions,
    lora: LoraOptions,
    anyway: Anyway = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but the manifest's path and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print a JSON line at the end.")] = False,
) -> None:
    """Make a video for every line of a file.

    It can be stopped at any time; the same command continues it. manifest.jsonl has a line for each clip, with
    its request. A line without a seed gets one.
    """
    from linnet.catalog import find
    from linnet.serve.batch import BadLines, Batch, read_lines
    from linnet.serve.lock import lock
    from linnet.serve.worker_pool import WorkerPool
    from linnet.weights.store import default_model, resolve

    spec = find(model) if model else default_model(weights)[0]
    try:
        lines = read_lines(
            prompts,
            spec,
            resolve(spec, weights=weights),
            loras=lora.loras or (),
            lora_merge=lora.lora_merge,
            anyway=anyway,
            device=workers.device[0] if workers.device else None,
            tell=note if workers.ray is None else lambda line: None,
        )
    except BadLines as bad:
        say_each(bad)
    pool = WorkerPool(model=spec.name, weights=weights, watched=False, **workers.pool_settings())
    pool.check_budget()
    make_folder(out, field="out")
    check_folder(out, field="out")
    with lock(out / ".linnet"):
        begun = time.monotonic()
        work = Batch(lines, spec, pool, out)
        try:
            with bars(quiet=quiet or as_json) as bar:

                def show(count: "Count", doing: Sequence[str]) -> None:
                    ended = count.made + count.failed
                    failed = [f"{count.failed:,} failed"] if count.failed else []
                    starting = [] if doing or ended == count.total else ["a worker is starting"]
                    words = [f"{ended:,} of {count.total:,}", *failed, *doing, *starting]
                    bar("clips", "; ".join(words), ended, count.total)

                if not quiet and not as_json:
                    note(f"{format_count(len(lines), 'clip')} with {spec.name}, into {out}")
                count = work.run(show)
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):
                work.stop()
            fail(f"stopped; what is done is in {work.manifest}, and the same command continues", 130)
        work.stop()
    if as_json:
        print(json.dumps({"manifest": str(work.manifest), **vars(count)}))
    else:
        if not quiet:
            made = f"{count.made - count.resumed:,} made, {count.resumed:,} kept from before"
            note(f"{made}, {count.failed:,} failed, in {format_duration(time.monotonic() - begun)}:")
        print(work.manifest)
    if count.failed:
        fail(f"error: {count.failed:,} of {count.total:,} clips were not made; the manifest says why", 1)


def say_each(bad: "BadLines") -> NoReturn:
    """A line of its own for every line of the file that cannot be done."""
    for error in bad.errors[:MOST_SAID]:
        note(f"error: {with_options(error)}")
    more = len(bad.errors) - MOST_SAID
    if more > 0:
        note(f"error: {format_count(more, 'more line')} cannot be done")
    fail(f"error: {format_count(len(bad.errors), 'line')} of {bad.value} cannot be done; nothing was made", 2)

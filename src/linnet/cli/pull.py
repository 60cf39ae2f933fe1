"""`linnet pull`"""

import json
from typing import Annotated

import typer

from linnet.catalog import CATALOG, find
from linnet.cli import fail
from linnet.cli.options import completing, option
from linnet.cli.terminal import bars, note
from linnet.wording import format_bytes, format_count

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def pull(
    model: Annotated[
        str,
        typer.Argument(
            help="A name from `linnet models`.",
            metavar="MODEL",
            show_default=False,
            autocompletion=completing(lambda: CATALOG),
        ),
    ],
    dry_run: Annotated[
        bool, option("dry-run", "Show files, size and licence, and download nothing.")
    ] = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line when it is done.")] = False,
) -> None:
    """Download a model's weights.

    The files come from the Hugging Face Hub, or from the mirror in HF_ENDPOINT, into its cache (HF_HOME). Every
    file is checked. An interrupted download continues where it stopped.
    """
    spec = find(model)
    from linnet.weights.pull import Progress, plan_pull
    from linnet.weights.pull import pull as fetch

    plan = plan_pull(spec)
    if not quiet:
        note(f"{plan.repository} from {plan.endpoint}, licence {plan.licence}")
        note(
            f"{format_count(len(plan.files), 'file')} of {format_bytes(plan.bytes)}, "
            f"{format_bytes(plan.bytes_to_fetch)} to come, into {plan.folder}"
        )
    record = {
        "model": spec.name,
        "repository": plan.repository,
        "licence": plan.licence,
        "commit": plan.commit,
        "bytes": plan.bytes,
        "folder": str(plan.folder),
    }
    if not dry_run:
        with bars(quiet=quiet or as_json) as show:

            def watch(progress: Progress) -> None:
                name = progress.path if progress.stage == "download" else f"verify {progress.path}"
                show(name, "", progress.done, progress.total, unit="B")

            try:
                files = fetch(spec, plan=plan, watch=watch)
            except KeyboardInterrupt:
                fail("stopped; the same command continues from here", 130)
        record["transformer"] = str(files.transformer)
        if not quiet:
            note(f'done: linnet generate "..." --model {spec.name}')
    if as_json:
        print(json.dumps(record))

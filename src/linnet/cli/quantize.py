"""`linnet quantize`"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.catalog import CATALOG, find
from linnet.cli import fail
from linnet.cli.options import Weights, completing, one_of, option
from linnet.cli.terminal import bars, format_bytes, note
from linnet.errors import InvalidInput
from linnet.weights.store import resolve
from linnet.wording import choices

FORMATS = ("int8", "float8")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def quantize(
    model: Annotated[
        str,
        typer.Argument(
            help="A name from `linnet models`.",
            metavar="MODEL",
            show_default=False,
            autocompletion=completing(lambda: CATALOG),
        ),
    ],
    output: Annotated[
        Path, option("output", "The folder to write. Give it to --weights later.", metavar="DIR")
    ],
    format: Annotated[str, one_of("format", "int8 or float8; by default int8.", *FORMATS)] = "int8",
    weights: Weights = None,
    quiet: Annotated[bool, option("quiet", "Print nothing but the folder and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line when it is done.")] = False,
) -> None:
    """Store a model's weights in 8 bits.

    The blocks of the transformer and of the text encoder then take half the space of bfloat16, on disk and in
    memory. Everything else is copied.
    """
    if format not in FORMATS:
        raise InvalidInput("format", format, "is not an 8-bit format of linnet's", choices(format, FORMATS))
    spec = find(model)
    files = resolve(spec, weights=weights)

    from linnet.runtime.quantise import quantise_model  # which takes seconds to import

    kind: Any = format
    try:
        with bars(quiet=quiet or as_json) as show:
            made = quantise_model(
                spec,
                files,
                output,
                kind,
                lambda part, done, total: show(part, "", done, total, unit="B"),
            )
    except KeyboardInterrupt:
        fail("stopped; nothing was written", 130)
    if as_json:
        print(
            json.dumps(
                {"path": str(output), "format": format, "bytes": made.bytes, "bytes_before": files.bytes}
            )
        )
        return
    if not quiet:
        note(
            f"{format_bytes(files.bytes)} have become {format_bytes(made.bytes)}; use them with --weights {output}"
        )
    print(output)

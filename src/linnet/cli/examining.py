"""What the commands of `linnet evaluate` share: the model that is examined, the run, and the report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from linnet.catalog import CATALOG, THEATRE
from linnet.cli import fail
from linnet.cli.options import LoadOptions, one_of, option
from linnet.cli.terminal import Show, bars, note, print_table
from linnet.wording import in_a_row

if TYPE_CHECKING:
    from linnet.pipeline import Pipeline

Quiet = Annotated[bool, option("quiet", "Print nothing but the table and errors.")]
AsJson = Annotated[bool, option("json", "Print one JSON line instead of the table.")]


@dataclass(frozen=True, kw_only=True)
class SeedlingOptions(LoadOptions):
    model: Annotated[str, one_of("model", "A name from `linnet models`; seedling by default.", *CATALOG)] = (
        "seedling"
    )


@dataclass(frozen=True, kw_only=True)
class TheatreOptions(LoadOptions):
    model: Annotated[
        str, one_of("model", f"A name from `linnet models`; {THEATRE.name} by default.", *CATALOG)
    ] = THEATRE.name


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What is printed."""

    quiet: Quiet = False
    as_json: AsJson = False


def subject_of(pipeline: "Pipeline", usual: Mapping[str, Any]) -> dict[str, Any]:
    """What is examined, for the record in the folder. `usual` is the record of a request without its prompt."""
    return {
        "model": pipeline.spec.name,
        "weights": pipeline.model_hash,
        "device": pipeline.model.device.type,
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        "request": sampling_of(usual),
    }


def sampling_of(usual: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all clips of an examination have."""
    return {name: value for name, value in usual.items() if name not in ("prompt", "seed", "dtype")}


@contextmanager
def examining(folder: Path, result: ReportOptions) -> Iterator[Show]:
    """Progress bars. Ctrl-C says how to continue."""
    try:
        with bars(quiet=result.quiet or result.as_json) as show:
            yield show
    except KeyboardInterrupt:
        fail(f"stopped; the clips in {folder} are kept, and the same command continues", 130)


def print_result(
    folder: Path,
    files: Sequence[str],
    record: Mapping[str, Any],
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    result: ReportOptions,
) -> None:
    """The table, or with --json the `record`. `files` of the report are in the folder."""
    if result.as_json:
        print(json.dumps({"output": str(folder), **record}))
        return
    print_table(heads, rows)
    if not result.quiet:
        note(f"{in_a_row(files)} {'is' if len(files) == 1 else 'are'} in {folder}")

"""`linnet lora`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.catalog import CATALOG, find
from linnet.cli.options import Overwrite, Weights, one_of, option, whole
from linnet.cli.terminal import bars, note
from linnet.errors import InvalidInput, WeightsError
from linnet.wording import choices, format_count, in_a_row

if TYPE_CHECKING:
    from linnet.weights.lora import Lora
    from linnet.weights.lora_formats import Shape

LAYOUTS = ("original", "peft", "diffusers", "kohya", "videox-fun", "ai-toolkit", "diffusion-pipe")

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(help="A LoRA: a file, or a folder of PEFT's.", metavar="FILE", show_default=False)
]
Model = Annotated[
    str | None, one_of("model", "The model that it is of; by default the first that it fits.", *CATALOG)
]
AsJson = Annotated[bool, option("json", "Print one JSON line.")]


@app.callback()
def lora() -> None:
    """Look at LoRAs, and write them as other programs read them."""


@app.command("inspect")
def inspect_lora(
    file: File, *, model: Model = None, weights: Weights = None, as_json: AsJson = False
) -> None:
    """Show what a LoRA changes, and how strong it is."""
    name, loaded = read_for(file, model, weights)
    record = described(file, name, loaded)
    if as_json:
        print(json.dumps(record))
        return
    for line in loaded.notes:
        note(line)
    metadata = record.pop("metadata")
    width = max(map(len, (*record, *metadata)))
    for key, value in {**record, **metadata}.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key:<{width}}  {shown}")


@app.command()
def convert(
    file: File,
    *,
    to: Annotated[str, one_of("to", f"{in_a_row(LAYOUTS, 'or')}.", *LAYOUTS, metavar="LAYOUT")] = "original",
    output: Annotated[
        Path, option("output", "The new file; of peft and diffusion-pipe a folder.", metavar="PATH")
    ],
    model: Model = None,
    weights: Weights = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a LoRA in the layout of another program."""
    from linnet.weights.lora import write_lora

    if to not in LAYOUTS:
        raise InvalidInput("to", to, "is not a layout that linnet writes", choices(to, LAYOUTS))
    _, loaded = read_for(file, model, weights)
    for line in loaded.notes:
        note(line)
    print(write_lora(output, loaded, to, overwrite=overwrite))


@app.command()
def merge(
    loras: Annotated[
        list[str],
        typer.Argument(
            help="LoRAs, each with its strength.", metavar="FILE[:STRENGTH]...", show_default=False
        ),
    ],
    *,
    output: Annotated[
        Path, option("output", "The transformer's new file. Give it to --transformer later.", metavar="FILE")
    ],
    model: Annotated[str | None, one_of("model", "The model to merge into.", *CATALOG)] = None,
    weights: Weights = None,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but the path and errors.")] = False,
) -> None:
    """Write a model's transformer with LoRAs in its weights.

    It need not be done: `--lora` uses a LoRA as it is, also with weights in 8 bits, into which none can be merged.
    """
    from linnet.loras import parse_lora
    from linnet.weights.files import read_header
    from linnet.weights.lora import read_lora
    from linnet.weights.lora_files import shapes_in
    from linnet.weights.lora_merge import merge_loras
    from linnet.weights.store import default_model, resolve

    spec = find(model) if model else default_model(weights)[0]
    base = resolve(spec, weights=weights).transformer
    shapes = shapes_in(read_header(base))
    parsed = [parse_lora(text) for text in loras]
    read = [(read_lora(Path(file), shapes), strength) for file, strength in parsed]
    with bars(quiet=quiet) as show:
        merge_loras(
            base, read, output, overwrite=overwrite, watch=lambda done, all: show("merge", "", done, all)
        )
    print(output)


@app.command()
def extract(
    base: Annotated[
        Path,
        typer.Argument(help="The transformer before it was fine-tuned.", metavar="BASE", show_default=False),
    ],
    tuned: Annotated[
        Path, typer.Argument(help="The fine-tuned transformer.", metavar="TUNED", show_default=False)
    ],
    *,
    output: Annotated[Path, option("output", "The LoRA's file.", metavar="FILE")],
    rank: Annotated[int, whole("rank", "Rank in each layer; 32 by default.", least=1)] = 32,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but the path and errors.")] = False,
) -> None:
    """Make a LoRA from the difference between a fine-tuned transformer and its base."""
    from linnet.weights.lora import write_lora
    from linnet.weights.lora_merge import extract_lora

    with bars(quiet=quiet) as show:
        made = extract_lora(base, tuned, rank=rank, watch=lambda done, all: show("extract", "", done, all))
    path = write_lora(output, made.lora, overwrite=overwrite)
    if not quiet:
        note(f"it holds {made.kept:.1%} of the difference")
    print(path)


def read_for(file: Path, model: str | None, weights: Path | None) -> tuple[str, "Lora"]:
    """The LoRA, and the model that it is of."""
    from linnet.weights.lora import read_lora

    first: WeightsError | None = None
    for name in [model] if model else CATALOG:
        try:
            if shapes := shapes_of(name, weights):
                return name, read_lora(file, shapes)
        except WeightsError as error:
            first = first or error
    raise first or InvalidInput("model", model, "is not here", "give the folder of its weights")


def shapes_of(name: str, weights: Path | None) -> "dict[str, Shape]":
    """Those of a model's parameters; of Linum v2 known without its files. Empty where they are not here."""
    from linnet.weights.files import read_header
    from linnet.weights.lora_files import shapes_in
    from linnet.weights.store import locate, resolve

    spec = find(name)
    files = resolve(spec, weights=weights) if weights else locate(spec)
    if files:
        return shapes_in(read_header(files.transformer))
    if not spec.published:
        return {}
    import torch

    from linnet.models.transformer import Transformer, linum_v2
    from linnet.weights.lora import parameter_shapes

    with torch.device("meta"):
        return parameter_shapes(Transformer(linum_v2()))


def described(file: Path, model: str, lora: "Lora") -> dict[str, Any]:
    """What is in it, in plain JSON values."""
    each = lora.weights.values()
    kinds = {
        "low rank": sum(weights.rank > 0 for weights in each),
        "DoRA": sum(weights.dora_scale is not None for weights in each),
        "LoKr": sum(weights.factors is not None for weights in each),
        "difference": sum(weights.diff is not None for weights in each),
        "bias": sum(weights.diff_bias is not None for weights in each),
        "modulation": sum(weights.diff_modulation is not None for weights in each),
    }
    return {
        "file": str(file),
        "model": model,
        "layout": lora.layout,
        "modules": len(lora.weights),
        "kinds": [format_count(count, kind, kind) for kind, count in kinds.items() if count],
        "ranks": lora.ranks,
        "alphas": sorted({weights.alpha for weights in each if weights.rank}),
        "scales": sorted({round(weights.scale, 6) for weights in each if weights.rank}),
        "words": list(lora.words),
        "metadata": dict(lora.metadata),
    }

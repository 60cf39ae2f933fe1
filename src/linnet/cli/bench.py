"""`linnet bench`"""

import json
from typing import Annotated, Any

import typer

from linnet.catalog import find
from linnet.cli.options import Device, Dimensions, Dtype, Profile, Threads, Weights, number, option, whole
from linnet.cli.terminal import format_bytes, note, print_table
from linnet.geometry import format_seconds
from linnet.request import make_request
from linnet.weights.store import locate, resolve
from linnet.wording import format_count

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def bench(
    model: Annotated[
        str, option("model", "A name from `linnet models`; seedling by default.", metavar="NAME")
    ] = "seedling",
    size: Dimensions = None,
    seconds: Annotated[float | None, number("seconds", "Length of the clip.")] = None,
    profile: Profile = None,
    layers: Annotated[
        int | None,
        whole("layers", "Run only this many layers of the transformer, and scale the result.", least=1),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = None,
    weights: Weights = None,
    as_json: Annotated[bool, option("json", "Print only the JSON line.")] = False,
) -> None:
    """Measure how fast this device makes a clip.

    It first measures the limits of the device: large matrix products, attention and copies. Then it measures
    each stage of a clip, and the share of the limits that it reaches. The weights are random and of the true
    size, so the model need not be downloaded. The output is a table and one JSON line.
    """
    spec = find(model)
    settings: dict[str, Any] = {"size": size, "seconds": seconds, "profile": profile, "dtype": dtype}
    request = make_request(spec, prompt="any", seed=0, **settings)
    files = resolve(spec, weights=weights) if weights else locate(spec)

    from linnet.measure.bench import bench as measure
    from linnet.runtime.machine import occupy, resolve_machine

    machine = resolve_machine(device, dtype=request.dtype, threads=threads)
    occupy(machine)
    result = measure(
        spec,
        request,
        files=files,
        machine=machine,
        layers=layers,
        watch=lambda stage: None if as_json else note(f"measuring {stage}"),
    )
    if not as_json:
        top = result.ceilings
        name = f"{spec.name}, {format_seconds(request.seconds)} s of {request.size}, {profile or 'exact'}"
        note(f"{name}, on {machine.device} with {format_count(result.threads, 'thread')} in {result.dtype}")
        rows = [
            (f"{result.dtype} products", f"{top.product / 1e12:.2f} TFLOP/s"),
            ("float32 products", f"{top.product_float32 / 1e12:.2f} TFLOP/s"),
            ("attention", f"{top.attention / 1e12:.2f} TFLOP/s"),
            ("copy", f"{top.copy / 1e9:.1f} GB/s"),
        ]
        print_table(("ceiling", "measured"), rows)
        heads = (
            "stage",
            "measured part",
            "seconds",
            "times",
            "in all",
            "of the ceiling",
            "weights",
            "beside them",
        )
        print_table(
            heads,
            [
                (
                    stage.stage,
                    stage.part,
                    f"{stage.seconds:.3g}",
                    f"{stage.times:.4g}",
                    f"{stage.total:.3g} s",
                    f"{stage.share:.0%}",
                    format_bytes(stage.weight_bytes),
                    "not known" if stage.working_bytes is None else format_bytes(stage.working_bytes),
                )
                for stage in result.stages
            ],
        )
    print(json.dumps(result.to_json()))

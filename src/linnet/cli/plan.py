"""`linnet plan`"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from linnet.catalog import ModelSpec, find
from linnet.cli import fail
from linnet.cli.options import (
    AsJson,
    Dimensions,
    Dtype,
    Model,
    Profile,
    Ram,
    Steps,
    Threads,
    Vram,
    Weights,
    number,
    option,
)
from linnet.cli.terminal import bars, format_bytes, print_table
from linnet.errors import InvalidInput
from linnet.plan import cost_model
from linnet.plan.budget import kind_of
from linnet.plan.choose import NOTHING, Plan, TooLarge, make_plan
from linnet.plan.host import may_have_gpu
from linnet.plan.memory import LINUM_V2, shape_of
from linnet.request import Request, make_request
from linnet.runtime.machine import budget_of
from linnet.weights.files import read_config
from linnet.weights.store import ModelFiles, default_model, locate, resolve

NOT_MEASURED = "not measured"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def plan(
    prompt: Annotated[
        str | None, typer.Argument(help="What the video shows.", metavar="PROMPT", show_default=False)
    ] = None,
    model: Model = None,
    size: Dimensions = None,
    seconds: Annotated[float | None, number("seconds", "Length, in steps of 1/6 s.")] = None,
    steps: Steps = None,
    profile: Profile = None,
    device: Annotated[
        str | None,
        option("device", "cpu, cuda or mps, here or not; by default the fastest here.", metavar="NAME"),
    ] = None,
    dtype: Dtype = None,
    vram: Vram = None,
    ram: Ram = None,
    threads: Threads = None,
    weights: Weights = None,
    measure: Annotated[
        bool, option("measure", "First measure how fast this device is, for some seconds, and remember it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a request would run, and what it takes.

    Reads no weights and runs no model. For a card that is not here, say --device cuda --vram 8GB. Seconds are those
    that --measure has measured on this machine; a device that nobody measured has none.
    """
    spec = find(model) if model else default_model(weights)[0]
    settings: dict[str, Any] = {"seconds": seconds, "size": size, "steps": steps, "profile": profile}
    request = make_request(spec, prompt=prompt or "any", seed=0, dtype=dtype, **settings)  # type: ignore[arg-type]
    files = files_here(spec, weights)
    try:
        found = plan_for(spec, files, request, device, vram=vram, ram=ram, threads=threads, measure=measure)
    except InvalidInput as error:
        if as_json:
            print(json.dumps({"fits": False, "problem": str(error), **nearest(error)}))
            fail(f"error: {error}", 2)
        raise
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        show_plan(found)


def nearest(error: InvalidInput) -> dict[str, Any]:
    """Of the plan that comes nearest, where nothing fits: what it would take and what there is."""
    if not isinstance(error, TooLarge):
        return {}
    record = error.least.to_json()
    names = ("peak_device_bytes", "peak_system_bytes", "device", "dtype", "budget", "allowance")
    return {name: record[name] for name in names}


def files_here(spec: ModelSpec, weights: Path | None) -> ModelFiles | None:
    """None for a Linum model that is not on this machine; its shape is known all the same."""
    if weights is None and not spec.ships and locate(spec) is None:
        return None
    return resolve(spec, weights=weights)


def plan_for(
    spec: ModelSpec,
    files: ModelFiles | None,
    request: Request,
    device: str | None,
    *,
    vram: int | None = None,
    ram: int | None = None,
    threads: int | None = None,
    pixels: int = 0,
    measure: bool = False,
    fixed: Mapping[str, Any] = NOTHING,
) -> Plan:
    """The plan, with device and dtype decided; torch is not imported where something is refused that can be known
    without it."""
    shape = shape_of(files) if files else LINUM_V2
    where = device or ("cuda" if vram is not None else "cpu" if not may_have_gpu() else "auto")
    if where == "auto" or kind_of(where) not in ("cpu", "cuda", "mps"):
        from linnet.runtime.device import resolve_device

        where = resolve_device(where)
    elsewhere = kind_of(where) != "cpu" and not card_is_here(where)
    if measure and elsewhere:
        remedy = "leave --measure out, or use --device cpu"
        raise InvalidInput("device", where, "is not here to be measured", remedy)
    budget = budget_of(where, vram=vram, ram=ram)
    way: dict[str, Any] = {"device": where, "budget": budget, "pixels": pixels, "fixed": fixed}
    if request.dtype == "auto":
        smallest = replace(request, dtype="bfloat16")
        frugal = make_plan(spec, shape, smallest, **way)
        if elsewhere:
            return frugal  # for a card that multiplies bfloat16, as all since 2020 do
    if elsewhere:
        return make_plan(spec, shape, request, **way)

    from linnet.runtime.device import circumstances, default_dtype, default_threads, title

    if request.dtype == "auto":
        kind: Any = str(default_dtype(where)).removeprefix("torch.")
        request = replace(request, dtype=kind)
    count = threads or default_threads()
    key = cost_model.key_of(title(where), circumstances(), request.dtype, count, shape, spec.autoencoder)
    if measure:
        import torch

        torch.set_num_threads(count)
        cost_model.remember(key, measured(spec, files, request.dtype, where))
    return make_plan(spec, shape, request, rates=cost_model.known(key), **way)


def measured(spec: ModelSpec, files: ModelFiles | None, dtype: str, device: str) -> cost_model.CostModel:
    """With as many threads as torch has now."""
    from linnet import media
    from linnet.measure.rate_measurement import Frames, measure_rates

    def write(frames: Frames) -> None:
        _, height, width, _ = frames.shape
        with TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            with media.open_writer(path, width=width, height=height, fps=spec.fps, metadata={}) as writer:
                writer.write(frames)

    tiny, file = (read_config(files.autoencoder), files.transformer) if files else (None, None)
    shape = shape_of(files) if files else LINUM_V2
    way: dict[str, Any] = {"dtype": dtype, "device": device, "autoencoder": tiny, "file": file}
    with bars(quiet=False) as show:
        found = measure_rates(spec, shape, write=write, watch=lambda what: show("measure", what, 0, 1), **way)
        show("measure", "", 1, 1)
    return found


def card_is_here(name: str) -> bool:
    if not may_have_gpu():
        return False
    from linnet.runtime.device import is_here

    return is_here(name)


def show_plan(plan: Plan) -> None:
    on_cpu = kind_of(plan.device) == "cpu"
    rows = [
        [
            stage.stage,
            "-" if on_cpu else format_bytes(stage.device_bytes),
            format_bytes(stage.system_bytes),
            time(stage.seconds),
        ]
        for stage in plan.stages
    ]
    peak = ["-" if on_cpu else format_bytes(plan.peak_device_bytes), format_bytes(plan.peak_system_bytes)]
    total = time(plan.seconds)
    if missing := [
        stage.stage for stage in plan.stages if stage.seconds is None and plan.seconds is not None
    ]:
        total += f" without {' and '.join(missing)}"
    print_table(["stage", plan.device, "main memory", "time"], [*rows, ["peak", *peak, total]])
    chosen = [[stage.stage, *choice] for stage in plan.stages for choice in stage.choices]
    print_table(["stage", "what", "choice", "reason"], chosen)
    if plan.slower:
        print(f"{100 * plan.slower:.0f} % slower than with all in memory.")
    device, system = plan.allowance
    apart = f"{format_bytes(device)} for the driver and its workspaces and " if device else ""
    print(f"Peaks include {apart}{format_bytes(system)} for libraries.")


def time(seconds: float | None) -> str:
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

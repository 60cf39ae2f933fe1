"""`linnet plan`"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.catalog import ModelSpec, find
from linnet.cli import fail
from linnet.cli.options import (
    AsJson,
    Compile,
    Dimensions,
    Dtype,
    Fp8,
    LoraMerge,
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
from linnet.cli.problems import with_options
from linnet.cli.terminal import bars, format_bytes, note, print_table
from linnet.errors import InvalidInput
from linnet.geometry import format_seconds
from linnet.plan.execution import NOTHING_FIXED, as_asked
from linnet.plan.host import kind_of
from linnet.plan.machine import Machine
from linnet.plan.plan import Plan, SizedModel
from linnet.plan.refusal import TooLarge
from linnet.prepare import LoraSettings, loras_of
from linnet.profiles import choose_profile
from linnet.request import check_dtype, check_profile, make_request
from linnet.runtime.machine import check_asked, refuse_early, resolve_machine
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
        option(
            "device",
            "cpu, cuda or mps, in this machine or not; by default the fastest one.",
            metavar="NAME",
        ),
    ] = None,
    dtype: Dtype = None,
    vram: Vram = None,
    ram: Ram = None,
    threads: Threads = None,
    weights: Weights = None,
    compiled: Compile = None,
    fp8: Fp8 = None,
    loras: Annotated[
        list[str] | None,
        option("lora", "A LoRA that the clip is to be made with; may be repeated.", metavar="FILE"),
    ] = None,
    lora_merge: LoraMerge = None,
    measure: Annotated[
        bool,
        option("measure", "Measure the speed of this device first. It takes some seconds and is remembered."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a request would run, and its memory and time.

    No weights are read and no model runs. For a GPU that is not in this machine, give --device cuda --vram 8GB.
    Times are known only for devices that were measured with --measure.
    """
    spec = find(model) if model else default_model(weights)[0]
    chosen = choose_profile(
        spec,
        {
            "seconds": seconds,
            "size": size,
            "seed": 0,
            "steps": steps,
            "profile": check_profile(profile) if profile else None,
            "dtype": check_dtype(dtype) if dtype else None,
        },
        files=lambda: resolve(spec, weights=weights),
        device=device,
    )
    for line in chosen.notes:
        note(line)
    compiled = chosen.compiled if compiled is None else compiled
    fp8 = chosen.fp8 if fp8 is None else fp8
    of_loras = LoraSettings(loras=loras or None, lora_merge=lora_merge)
    resolved = loras_of(spec, lambda: resolve(spec, weights=weights), of_loras)
    settings: dict[str, Any] = {**chosen.settings, **({"loras": resolved.uses} if resolved else {})}
    request = make_request(spec, prompt=prompt or "any", **settings)
    files = files_here(spec, weights)
    sized = SizedModel.of(spec, files)
    try:
        refuse_early(sized, request, device, vram=vram, ram=ram)
        machine = resolve_machine(
            device, dtype=request.dtype, threads=threads, vram=vram, ram=ram, here=False
        )
        fixed = as_asked(NOTHING_FIXED, compiled=compiled, fp8=fp8)
        check_asked(machine, fixed)
        if measure:
            check_measurable(machine)

            from linnet.measure.rate_measurement import measure_machine

            busy = is_busy()
            with bars(quiet=False) as show:
                measure_machine(machine, sized, files, lambda what: show("measure", what, 0, 1))
                show("measure", "", 1, 1)
            if busy:
                note(
                    "note: other programs use the processor, so these times may be far too long; measure again"
                )
        plan = machine.plan(sized, request, fixed=fixed)
    except InvalidInput as error:
        if as_json:
            print(json.dumps({"fits": False, "problem": with_options(error), **nearest(error)}))
            fail(f"error: {with_options(error)}", 2)
        raise
    if as_json:
        print(json.dumps(plan.to_json()))
    else:
        show_plan(plan)


def check_measurable(machine: Machine) -> None:
    if machine.title is None:
        remedy = "leave --measure out, or use --device cpu"
        raise InvalidInput("device", machine.device, "is not here to be measured", remedy)


def nearest(error: InvalidInput) -> dict[str, Any]:
    """Of the plan that comes nearest, where nothing fits: what it would take and what there is."""
    if not isinstance(error, TooLarge):
        return {}
    record = error.least.to_json()
    names = ("peak_device_bytes", "peak_system_bytes", "device", "dtype", "budget", "allowance")
    return {name: record[name] for name in names}


def files_here(spec: ModelSpec, weights: Path | None) -> ModelFiles | None:
    """None for a Linum model that is not on this machine; its shape is known all the same."""
    if weights is None and spec.published and locate(spec) is None:
        return None
    return resolve(spec, weights=weights)


def show_plan(plan: Plan) -> None:
    on_cpu = plan.workload.on_cpu
    for line in summary(plan):
        print(line)
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
    chosen = [[stage.stage, *choice] for stage in plan.stages for choice in plan.choices(stage.stage)]
    print_table(["stage", "what", "choice", "reason"], chosen)
    if plan.slower:
        print(f"{100 * plan.slower:.0f} % slower than with all in memory.")
    device, system = plan.allowance
    apart = f"{format_bytes(device)} for the driver and its workspaces and " if device else ""
    print(f"Peaks include {apart}{format_bytes(system)} for libraries.")
    if kind_of(plan.device) == "cuda":
        classic = format_bytes(plan.classic_device_bytes)
        if plan.budget.segments == "expandable":
            print(
                f"Without expandable segments, as on Windows, PyTorch would take {classic} of the card for this."
            )
        else:
            print(f"PyTorch has no expandable segments here: {classic} include the gaps between tensors.")


def summary(plan: Plan) -> Iterator[str]:
    """What is made, and that it fits."""
    request = plan.request
    clip = f"{format_seconds(request.seconds)} s of {request.size} ({request.frames} frames)"
    yield f"{plan.spec.name}: {clip}, {request.steps} steps, on {plan.device} in {request.dtype}."
    if plan.windows > 1:
        order = "one after the other" if request.onward else "together"
        yield f"It is made in {plan.windows} windows of {plan.window_frames} frames, {order}."
    places = {"vram": f"on {plan.device}", "ram": "in main memory"}
    parts = []
    for name, limit in plan.budget.limits.items():
        source = "allowed" if name in plan.budget.limited else "free"
        parts.append(
            f"{format_bytes(plan.peaks[name])} of the {format_bytes(limit)} that are {source} {places[name]}"
        )
    yield f"It fits: {' and '.join(parts)}." if parts else "How much memory is free is not known here."
    budget = plan.budget
    if budget.others is not None:
        instead = (
            f", so less is free than the {format_bytes(budget.allowed)} allowed" if budget.allowed else ""
        )
        others = format_bytes(budget.others)
        yield f"Other programs and the driver hold {others} of {plan.device}'s memory now{instead}."


def time(seconds: float | None) -> str:
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def is_busy() -> bool:
    """Whether, in the last minute, other programs kept more than half of the processor's cores at work."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 2

"""`linnet generate`"""

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from linnet.cli import fail
from linnet.cli.options import (
    Anyway,
    Compile,
    ConditionOptions,
    Dimensions,
    Dtype,
    FileOptions,
    Fp8,
    Gpus,
    GuidanceScale,
    LoadOptions,
    LoraOptions,
    Overwrite,
    Profile,
    Steps,
    grouped,
    number,
    one_of,
    option,
    parse_seeds,
    whole,
)
from linnet.cli.terminal import bars, note, previewing, starting, tell_made, telling
from linnet.clip import Clip
from linnet.errors import InvalidInput
from linnet.filesystem import check_name
from linnet.geometry import format_seconds
from linnet.plan.plan import Plan
from linnet.prepare import Settings, prepare_clips
from linnet.request import CHOICES, Request
from linnet.wording import format_bytes

SOLVER = "euler, dpm++ or unipc. Seedling needs 8, 8 and 10 steps; Linum 10 with the last two, by theory: not measured."

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@grouped
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What the video shows.", metavar="PROMPT", show_default=False)
    ] = None,
    *,
    size: Dimensions = None,
    seconds: Annotated[float | None, number("seconds", "Length, in steps of 1/6 s; up to 300.")] = None,
    seed: Annotated[
        list[str] | None,
        option("seed", "Which of the possible videos: 3, or 1-4 or 1,5,8 for a clip each.", metavar="SEEDS"),
    ] = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    negative: Annotated[
        str | None, option("negative", "What the video must not show.", metavar="TEXT")
    ] = None,
    apg_rescale: Annotated[
        float | None, number("apg-rescale", "Longest guidance step of a latent frame; 0 is no limit.")
    ] = None,
    profile: Profile = None,
    untuned: Annotated[
        bool, option("untuned", "With --profile fast: settings from the literature, not measured here.")
    ] = False,
    solver: Annotated[
        str | None,
        one_of("solver", SOLVER, *CHOICES["solver"]),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        option("guidance-interval", "Share of the steps that are guided, as 0.1:0.8.", metavar="FROM:TO"),
    ] = None,
    step_cache: Annotated[
        str | None,
        option(
            "step-cache",
            "Steps that skip the model: none, a list such as 5,7,9, or a limit such as 0.05 for their change. "
            "After hold: they take the velocity as it was.",
            metavar="WHAT",
        ),
    ] = None,
    window: Annotated[
        int | None, whole("window", "Frames of a window, for a clip that is longer than the model's own.")
    ] = None,
    window_overlap: Annotated[int | None, whole("window-overlap", "Frames that two windows share.")] = None,
    autoregressive: Annotated[
        bool | None,
        typer.Option(
            "--autoregressive/--joint",
            help="Make each window from the one before it, or all jointly; by default what suits the model.",
            show_default=False,
        ),
    ] = None,
    local_attention: Annotated[
        int | None,
        whole("local-attention", "Without windows: each frame attends to this many frames on either side."),
    ] = None,
    loop: Annotated[bool, option("loop", "The last frame meets the first.")] = False,
    conditions: ConditionOptions,
    output: Annotated[
        Path | None,
        option(
            "output",
            "A .mp4, .webm, .mkv, .gif or .webp file, or a folder for PNGs; by default PROMPT-SEED.mp4.",
            metavar="PATH",
        ),
    ] = None,
    preview: Annotated[
        bool, option("preview", "Also write OUTPUT.preview.png, which grows while it denoises.")
    ] = False,
    like: Annotated[
        Path | None, option("like", "A clip that linnet made: start from its request.", metavar="FILE")
    ] = None,
    load: LoadOptions,
    lora: LoraOptions,
    gpus: Gpus = 1,
    dtype: Dtype = None,
    files: FileOptions,
    compiled: Compile = None,
    fp8: Fp8 = None,
    overwrite: Overwrite = False,
    anyway: Anyway = False,
    dry_run: Annotated[bool, option("dry-run", "Show what would run, and stop.")] = False,
    quiet: Annotated[bool, option("quiet", "Print nothing but paths and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line a clip.")] = False,
) -> None:
    """Make a video from a prompt."""
    settings = {
        **vars(load),
        **vars(lora),
        **vars(files),
        **vars(conditions),
        **interval(guidance_interval),
        "negative": negative,
        "size": size,
        "seconds": seconds,
        "steps": steps,
        "guidance": guidance,
        "apg_rescale": apg_rescale,
        "dtype": dtype,
        "profile": profile,
        "solver": solver,
        "reuse": step_cache,
        "window": window,
        "window_overlap": window_overlap,
        "onward": autoregressive,
        "span": local_attention,
        "loop": loop or None,
        "like": like,
        "compile": compiled,
        "fp8": fp8,
        "untuned": untuned,
        "gpus": gpus,
    }
    with starting(quiet=quiet or as_json):
        ready = prepare_clips(
            prompt,
            cast(Settings, settings),
            seeds=parse_seeds(seed) if seed else (),
            output=output,
            overwrite=overwrite,
            anyway=anyway,
            here=not (load.device and dry_run),
        )
    plans, first = ready.plans, ready.plans[0].request
    for path in ready.outputs if preview else ():
        check_name(preview_name(path), field="preview")
    if not quiet:
        note(f"{first.model} on {ready.pipeline.machine.device} in {first.dtype}: {ready.why}")
        for line in ready.notes:
            note(line)
    if dry_run:
        for each, path in zip(plans, ready.outputs, strict=True):
            print_request(each.request, path, each, as_json)
        if not as_json:
            from linnet.cli.plan import show_plan

            show_plan(plans[0])
        return

    made: list[Clip] = []

    def tell(line: str) -> None:
        if not quiet and not made:
            note(f"note: {line}")

    try:
        for each, path in zip(plans, ready.outputs, strict=True):
            prefix = f"{len(made) + 1}/{len(plans)} " if len(plans) > 1 else ""
            sheet = preview_name(path) if preview else None
            expected = {stage.stage: stage.seconds for stage in each.stages}
            with (
                bars(quiet=quiet or as_json) as show,
                previewing(telling(show, prefix=prefix, expected=expected), sheet) as watch,
            ):
                clip = ready.make(each, path, overwrite=overwrite, watch=watch, tell=tell)
            made.append(clip)
            print_clip(clip, quiet, as_json)
    except KeyboardInterrupt:
        written = f"{len(made)} of {len(plans)} clips" if made else "nothing"
        fail(f"stopped; {written} was written", 130)
    finally:
        ready.pipeline.unload()


def interval(text: str | None) -> dict[str, float]:
    """`--guidance-interval` as the request's two fields."""
    if text is None:
        return {}
    try:
        start, stop = map(float, text.split(":"))
    except ValueError:
        remedy = "use two shares of the steps, such as 0.1:0.8"
        raise InvalidInput("guidance-interval", text, "is not FROM:TO", remedy) from None
    return {"guidance_from": start, "guidance_until": stop}


def preview_name(output: Path) -> Path:
    return output.with_name(f"{output.name}.preview.png")


def print_request(request: Request, path: Path, plan: Plan, as_json: bool) -> None:
    """What would run."""
    record, memory = request.to_json(), plan.peak_bytes
    if as_json:
        record = {"path": str(path), "request": record, "memory_bytes": memory, "plan": plan.to_json()}
        print(json.dumps(record))
        return
    record |= {"seconds": format_seconds(request.seconds), "memory": f"about {format_bytes(memory)}"}
    if request.loras:
        record["loras"] = ", ".join(use.described() for use in request.loras)
    for name, value in {**record, "output": path}.items():
        print(f"{name:<16} {value}")


def print_clip(clip: Clip, quiet: bool, as_json: bool) -> None:
    if as_json:
        times = {"seconds": clip.seconds, "overlapped": clip.overlapped}
        print(json.dumps({"path": str(clip.path), **clip.metadata(), **times}))
        return
    if not quiet:
        request, spent = clip.request, sum(clip.seconds.values())
        tell_made("", request.seconds, request.size, spent, seed=request.seed)
    print(clip.path)

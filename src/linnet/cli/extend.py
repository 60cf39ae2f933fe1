"""`linnet extend`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.cli.direct import Place, beside, earlier_clip, model_for, needs_prompt, opened, run
from linnet.cli.options import (
    Anyway,
    AsJson,
    ClipsModel,
    ClipsSeed,
    Device,
    GuidanceScale,
    Overwrite,
    Profile,
    Quiet,
    Ram,
    Steps,
    Threads,
    Vram,
    Weights,
    number,
    option,
)
from linnet.errors import InvalidInput
from linnet.geometry import FRAMES_PER_LATENT, format_seconds, frames_for
from linnet.request import LONGEST_SECONDS, make_request

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def extend(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .mp4 with H.264 of the model's size; with --reencode, any clip.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    seconds: Annotated[float, number("seconds", "How much is added, in steps of 1/6 s; 2 by default.")] = 2.0,
    prompt: Annotated[
        str | None, option("prompt", "What goes on; by default the clip's own.", metavar="TEXT")
    ] = None,
    seed: ClipsSeed = None,
    profile: Profile = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    reencode: Annotated[
        bool,
        option(
            "reencode",
            "Encode all of it anew, at the model's size and pace, without its sound: for any clip.",
        ),
    ] = False,
    fit: Annotated[
        str | None, option("fit", "crop or pad a clip of another shape; with --reencode.", metavar="HOW")
    ] = None,
    output: Annotated[Path | None, option("output", "By default FILE-extended.mp4.", metavar="PATH")] = None,
    model: ClipsModel = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = None,
    vram: Vram = None,
    ram: Ram = None,
    overwrite: Overwrite = False,
    anyway: Anyway = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on from a clip's last frames.

    Its own packets are copied, not encoded again, and so is its sound; the new frames follow them. A clip whose
    packets cannot be kept so is refused, or encoded anew with --reencode.

    Of a clip of linnet's the prompt goes on; if the same model made it, all its settings do, too, those of its profile
    unless --profile says another, but not its --reuse.
    """
    earlier = earlier_clip(file)
    if prompt is None and earlier is None:
        raise needs_prompt(file)
    spec = model_for(model, earlier, weights)
    output = output or beside(file, "extended")
    like = earlier.request if earlier and earlier.request.model == spec.name else None
    added = frames_for(seconds, spec.fps) - 1
    if added < FRAMES_PER_LATENT:
        raise InvalidInput("seconds", seconds, "adds nothing", "give at least 0.167")

    from linnet.direct import extend as extending  # it takes seconds to import
    from linnet.direct.conditions import check_fit
    from linnet.inputs.reader import probe

    words = prompt if prompt is not None or earlier is None else earlier.request.prompt
    settings: dict[str, Any] = {
        "prompt": words,
        "profile": profile,
        "reuse": "none",
        "steps": steps,
        "guidance": guidance,
        "like": like,
        "loop": False,
    }
    if spec.allows(size := probe(file).size):
        settings["size"] = size
    usual = make_request(spec, **settings, seed=seed, frames=spec.default_frames)
    extending.check_output(output, usual, overwrite=overwrite, reencode=reencode)
    how: dict[str, Any] = {"reencode": reencode, "fit": check_fit(fit)}
    source = extending.open_old(file, usual, **how)
    seen = extending.seen_of(source)
    frames = max(seen + added, spec.min_frames)
    if frames > seen + added:
        shortest = format_seconds((spec.min_frames - seen) / spec.fps)
        raise InvalidInput(
            "seconds", seconds, f"is less than {spec.name} can add here", f"give {shortest} or more"
        )
    most = LONGEST_SECONDS * spec.fps + 1
    if frames > most:
        longest = format_seconds((most - seen) / spec.fps)
        raise InvalidInput(
            "seconds", seconds, f"is more than {spec.name} can add here", f"give {longest} or less"
        )
    request = make_request(spec, **settings, seed=usual.seed, frames=frames)
    place = Place(weights, device, threads, vram, ram)
    pipeline = opened(spec, {"prompt": request.prompt}, place, anyway=anyway, quiet=quiet)
    plan = pipeline.plan(request, encoded_frames=seen)
    run(
        pipeline,
        lambda watch: extending.extend(
            pipeline, plan, source, output, overwrite=overwrite, reencode=reencode, watch=watch
        ),
        output,
        request=request,
        added=added / spec.fps,
        notes=source.notes if reencode else (),
        quiet=quiet,
        as_json=as_json,
    )

"""`linnet refine`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.cli.direct import beside, earlier_clip, go, model_for, needs_prompt, opened
from linnet.cli.options import (
    Anyway,
    AsJson,
    ClipsModel,
    ClipsSeed,
    Device,
    Dimensions,
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
from linnet.request import make_request

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def refine(
    file: Annotated[Path, typer.Argument(help="A draft.", metavar="FILE", show_default=False)],
    strength: Annotated[
        float | None,
        number(
            "strength",
            "Share of the steps that are taken again; 0.4 by default. A note says from which noise level.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, option("prompt", "What it shows; by default the clip's own.", metavar="TEXT")
    ] = None,
    size: Dimensions = None,
    fit: Annotated[str | None, option("fit", "crop or pad a clip of another shape.", metavar="HOW")] = None,
    seed: ClipsSeed = None,
    profile: Profile = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    output: Annotated[Path | None, option("output", "By default FILE-refined.mp4.", metavar="PATH")] = None,
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
    """Finish a draft at the model's size, by the last steps.

    It is scaled up and taken through them again. Choose a seed among drafts of linum-v2-360p, and finish that one with
    `--model linum-v2-720p`.

    From a clip of linnet's it takes the prompt, the negative prompt and the seed; if the same model made it, the size
    and the guidance, too, but never the shortcuts: without --profile it is exact.
    """
    earlier = earlier_clip(file)
    if prompt is None and earlier is None:
        raise needs_prompt(file)
    spec = model_for(model, earlier, weights)
    output = output or beside(file, "refined")

    from linnet.direct.beginning import check_fit  # it and what follows take seconds to import
    from linnet.direct.conditions import check_strength
    from linnet.direct.edit import refine as finish
    from linnet.direct.footage import length_for, open_source
    from linnet.media import check_target

    share = check_strength(0.4 if strength is None else strength)
    settings: dict[str, Any] = {
        "prompt": prompt,
        "profile": profile or "exact",
        "reuse": "none",
        "steps": steps,
        "guidance": guidance,
        "size": size,
        "loop": False,
        "onward": False,
    }
    like = earlier.request if earlier else None
    first = make_request(spec, like=like, seed=seed, frames=spec.default_frames, **settings)
    source = open_source(file, first.size, spec.fps, check_fit(fit))
    check_target(output, size=first.size, overwrite=overwrite)
    frames = length_for(spec, file, len(source.order))
    request = make_request(spec, like=like, frames=frames, **settings, seed=first.seed)
    pipeline = opened(
        spec,
        {"prompt": request.prompt},
        weights=weights,
        device=device,
        anyway=anyway,
        quiet=quiet,
        threads=threads,
        vram=vram,
        ram=ram,
    )
    way = finish(pipeline, pipeline.settled(request), source, strength=share)
    left_out = len(source.order) - frames
    go(pipeline, request, way, output, left_out=left_out, overwrite=overwrite, quiet=quiet, as_json=as_json)

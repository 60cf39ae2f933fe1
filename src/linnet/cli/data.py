"""`linnet data`"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli import Group, fail
from linnet.cli.options import (
    AsJson,
    Device,
    Model,
    Overwrite,
    Ram,
    Threads,
    Vram,
    Weights,
    number,
    option,
    whole,
)
from linnet.cli.terminal import bars, note, print_table, starting
from linnet.errors import InvalidInput
from linnet.filesystem import check_folder
from linnet.geometry import frames_for
from linnet.wording import format_count, format_seconds

if TYPE_CHECKING:
    from linnet.data.curate import CurateSettings
    from linnet.data.curate_run import Executor
    from linnet.data.findings import Report

MOST_LISTED = 20  # files that are not used

app = typer.Typer(
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,
    help="Make a dataset of clips, and check it. A dataset is a folder of clips and images, each with a .txt caption.",
)


Folder = Annotated[Path, typer.Argument(help="Folder of clips, images and their captions.", metavar="FOLDER")]
CacheFolder = Annotated[
    Path | None,
    option("cache", "Folder for what is found out about clips and their latents.", metavar="DIR"),
]
Quiet = Annotated[bool, option("quiet", "Print nothing but the result and errors.")]


@app.command()
def check(
    folder: Folder,
    model: Model = None,
    sheet: Annotated[
        Path | None, option("sheet", "PNG to draw; by default FOLDER-sheet.png.", metavar="FILE")
    ] = None,
    no_sheet: Annotated[bool, option("no-sheet", "Draw no contact sheet.")] = False,
    cache: CacheFolder = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what will become of each clip of a dataset, and why.

    Each file is read once, in a process with limits. Nothing in the folder is changed. The contact sheet shows three
    moments of each clip.
    """
    from linnet.catalog import find
    from linnet.data.captions import caption_check
    from linnet.data.check_sheet import write_check_sheet
    from linnet.data.dataset import list_dataset, nothing_to_train
    from linnet.data.findings import check_dataset
    from linnet.direct.sheet import check_sheet
    from linnet.weights.store import default_model

    spec = find(model) if model else default_model(None)[0]
    dataset = list_dataset(folder)
    if not dataset.samples and not any(each.fault == "no caption" for each in dataset.left_out):
        raise nothing_to_train(folder, dataset.left_out)
    picture = None if no_sheet else sheet or sheet_beside(folder)
    if picture is not None:
        check_sheet(picture, overwrite=overwrite)
    unseen, note_of_tokens = caption_check(spec)
    try:
        with bars(quiet=quiet or as_json) as show:
            reports = check_dataset(
                dataset,
                spec,
                unseen,
                cache_of(cache),
                lambda done, total: show("files", "", done, total, unit="file"),
            )
    except KeyboardInterrupt:
        fail("stopped; what was read is kept, and the same command continues", 130)
    on_it = write_check_sheet(reports, picture, of=str(folder), overwrite=overwrite) if picture else 0
    if as_json:
        print(json.dumps(check_record(reports, spec.name, picture if on_it else None)))
        return
    if not quiet and note_of_tokens:
        note(f"note: {note_of_tokens}")
    print_table(("file", "seconds", "size", "becomes", "findings"), [check_row(report) for report in reports])
    if not quiet:
        for line in summary(reports, spec.name):
            note(line)
        if picture and on_it:
            most = "" if on_it == len(reports) else f" (of {on_it} files)"
            note(f"contact sheet{most}: {picture}")


def sheet_beside(folder: Path) -> Path:
    """In the current folder, unless it is the dataset's or inside it: there it would be an image without a caption."""
    home, here = folder.resolve(), Path.cwd()
    name = f"{home.name or 'dataset'}-sheet.png"
    return home.parent / name if here.is_relative_to(home) else Path(name)


def check_row(report: "Report") -> list[str]:
    survey = report.survey
    seconds = "" if survey is None or survey.still else format_seconds(round(survey.scan.end, 3))
    becomes = str(report.clips[0].bucket) if report.clips else "not used"
    if len(report.clips) > 1:
        becomes = f"{len(report.clips)} clips of {becomes}"
    if report.held_out and report.clips:
        becomes += ", held out"
    return [report.name, seconds, str(survey.size) if survey else "", becomes, report.words]


def check_record(reports: Sequence["Report"], model: str, sheet: Path | None) -> dict[str, Any]:
    return {
        "model": model,
        "sheet": str(sheet) if sheet else None,
        "files": [
            {
                "file": report.name,
                "used": report.usable,
                "held_out": report.held_out,
                "seconds": report.survey.scan.end if report.survey else None,
                "frames": len(report.survey.scan.times) if report.survey else None,
                "size": str(report.survey.size) if report.survey else None,
                "buckets": [
                    {"size": str(clip.bucket.size), "frames": clip.bucket.frames} for clip in report.clips
                ],
                "findings": [vars(finding) for finding in report.findings],
            }
            for report in reports
        ],
    }


def summary(reports: Sequence["Report"], model: str) -> list[str]:
    """How much is used, in which buckets, and how often each finding was made."""
    from linnet.data.findings import buckets_in

    usable = [report for report in reports if report.usable]
    clips = sum(len(report.clips) for report in usable)
    counts = Counter(finding.name for report in reports for finding in report.findings)
    lines = [f"{len(usable):,} of {format_count(len(reports), 'file')} can be used: {clips:,} for {model}"]
    for bucket, count in sorted(buckets_in(reports).items(), key=lambda each: -each[1]):
        lines.append(f"  {bucket}: {count:,}")
    if counts:
        lines.append("; ".join(f"{name} {count:,}" for name, count in counts.most_common()))
    return lines


@app.command()
def curate(
    raw: Annotated[Path, typer.Argument(help="Folder of long videos, or one video.", metavar="RAW")],
    out: Annotated[
        Path, option("output", "Folder for the clips and manifest.jsonl.", also=("--out",), metavar="DIR")
    ],
    shortest: Annotated[float, number("shortest", "Seconds of the shortest clip.", above=0)] = 2.0,
    longest: Annotated[float, number("longest", "Seconds of the longest clip.", above=0)] = 5.0,
    min_motion: Annotated[
        float, number("min-motion", "How far the liveliest part of the picture changes, of 255.", least=0)
    ] = 6.0,
    min_sharpness: Annotated[
        float, number("min-sharpness", "Variance of the Laplacian of the picture.", least=0)
    ] = 4.0,
    min_luma: Annotated[float, number("min-luma", "Mean brightness, of 255.", least=0)] = 16.0,
    ray: Annotated[
        str | None,
        option("ray", "Address of a Ray cluster that does the work; auto finds it.", metavar="ADDRESS"),
    ] = None,
    sheet: Annotated[
        Path | None, option("sheet", "PNG to draw; by default DIR-sheet.png.", metavar="FILE")
    ] = None,
    dry_run: Annotated[bool, option("dry-run", "Show what would be kept, and write no clip.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Cut long videos into clips for training.

    Videos are split where the scene changes or fades, black bars are cropped, and what is too short, still, blurred,
    dark or a duplicate is left out. manifest.jsonl has a line for each piece, with its measures and the reason. The
    contact sheet shows the same. The command can be stopped at any time; the same command continues it. Sound is left
    out.
    """
    from linnet.data.check_sheet import write_curation_sheet
    from linnet.data.curate_run import curate
    from linnet.data.scenes import check_installed
    from linnet.direct.sheet import check_sheet

    check_installed()
    settings = curate_settings(shortest, longest, min_motion, min_sharpness, min_luma)
    check_folder(out, field="out")
    picture = sheet or sheet_beside(out)
    check_sheet(picture, overwrite=overwrite)
    try:
        executor = executor_at(ray)
        with bars(quiet=quiet or as_json) as show:
            made = curate(
                raw,
                out,
                settings,
                executor=executor,
                dry_run=dry_run,
                tell=lambda stage, done, total: show(stage, "", done, total, unit=stage.rstrip("s")),
            )
    except KeyboardInterrupt:
        fail(f"stopped; what is done is kept in {out}, and the same command continues", 130)
    on_it = write_curation_sheet(made.rows, picture, of=str(out), overwrite=overwrite)
    reasons = Counter(row.reason.partition(":")[0].partition(" of ")[0] for row in made.rows if row.reason)
    if as_json:
        record = {
            "manifest": str(made.manifest) if made.manifest else None,
            "sheet": str(picture) if on_it else None,
            "videos": made.videos,
            "kept": len(made.kept),
            "new": made.new,
            "left_out": dict(reasons),
        }
        print(json.dumps(record))
        return
    if not quiet:
        kept = f"{format_count(len(made.kept), 'clip')} of {format_count(made.videos, 'video')}"
        if dry_run:
            note(f"{kept} would be kept")
        else:
            note(f"{kept}: {made.new:,} cut now, {len(made.kept) - made.new:,} before")
        if reasons:
            note("left out: " + ", ".join(f"{name} {count:,}" for name, count in reasons.most_common()))
        if on_it:
            note(f"contact sheet: {picture}")
    print(made.manifest or picture)


def executor_at(ray: str | None) -> "Executor":
    """This machine, or the Ray cluster at the address."""
    from linnet.data.curate_run import LocalExecutor

    if ray is None:
        return LocalExecutor()
    from linnet.runtime.cluster import connect

    connect(ray)
    from linnet.data.curate_ray import RayExecutor

    return RayExecutor()


def curate_settings(
    shortest: float, longest: float, min_motion: float, min_sharpness: float, min_luma: float
) -> "CurateSettings":
    """In frames of the models' grid; InvalidInput names the option."""
    from linnet.data.curate import CurateSettings

    frames = []
    for name, seconds in (("shortest", shortest), ("longest", longest)):
        try:
            frames.append(frames_for(seconds))
        except InvalidInput as error:
            raise InvalidInput(name, seconds, error.problem, error.remedy) from None
    if frames[0] > frames[1]:
        problem = f"is longer than the longest, {format_seconds(longest)} s"
        raise InvalidInput("shortest", format_seconds(shortest), problem, "make it shorter")
    return CurateSettings(
        shortest=frames[0],
        longest=frames[1],
        min_motion=min_motion,
        min_sharpness=min_sharpness,
        min_luma=min_luma,
    )


@app.command()
def caption(
    folder: Folder,
    server: Annotated[
        str,
        option("server", "Address of the vision model, such as http://localhost:11434/v1.", metavar="URL"),
    ],
    model: Annotated[str, option("model", "The vision model's name on that server.", metavar="NAME")],
    frames: Annotated[int, whole("frames", "Frames of a clip that are sent.", least=1, most=64)] = 8,
    video: Annotated[
        bool, option("video", "Send a small video instead of frames, to a model that takes such.")
    ] = False,
    template: Annotated[
        Path | None, option("template", "Text file of what the model is asked.", metavar="FILE")
    ] = None,
    timeout: Annotated[float, number("timeout", "Seconds that an answer may take.", above=0)] = 120.0,
    tokens: Annotated[int, whole("tokens", "Tokens that an answer may have.", least=16)] = 512,
    parallel: Annotated[int, whole("parallel", "Clips that are asked about at once.", least=1, most=64)] = 1,
    cache: CacheFolder = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let a vision model write the captions that are missing.

    Any server that speaks OpenAI's protocol will do: Ollama, vLLM, llama.cpp. Frames of each clip are sent to it, and
    to nobody else. A clip that has a caption is left alone, so the command can be stopped and run again. The key of a
    server that wants one is read from OPENAI_API_KEY.
    """
    from linnet.data.caption import TEMPLATE, CaptionSettings, caption_all, read_template, without_caption
    from linnet.data.vision import VisionServer

    settings = CaptionSettings(
        frames=frames,
        video=video,
        template=read_template(template) if template else TEMPLATE,
        parallel=parallel,
    )
    vision = VisionServer(address=server, model=model, seconds=timeout, tokens=tokens)
    waiting, present = without_caption(folder)
    written, failed = 0, dict[str, str]()
    try:
        with bars(quiet=quiet or as_json) as show:
            show("captions", "", 0, len(waiting), unit="clip")
            for result in caption_all(folder, waiting, vision, settings, cache_of(cache)):
                if result.problem:
                    failed[result.name] = result.problem
                    if not quiet and not as_json:
                        note(f"note: {result.name}: {result.problem}")
                else:
                    written += 1
                show("captions", result.name, written + len(failed), len(waiting), unit="clip")
    except KeyboardInterrupt:
        fail(f"stopped; {written:,} captions are written, and the same command continues", 130)
    if as_json:
        print(json.dumps({"written": written, "kept": present, "failed": failed}))
    elif not quiet:
        note(f"{format_count(written, 'caption')} written, {present:,} were there")
    if failed:
        fail(f"error: {format_count(len(failed), 'clip')} of {len(waiting):,} got no caption", 1)


@app.command("cache")
def cache_dataset(
    folder: Folder,
    model: Model = None,
    weights: Weights = None,
    cache: CacheFolder = None,
    device: Device = "auto",
    threads: Threads = None,
    vram: Vram = None,
    ram: Ram = None,
    shards: Annotated[
        bool,
        option(
            "shards",
            "Also pack the cache into tar files of up to 1 GB, as webdataset reads them; for large sets.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Encode the clips and captions of a dataset for training.

    Training does this itself when it begins. The size is shown first. A clip that was renamed or touched is not encoded
    again; one that changed is. Training also reads what is in --shards.
    """
    from linnet.catalog import find
    from linnet.data.buckets import clips_in
    from linnet.data.dataset import read_dataset
    from linnet.weights.store import default_model

    spec = find(model) if model else default_model(weights)[0]
    dataset = read_dataset(folder)
    folder_of_cache = cache_of(cache)
    try:
        with bars(quiet=quiet or as_json) as show:
            clips, left_out = clips_in(
                dataset,
                spec,
                folder_of_cache,
                lambda done, total: show("files", "", done, total, unit="file"),
            )
            if not quiet:
                tell_left_out([f"{each.name} is not used: {each.problem}" for each in left_out])
            with starting(quiet=quiet or as_json):
                from linnet.data.encoded import Cache, encode_dataset
                from linnet.prepare import open_pipeline

            pipeline = open_pipeline(
                spec,
                {"weights": weights, "device": device, "threads": threads, "vram": vram, "ram": ram},
            )
            plan = Cache(folder_of_cache, pipeline.model).plan(clips)
            if not quiet:
                note(str(plan))
            data = encode_dataset(
                pipeline,
                clips,
                folder_of_cache,
                tell=lambda stage, done, total: show(stage, "", done, total, unit="clip"),
            )
            archives = None
            if shards:
                archives = data.pack(lambda stage, done, total: show(stage, "", done, total, unit="file"))
    except KeyboardInterrupt:
        fail("stopped; what is encoded is kept, and the same command continues", 130)
    record = {"cache": str(folder_of_cache), "clips": plan.clips, "new": plan.new, "bytes": plan.whole}
    if archives is not None:
        record["shards"] = archives
    if as_json:
        print(
            json.dumps({**record, "left_out": [vars(each) | {"path": str(each.path)} for each in left_out]})
        )
    elif quiet:
        print(folder_of_cache)
    else:
        note(f"{format_count(plan.new, 'clip')} encoded, {plan.clips - plan.new:,} were there")
        if archives is not None:
            note(f"packed; the cache has {format_count(archives, 'shard')}")
        print(folder_of_cache)


def cache_of(given: Path | None) -> Path:
    """The folder that was named, else the one in the user's cache."""
    from linnet.data.probe import default_cache

    folder = given or default_cache()
    if folder is None:
        raise InvalidInput(
            "cache", "", "has no folder, since there is no home folder", "name one with `cache`"
        )
    return folder


def tell_left_out(lines: Sequence[str]) -> None:
    for line in lines[:MOST_LISTED]:
        note(f"note: {line}")
    if len(lines) > MOST_LISTED:
        note(f"note: {len(lines) - MOST_LISTED:,} more are not used; `linnet data check` lists them")


@app.command("example")
def example(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.", metavar="FOLDER")],
    teach: Annotated[
        str,
        option("teach", "circle (default) or cross, outline (a style), or swing (a motion).", metavar="NAME"),
    ] = "circle",
) -> None:
    """Draw a dataset to try training on: 24 clips of something that seedling does not know."""
    from linnet.data.example import draw_example

    draw_example(folder, teach)
    print(folder)

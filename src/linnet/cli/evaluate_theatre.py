"""`linnet evaluate theatre`"""

import json
from pathlib import Path
from typing import Annotated, Any

from linnet.catalog import THEATRE
from linnet.cli import fail
from linnet.cli.options import Device, GuidanceScale, Profile, Steps, Threads, Weights, one_of, option, whole
from linnet.cli.terminal import bars, note, print_table
from linnet.errors import InvalidInput
from linnet.request import make_request
from linnet.wording import choices, format_count, in_a_row

ASK = ("trained", "held-out", "two", "behind", "free")
DRAW = ("clean", "smeared", "half", "other")


def theatre(
    sprites: Annotated[
        Path, option("sprites", "Written by `python scripts/theatre.py pack`; needed.", metavar="FILE")
    ],
    ask: Annotated[
        str,
        one_of(
            "ask",
            "trained (the default) or held-out combinations, two things, a thing that passes behind a tree, or free "
            "sentences.",
            *ASK,
            metavar="KIND",
        ),
    ] = "trained",
    n: Annotated[int, whole("n", "How many clips; 200 by default.", least=1)] = 200,
    prompts: Annotated[
        Path | None, option("prompts", "The sentences of `--ask free`, one a line.", metavar="FILE")
    ] = None,
    few: Annotated[
        bool, option("few", "Only the 30 things and 6 places of the trainer's `--size few`.")
    ] = False,
    draw: Annotated[
        str | None,
        one_of(
            "draw",
            "Asks no model: draws clean, smeared, half or other things, to measure the reader.",
            *DRAW,
            metavar="HOW",
        ),
    ] = None,
    profile: Profile = None,
    output: Annotated[
        Path | None,
        option("output", "Folder for clips and report; by default theatre-KIND.", metavar="DIR"),
    ] = None,
    seed: Annotated[int | None, whole("seed", "Draws other questions than the usual ones.")] = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Annotated[bool, option("quiet", "Print nothing but the table and errors.")] = False,
    as_json: Annotated[bool, option("json", "Print one JSON line instead of the table.")] = False,
) -> None:
    """Count how often clips of a model that was trained on the toy theatre show what their prompts ask for.

    A reader looks for the thing that was asked for, by its sprite, and takes the nearest of all places and motions. A
    sheet shows the clips with what was found, and verdicts.csv has a line for each, where a person writes yes or no;
    the same command then counts these, too. A run that was stopped goes on where it was.
    """
    for field, value, known in (("ask", ask, ASK), ("draw", draw, DRAW)):
        if value is not None and value not in known:
            raise InvalidInput(field, value, "is not known", choices(value, known))
    if (ask == "free") != (prompts is not None):
        raise InvalidInput("prompts", prompts, "go with `--ask free`", "give both, or neither")
    if draw and prompts:
        raise InvalidInput("draw", draw, "needs scenes, and sentences have none", "leave out one of the two")
    settings: dict[str, Any] = {"seconds": 2.0, "steps": steps, "guidance": guidance, "profile": profile}
    usual = make_request(THEATRE, prompt="any", seed=0, **settings).to_json()

    import torch

    from linnet import load  # it and what follows take seconds to import
    from linnet.data.theatre.render import set_scenery
    from linnet.data.theatre.sprites import load_sprites
    from linnet.evaluate.theatre import exam, report
    from linnet.evaluate.theatre.reader import TheatreReader
    from linnet.train.theatre.config import SIZES

    world = SIZES["few" if few else "full"]
    scenery = set_scenery(load_sprites(sprites))
    number = exam.SEED if seed is None else seed
    if prompts:
        quiz = exam.sentences(prompts, n, seed=number)
    else:
        quiz = exam.questions(ask, n, seed=number, things=world.things, places=world.places)  # type: ignore[arg-type]
    subject: dict[str, Any] = {"draw": draw}
    if draw:
        if threads:
            torch.set_num_threads(threads)
        make = exam.drawing(scenery, draw)  # type: ignore[arg-type]
    else:
        pipeline = load(THEATRE.name, weights=weights, device=device, threads=threads)
        subject = {
            "model": THEATRE.name,
            "weights": pipeline.model_hash,
            "device": pipeline.model.device.type,
            "dtype": str(pipeline.model.dtype).removeprefix("torch."),
            "request": {name: v for name, v in usual.items() if name not in ("prompt", "seed", "dtype")},
        }

        def make(question: exam.Question, path: Path) -> None:
            request = make_request(THEATRE, prompt=question.prompt, seed=question.seed, **settings)
            pipeline.generate(request, path)

    folder = output or Path(f"theatre-{f'drawn-{draw}-' if draw else ''}{ask}")
    if not quiet:
        note(f"{format_count(len(quiz), 'clip')}, kept in {folder}")
    try:
        with bars(quiet=quiet or as_json) as show:
            examination = exam.examine(
                make,
                quiz,
                reader=TheatreReader(scenery),
                folder=folder,
                settings={"ask": ask, "few": few, "seed": number, "subject": subject},
                watch=lambda done, total: show("examining", "", done, total, unit="clip"),
            )
    except KeyboardInterrupt:
        fail(f"stopped; the clips in {folder} are kept, and the same command goes on", 130)
    title = f"{f'drawn, {draw}' if draw else THEATRE.name}: {format_count(len(quiz), 'clip')}, {ask}"
    written = report.write_report(examination, folder, title=title)
    if as_json:
        print(json.dumps({"output": str(folder), "clips": len(quiz), **examination.to_json()["summary"]}))
        return
    print_table(report.HEADS, report.rows(examination))
    if not quiet:
        note(f"{in_a_row(written)} {'is' if len(written) == 1 else 'are'} in {folder}")

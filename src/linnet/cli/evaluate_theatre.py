"""`linnet evaluate theatre`"""

from pathlib import Path
from typing import Annotated, Any

from linnet.catalog import find
from linnet.cli.examining import ReportOptions, TheatreOptions, examining, print_result, subject_of
from linnet.cli.options import GuidanceScale, Profile, Steps, one_of, option, whole
from linnet.cli.terminal import note
from linnet.errors import InvalidInput
from linnet.request import make_request
from linnet.wording import choices, format_count

ASK = ("trained", "held-out", "two", "behind", "free")
DRAW = ("clean", "smeared", "half", "other")


def theatre(
    *,
    sprites: Annotated[
        Path, option("sprites", "The file that `python scripts/theatre.py pack` wrote.", metavar="FILE")
    ],
    ask: Annotated[
        str,
        one_of(
            "ask",
            "What the prompts ask for: trained (the default) or held-out combinations, two things, a thing that passes "
            "behind a tree, or free sentences.",
            *ASK,
            metavar="KIND",
        ),
    ] = "trained",
    n: Annotated[int, whole("n", "How many clips; 200 by default.", least=1)] = 200,
    prompts: Annotated[
        Path | None, option("prompts", "File with the sentences of --ask free, one per line.", metavar="FILE")
    ] = None,
    few: Annotated[
        bool, option("few", "Ask only for the 30 things and 6 places of the trainer's --size few.")
    ] = False,
    draw: Annotated[
        str | None,
        one_of(
            "draw",
            "Measure the reader instead of a model, with drawn clips: clean, smeared, half or other things.",
            *DRAW,
            metavar="HOW",
        ),
    ] = None,
    profile: Profile = None,
    output: Annotated[
        Path | None,
        option("output", "Folder for clips and report; by default theatre-KIND.", metavar="DIR"),
    ] = None,
    seed: Annotated[
        int | None, whole("seed", "Seed of the questions; another seed asks other questions.")
    ] = None,
    steps: Steps = None,
    guidance: GuidanceScale = None,
    load: TheatreOptions,
    result: ReportOptions,
) -> None:
    """Count how often clips of a theatre model show what their prompts ask for.

    A program reads each clip: it looks for the sprite of the thing that was asked for, and takes the nearest of all
    places and motions. A sheet shows the clips with what was read. verdicts.csv has a line for each clip, where a
    person can write yes or no; the same command then counts these answers, too. If the command is stopped, the same
    command continues it.
    """
    for field, value, known in (("ask", ask, ASK), ("draw", draw, DRAW)):
        if value is not None and value not in known:
            raise InvalidInput(field, value, "is not known", choices(value, known))
    if (ask == "free") != (prompts is not None):
        raise InvalidInput("prompts", prompts, "go with `--ask free`", "give both, or neither")
    if draw and prompts:
        raise InvalidInput("draw", draw, "needs scenes, and sentences have none", "leave out one of the two")
    settings: dict[str, Any] = {"seconds": 2.0, "steps": steps, "guidance": guidance, "profile": profile}
    spec = find(load.model)
    usual = make_request(spec, prompt="any", seed=0, **settings).to_json()

    import torch

    import linnet  # it and what follows take seconds to import
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
        if load.threads:
            torch.set_num_threads(load.threads)
        make = exam.drawing(scenery, draw)  # type: ignore[arg-type]
    else:
        pipeline = linnet.load(**vars(load))
        subject = subject_of(pipeline, usual)

        def make(question: exam.Question, path: Path) -> None:
            request = make_request(spec, prompt=question.prompt, seed=question.seed, **settings)
            pipeline.generate(request, path)

    folder = output or Path(f"theatre-{f'drawn-{draw}-' if draw else ''}{ask}")
    if not result.quiet:
        note(f"{format_count(len(quiz), 'clip')}, kept in {folder}")
    with examining(folder, result) as show:
        examination = exam.examine(
            make,
            quiz,
            reader=TheatreReader(scenery),
            folder=folder,
            settings={"ask": ask, "few": few, "seed": number, "subject": subject},
            watch=lambda done, total: show("examining", "", done, total, unit="clip"),
        )
    title = f"{f'drawn, {draw}' if draw else spec.name}: {format_count(len(quiz), 'clip')}, {ask}"
    files = report.write_report(examination, folder, title=title)
    record = {"clips": len(quiz), **examination.to_json()["summary"]}
    print_result(folder, files, record, report.HEADS, report.rows(examination), result)

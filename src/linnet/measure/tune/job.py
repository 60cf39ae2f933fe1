"""What `linnet tune` does around its search: what is measured and where it is kept, and what becomes of what is
found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from linnet.catalog import ModelSpec
from linnet.data.known import check_words
from linnet.errors import InvalidInput
from linnet.measure.tune.page import write_page
from linnet.measure.tune.prompts import pairs_for, read_prompts
from linnet.measure.tune.search import Confirmed, Outcome, Search, tune
from linnet.measure.tune.trials import EXACT, Candidate, Trials
from linnet.pipeline import Pipeline
from linnet.plan import profiles
from linnet.plan.machine import Machine
from linnet.plan.profiles import Subject, TunedProfile
from linnet.profiles import subject_of
from linnet.request import Request
from linnet.runtime.device import check_fp8
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import ModelFiles

HEADS = ("settings", "faster", "PSNR, dB", "worst tenth", "SSIM", "verdict")
SHOWN = 12  # candidates in the table


@dataclass(frozen=True, kw_only=True)
class Job:
    """A search that is ready to run, and what its profiles will hold for."""

    spec: ModelSpec
    subject: Subject
    search: Search
    floor: float
    folder: Path


def prepare(
    spec: ModelSpec,
    files: ModelFiles,
    request: Request,
    *,
    clips: int,
    prompts: Path | None,
    device: str | None,
    threads: int | None,
    floor: float | None,
    consent: bool,
    extra: Sequence[Candidate] = (),
) -> Job:
    """`request` is exact; its prompt and seed do not matter. No weights are read yet, but all is checked."""
    machine = resolve_machine(device, dtype=request.dtype, threads=threads)
    texts = read_prompts(prompts) if prompts else None
    search, held_out = pairs_for(spec, clips, texts)

    def open_pipeline(candidate: Candidate) -> Pipeline:
        return Pipeline.open(
            spec,
            files,
            machine,
            compiled=candidate.compiled,
            fp8=candidate.fp8 or None,
            attention=candidate.attention,
        )

    pipeline = open_pipeline(EXACT)
    plan = pipeline.plan(request)  # TooLarge, before anything is made
    if spec.closed_vocabulary:
        for text in texts or ():
            check_words(spec, pipeline.model.tokenizer, text, field="prompts")
    subject = subject_of(spec, files, machine.device, machine.prepare(request))
    folder = profiles.own_folder() / "tune" / f"{spec.name}-{subject.key}"
    return Job(
        spec=spec,
        subject=subject,
        floor=spec.floor if floor is None else floor,
        folder=folder,
        search=Search(
            spec=spec,
            trials=Trials(folder, request, open_pipeline),
            search=search,
            held_out=held_out,
            kernels=kernels(machine, compiled=plan.execution.compiled),
            fp8=has_fp8(machine),
            lower_decoder=machine.dtype == "bfloat16",
            consent=consent,
            extra=extra,
        ),
    )


def kernels(machine: Machine, *, compiled: bool) -> list[Candidate]:
    """On a card, the transformer's blocks the other way than planned: compiled, where a compiler is there, or not."""
    if not machine.device.startswith("cuda") or not (compiled or machine.compiler):
        return []
    return [Candidate(compiled=not compiled)]


def has_fp8(machine: Machine) -> bool:
    try:
        check_fp8(torch.device(machine.device))
    except InvalidInput:
        return False
    return True


def run(job: Job, *, target: float, seconds: float) -> Outcome:
    """The whole search. The model's memory is given back afterwards."""
    try:
        return tune(job.search, floor=job.floor, target=target, seconds=seconds)
    finally:
        job.search.trials.close()


def keep(job: Job, outcome: Outcome, page: Path) -> list[Path]:
    """Write the page and the profiles; the profiles' files."""
    chosen = [
        (name, confirmed)
        for name, confirmed in (("fast", outcome.fast), ("draft", outcome.draft))
        if confirmed
    ]
    write_page(page, job.subject, job.search, chosen)
    return [profiles.keep(profile_of(job, name, confirmed)) for name, confirmed in chosen]


def profile_of(job: Job, name: str, confirmed: Confirmed) -> TunedProfile:
    return TunedProfile(
        name=name,
        subject=job.subject,
        settings=confirmed.candidate.settings,
        compiled=confirmed.candidate.compiled,
        fp8=confirmed.candidate.fp8,
        faster=round(confirmed.figures.faster, 2),
        figures={**asdict(confirmed.figures), "bound": confirmed.bound, "floor": job.floor},
    )


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """The table under HEADS: what was chosen, then the others that were measured, the fastest first."""
    chosen = [
        (name, confirmed)
        for name, confirmed in (("fast", outcome.fast), ("draft", outcome.draft))
        if confirmed
    ]
    lines = [
        (
            str(confirmed.candidate),
            *figures_of(confirmed.figures),
            f"kept as {name}, on {confirmed.figures.clips} new clips",
        )
        for name, confirmed in chosen
    ]
    rest = [verdict for verdict in outcome.verdicts if verdict.figures]
    rest.sort(key=lambda verdict: -verdict.figures.faster if verdict.figures else 0.0)
    for verdict in rest[:SHOWN]:
        assert verdict.figures is not None
        why = verdict.why or f"holds on {verdict.figures.clips} clips"
        lines.append((str(verdict.candidate), *figures_of(verdict.figures), why))
    return lines


def figures_of(figures: Any) -> tuple[str, str, str, str]:
    return (
        f"{figures.faster:.2f}",
        f"{figures.psnr:.1f}",
        f"{figures.psnr_worst:.1f}",
        f"{figures.ssim:.3f}",
    )


def to_json(job: Job, outcome: Outcome, page: Path) -> dict[str, Any]:
    """Everything, in plain JSON values."""
    return {
        "page": str(page),
        "subject": asdict(job.subject),
        "floor": job.floor,
        "another": outcome.another,
        "rounding": outcome.rounding,
        "fast": asdict(profile_of(job, "fast", outcome.fast)) if outcome.fast else None,
        "draft": asdict(profile_of(job, "draft", outcome.draft)) if outcome.draft else None,
        "verdicts": [
            {
                "settings": dict(verdict.candidate.settings),
                "why": verdict.why,
                "figures": verdict.figures and asdict(verdict.figures),
            }
            for verdict in outcome.verdicts
        ],
    }

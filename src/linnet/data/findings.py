"""What is to be said of each file of a dataset before somebody trains on it. No torch is imported.

A finding has the name of a fault and a sentence. It says what becomes of the file, so nothing happens silently.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

from linnet.catalog import ModelSpec
from linnet.data.buckets import Bucket, TrainingClip, clips_of, order_of
from linnet.data.containers import reading_fault
from linnet.data.dataset import Dataset, LeftOut, Sample
from linnet.data.duplicates import FLAT, duplicates
from linnet.data.probe import Frame, Probed, probe_all
from linnet.errors import InvalidInput
from linnet.geometry import format_seconds, seconds_of
from linnet.inputs.survey import Survey
from linnet.inputs.timing import usual_step
from linnet.wording import format_number

Weight = Literal["unusable", "warning", "note"]
CaptionCheck = Callable[[str], str]  # the words of a caption that the model does not see

# Of luma, 0 to 255.
DARK = 16.0
UNMOVED = 6.0  # how far the liveliest hundredth of a still clip's picture changes, by its noise
CUT = 12.0  # the change from a frame to the next at a cut, which is as many times the usual one around it:
CUT_RATIO = 4.0
AROUND = 8  # frames
UNEVEN = 1.5  # times the usual step: the frame rate is variable
ENLARGED = 1.5
LOST = 0.25  # of a side that is cropped


@dataclass(frozen=True)
class Finding:
    """`name` is short and the same for all files; `words` say what it is and what is done."""

    name: str
    words: str
    weight: Weight = "warning"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of one file. `clips`: what is trained on, which is nothing where a finding is "unusable"."""

    name: str
    path: Path | None
    findings: tuple[Finding, ...]
    clips: tuple[TrainingClip, ...] = ()
    survey: Survey | None = None
    thumbnails: tuple[Frame, ...] = ()
    held_out: bool = False

    @property
    def usable(self) -> bool:
        return bool(self.clips)

    @property
    def words(self) -> str:
        return "; ".join(f"{finding.name}: {finding.words}" for finding in self.findings)


def check_dataset(
    dataset: Dataset,
    spec: ModelSpec,
    unseen: CaptionCheck,
    cache: Path | None,
    watch: Callable[[int, int], object] = lambda done, total: None,
) -> list[Report]:
    """A report of each file. `unseen` says which words of a caption the model would not see."""
    without = [each for each in dataset.left_out if each.fault == "no caption" and each.path]
    samples = [
        *dataset.samples,
        *(Sample(path=each.path, name=each.name, caption="") for each in without if each.path),
    ]
    lacking = {each.path: each for each in without}
    reports: list[Report] = []
    probed: list[Probed | None] = []
    for sample, result in zip(samples, probe_all([s.path for s in samples], cache, watch), strict=True):
        reports.append(report_on(sample, result, spec, unseen, lacking.get(sample.path)))
        probed.append(None if isinstance(result, InvalidInput) else result)
    reports = with_duplicates(reports, probed)
    reports += [
        Report(
            name=each.name,
            path=each.path,
            findings=(Finding(each.fault, each.problem, weight_of(each)),),
        )
        for each in dataset.left_out
        if each.path not in lacking
    ]
    return reports


def with_duplicates(reports: Sequence[Report], probed: Sequence[Probed | None]) -> list[Report]:
    """Each file that repeats an earlier one says which."""
    result = list(reports)
    names = [report.name for report in reports]
    for index, earlier, same in duplicates(probed):
        name = "duplicate" if same else "near-duplicate"
        words = f"{'has the same bytes as' if same else 'looks like'} {names[earlier]}"
        result[index] = replace(result[index], findings=(*result[index].findings, Finding(name, words)))
    return result


def weight_of(left_out: LeftOut) -> Weight:
    return "note" if left_out.fault in ("not a clip", "link to a folder") else "unusable"


def report_on(
    sample: Sample,
    result: Probed | InvalidInput,
    spec: ModelSpec,
    unseen: CaptionCheck,
    lacking: LeftOut | None,
) -> Report:
    findings = [Finding(lacking.fault, lacking.problem, "unusable")] if lacking else []
    if isinstance(result, InvalidInput):
        words = f"{result.problem}; {result.remedy}"
        findings.append(Finding(reading_fault(sample.path, result), words, "unusable"))
        return Report(name=sample.name, path=sample.path, findings=tuple(findings))
    clips: list[TrainingClip] = []
    try:
        clips = clips_of(sample, result, spec)
    except InvalidInput as error:
        problem = error.problem.removeprefix("is too short: ")
        findings.append(Finding(cropping_fault(error), problem, "unusable"))
    findings += about_time(result.survey, clips, spec)
    findings += about_picture(result.survey, clips)
    if sample.caption and (cut := unseen(sample.caption)):
        limit = spec.max_prompt_tokens
        findings.append(Finding("long caption", f"has over {limit} tokens; the model does not see: {cut}"))
    return Report(
        name=sample.name,
        path=sample.path,
        findings=tuple(findings),
        clips=() if lacking else tuple(clips),
        survey=result.survey,
        thumbnails=result.thumbnails,
        held_out=sample.held_out,
    )


def cropping_fault(error: InvalidInput) -> str:
    return "too short" if "too short" in error.problem else "crop"


# --- time -------------------------------------------------------------------------------------------------------------


def about_time(survey: Survey, clips: Sequence[TrainingClip], spec: ModelSpec) -> list[Finding]:
    scan = survey.scan
    if survey.still:
        return []
    findings = []
    count = len(order_of(survey, spec))
    if scan.lacking:
        findings.append(
            Finding(
                "truncated",
                f"says that it lasts {format_seconds(round(scan.end + scan.lacking, 1))} s, "
                f"and has pictures for {format_seconds(round(scan.end, 1))} s",
            )
        )
    if is_variable(scan.times):
        words = (
            f"frames are chosen by their time stamps: {len(scan.times)} become {count} at {spec.fps} a second"
        )
        findings.append(Finding("variable frame rate", words, "note"))
    elif abs((rate := rate_of(survey)) - spec.fps) > 0.05:
        words = (
            f"{format_number(round(rate, 2))} frames a second: {len(scan.times)} become {count} at {spec.fps}"
        )
        findings.append(Finding("resampled", words, "note"))
    if cuts := cuts_in(survey):
        moments = ", ".join(f"{scan.times[index]:.2f} s" for index in cuts[:5])
        more = f" and {len(cuts) - 5} more" if len(cuts) > 5 else ""
        words = f"the scene changes at {moments}{more}; `linnet data curate` splits it"
        findings.append(Finding("cut in the middle", words))
    if clips and count > spec.max_frames:
        longest = format_seconds(seconds_of(spec.max_frames, spec.fps))
        length = f"over {scan.end:.0f} s" if scan.more else f"{format_seconds(round(scan.end, 2))} s"
        if len(clips) > 1:
            words = f"lasts {length}, and the model makes {longest} s: it is split into {len(clips)} clips"
        else:
            words = f"lasts {length}, and the model makes {longest} s: its middle is used"
        findings.append(Finding("too long", words, "warning" if scan.more else "note"))
    elif clips and count < spec.min_frames:
        shortest = format_seconds(seconds_of(spec.min_frames, spec.fps))
        words = f"lasts {format_seconds(round(scan.end, 2))} s, and the model makes {shortest} s or more: used as it is"
        findings.append(Finding("too short", words))
    return findings


def rate_of(survey: Survey) -> float:
    """Frames a second of one whose steps are even."""
    step = usual_step(survey.scan.times, 1 / 24)
    times = survey.scan.times
    return (len(times) - 1) / times[-1] if times[-1] > 0 else 1 / step


def is_variable(times: Sequence[float]) -> bool:
    steps = [after - before for before, after in pairwise(times)]
    if len(steps) < 3:
        return False
    usual = median(steps)
    return usual > 0 and (max(steps) > UNEVEN * usual or min(steps) < usual / UNEVEN)


def cuts_in(survey: Survey) -> list[int]:
    """The frames before which the scene changes at once: a change far over those around it."""
    changes = survey.changes
    cuts = []
    for index in range(1, len(changes)):
        near = [*changes[max(1, index - AROUND) : index], *changes[index + 1 : index + 1 + AROUND]]
        usual = median(near) if near else 0.0
        if changes[index] > max(CUT, CUT_RATIO * usual):
            cuts.append(index)
    return cuts


# --- picture ----------------------------------------------------------------------------------------------------------


def about_picture(survey: Survey, clips: Sequence[TrainingClip]) -> list[Finding]:
    findings = []
    if survey.turned:
        words = f"its player turns it by {survey.turned} degrees: it is used upright, at {survey.size}"
        findings.append(Finding("rotated", words, "note"))
    if survey.hdr:
        findings.append(Finding("HDR", "its colours are brought to those of usual screens", "note"))
    if survey.content.size != survey.size:
        findings.append(Finding("black bars", bars_in_words(survey, clips), "note"))
    if max(survey.deviation) < FLAT:
        findings.append(Finding("blank", "every frame is one plain colour"))
    elif not survey.still and survey.extent < UNMOVED:
        findings.append(Finding("still", "nothing moves in it; as an image it would teach the same"))
    elif max(survey.luma) < DARK:
        findings.append(Finding("dark", f"its mean brightness is {max(survey.luma):.0f} of 255"))
    if clips:
        findings += about_scaling(clips[0])
    for note in survey.scan.notes:
        if mentioned := note_in_short(note):
            findings.append(mentioned)
    return findings


def bars_in_words(survey: Survey, clips: Sequence[TrainingClip]) -> str:
    box, size = survey.content, survey.size
    sides = {
        "left": box.left,
        "top": box.top,
        "right": size.width - box.right,
        "bottom": size.height - box.bottom,
    }
    words = ", ".join(f"{side} {count}" for side, count in sides.items() if count)
    cropped = bool(clips) and clips[0].box == box
    return f"{words} pixels {'are cropped' if cropped else 'stay, as dataset.yaml says'}; {box.size} are left"


def about_scaling(clip: TrainingClip) -> list[Finding]:
    findings = []
    shown, size = clip.box.size, clip.bucket.size
    wide, high = size.width / shown.width, size.height / shown.height
    if (factor := max(wide, high)) > ENLARGED:
        words = f"has {shown} pixels and is enlarged {format_number(round(factor, 1))} times to {size}"
        findings.append(Finding("small", words))
    side, lost = ("height", 1 - high / wide) if wide > high else ("width", 1 - wide / high)
    if lost > LOST:
        findings.append(Finding("odd shape", f"{lost:.0%} of its {side} is cropped to fit {size}"))
    return findings


READING = {"is interlaced": "interlaced", "is transparent": "transparent", "video streams": "several streams"}


def note_in_short(note: str) -> Finding | None:
    """Of what reading a file says; what other findings say is left out."""
    words = note.partition(": ")[2] or note
    for part, name in READING.items():
        if part in note:
            return Finding(name, words, "note")
    return Finding("broken time stamps", words) if "time stamps" in note else None


def buckets_in(reports: Sequence[Report]) -> Counter[Bucket]:
    return Counter(clip.bucket for report in reports for clip in report.clips)

"""What a clip begins from beside its prompt: an image, a last image, a clip; and the record of it in the file."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from linnet.catalog import find
from linnet.clip import Clip, Progress, Watch, ignore
from linnet.direct.colours import graded, look_up_table
from linnet.direct.footage import Fit, Frame, Source, open_source, read_image_and_notes
from linnet.direct.samplers import Edited, Renoised, check_strength, levels_left
from linnet.errors import InvalidInput
from linnet.geometry import latents_in
from linnet.inputs import folders
from linnet.inputs.reader import Tick, nothing
from linnet.inputs.refusals import legibly
from linnet.pipeline import Pipeline
from linnet.plan.passes import DRAFT_STEPS, DRAFT_STRENGTH
from linnet.plan.plan import Plan
from linnet.request import Request, no_guidance
from linnet.sampling import flow
from linnet.sampling.denoise import Latents, Sampler
from linnet.sampling.keep_frames import KeptFrames

STRENGTH = 0.6
STILL = (
    13  # frames for which a last image is held before it is encoded, so that its latent frame knows no motion
)
RESAMPLING_STEPS = (
    2  # an image is one frame of many: early steps are taken twice, so that the others come to fit it
)
FILES = ("image", "last_image", "video")
OF_VIDEO = ("strength", "colours")
ALL_COLOURS = (
    0.5  # strength from which on a video takes the prompt's colours altogether; at little, hardly any
)
Colours = Literal["prompt", "clip"]
COMMANDS = {
    "extends": "extend",
    "edits": "edit",
    "refines": "refine",
}  # by what they leave in a clip's record


class Conditioning(NamedTuple):
    """The plan to follow, how to go, what to write of it into the clip, and what to tell the person."""

    plan: Plan
    sampler: Sampler
    direction: dict[str, Any]
    notes: tuple[str, ...]

    def generate(
        self, pipeline: Pipeline, output: Path, *, overwrite: bool = False, watch: Watch = ignore
    ) -> Clip:
        """The clip at `output`, which appears there when it is complete."""
        (clip,) = pipeline.run(
            self.plan,
            {self.plan.request.seed: output},
            overwrite=overwrite,
            watch=watch,
            sampler=self.sampler,
            direction=self.direction,
        )
        return clip


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Files that a clip starts from, ends with, or follows. `strength` and `colours` are for the video: whether it sets
    out in those that the prompt makes of it (None, too) or in its own; `fit` is for what has another shape than the
    clip."""

    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    strength: float | None = None
    colours: Colours | None = None
    fit: Fit | None = None

    def __post_init__(self) -> None:
        check_fit(self.fit)
        check_colours(self.colours)
        if self.strength is not None:
            check_strength(self.strength)
        for name in OF_VIDEO:
            value = getattr(self, name)
            if value is not None and self.video is None:
                raise InvalidInput(name, value, "is of a video, and there is none", "give `video`")
        if self.fit and not self:
            problem = "is of an image or a video, and there is none"
            raise InvalidInput("fit", self.fit, problem, "give one, or leave it out")
        if self.video and (self.image or self.last_image):
            raise InvalidInput("video", self.video, "does not go with an image", "give one of the two")

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in FILES)

    @classmethod
    def from_record(cls, clip: Path, direction: Mapping[str, Any], **given: Any) -> Self:
        """That of an earlier clip, under what is `given`: a video takes the place of images, and they that of a video.

        Its files are looked for here and beside it, and must be the same.
        """
        given = {name: value for name, value in given.items() if value is not None}
        files = given.keys() & set(FILES)
        for done, command in COMMANDS.items():
            if isinstance(record := direction.get(done), Mapping):
                if files:
                    return cls(**given)
                problem = f"was made from {record.get('file')} by `linnet {command}`"
                raise InvalidInput("like", clip, problem, "give that command again")
        replaced = () if not files else ("image", "last_image") if "video" in files else ("video", *OF_VIDEO)
        left = {name: value for name, value in direction.items() if name not in {*given, *replaced}}
        files_and_settings: dict[str, Any] = {
            name: the_same(clip, name, record)
            for name in FILES
            if isinstance(record := left.get(name), Mapping)
        }
        if files_and_settings or files:
            files_and_settings |= {name: left[name] for name in (*OF_VIDEO, "fit") if name in left}
        if "video" in files_and_settings:  # the record of a clip from before there was a choice
            files_and_settings |= {"colours": files_and_settings.get("colours", "clip")}
        return cls(**files_and_settings | given)

    def check(self, request: Request, tick: Tick = nothing) -> None:
        """Refuse a request that cannot begin so, and files that cannot be used. `tick` is called while they are read,
        and may raise."""
        if request.loop:
            raise InvalidInput(
                "loop", "true", "has no beginning that could be given", "leave out `loop` or the files"
            )
        check_whole(request, "an image or a video")
        if self.video and request.onward:
            problem = "makes each window from the one before it, not from a video"
            raise InvalidInput("onward", "true", problem, "leave it out")
        if self.image and self.last_image and request.frames < 9:
            raise InvalidInput("frames", request.frames, "leaves none between the images", "use 9 or more")
        for name, path in (("image", self.image), ("last-image", self.last_image)):
            if path:
                read_image_and_notes(path, request.size, self.fit, field=name, tick=tick)
        if self.video:
            self.source(request, tick)

    def encoded_frames(self, request: Request) -> int:
        """The most frames that are encoded at once."""
        return request.frames if self.video else STILL if self.last_image else 1 if self.image else 0

    def conditioning(
        self,
        pipeline: Pipeline,
        request: Request,
        watch: Watch = ignore,
        *,
        plan: Plan | None = None,
        tick: Tick = nothing,
    ) -> Conditioning:
        """Read and encode the files, by `plan`, which is made here if it is None. `tick` is called while they are read,
        and may raise."""
        self.check(request, tick)
        plan = plan or pipeline.plan(request, encoded_frames=self.encoded_frames(request))
        pipeline.model.follow(plan)
        go = self.along if self.video else self.between
        return go(pipeline, plan, watch, tick)

    def between(self, pipeline: Pipeline, plan: Plan, watch: Watch, tick: Tick) -> Conditioning:
        request = plan.request
        kept, direction, notes = {}, self.record(), []
        if self.image:
            first, told = read_image_and_notes(self.image, request.size, self.fit, field="image", tick=tick)
            notes += told
            kept[0] = pipeline.runner.encode_frames(lambda: [first], watch)[:, :, 0]
        if self.last_image:
            last, told = read_image_and_notes(
                self.last_image, request.size, self.fit, field="last-image", tick=tick
            )
            notes += told
            end = latents_in(request.frames) - 1
            kept[end] = pipeline.runner.encode_frames(lambda: still(last), watch)[:, :, -1]
        if self.last_image and request.window and not request.onward:
            notes.append("the windows are made together, so that all of them lead to the last image")
        return Conditioning(
            plan,
            KeptFrames(frames=kept, seed=request.seed, resampling_steps=RESAMPLING_STEPS),
            direction,
            tuple(notes),
        )

    def along(self, pipeline: Pipeline, plan: Plan, watch: Watch, tick: Tick) -> Conditioning:
        request = plan.request
        source = self.source(request, tick)

        def frames() -> Iterable[Frame]:
            return islice(source.frames(), request.frames)

        latents = pipeline.runner.encode_frames(frames, watch)
        strength, colours = self.strength or STRENGTH, self.colours or "prompt"
        if colours == "prompt":
            draft = drafted(pipeline, request, latents, watch)
            pairs = zip(frames(), chain.from_iterable(pipeline.runner.decode(draft)), strict=True)
            table = look_up_table(pairs, share=min(1.0, strength / ALL_COLOURS) ** 2)
            latents = pipeline.runner.encode_frames(lambda: graded(frames(), table), watch)
        return Conditioning(
            plan,
            Renoised(clip=latents, strength=strength),
            self.record() | {"strength": strength, "colours": colours},
            (*source.notes, begins_at(request, strength)),
        )

    def source(self, request: Request, tick: Tick = nothing) -> Source:
        assert self.video is not None
        seconds = request.frames / request.fps
        source = open_source(self.video, request.size, request.fps, self.fit, seconds=seconds, tick=tick)
        count = len(source.order)
        if count < request.frames:
            problem = f"has {count} frames at {request.fps} a second, fewer than {request.frames}"
            enough = count >= find(request.model).min_frames
            raise InvalidInput(
                "video", self.video, problem, "ask for fewer seconds" if enough else "give a longer one"
            )
        if count == request.frames:
            return source
        unused = "all later frames" if source.more else f"the last {count - request.frames} frames"
        return replace(source, notes=(*source.notes, f"{unused} of {self.video.name} are left out"))

    def record(self) -> dict[str, Any]:
        files = {name: path for name in FILES if (path := getattr(self, name))}
        return {name: fingerprint(path) for name, path in files.items()} | (
            {"fit": self.fit} if self.fit else {}
        )


def drafted(pipeline: Pipeline, request: Request, clip: Latents, watch: Watch) -> Latents:
    """The clip with what the prompt contradicts made over in its place: an edit from no words at all.

    Seen through noise, what has another colour than the prompt says speaks against everything being where it is: a blue
    star is put beside the red one. In this draft it is nearly in its place, near enough to tell the new colours.
    """
    brief = replace(request, steps=DRAFT_STEPS)
    sigmas = flow.levels_of(brief)
    unguided = replace(brief, guidance=no_guidance(brief.guidance_method))
    words, nothing = (
        pipeline.runner.velocity(variant, sigmas)
        for variant in (unguided, replace(unguided, prompt=request.negative))
    )
    watch(
        Progress("denoise", 0, DRAFT_STEPS, note="looking for the colours that the prompt makes of the video")
    )
    sampler = Edited(
        clip=clip, source=nothing, strength=DRAFT_STRENGTH, seed=request.seed, plain=(nothing, words)
    )
    *_, last = pipeline.runner.sample(brief, sampler=sampler)
    return last.latents


def begins_at(request: Request, strength: float) -> str:
    """What a share of the steps comes to, since most of them lie at high noise."""
    left = levels_left(flow.levels_of(request), strength)
    return f"begins at noise level {float(left[0]):.2f} ({len(left) - 1} of {request.steps} steps)"


def check_fit(fit: str | None) -> Fit | None:
    if fit is None or fit == "crop" or fit == "pad":
        return fit
    raise InvalidInput("fit", fit, "is not known", "use crop or pad")


def check_colours(colours: str | None) -> Colours | None:
    if colours is None or colours == "prompt" or colours == "clip":
        return colours
    raise InvalidInput("colours", colours, "are not known", "use prompt or clip")


def check_whole(request: Request, what: str) -> None:
    """Steps that do without the model are counted from pure noise."""
    if request.reuse != "none":
        raise InvalidInput("reuse", request.reuse, f"does not go with {what}", "leave it out")


def still(picture: Frame) -> list[Frame]:
    return [picture] * STILL


def fingerprint(path: Path) -> dict[str, str]:
    """A file's name and hash: where it lies is nobody's business. Of a folder, that of its pictures in their order."""
    if path.is_dir():
        whole = hashlib.sha256()
        for file in folders.files_of(path):
            whole.update(f"{fingerprint(file)['sha256']}  {file.name}\n".encode(errors="surrogateescape"))
        return {"file": path.absolute().name, "sha256": whole.hexdigest()}
    with legibly(path), path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def the_same(clip: Path, name: str, record: Mapping[str, Any]) -> Path:
    """The file that the record tells of."""
    file, option = Path(str(record.get("file", ""))).name, name.replace("_", "-")
    for path in (Path(file), clip.parent / file):
        if file and path.exists():
            if fingerprint(path)["sha256"] == record.get("sha256"):
                return path
            raise InvalidInput(
                option, path, f"is not what {clip.name} was made from", f"give it with --{option}"
            )
    raise InvalidInput(
        option, file, f"is what {clip.name} was made from, and is not here", f"give it with --{option}"
    )

"""A film as its author writes it: a YAML file of shots, checked whole before any weight is read.

At the top stand `model`, `size`, and what holds for every shot that says nothing else; under `shots`, each shot's
`prompt` and whatever it changes. The model is told `subject`, `prompt` and `style` in one sentence. `begin` says how a
shot follows the one before: `cut`; `dissolve`, where pixels blend; `morph`, where both are denoised as one and their
prompts blend; or `continue`, where it goes on from the last frames of the shot before, or of the one named in `from`.
All but a cut share some seconds with that shot: as many as `overlap` says.

What is wrong is said with its place: `film.yaml:7: shot 2: seconds "2.1": is between two frames...`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import yaml

from linnet.catalog import ModelSpec, find
from linnet.errors import InvalidInput
from linnet.filesystem import StrPath
from linnet.geometry import Size, format_seconds, frames_for, seconds_of
from linnet.loras import LoraUse
from linnet.profiles import choose_profile
from linnet.records import read_text
from linnet.request import Request, RequestSettings, make_request
from linnet.weights.store import default_model, resolve

Begin = Literal["cut", "dissolve", "morph", "continue"]

MOST_SHOTS = 1000
MOST_BYTES = 2**20  # of the file: a thousand shots with long prompts
OVERLAP = {"cut": 0.0, "dissolve": 0.5, "morph": 0.5, "continue": 0.5}  # seconds, where the file says nothing

WHOLE_FILM = ("size", "dtype")  # of a request's settings, those that no shot has of its own
NOT_HERE = ("loop", "loras", *WHOLE_FILM)  # a loop neither follows nor leads on; LoRAs are the text `lora`
SETTINGS = tuple(name for name in ("prompt", *RequestSettings.__annotations__) if name not in NOT_HERE)
ELSEWHERE = {  # settings of `linnet generate` that people look for here
    "loop": "a loop neither follows nor leads on: make it with `linnet generate --loop`",
    **dict.fromkeys(
        ("image", "last_image", "video", "strength", "fit"),
        "a shot begins from others alone, by its begin: make a clip from files with `linnet generate`",
    ),
}
SHOT_KEYS = ("name", "from", "subject", "style", "begin", "overlap", "lora", *SETTINGS)
FILM_KEYS = (
    "shots",
    "model",
    *WHOLE_FILM,
    *(key for key in SHOT_KEYS if key not in ("name", "from", "prompt")),
)
# What else a complaint may be about, and the keys that decide it.
ALIASES = {
    "guidance interval": ("guidance_from", "guidance_until"),
    "prompt": ("subject", "style"),
    "frames": ("seconds",),
    "loras": ("lora",),
}
WINDOWS = ("window", "window_overlap", "onward")
BLENDS = ("dissolve", "morph")  # both shots are seen in the overlap
# What shots that are denoised as one need not share.
OWN_IN_MORPH = ("prompt", "negative", "seed", "frames", *WINDOWS)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """`request` has the whole prompt. `overlap` is in frames, 4k+1, or 0; `after` is the shot, counted from 0, that a
    `continue` goes on from."""

    request: Request
    begin: Begin
    overlap: int
    after: int | None = None


@dataclass(frozen=True, kw_only=True)
class Storyboard:
    """`notes` are lines for the person."""

    path: Path
    spec: ModelSpec
    shots: tuple[Shot, ...]
    sections: tuple["Section", ...]  # where each shot stands in the file
    notes: tuple[str, ...] = ()  # lines for the person

    @property
    def size(self) -> Size:
        return self.shots[0].request.size

    def spans(self) -> list[range]:
        """The frames of the film that show each shot; neighbours that blend share some."""
        spans, end = [], 0
        for shot in self.shots:
            # What a shot continues has been seen already.
            length = shot.request.frames - (shot.overlap if shot.begin == "continue" else 0)
            start = end - (shot.overlap if shot.begin in BLENDS else 0)
            end = start + length
            spans.append(range(start, end))
        return spans

    def takes(self) -> list[range]:
        """The shots, counted from 0, that are denoised together: a shot and those that morph from it."""
        starts = [number for number, shot in enumerate(self.shots) if shot.begin != "morph"]
        return [range(*pair) for pair in zip(starts, [*starts[1:], len(self.shots)], strict=True)]

    def ends_in_take(self, shot: int) -> int:
        """The frame of its take before which a shot ends."""
        take = next(take for take in self.takes() if shot in take)
        shots = self.shots[take.start : shot + 1]
        return sum(each.request.frames for each in shots) - sum(each.overlap for each in shots[1:])

    def order(self) -> list[int]:
        """The takes, counted from 0, each after the one that it continues; InvalidInput where none can be first."""
        takes = self.takes()
        home = {number: index for index, take in enumerate(takes) for number in take}
        order: dict[int, None] = {}
        for index in range(len(takes)):
            chain: list[int] = []
            at: int | None = index
            while at is not None and at not in order:
                if at in chain:
                    self._refuse_ring([takes[number].start for number in chain[chain.index(at) :]])
                chain.append(at)
                after = self.shots[takes[at].start].after
                at = None if after is None else home[after]
            order |= dict.fromkeys(reversed(chain))
        return list(order)

    def _refuse_ring(self, ring: list[int]) -> NoReturn:
        section = self.sections[next(shot for shot in ring if "from" in self.sections[shot].values)]
        shown = " continues ".join(f"shot {shot + 1}" for shot in (*ring, ring[0]))
        section.refuse("from", section.values["from"], f"goes round: {shown}", "begin one of them with a cut")


# --- the file -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """The top of the file (`shot` is None) or one shot: its values, and the line that each stands on."""

    path: Path
    shot: int | None
    line: int
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def refuse(self, field: str, value: object, problem: str, remedy: str) -> NoReturn:
        keys = (field, *ALIASES.get(field, ())) if field != "key" else (str(value),)
        line = next((self.lines[key] for key in keys if key in self.lines), self.line)
        shot = "" if self.shot is None else f"shot {self.shot + 1}: "
        raise InvalidInput(f"{self.path}:{line}: {shot}{field}", value, problem, remedy)

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Whatever is wrong within is said with its place."""
        try:
            yield
        except InvalidInput as error:
            self.refuse(error.field, error.value, error.problem, error.remedy)

    def settings(self) -> dict[str, Any]:
        return {key: self.values[key] for key in SETTINGS if key in self.values}


def read_storyboard(
    path: Path,
    *,
    model: str | None = None,
    weights: Path | None = None,
    device: str | None = None,
    loras: Sequence[LoraUse | StrPath] | None = None,
    lora_merge: bool | None = None,
) -> Storyboard:
    """The film in `path`, made by `model`, else by the one that the file names, else by `linnet generate`'s choice.
    `weights` and `device` decide which tuned profiles are used; `loras` take the place of those that the file names for
    the whole film, and with `lora_merge` all are merged into the weights."""
    root = parse(path)
    film = read_section(path, root, FILM_KEYS)
    nodes = shot_nodes(film)
    sections = [read_section(path, node, SHOT_KEYS, shot=number) for number, node in enumerate(nodes)]
    with film.placed():
        named = model or film.values.get("model")
        spec = find(text_in(film, "model", named)) if named else default_model(weights)[0]
        whole = {key: film.values.get(key) for key in WHOLE_FILM}
        notes: list[str] = []

        def profiled(given: Mapping[str, Any], like: Request | None = None) -> dict[str, Any]:
            """With what the profile stands for on this machine."""
            wanted = cast(RequestSettings, {key: value for key, value in given.items() if key != "prompt"})
            chosen = choose_profile(
                spec, wanted, files=lambda: resolve(spec, weights=weights), device=device, like=like
            )
            notes.extend(note for note in chosen.notes if note not in notes)
            return {**given, **chosen.settings}

        settings: dict[str, Any] = {"prompt": "any", "seed": 0} | whole | film.settings()
        usual = make_request(spec, **profiled(settings))
    check_names(sections)
    find_loras = LoraFinder(spec, weights, film, loras, lora_merge)
    requests = [request_of(spec, usual, film, section, find_loras(section), profiled) for section in sections]
    shots = [shot_of(number, request, film, sections) for number, request in enumerate(requests)]
    check_overlaps(shots, sections)
    check_morphs(shots, film, sections)
    if lora_merge and not any(request.loras for request in requests):
        from linnet.weights.resolve_loras import nothing_to_merge

        raise nothing_to_merge()
    board = Storyboard(
        path=path,
        spec=spec,
        shots=tuple(shots),
        sections=tuple(sections),
        notes=tuple(dict.fromkeys([*notes, *find_loras.notes])),
    )
    board.order()
    return board


def parse(path: Path) -> yaml.Node | None:
    """The file's nodes, each of which knows its line."""
    text = read_text(path, most=MOST_BYTES)
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise InvalidInput(
            "file", path, "is nested too deeply", "write `shots:` and a list of shots"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        remedy = "check indentation, and put text that has `: ` or ` #` in it into quotes"
        raise InvalidInput(where, path, f"is not YAML ({error.problem})", remedy) from error
    except yaml.YAMLError as error:
        raise InvalidInput("file", path, f"is not YAML ({error})", "save it as text") from error


def read_section(
    path: Path, node: yaml.Node | None, known: Sequence[str], *, shot: int | None = None
) -> Section:
    """Keys and plain values; a list or mapping is left a node, which only `shots` may be."""
    line = node.start_mark.line + 1 if node else 1
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    section = Section(path, shot, line, values, lines)
    if not isinstance(node, yaml.MappingNode):
        what = "a storyboard" if shot is None else "a shot"
        remedy = "write `shots:` and a list of shots" if shot is None else "write `- prompt: ...`"
        section.refuse("file" if shot is None else "shots", path, f"is not {what} on this line", remedy)
    for name, given in node.value:
        key = str(name.value)
        twice, lines[key] = key in lines, name.start_mark.line + 1
        if key in ELSEWHERE or (key in WHOLE_FILM and key not in known):
            remedy = ELSEWHERE.get(key, "write it at the top, for the whole film")
            section.refuse("key", key, "does not go here", remedy)
        if key not in known:
            listed = f"there are {', '.join(known)}"
            section.refuse("key", key, "is not known here", f"{guess(key, known)}{listed}")
        if twice:
            section.refuse(key, scalar(given), "is given twice", "keep one of them")
        values[key] = given if key == "shots" else scalar(given)
        if isinstance(values[key], yaml.Node) and key != "shots":
            section.refuse(key, "...", "is a list or a mapping", "give one plain value")
    return section


def guess(word: str, known: Sequence[str]) -> str:
    """Which of the known words may be meant, if one is near."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}? " if near else ""


def scalar(node: yaml.Node) -> Any:
    """A number, text, yes or no, as YAML 1.1 has it; None for nothing. What is none of these stays a node."""
    if not isinstance(node, yaml.ScalarNode):
        return node
    readers: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
        "bool": lambda text: text.lower() in ("yes", "true", "on"),
        "null": lambda text: None,
    }
    try:
        return readers[node.tag.rpartition(":")[2]](node.value)
    except (KeyError, ValueError):  # text, and what only looks like a number, such as 12:30
        return node.value


def shot_nodes(film: Section) -> list[yaml.Node]:
    node = film.values.get("shots")
    if not isinstance(node, yaml.SequenceNode):
        film.refuse(
            "shots", "", "are missing", "write `shots:` and below it a list, each with `- prompt: ...`"
        )
    if not node.value:
        film.refuse("shots", "[]", "are none", "add one, such as `- prompt: ...`")
    if len(node.value) > MOST_SHOTS:
        film.refuse("shots", len(node.value), f"are more than {MOST_SHOTS}", "make several films of them")
    return node.value


# --- the shots ----------------------------------------------------------------------------------------------------


class LoraFinder:
    """The LoRAs of a shot: its own `lora`, else the film's: FILE[:STRENGTH], or several with commas between them, from
    the storyboard's folder on."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Path | None,
        film: Section,
        given: Sequence[LoraUse | StrPath] | None,
        merge: bool | None,
    ) -> None:
        self.spec, self.weights, self.film, self.given, self.merge = spec, weights, film, given, merge
        self.notes: list[str] = []
        self._known: dict[str, tuple[LoraUse, ...]] = {}

    def __call__(self, section: Section) -> tuple[LoraUse, ...]:
        if "lora" not in section.values and self.given is not None:
            return self._find("", self.given)
        named = section if "lora" in section.values else self.film
        text = text_in(named, "lora", named.values.get("lora"))
        with named.placed():
            return self._find(text, [part.strip() for part in text.split(",")]) if text.strip() else ()

    def _find(self, text: str, given: Sequence[LoraUse | StrPath]) -> tuple[LoraUse, ...]:
        if text not in self._known:
            from linnet.weights.resolve_loras import NO_LORA, resolve_loras  # where there are any

            transformer = resolve(self.spec, weights=self.weights).transformer
            named = [each for each in given if str(each) != NO_LORA]
            loras = resolve_loras(
                transformer, given, folder=self.film.path.parent, merge=self.merge if named else None
            )
            self.notes += loras.notes
            self._known[text] = loras.uses
        return self._known[text]


def request_of(
    spec: ModelSpec,
    usual: Request,
    film: Section,
    section: Section,
    loras: tuple[LoraUse, ...],
    profiled: Callable[[Mapping[str, Any], Request | None], dict[str, Any]],
) -> Request:
    """The shot's own settings, else the film's; the prompt whole."""
    with section.placed():
        if "prompt" not in section.values:
            section.refuse("prompt", "", "is missing", "say what the shot shows")
        parts = [
            text_in(section, key, section.values.get(key, film.values.get(key)))
            for key in ("subject", "prompt", "style")
        ]
        settings: dict[str, Any] = windows_in(usual, film, section) | {"prompt": sentence(parts)}
        if isinstance(settings.get("reuse"), int | float):
            settings["reuse"] = str(settings["reuse"])  # `reuse: 6` and `reuse: 0.05` are numbers to YAML
        request = make_request(spec, like=usual, loras=loras, **profiled(settings, usual))
        named = section.values.get("reuse", film.values.get("reuse"))
        continues = (section.values.get("begin") or film.values.get("begin")) == "continue"
        # A profile's step cache does not go with it; one that the file names is refused.
        return replace(request, reuse="none") if continues and named is None else request


def windows_in(usual: Request, film: Section, section: Section) -> dict[str, Any]:
    """The section's settings and, since a shot of another length would get the model's usual windows, the film's."""
    own = section.settings()
    if own.get("span") or all(film.values.get(key) is None for key in WINDOWS):
        return own
    return own | {key: getattr(usual, key) for key in WINDOWS if own.get(key) is None}


def sentence(parts: Sequence[str]) -> str:
    """Joined by spaces, but for a part that begins with a punctuation mark."""
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(part.strip() for part in parts if part.strip()))


def text_in(section: Section, key: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        section.refuse(key, value, "is not text", "put it into quotes")
    return value


def shot_of(number: int, request: Request, film: Section, sections: Sequence[Section]) -> Shot:
    section = sections[number]
    begin = section.values.get("begin") or (film.values.get("begin") if number else None) or "cut"
    if begin not in OVERLAP:
        section.refuse("begin", begin, "is not known", f"use {', '.join(OVERLAP)}")
    source = section.values.get("from")
    if source is not None and begin != "continue":
        section.refuse("from", source, f"does not go with {begin}", "write `begin: continue`")
    if begin != "cut" and number == 0 and source is None:
        section.refuse("begin", begin, "has no shot before it", "begin the first shot with a cut")
    if begin == "cut":
        if (own := section.values.get("overlap")) is not None:
            section.refuse("overlap", own, "does not go with cut", "leave it out, or begin with a dissolve")
        return Shot(request=request, begin=begin, overlap=0)
    seconds = section.values.get("overlap", film.values.get("overlap", OVERLAP[begin]))
    overlap = frames_of_overlap(section, seconds, request.fps)
    if begin != "continue":
        return Shot(request=request, begin=begin, overlap=overlap)
    if request.reuse != "none":  # its steps are counted from pure noise, each taken once
        section.refuse("reuse", request.reuse, "does not go with continue", "leave it out of this shot")
    after = number - 1 if source is None else shot_named(source, section, sections)
    return Shot(request=request, begin=begin, overlap=overlap, after=after)


def frames_of_overlap(section: Section, seconds: Any, fps: int) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        section.refuse("overlap", seconds, "is not a number of seconds", "give a number such as 0.5")
    try:
        return frames_for(seconds, fps)
    except InvalidInput as error:
        section.refuse("overlap", seconds, error.problem, error.remedy)


def shot_named(name: Any, section: Section, sections: Sequence[Section]) -> int:
    names = [other.values.get("name") for other in sections]
    if name not in names:
        known = [str(other) for other in names if other is not None]
        listed = f"there are {', '.join(known)}" if known else "give the shot that it continues a `name:`"
        section.refuse("from", name, "is no shot's name", f"{guess(str(name), known)}{listed}")
    return names.index(name)


# --- how they go together -----------------------------------------------------------------------------------------


def check_names(sections: Sequence[Section]) -> None:
    seen: set[str] = set()
    for section in sections:
        name = text_in(section, "name", section.values.get("name"))
        if name and name in seen:
            section.refuse("name", name, "is the name of another shot too", "give each its own")
        seen.add(name)


def check_morphs(shots: Sequence[Shot], film: Section, sections: Sequence[Section]) -> None:
    """Shots that are denoised as one have one way of denoising."""
    for number, (before, shot) in enumerate(pairwise(shots), 1):
        if shot.begin != "morph":
            continue
        section = sections[number]
        for either in (sections[number - 1], section):
            if either.values.get("onward", film.values.get("onward")):
                remedy = "write `onward: false` in this shot, or begin with a dissolve"
                either.refuse(
                    "onward", "true", "does not go with a morph, whose shots are denoised jointly", remedy
                )
        for field, value in vars_of(shot.request).items():
            other = vars_of(before.request)[field]
            if field not in OWN_IN_MORPH and value != other:
                problem = f"differs from the shot before, {other}, with which it is denoised as one"
                section.refuse(field, value, problem, "use the same, or begin with a dissolve")


def vars_of(request: Request) -> dict[str, Any]:
    """What people wrote of it."""
    return request.to_json() | {"loras": ", ".join(map(str, request.loras))}


def check_overlaps(shots: Sequence[Shot], sections: Sequence[Section]) -> None:
    """No frame belongs to three shots, and none is continued from that is not there."""
    for number, (shot, section) in enumerate(zip(shots, sections, strict=True)):
        source = shots[number - 1 if shot.after is None else shot.after].request
        if shot.overlap >= source.frames:
            seconds = format_seconds(seconds_of(shot.overlap, source.fps))
            problem, longest = (
                "is as long as the shot with which it is shared",
                format_seconds(source.seconds),
            )
            section.refuse("overlap", seconds, problem, f"use less than {longest}")
    for shot, section, after in zip(shots, sections, [*shots[1:], None], strict=True):
        handed_on = after.overlap if after and after.begin in BLENDS else 0
        if shot.overlap + handed_on >= shot.request.frames:
            both = format_seconds((shot.overlap + handed_on) / shot.request.fps)
            problem = f"is no longer than the {both} s that it shares with its neighbours"
            section.refuse(
                "seconds", format_seconds(shot.request.seconds), problem, "make it longer, or overlap less"
            )

"""Which settings the name of a profile stands for: what `linnet tune` measured on this machine, what the catalogue has,
or what the literature supports. Imports no torch before it must."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from linnet import __version__
from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.plan import profiles
from linnet.plan.profiles import Subject, TunedProfile
from linnet.request import EXACT, Request, RequestSettings, make_request, profile_settings
from linnet.runtime.machine import card_is_here, device_name
from linnet.weights.files import files_under, fingerprint
from linnet.weights.store import ModelFiles
from linnet.wording import in_a_row

DECIDED = (*EXACT, "steps", "shift")  # what a profile decides


@dataclass(frozen=True, kw_only=True)
class ChosenProfile:
    """`settings` are a request's, with the profile's in them. `record` is what the clip says of the profile, None of
    the catalogue's own. `notes` are for the person."""

    settings: RequestSettings
    compiled: bool | None = None  # None: as planned
    fp8: bool | None = None
    record: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def choose_profile(
    spec: ModelSpec,
    settings: RequestSettings,
    *,
    untuned: bool = False,
    files: Callable[[], ModelFiles],
    device: str | None = None,
    like: Request | None = None,
) -> ChosenProfile:
    """What `settings["profile"]` stands for. A profile that was measured of something else is not used, and that is
    said. InvalidInput where there is no such profile yet. `files` are asked for only where weights have to be compared.
    """
    name = settings.get("profile")
    if untuned:
        return from_literature(spec, name, settings)
    if name not in profiles.NAMES:
        return ChosenProfile(settings=settings)
    tuned = profiles.kept(spec.name, name)
    if not tuned:
        if name not in spec.profiles:
            raise not_tuned(spec, name)
        return ChosenProfile(settings=settings)
    now = subject_of(spec, files(), device, with_exact(spec, settings, like))
    for each in tuned:
        if each.subject == now:
            return ChosenProfile(
                settings=explicit(spec, settings, each.settings),
                compiled=each.compiled,
                fp8=each.fp8 or None,
                record=each.record,
            )
    return not_of_this(spec, name, settings, now, tuned[0])


def not_of_this(
    spec: ModelSpec, name: str, settings: RequestSettings, now: Subject, tuned: TunedProfile
) -> ChosenProfile:
    """What is measured is of something else: the catalogue's profile, or else exact."""
    other = in_a_row(now.other_than(tuned.subject))
    if name in spec.profiles:
        words = f"{spec.name}'s own {name} is used"
    else:
        words, settings = "exact is used", cast(RequestSettings, {**settings, "profile": "exact"})
    note = f"warning: the tuned profile {name} was measured with {other}: {words}; `linnet tune` measures it anew"
    return ChosenProfile(settings=settings, notes=(note,))


def from_literature(spec: ModelSpec, name: object, settings: RequestSettings) -> ChosenProfile:
    """Settings that others published, for this architecture's kin: not measured here, which the clip says, too."""
    if not isinstance(name, str) or name not in profiles.NAMES:
        raise InvalidInput("untuned", "true", "is of a profile, and none is named", "add `profile=fast`")
    if name not in spec.literature:
        problem = f"has no settings from the literature for {spec.name}"
        remedy = "leave out `untuned`" if name in spec.profiles else "use `profile=fast`"
        raise InvalidInput("profile", name, problem, remedy)
    taken = spec.literature[name]
    words = in_a_row(f"{each.setting} {each.value} ({each.source})" for each in taken)
    values = {each.setting: each.value for each in taken}
    sources = {each.setting: each.source for each in taken}
    return ChosenProfile(
        settings=explicit(spec, settings, values),
        record={"name": name, "untuned": True, "settings": values, "sources": sources},
        notes=(f"note: {name} is not measured for {spec.name}; it takes {words}",),
    )


def explicit(spec: ModelSpec, settings: RequestSettings, decided: Mapping[str, Any]) -> RequestSettings:
    """The settings with all that the profile decides in them, but for what the person gave."""
    chosen = profile_settings(spec, "exact") | dict(decided)
    given = {field: value for field, value in settings.items() if value is not None}
    return cast(RequestSettings, {**chosen, **given, "profile": None})


def with_exact(spec: ModelSpec, settings: RequestSettings, like: Request | None) -> Request:
    """The request in the exact profile: what is measured is of its size, length and dtype."""
    size, seconds, frames, dtype = (settings.get(name) for name in ("size", "seconds", "frames", "dtype"))
    wanted: dict[str, Any] = {
        "size": size,
        "seconds": seconds,
        "frames": frames,
        "dtype": dtype,
        "profile": "exact",
    }
    return make_request(spec, prompt="any", like=like, **wanted)


def subject_of(spec: ModelSpec, files: ModelFiles, device: str | None, request: Request) -> Subject:
    """What a profile for this request, with these files on this device, is measured of."""
    import torch

    from linnet.runtime.device import default_dtype, dtype_name, title

    name = device_name(device, None, here=False)
    here = card_is_here(name)
    usual = dtype_name(default_dtype(name)) if here else "bfloat16"
    return Subject(
        model=spec.name,
        weights=weights_name(files),
        width=request.width,
        height=request.height,
        frames=request.frames,
        card=title(name) if here else f"{name}, which is not here",
        dtype=usual if request.dtype == "auto" else request.dtype,
        torch=torch.__version__,
        linnet=__version__,
    )


def weights_name(files: ModelFiles) -> str:
    """The fingerprint of all files, read again only where one of them has changed."""
    stats = [file.stat() for path in files.weights for file in files_under(path)]
    return remembered(tuple(files.weights), tuple((each.st_mtime_ns, each.st_size) for each in stats))


@lru_cache(maxsize=16)
def remembered(weights: tuple[Path, ...], changed: tuple[tuple[int, int], ...]) -> str:
    return fingerprint(weights)


def record_of(
    spec: ModelSpec, request: Request, *, files: ModelFiles, device: str | None
) -> Mapping[str, Any] | None:
    """What the request's clip says of its profile: of the one that was tuned here and has its settings; None if there
    is none. For a request that does not tell by itself, such as one that waited in a queue."""
    for name in profiles.NAMES:
        for each in profiles.kept(spec.name, name):
            wanted = profile_settings(spec, "exact") | dict(each.settings)
            same = all(
                getattr(request, field) == value
                for field, value in wanted.items()
                if field != "decoder_dtype"
            )
            if same and each.subject == subject_of(spec, files, device, request):
                return each.record
    return None


def not_tuned(spec: ModelSpec, name: str) -> InvalidInput:
    """What to do before there is such a profile."""
    remedy = f"run `linnet tune --model {spec.name}`"
    if name in spec.literature:
        remedy += ", or add `untuned` for settings that the literature supports"
    return InvalidInput("profile", name, f"was not measured for {spec.name} on this machine", remedy)


def carried_on(record: object, earlier: Request, request: Request) -> Mapping[str, Any] | None:
    """The record of an earlier clip's profile, for a clip that is made with the same settings."""
    if not isinstance(record, Mapping) or earlier.model != request.model:
        return None
    same = all(getattr(earlier, name) == getattr(request, name) for name in DECIDED)
    return dict(record) if same else None

"""Download of a published model into the Hub's cache, on request only: plan, fetch, verify, then publish.

The cache is huggingface_hub's own and stays usable by it: blobs named by their checksum, and a folder for
each commit that links to them. What huggingface_hub does is talk to the network; what is done here is to
keep a partial file from one run to the next (it deletes them since 1.x), and to name a file a blob only
after every byte of it was hashed. No token is sent: the repositories are public.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from linnet import __version__
from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput, LinnetError, WeightsError
from linnet.filesystem import write_text
from linnet.weights.store import ModelFiles, layout, repository_folder, resolve
from linnet.wording import format_bytes

KEPT_SUFFIXES = frozenset({".safetensors", ".json", ".model", ".txt"})
PROGRESS_BAR = "huggingface_hub.http_get"
READ = 2**20


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """`checksum` is what the Hub states and what the blob is called: SHA-256 (64 hex digits) of a file in
    large-file storage, git's SHA-1 (40) of any other. `size` in bytes."""

    path: str
    size: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pull would fetch. `folder` is the repository's in the cache; `licence` as the Hub states it."""

    spec: ModelSpec
    repository: str
    endpoint: str
    commit: str
    licence: str
    folder: Path
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files)

    @property
    def bytes_to_fetch(self) -> int:
        """Without what is already on this machine, whole or in part."""
        return sum(max(0, file.size - size_on_disk(self, file)) for file in self.files)


@dataclass(frozen=True)
class Progress:
    """Of one file, in bytes; each is first downloaded (unless it is there), then verified."""

    stage: Literal["download", "verify"]
    path: str
    done: int
    total: int


def ignore(progress: Progress) -> None:
    """A `watch` that shows nothing."""


def plan_pull(spec: ModelSpec, *, endpoint: str | None = None) -> Plan:
    """Ask the Hub (or the mirror at `endpoint`) what there is; downloads nothing.

    InvalidInput if it cannot be reached, does not know the repository, or lacks a file that is needed.
    """
    if spec.repository is None:
        if spec.ships:
            problem, remedy = "ships with linnet", "there is nothing to pull: generate with it"
        else:
            problem, remedy = "is not published", "train it (docs/theatre.md)"
        raise InvalidInput("model", spec.name, problem, remedy)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=False, library_name="linnet", library_version=__version__)
    with network_errors(spec.repository, api.endpoint):
        info = api.model_info(spec.repository, files_metadata=True, timeout=30)
    files = [
        RemoteFile(
            path=file.rfilename,
            size=file.size if isinstance(file.size, int) else -1,
            checksum=(file.lfs.sha256 if file.lfs else file.blob_id) or "",
        )
        for file in info.siblings or ()
        if is_needed(spec, file.rfilename)
    ]
    for part in layout(spec).values():
        if not any(file.path == part or in_folder(file.path, part) for file in files):
            remedy = "report this to linnet, whose catalogue is out of date"
            raise WeightsError(
                "repository", spec.repository, f"holds no {part} in a format linnet reads", remedy
            )
    for text in (info.sha, *(file.checksum for file in files)):
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text or "") or any(file.size < 0 for file in files):
            problem = f"{api.endpoint} does not give the size and checksum of every file"
            raise WeightsError("repository", spec.repository, problem, "pull from https://huggingface.co")
    return Plan(
        spec=spec,
        repository=spec.repository,
        endpoint=api.endpoint,
        commit=info.sha or "",
        licence=str((info.card_data or {}).get("license") or spec.licence),
        folder=repository_folder(spec.repository),
        files=tuple(sorted(files, key=lambda file: (file.size, file.path))),
    )


def pull(
    spec: ModelSpec,
    *,
    endpoint: str | None = None,
    plan: Plan | None = None,
    watch: Callable[[Progress], None] = ignore,
) -> ModelFiles:
    """Bring a model into the Hub's cache and say where it is; `plan` is one already shown to the user.

    Goes on from where an interrupted pull stopped. Each file is hashed, also those that were there before,
    and a wrong one is deleted and named in a WeightsError. The commit becomes the current one in the cache
    only when all of its files are right.
    """
    plan = plan or plan_pull(spec, endpoint=endpoint)
    with disk_errors(plan):
        plan.folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(plan.folder).free) < plan.bytes_to_fetch:
            problem = f"has {format_bytes(free)} free and {format_bytes(plan.bytes_to_fetch)} are to come"
            raise InvalidInput(
                "cache", plan.folder, problem, "free some space, or set HF_HUB_CACHE to another disk"
            )
        for file in plan.files:
            with locked(plan, file):
                fetch(plan, file, watch)
        current = plan.folder / "refs" / "main"
        current.parent.mkdir(exist_ok=True)
        write_text(current, plan.commit, field="cache")
    return resolve(spec, weights=snapshot(plan))


def fetch(plan: Plan, file: RemoteFile, watch: Callable[[Progress], None]) -> None:
    """One file into the cache, hashed, and linked into the commit's folder."""
    blob, partial, link = blob_of(plan, file), partial_of(plan, file), snapshot(plan) / file.path
    if link.exists() and not link.is_symlink():  # a cache without symbolic links keeps the file itself here
        blob = link
    if not (blob.is_file() and is_right(blob, file, watch)):
        blob.unlink(missing_ok=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        download(plan, file, partial, watch)
        if not is_right(partial, file, watch):
            partial.unlink()
            problem = (
                f"{file.path} is not what {plan.endpoint} says it is (its checksum differs), and was deleted"
            )
            raise WeightsError(
                "repository", plan.repository, problem, f"run `linnet pull {plan.spec.name}` again"
            )
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(blob)
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # a link to nothing
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:  # not allowed on this file system: then the file itself
            blob.replace(link)


def download(plan: Plan, file: RemoteFile, partial: Path, watch: Callable[[Progress], None]) -> None:
    """Bring `partial` to its full length, from whatever length it has; tries again as long as it grows."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if length_of(partial) > file.size:
        partial.unlink()
    url = hf_hub_url(plan.repository, file.path, revision=plan.commit, endpoint=plan.endpoint)
    headers = build_hf_headers(token=False, library_name="linnet", library_version=__version__)
    again = f"run `linnet pull {plan.spec.name}` again: it goes on from where it stopped"
    with network_errors(plan.repository, plan.endpoint, again), without_progress_bar():
        while True:
            start = length_of(partial)
            try:
                with WatchedFile(
                    partial, lambda done: watch(Progress("download", file.path, done, file.size))
                ) as target:
                    return http_get(url, target, resume_size=start, headers=headers, expected_size=file.size)
            except Exception:
                if length_of(partial) <= start:
                    raise
                time.sleep(1)


def length_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class WatchedFile(io.BufferedWriter):
    """A file to append to that reports its length before the first write and after each one."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self.report = report
        report(self.tell())

    def write(self, chunk) -> int:
        count = super().write(chunk)
        self.report(self.tell())
        return count


def is_right(path: Path, file: RemoteFile, watch: Callable[[Progress], None]) -> bool:
    """Whether the bytes on disk are those that the Hub states."""
    if (size := path.stat().st_size) != file.size:
        return False
    if len(file.checksum) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)  # as git names a file
    with path.open("rb") as content:
        while chunk := content.read(READ):
            digest.update(chunk)
            watch(Progress("verify", file.path, content.tell(), size))
    return digest.hexdigest() == file.checksum


def is_needed(spec: ModelSpec, path: str) -> bool:
    """Whether a file of the repository is one of the model's parts: no pickles, pictures or notes, and
    nothing whose name leads out of its folder."""
    if PurePosixPath(path).suffix not in KEPT_SUFFIXES or "\\" in path:
        return False
    return any(path == part or in_folder(path, part) for part in layout(spec).values())


def in_folder(path: str, folder: str) -> bool:
    return PurePosixPath(path).parent == PurePosixPath(folder)


def snapshot(plan: Plan) -> Path:
    return plan.folder / "snapshots" / plan.commit


def blob_of(plan: Plan, file: RemoteFile) -> Path:
    return plan.folder / "blobs" / file.checksum


def partial_of(plan: Plan, file: RemoteFile) -> Path:
    return plan.folder / "blobs" / f"{file.checksum}.incomplete"


def size_on_disk(plan: Plan, file: RemoteFile) -> int:
    for path in (blob_of(plan, file), snapshot(plan) / file.path, partial_of(plan, file)):
        if path.is_file():
            return path.stat().st_size
    return 0


@contextmanager
def locked(plan: Plan, file: RemoteFile) -> Iterator[None]:
    """Alone with one blob, among processes that go by the cache's rules."""
    from huggingface_hub.utils import WeakFileLock

    lock = plan.folder.parent / ".locks" / plan.folder.name / f"{file.checksum}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        yield


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """`watch` shows the progress; huggingface_hub's own bar would be a second one."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled(PROGRESS_BAR):
        yield
        return
    disable_progress_bars(PROGRESS_BAR)
    try:
        yield
    finally:
        enable_progress_bars(PROGRESS_BAR)


@contextmanager
def network_errors(
    repository: str, endpoint: str, remedy: str = "check the network connection, then pull again"
) -> Iterator[None]:
    """What goes wrong on the network, as one line. Errors of linnet and of the local disk pass through."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        if status in (401, 403, 404):
            remedy = "check that the repository is still public under that name"
        raise InvalidInput("repository", repository, f"{endpoint} answers {status}", remedy) from error
    except LinnetError:
        raise
    except Exception as error:  # its class depends on which HTTP library huggingface_hub's version uses
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
        ):
            raise
        problem = f"{endpoint} cannot be reached or broke off ({error or type(error).__name__})"
        raise InvalidInput("repository", repository, problem, remedy) from error


@contextmanager
def disk_errors(plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InvalidInput(
            "cache", plan.folder, problem, "free some space, or set HF_HUB_CACHE to another disk"
        ) from error

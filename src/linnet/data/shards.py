"""Cached tensors of a large dataset in few files: tar archives of up to a gigabyte, each sample KEY.safetensors and
KEY.json beside it, as webdataset reads them. A million small files would be slow to copy and to list.

A sample's key is that of its own file in the cache, so it is found by content as before. An archive appears when it is
whole; the files that are in it are then deleted. They are the cache's own.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from linnet.filesystem import complete, make_folder, system_errors

SHARD_BYTES = 1_000_000_000


class Member(NamedTuple):
    """Where a sample's tensors are."""

    archive: Path
    offset: int
    size: int


class Shards:
    """All archives of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members = members_in(folder)

    def __contains__(self, key: str) -> bool:
        return key in self.members

    def read(self, key: str, name: str) -> Tensor:
        """KeyError, OSError or SafetensorError where it has gone or is damaged."""
        if key not in self.members:
            self.members = members_in(self.folder)  # another process may have packed it meanwhile
        member = self.members[key]
        with member.archive.open("rb") as file:
            file.seek(member.offset)
            return load(file.read(member.size))[name]

    def pack(
        self,
        kind: str,
        files: Iterable[Path],
        *,
        most: int = SHARD_BYTES,
        tell: Callable[[int], object] = lambda done: None,
    ) -> int:
        """Put these files of the cache into archives named after their kind, each of up to `most` bytes; how many
        archives there are now. `tell` hears how many samples are in one."""
        waiting = sorted({file for file in files if file.exists()})
        for done, group in groups(waiting, most):
            new = [file for file in group if file.stem not in self]
            if new:
                path = self._free_name(kind)
                self._write(path, new)
                self.members |= members_of(path)
            for file in group:
                if file.stem in self:
                    file.unlink(missing_ok=True)
            tell(done)
        return len({member.archive for member in self.members.values()})

    def _free_name(self, kind: str) -> Path:
        number = 0
        while (path := self.folder / f"{kind}-{number:06d}.tar").exists():
            number += 1
        return path

    def _write(self, path: Path, files: Iterable[Path]) -> None:
        make_folder(self.folder, field="cache")
        with (
            complete(path, field="cache") as part,
            system_errors(),
            tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for file in files:
                with safe_open(file, "pt") as tensors:
                    record = json.dumps(tensors.metadata()).encode()
                add(archive, f"{file.stem}.safetensors", file.read_bytes())
                add(archive, f"{file.stem}.json", record)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def groups(files: Iterable[Path], most: int) -> Iterable[tuple[int, list[Path]]]:
    """Parts of up to `most` bytes, each with how many files are in it and in those before."""
    group, taken, done = list[Path](), 0, 0
    for file in files:
        size = file.stat().st_size
        if group and taken + size > most:
            yield done, group
            group, taken = [], 0
        group.append(file)
        taken, done = taken + size, done + 1
    if group:
        yield done, group


def members_in(folder: Path) -> dict[str, Member]:
    """By their keys."""
    members: dict[str, Member] = {}
    for path in sorted(folder.glob("*.tar")):
        members |= members_of(path)
    return members


def members_of(path: Path) -> dict[str, Member]:
    """Of one archive. What of it is damaged or cut off is as if it were not there."""
    members: dict[str, Member] = {}
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for each in archive:
                key, _, ending = each.name.rpartition(".")
                if ending == "safetensors" and each.offset_data + each.size <= size:
                    members[key] = Member(path, each.offset_data, each.size)
    except (OSError, tarfile.TarError):
        pass
    return members

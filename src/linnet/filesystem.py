"""What the system says of a path, said in one line; and files that appear under their name when they are complete.

Until it is complete a file grows beside its name under another, which begins with a dot and ends with .part. That name
is partly random and made with O_EXCL, so that no two writers share it, even where two containers on one volume have
processes of the same number.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from linnet.errors import InvalidInput

StrPath = str | os.PathLike[str]

ELSEWHERE = "choose another place"
# What a system error says of a path: the problem, and the remedy when the path was to be written or to be read.
MEANINGS: dict[int, tuple[str, str, str]] = {
    errno.ENOSPC: ("cannot be written: the disk is full", f"make room, or {ELSEWHERE}", "make room"),
    errno.EDQUOT: ("cannot be written: the disk quota is used up", f"make room, or {ELSEWHERE}", "make room"),
    errno.EROFS: ("cannot be written: the file system is read-only", ELSEWHERE, ELSEWHERE),
    errno.ENAMETOOLONG: ("has a name that is too long", "choose a shorter name", "check the path"),
    errno.EEXIST: ("is there already", "choose another name, or `overwrite` it", "choose another name"),
    errno.ENOTEMPTY: ("is there already", "choose another name", "choose another name"),
    errno.EACCES: ("", f"check the permissions, or {ELSEWHERE}", "check the permissions"),
    errno.EPERM: ("", f"check the permissions, or {ELSEWHERE}", "check the permissions"),
    errno.EILSEQ: ("has a name that the file system refuses", "choose another name", "check the path"),
    errno.EMFILE: ("", "close other programs, or raise `ulimit -n`", "raise `ulimit -n`"),
}
NO_LINKS = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
}
ABANDONED = 3600  # seconds since the last write to a file that nobody is going to finish
PART = re.compile(r"\.(.+)\.(\d+)\.[0-9a-f]{8}\.part", re.DOTALL)  # see `temporary_name`
SHORT = 48  # bytes of a temporary name beside a name that is shorter; every file system takes so many


def path_error(error: Exception, path: Path | str, *, field: str, writing: bool) -> InvalidInput:
    """One line that names the path, the reason and the remedy."""
    number = getattr(error, "errno", None)
    problem, when_writing, when_reading = MEANINGS.get(number or 0, ("", ELSEWHERE, "check the file"))
    if isinstance(error, FileNotFoundError) and not writing:
        return InvalidInput(field, path, "is missing", "check the path")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    problem = problem or f"cannot be {'written' if writing else 'read'} ({reason})"
    return InvalidInput(field, path, problem, when_writing if writing else when_reading)


def last_net(error: OSError) -> InvalidInput:
    """What nobody said who knew whether a file was read or written."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        try:
            os.getcwd()  # noqa: PTH109 (`Path.cwd` is the same)
        except OSError:
            return InvalidInput("folder", ".", "is gone", "change to another one, and try again")
        return InvalidInput("system", type(error).__name__, reason, "check the files and folders it is given")
    path = error.filename if isinstance(error.filename, str | Path) else os.fsdecode(str(error.filename))
    problem, remedy, _ = MEANINGS.get(error.errno or 0, ("", "check the path", ""))
    return InvalidInput("file", Path(path), problem or f"cannot be used ({reason})", remedy)


@contextmanager
def reading(path: Path, field: str = "file") -> Iterator[None]:
    """What the system refuses within becomes InvalidInput."""
    with explained(path, field, writing=False):
        yield


@contextmanager
def writing(path: Path, field: str = "output") -> Iterator[None]:
    """As `reading`, of a place to write to."""
    with explained(path, field, writing=True):
        yield


@contextmanager
def explained(path: Path, field: str, *, writing: bool) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise path_error(error, path, field=field, writing=writing) from error
    except ValueError as error:
        if "null" not in str(error):  # a NUL, which no system call takes in a path
            raise
        raise InvalidInput(field, path, "has a null character in its name", "choose another name") from error


# --- before any work ----------------------------------------------------------------------------------------------


def as_path(value: object, field: str) -> Path:
    """What a person's Python names a file by: a string or a path."""
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        if isinstance(name, str) and name.strip():
            return Path(name)
    raise InvalidInput(field, value, "is not the name of a file or folder", "give a string or a Path")


def check_name(path: Path, *, field: str = "output") -> None:
    """Refuse a name that the file system does not take, whether or not its folder is there yet."""
    with writing(path, field):
        with suppress(FileNotFoundError):
            path.lstat()
        limit = name_limit(nearest_folder(path))
        if any(len(os.fsencode(part)) > limit for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def name_limit(folder: Path) -> int:
    """Bytes of a name in this folder."""
    with suppress(OSError, ValueError, AttributeError):
        return os.pathconf(folder, "PC_NAME_MAX")
    return 255


def check_folder(folder: Path, *, path: Path | None = None, field: str = "output") -> None:
    """Refuse a folder in which no file can be made, by making one: permissions alone do not tell. Of a folder that is
    not there yet the nearest above it is tried. The message names `path`, which is to be written there."""
    named = path or folder
    with writing(named, field):
        nearest = nearest_folder(folder / "x")
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        remove(create(nearest / named.name))
        if hasattr(os, "statvfs") and (room := os.statvfs(nearest)).f_blocks and not room.f_bavail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def nearest_folder(path: Path) -> Path:
    """The closest place above the path that is there."""
    parents = path.absolute().parents
    return next((parent for parent in parents if os.path.lexists(parent)), parents[-1])


def make_folder(folder: Path, *, field: str = "output") -> None:
    """With those above it."""
    with writing(folder, field):
        folder.mkdir(parents=True, exist_ok=True)


# --- files that are complete, or not there ------------------------------------------------------------------------


def temporary_name(path: Path) -> Path:
    """Beside `path`, hidden; no longer than its name is, but for short ones."""
    tail = f".{os.getpid()}.{os.urandom(4).hex()}.part"
    name = os.fsencode(path.name)
    head = name[: max(len(name), SHORT) - len(tail) - 1].decode(errors="ignore")
    return path.absolute().parent / f".{head}{tail}"


def writer_of(part: Path) -> tuple[str, int] | None:
    """How the name begins that a file of `temporary_name` was to have, and the process that writes it; None for any
    other file."""
    match = PART.fullmatch(part.name)
    return (match[1], int(match[2])) if match else None


def create(path: Path) -> Path:
    """An empty file for `path`'s contents until they are complete, which nobody else has; OSError if there can be
    none."""
    while True:
        part = temporary_name(path)
        with suppress(FileExistsError):
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return part


def publish(part: Path, path: Path, *, overwrite: bool) -> None:
    """Give what is complete its name, and see both onto the disk. Unless `overwrite`, of several writers the first one
    has the name, and the others get FileExistsError."""
    flush(part)
    if (
        overwrite or part.is_dir()
    ):  # the system gives a folder no name that another has, unless that one is empty
        part.replace(path)
    else:
        take(part, path)
    flush_folder(path.absolute().parent)


def take(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        part.rename(path)  # a file system without hard links
    else:
        part.unlink()


@contextmanager
def complete(path: Path, *, overwrite: bool = True, field: str = "output") -> Iterator[Path]:
    """A file to write, which takes the name `path` if the block ends well, and is removed if not."""
    part = None
    try:
        with writing(path, field):
            part = create(path)
            yield part
            publish(part, path, overwrite=overwrite)
    finally:
        if part:
            remove(part)


@contextmanager
def system_errors() -> Iterator[None]:
    """What a library written in Rust says of the system, as OSError again: its own words end in "(os error 28)"."""
    try:
        yield
    except Exception as error:
        match = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1]))) from error


def write_text(path: Path, text: str, *, field: str = "output") -> None:
    """The whole file, or the one that was there before."""
    with complete(path, field=field) as part:
        part.write_text(text, "utf-8")


def flush(part: Path) -> None:
    """Onto the disk, before the name points to it."""
    for file in [*part.rglob("*")] if part.is_dir() else [part]:
        if file.is_dir():
            flush_folder(file)
            continue
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
    if part.is_dir():
        flush_folder(part)


def flush_folder(folder: Path) -> None:
    """The names in it. Not every system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path, pattern: str = ".*.part") -> None:
    """Remove what killed processes began to write in the folder, under the names that `temporary_name` gives alone. A
    process of that number that lives here may be its writer; elsewhere, on a volume that is shared, only the time since
    the last write can tell."""
    for part in folder.glob(pattern):
        with suppress(OSError):
            files = [part, *part.rglob("*")]
            late = time.time() - max(file.lstat().st_mtime for file in files) > ABANDONED
            if late and (writer := writer_of(part)) and not lives(writer[1]):
                remove(part)


def lives(process: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def remove(path: Path) -> None:
    """A file or a folder, as far as the system lets it."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()

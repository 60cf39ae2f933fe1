"""Runs `linnet` in hard surroundings, for test_surroundings.py: cases as JSON on standard input, results on output.

Everything is imported once; each case then runs in a fork of this process, so that it takes no time to start. Under
`unshare -m` as root the places are real: a full and a read-only tmpfs, a folder that may not be entered without
capabilities, a user without a name. Elsewhere permissions and limits stand for them.
"""

import ctypes
import importlib
import io
import json
import os
import pkgutil
import pwd
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST = 60  # seconds of a case
ROOT = os.geteuid() == 0


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return ROOT and subprocess.run(command, capture_output=True).returncode == 0


def make_places(base: Path) -> None:
    places = {name: base / name for name in ("full", "read_only", "locked", "usual")}
    for place in places.values():
        place.mkdir()
    if mounted(places["full"], "size=64k"):
        with (places["full"] / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
    if not mounted(places["read_only"], "ro"):
        places["read_only"].chmod(0o555)
    places["locked"].chmod(0)


def without_capabilities() -> None:
    """As root in a container that has none: permissions count."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ROOT and ctypes.CDLL(None).capset(header, nothing):
        raise OSError("capset")


def without_home() -> None:
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "LINNET_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        os.environ.pop(name, None)

    def unknown(number: int) -> Any:
        raise KeyError(number)

    pwd.getpwuid = unknown


def surround(name: str) -> None:
    """Make the surroundings those of the name, in this process."""
    if name in ("locked", "read_only"):
        without_capabilities()
    if name == "locked":
        os.environ["HF_HOME"] = os.environ["LINNET_CACHE"] = str(Path.cwd() / "locked/cache")
        os.environ.pop("HF_HUB_CACHE", None)
    if name == "full" and not ROOT:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if name == "no_home":
        without_home()
    if name == "no_utf8":
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "ascii")
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "ascii")
    if name == "no_terminal":
        ends = os.pipe()
        os.dup2(ends[1], 1)
        os.close(ends[0])  # nobody reads
        os.close(ends[1])
        os.close(0)
        sys.stdin = None  # type: ignore[assignment]
    if name == "no_streams":
        for number in (0, 1):
            os.close(number)
        sys.stdin = sys.stdout = None  # type: ignore[assignment]


def run(words: list[str], surroundings: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = os.fork()
        if not child:
            status = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(error.fileno(), 2)
                signal.alarm(LONGEST)
                surround(surroundings)
                sys.argv = ["linnet", *words]
                from linnet.__main__ import main

                main()
            except SystemExit as leaving:
                status = leaving.code if isinstance(leaving.code, int) else 0
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                if sys.stderr:
                    sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        found: dict[str, Any] = {"status": os.waitstatus_to_exitcode(ended)}
        for name, file in (("out", out), ("error", error)):
            file.seek(0)
            found[name] = file.read().decode(errors="surrogateescape")
        return found


# Modules that do not import everywhere: one runs the command, the others need Ray and a GPU's compiler.
NOT_HERE = ("linnet.__main__", "linnet.serve.ray", "linnet.models.triton_kernels")


def main() -> None:
    import linnet

    for module in pkgutil.walk_packages(linnet.__path__, "linnet."):
        if module.name not in NOT_HERE:
            importlib.import_module(module.name)
    told = json.load(sys.stdin)
    os.chdir(told["folder"])
    make_places(Path())
    for case in told["cases"]:
        found = run(case["words"], case["surroundings"])
        left = [str(path) for path in Path().rglob(".*.part")]
        makes = case.get("makes")
        made = makes is None or Path(os.fsdecode(makes)).exists()
        print(json.dumps({**case, **found, "left": left, "made": made}), flush=True)
    Path("locked").chmod(0o700)


if __name__ == "__main__":
    main()

"""What a command's process is ready for: Ctrl-C while modules are imported, and streams that take anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CAUGHT = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    while True: pass
except BaseException as error:  # as some modules do
    raise ImportError("no interrupt at all") from error
"""


def python(program: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 100, **settings}
    return subprocess.run([sys.executable, "-c", program], **settings)  # type: ignore[call-overload]


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(CAUGHT)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    program += "from linnet.process import prepare; prepare(); import slow"
    ended = python(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"stopped\n")


def test_ctrl_c_afterwards_is_an_interrupt_and_an_ignored_one_stays_ignored() -> None:
    program = """
import os, signal
from linnet.process import prepare
signal.signal(signal.SIGINT, signal.{})
prepare()
try:
    os.kill(os.getpid(), signal.SIGINT)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""
    assert python(program.format("default_int_handler")).stdout == b"interrupted\n"
    assert python(program.format("SIG_IGN")).stdout == b"went on\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_letter_that_an_encoding_lacks_is_spelt_and_a_files_byte_is_itself(unbuffered: str) -> None:
    program = r"""
import sys
from linnet.process import prepare
prepare()
print("é 猫", "caf\udce9")
print("ü \udcff", file=sys.stderr)
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": unbuffered}
    ended = python(program, env=environment)
    assert (ended.returncode, ended.stdout) == (0, rb"\xe9 \u732b caf" + b"\xe9\n")
    assert ended.stderr == b"\\xfc \xff\n"


def test_what_nobody_reads_is_no_error_and_what_is_lost_is_said() -> None:
    program = "from linnet.__main__ import main; import sys; sys.argv = ['linnet', '--version']; main()"
    reading, writing = os.pipe()
    os.close(reading)
    gone = python(program, stdout=writing)
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        lost = python(program, stdout=full)
    assert lost.returncode == 1
    assert lost.stderr.startswith(b'error: output "standard output": cannot be written (No space left')
    assert lost.stderr.count(b"\n") == 1

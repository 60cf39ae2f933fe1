"""The script that gathers what is to be known of a graphics card: each kind of row, on the CPU and small."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_evidence.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_evidence", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_evidence"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


def test_every_row_runs_and_is_shown(script: ModuleType, tiny_model: Path) -> None:
    kinds = {case.what: case for case in script.CASES}
    rows = {}
    for case in kinds.values():
        bench = script.Bench(case, tiny_model, "cpu", rehearse=True)
        rows[case.name] = getattr(bench, case.what)()
        assert rows[case.name]["seconds"] > 0
    limited = rows[kinds["limit"].name]
    assert limited["decoded_frames"] == 9
    assert limited["shrunk"] is None
    shown = script.table(rows).splitlines()
    assert len(shown) == 2 + len(script.CASES)
    assert sum(script.NOT_MEASURED in line for line in shown) == len(script.CASES) - len(kinds)


def test_a_row_that_cannot_be_run_says_why(script: ModuleType, tmp_path: Path) -> None:
    row = script.run(script.CASES[0], tmp_path, "cpu", True)
    assert "not there" in row["problem"] or "missing" in row["problem"] or "weights" in row["problem"]


def test_the_documented_figures_are_those_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent.parent / "scripts"))
    import performance  # pyright: ignore[reportMissingImports]

    assert performance.PAGE.read_text("utf-8") == performance.page(), "run `python scripts/performance.py`"

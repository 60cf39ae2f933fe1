"""The script that gathers what is to be known of a graphics card: each kind of row, on the CPU and small."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from linnet.catalog import CATALOG
from linnet.plan.passes import forwards
from linnet.request import make_request

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_evidence.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        import gpu_evidence  # pyright: ignore[reportMissingImports]

        yield gpu_evidence


def test_every_row_runs_and_says_what_it_measures(script: ModuleType, tiny_model: Path) -> None:
    options = script.parsed(["--rehearse", str(tiny_model), "--device", "cpu"])
    cases = [case for case in script.CASES if "fp8" not in case.execution]
    rows = {case.name: json.loads(json.dumps(script.one(case, options, tiny_model))) for case in cases}
    assert all(row["seconds"] > 0 and row["says"] for row in rows.values())
    assert rows["360p 5 s in 6 GB"]["decoded_frames"] == 17
    assert rows["360p 5 s in 6 GB"]["shrunk"] is None
    assert rows["exact batched"]["profile"][0]["share"] > 0.01
    assert rows["fast, 30 passes"]["choices"]["reused"] == [3]
    assert rows["decoding"]["frames"] == 17
    assert len(rows["decoding"]["ways"]) == 4
    assert {row["batch"] for row in rows["micro"]["attention"]} == {1, 2}
    shown = script.table(rows).splitlines()
    assert len(shown) == 2 + len(script.CASES)
    assert sum("| measured |" in line for line in shown) == len(cases)
    (other,) = [line for line in shown if "in FP8 |" in line]
    assert other.count(script.NOT_MEASURED) == 2  # its state, and its seconds


def test_a_row_that_cannot_be_run_says_why(script: ModuleType, tmp_path: Path) -> None:
    fp8 = next(case for case in script.CASES if "fp8" in case.execution)
    options = script.parsed(["--rehearse", "--device", "cpu"])
    row = script.run(fp8, options, None, 120.0)
    assert 'fp8 "cpu": has no products in FP8' in row["problem"]
    assert "the time was up" in script.run(fp8, options, None, 0.0)["problem"]
    assert "| failed: " in script.table({fp8.name: row})


def test_planned_and_measured_are_told_apart(script: ModuleType) -> None:
    plans = [{"model": "linum-v2-360p", "seconds": 5.0, "card": 6 * 10**9, "plan": 5_530_000_000}]
    lines = {line.split(" | ")[0][2:]: line for line in script.table({}, plans).splitlines()[2:]}
    assert lines.pop("360p 5 s in 6 GB").endswith("| planned | not measured |  |  | 5.5 |")
    assert all("| not measured | not measured |" in line for line in lines.values())
    assert "a load, a try" in script.table({"720p 5 s in 12 GB": {"seconds": 31.2}})  # an earlier record's


def test_the_fast_row_is_thirty_passes(script: ModuleType) -> None:
    (case,) = [case for case in script.CASES if case.name.startswith("fast")]
    spec = CATALOG[case.model]
    assert sum(forwards(make_request(spec, prompt="a", seed=0, **case.settings))) == 30


def test_the_documented_figures_are_those_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent.parent / "scripts"))
    import performance  # pyright: ignore[reportMissingImports]

    assert performance.PAGE.read_text("utf-8") == performance.page(), "run `python scripts/performance.py`"

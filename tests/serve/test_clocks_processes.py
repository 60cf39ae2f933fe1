"""The real service under a wall clock that jumps. `benchmarks/serve_clocks.py` stops its processes, too, for longer."""

from pathlib import Path

import pytest

from clocks import LIBRARY, survive


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
def test_a_wall_clock_that_jumps_costs_nothing(tmp_path: Path, tiny_model: Path) -> None:
    found = survive(tmp_path / "data", tiny_model, (60, 400 * 86400, -400 * 86400), stay=1.5)
    assert found == {
        "clock_steps": 6,
        "files_lost": 0,
        "files_changed": 0,
        "files_made": 3,
        "tries_spent": 0,
        "workers_restarted": 0,
        "stopped_seconds": 0,
    }

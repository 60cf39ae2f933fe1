"""What the tests of training share."""

import json
from pathlib import Path


def losses(folder: Path) -> dict[int, float]:
    """The loss of each step that a run's log tells; no step may stand there twice."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len({line["step"] for line in lines}) == len(lines), "a step was logged twice"
    return {line["step"]: line["loss"] for line in lines}

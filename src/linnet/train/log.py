"""What a run writes of itself: one JSON line a report, and the same to TensorBoard where that is installed."""

import json
from pathlib import Path

from linnet.filesystem import write_text
from linnet.records import read_object_or_nothing


class Log:
    """`log.jsonl` and TensorBoard's events in a run's folder; lines after step `first` are dropped, to be replayed."""

    def __init__(self, folder: Path, first: int) -> None:
        path = folder / "log.jsonl"
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        write_text(path, "".join(f"{line}\n" for line in lines if step_of(line) <= first))
        self.file = path.open("a")
        self.board = tensorboard(folder, first)

    def write(self, step: int, numbers: dict[str, float], pace: float | None = None) -> None:
        timed = {} if pace is None else {"seconds_a_step": round(pace, 4)}
        self.file.write(json.dumps({"step": step, **numbers, **timed}) + "\n")
        self.file.flush()
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def lowest(folder: Path, name: str, until: int) -> float:
    """The lowest number of that name that was logged up to a step; infinite where there is none."""
    path = folder / "log.jsonl"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    numbers = [read_object_or_nothing(line).get(name) for line in lines if step_of(line) <= until]
    return min((each for each in numbers if isinstance(each, int | float)), default=float("inf"))


def step_of(line: str) -> float:
    step = read_object_or_nothing(line).get("step")
    return step if isinstance(step, int | float) else float("inf")  # of the line that a kill cut short


def tensorboard(folder: Path, first: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the [train] extra is not installed
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)

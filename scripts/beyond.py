"""Write docs/beyond.png from a folder of `linnet evaluate continuity`: what goes beyond one clip, at a glance.

    linnet evaluate continuity --n 20 && python scripts/beyond.py continuity-seedling [TRIAL]

Left linnet's way, right the naive one; TRIAL is the number of the scene that is shown, 0 if not given.
"""

import sys
from pathlib import Path

import numpy as np

from linnet import media
from linnet.direct.sheet import Cell, Frame, write_sheet
from linnet.evaluate.continuity import LONG, SHORT, Trial, trials_of

PICTURE = Path(__file__).parent.parent / "docs" / "beyond.png"
SHOWN = 4  # frames of each clip


def cell(trial: Trial, title: str, *names: str, words: str | None = None) -> Cell:
    frames: list[Frame] = []
    for name in names:
        frames += media.read_frames(trial.folder / f"{name}.mp4")
    some = np.linspace(0, min(len(frames), LONG) - 1, SHOWN).round().astype(int)
    return Cell(frames=tuple(frames[index] for index in some), title=title, words=words or trial.prompt)


def main() -> None:
    folder, number = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    any_, moving = (trials_of(name, folder, number + 1)[number] for name in ("long", "edit"))
    other = moving.worded(moving.other)
    parts = [f"part{part}" for part in range(-(-LONG // SHORT))]
    cells = [
        cell(any_, "10 seconds, window after window", "long"),
        cell(any_, "10 seconds of hard cuts", *parts),
        cell(any_, "from an image", "image"),
        cell(any_, "without the image", "plain"),
        cell(moving, "extended by a second", "extended"),
        cell(moving, "from its last frame only", "from-last"),
        cell(moving, "from a video, strength 0.5", "video", words=other),
        cell(moving, "without the video", "plain-other", words=other),
        cell(moving, "edited", "edit", words=other),
        cell(moving, "noised again as much", "renoised", words=other),
    ]
    write_sheet(cells, PICTURE, of="what goes beyond one clip", overwrite=True)


if __name__ == "__main__":
    main()

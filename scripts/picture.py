"""Write docs/seedling.webp, the README's picture: six clips of seedling, each under its prompt."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import linnet
from linnet import media
from linnet.request import make_request

PICTURE = Path(__file__).parent.parent / "docs" / "seedling.webp"
PROMPTS = (
    "a red star spins on a blue background",
    "a large yellow moon moves right on a black background",
    "a small green triangle bounces on a white background",
    "a big purple heart grows on a gray background",
    "a tiny pink square rises on a brown background",
    "a large orange star falls on a green background",
)
COLUMNS, ZOOM, CAPTION = 2, 3, 26


def cells(folder: Path) -> list[list[np.ndarray]]:
    """The frames of each clip, enlarged, under a strip with the prompt."""
    pipeline = linnet.load("seedling", device="cpu")
    font = ImageFont.load_default(13)
    found = []
    for number, prompt in enumerate(PROMPTS):
        path = folder / f"{number}.mp4"
        pipeline.generate(make_request(pipeline.spec, prompt=prompt, seconds=2, seed=3), path)
        frames = []
        for frame in media.read_frames(path):
            clip = Image.fromarray(frame)
            clip = clip.resize((clip.width * ZOOM, clip.height * ZOOM), Image.Resampling.LANCZOS)
            cell = Image.new("RGB", (clip.width + 8, clip.height + CAPTION + 8), "white")
            ImageDraw.Draw(cell).text((6, 6), prompt, "black", font)
            cell.paste(clip, (4, CAPTION))
            frames.append(np.asarray(cell))
        found.append(frames)
    return found


def mosaic(clips: list[list[np.ndarray]]) -> Iterator[np.ndarray]:
    for moment in zip(*clips, strict=True):
        yield np.concatenate(
            [np.concatenate(moment[i : i + COLUMNS], 1) for i in range(0, len(moment), COLUMNS)]
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = cells(Path(folder))
    height, width, _ = next(mosaic(clips)).shape
    PICTURE.parent.mkdir(exist_ok=True)
    record = {"prompts": PROMPTS, "generated": "AI-generated video"}
    with media.open_writer(
        PICTURE, width=width, height=height, fps=24, metadata=record, overwrite=True
    ) as writer:
        for frame in mosaic(clips):
            writer.write(frame[None])


if __name__ == "__main__":
    main()

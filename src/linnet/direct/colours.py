"""A clip in the colours of another that shows the same in about the same places: a look-up table (3D LUT) from theirs.

Axes: H rows, W columns; RGB, 0..255.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageFilter

from linnet.direct.footage import Frame

NODES = 9  # of the table along each of red, green and blue; colours between them are interpolated
WORST = 255  # of a change, to either side
CHANGES = 2 * WORST + 1
RARE = 0.01  # of the pixels of the most frequent node: fewer are edges, which blend two colours


def look_up_table(pairs: Iterable[tuple[Frame, Frame]], *, share: float = 1.0) -> ImageFilter.Color3DLUT:
    """What becomes of each colour from a frame to the one beside it: the median change of the pixels that have it, or a
    `share` of it.

    So a shape keeps its place and outline where the other clip has it a little beside, as long as most of it is there.
    Colours that few pixels have change as the nearest common one does. Frames are seen one pair at a time.
    """
    counts = np.zeros(NODES**3 * 3 * CHANGES, np.int64)
    for before, after in pairs:
        node = nodes_of(before)[..., None] * 3 + np.arange(3)
        change = after.astype(np.int64) - before + WORST
        counts += np.bincount((node * CHANGES + change).ravel(), minlength=len(counts))
    return ImageFilter.Color3DLUT(NODES, (grid() + share * filled(counts)).clip(0, 255).ravel() / 255)


def nodes_of(frame: Frame) -> Int[np.ndarray, "H W"]:
    """The number of each pixel's nearest node; red counts fastest, as in Pillow's tables."""
    red, green, blue = np.moveaxis((frame * ((NODES - 1) / 255)).round().astype(np.int64), -1, 0)
    return red + NODES * (green + NODES * blue)


def grid() -> Float[np.ndarray, "nodes 3"]:
    """The colour of each node."""
    axis = np.linspace(0, 255, NODES)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack((red, green, blue), -1).reshape(-1, 3)


def filled(counts: Int[np.ndarray, "_"]) -> Float[np.ndarray, "nodes 3"]:
    """The median change at each common node, and at any other that at the nearest of those."""
    below = counts.reshape(-1, 3, CHANGES).cumsum(-1)
    total = below[:, 0, -1]
    median = (2 * below >= total[:, None, None]).argmax(-1) - WORST
    known, colours = np.flatnonzero(total >= RARE * total.max()), grid()
    away = np.square(colours[:, None] - colours[known]).sum(-1)
    return median[known[away.argmin(1)]].astype(float)


def graded(frames: Iterable[Frame], table: ImageFilter.Color3DLUT) -> Iterator[Frame]:
    """Each frame with its colours looked up."""
    for frame in frames:
        yield np.asarray(Image.fromarray(frame).filter(table))

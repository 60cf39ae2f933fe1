"""How a model runs where memory is short: what a plan decides and a pipeline follows. The defaults are the plain way,
everything in memory at once.

Imports no torch, so that a plan is made, or refused, at once.
"""

from dataclasses import dataclass
from typing import Literal

from linnet.errors import InvalidInput

Format = Literal["int8", "float8"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tiles of up to `rows` x `columns` latent cells (of 8 x 8 pixels), not counting seams, all of one size or one
    smaller; each goes through `chunk` latent frames before the next one's turn. All this costs is time: smaller tiles
    compute more seam, shorter chunks move the pasts more often."""

    rows: int = 30
    columns: int = 40
    chunk: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InvalidInput(f"tiling's {name}", value, "is not a positive number", "use 1 or more")


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """`token_chunk`: tokens at a time through all of a block but its attention; None: all. `resident_blocks`: of the
    transformer, those that stay on the device, spread evenly; None: all; the others wait where `blocks_from` says.
    `transformer_format`, `text_format`: 8-bit storage of the weights of their blocks' matrix products. `tiling`: of
    the Wan autoencoder's decoding; None: whole frames, one latent frame at a time."""

    token_chunk: int | None = None
    resident_blocks: int | None = None
    blocks_from: Literal["memory", "file"] = "memory"
    transformer_format: Format | None = None
    text_format: Format | None = None
    tiling: Tiling | None = None
    autoencoder_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("token chunk", self.token_chunk, 1),
            ("resident blocks", self.resident_blocks, 0),
        ):
            if value is not None and value < least:
                raise InvalidInput(name, value, "is out of range", f"use {least} or more, or None")

"""Sprites cut from an emoji font once, and packed into one small file that travels without the font.

Axes: N things, L levels of sharpness, S rows and columns.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from linnet.data.theatre.things import THINGS
from linnet.errors import InvalidInput
from linnet.filesystem import complete, system_errors

STRIKE = 109  # the one size of a font of coloured bitmaps (CBDT)
SIDE = 96
LEVELS = (96, 48, 24)  # each is sharp enough to be drawn at up to its number of pixels
REMEDY = "use NotoColorEmoji.ttf (Debian's package fonts-noto-color-emoji)"


def cut_sprites(font: Path, names: Sequence[str] = tuple(THINGS)) -> UInt8[Tensor, "N 4 S S"]:
    """RGBA, each thing filling its square from side to side or from top to bottom, with a margin of a pixel."""
    try:
        face = ImageFont.truetype(str(font), STRIKE)
    except OSError as error:
        raise InvalidInput("font", str(font), f"cannot be read as an emoji font ({error})", REMEDY) from error
    return torch.stack([torch.from_numpy(_cut(face, font, name)).permute(2, 0, 1) for name in names])


def _cut(face: ImageFont.FreeTypeFont, font: Path, name: str) -> UInt8[np.ndarray, "S S 4"]:
    picture = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
    ImageDraw.Draw(picture).text((20, 20), THINGS[name].sprite, font=face, embedded_color=True)
    box = picture.getbbox()
    if box is None or len(set(picture.convert("RGB").tobytes())) < 4:  # an outline in one colour
        raise InvalidInput("font", str(font), f"has no coloured sprite for {name}", REMEDY)
    picture = picture.crop(box)
    scale = (SIDE - 2) / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    # Premultiplied, so that no colour of clear pixels bleeds into the edges.
    small = picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    whole = Image.new("RGBA", (SIDE, SIDE))
    whole.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.array(whole)


def pack_sprites(font: Path, path: Path) -> None:
    """Write the sprites and their names beside each other; `load_sprites` needs no font."""
    cut = cut_sprites(font)
    metadata = {"names": json.dumps(list(THINGS)), "font": hashlib.sha256(font.read_bytes()).hexdigest()}
    with complete(path) as part, system_errors():
        save_file({"sprites": cut.contiguous()}, part, metadata)


def load_sprites(path: Path) -> UInt8[Tensor, "N 4 S S"]:
    """In the order of `THINGS`; a file of other things is refused."""
    with safe_open(path, "pt") as file:
        names = json.loads(file.metadata().get("names", "[]"))
        if names != list(THINGS):
            problem = f"holds {len(names)} things, other than the {len(THINGS)} of this version"
            raise InvalidInput("sprites", str(path), problem, "pack them again from the font")
        return file.get_tensor("sprites")


def levels(sprites: UInt8[Tensor, "N 4 S S"]) -> Float[Tensor, "N L 4 S S"]:
    """Premultiplied colours and coverage in 0..1, from sharp to soft, so that a small sprite does not flicker."""
    sharp = sprites.float() / 255
    sharp = torch.cat((sharp[:, :3] * sharp[:, 3:], sharp[:, 3:]), 1)
    side = sharp.shape[-1]
    soft = [F.interpolate(sharp, level * side // SIDE, mode="area") for level in LEVELS]
    return torch.stack([F.interpolate(x, side, mode="bilinear", align_corners=False) for x in soft], 1)


def extents(sprites: UInt8[Tensor, "N 4 S S"]) -> Float[Tensor, "N 2"]:
    """(Width, height) of each thing as shares of the square's side: where its feet are follows from them."""
    solid = sprites[:, 3] > 127
    side = sprites.shape[-1]
    return torch.stack([solid.any(axis).sum(-1) / side for axis in (1, 2)], 1)

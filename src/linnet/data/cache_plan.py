"""How large the caches of a dataset become, known before anything is encoded. No torch is imported."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from linnet.data.buckets import Bucket
from linnet.errors import InvalidInput
from linnet.filesystem import nearest_folder, reading
from linnet.geometry import latent_grid
from linnet.wording import format_bytes

CHANNELS = 16  # of the latents, in Wan's autoencoder and in those that follow it
LATENT_BYTES = 2  # float16
HEADER = 4096  # bytes that a file takes beside its tensor, at most
SPARE = 50_000_000  # bytes that stay free on the disk


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """`new` of the clips and `new_texts` of the captions are not in the folder yet, and take `bytes`; all of them take
    `whole`."""

    folder: Path
    clips: int
    new: int
    texts: int
    new_texts: int
    bytes: int
    whole: int

    def check_room(self) -> None:
        """InvalidInput where the disk has no room for what is new."""
        free = free_bytes(self.folder)
        if self.bytes and self.bytes + SPARE > free:
            problem = f"has {format_bytes(free)} free, and the caches need {format_bytes(self.bytes + SPARE)}"
            raise InvalidInput(
                "cache", self.folder, problem, "make room, or name another folder with `cache`"
            )

    def __str__(self) -> str:
        words = f"caches in {self.folder}: {format_bytes(self.whole)} for {self.clips:,} clips"
        if not self.bytes:
            return f"{words}, all there"
        kept = self.clips - self.new
        already = f" ({kept:,} are there already)" if kept else ""
        return f"{words}; {format_bytes(self.bytes)} to write{already}"


def latent_bytes(bucket: Bucket) -> int:
    """Of one clip on the disk."""
    grid = latent_grid(bucket.frames, bucket.size)
    return CHANNELS * grid.frames * grid.height * grid.width * LATENT_BYTES + HEADER


def text_bytes(tokens: int, width: int, number: int) -> int:
    """Of one caption's states on the disk: `width` of the text encoder, bytes of a `number`."""
    return tokens * width * number + HEADER


def dataset_bytes(buckets: Iterable[Bucket]) -> int:
    return sum(map(latent_bytes, buckets))


def free_bytes(folder: Path) -> int:
    """On the disk of the folder, which may not be there yet."""
    nearest = folder if folder.exists() else nearest_folder(folder)
    with reading(nearest, "cache"):
        return shutil.disk_usage(nearest).free

"""What a large text encoder said of a prompt, kept on disk, so that a known prompt needs no text encoder.

One safetensors file a prompt, in the folder `text` of `cache_folder()`. Its name is a hash of the prompt's tokens and
of all that its contents depend on. No prompt is written there, and the files are their owner's alone; yet who can read
them and has the encoder can check a guess at the prompt. Nothing but disk space depends on them: delete the folder to
forget.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

OURS = re.compile(r"[0-9a-f]{64}\.safetensors|tmp\w+\.part")
LIMIT = 256 * 2**20  # bytes: 60 prompts of T5-XXL's longest kind, or hundreds of one line


@dataclass(frozen=True, kw_only=True)
class TextCache:
    """`maker` tells all that the states depend on beside the tokens; `limit` bytes are kept, the last used."""

    folder: Path
    maker: str
    limit: int = LIMIT

    def get(self, ids: Sequence[int]) -> Float[Tensor, "L M"] | None:
        """The states of these tokens, or None if they are not here, or not whole."""
        path = self._path(ids)
        try:
            with safe_open(path, framework="pt") as file:
                states = file.get_tensor("states").clone()  # not mapped: the file may go
                whole = (file.metadata() or {}).get("sha256") == checksum(states)
            os.utime(path)  # it was used just now
        except (OSError, SafetensorError):
            return None
        return states if whole else None

    def put(self, ids: Sequence[int], states: Float[Tensor, "L M"]) -> None:
        """Keep the states, if the disk lets it: a cache that cannot be written is no error."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, part = mkstemp(dir=self.folder, suffix=".part")  # its owner's alone
            try:
                with os.fdopen(handle, "wb") as file:
                    states = states.cpu().contiguous()
                    file.write(save({"states": states}, {"sha256": checksum(states)}))
                Path(part).replace(self._path(ids))
            finally:
                Path(part).unlink(missing_ok=True)
            self._forget()

    def _path(self, ids: Sequence[int]) -> Path:
        name = hashlib.sha256(f"{self.maker} {list(ids)}".encode()).hexdigest()
        return self.folder / f"{name}.safetensors"

    def _forget(self) -> None:
        """Remove what was used longest ago, down to `limit`; what a kill left half-written goes with it."""
        used = {path: path.stat() for path in self.folder.iterdir() if OURS.fullmatch(path.name)}
        total = 0
        for path in sorted(used, key=lambda path: used[path].st_mtime_ns, reverse=True):
            total += used[path].st_size
            if total > self.limit:
                path.unlink(missing_ok=True)


def checksum(states: Float[Tensor, "L M"]) -> str:
    """A safetensors file knows if it was cut short, not if it was changed."""
    return hashlib.sha256(states.numpy().tobytes()).hexdigest()

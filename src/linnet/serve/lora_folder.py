"""The LoRAs that an operator offers: those in a folder, by the names of their files. A client names one of them, and
never a path."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from linnet.errors import InvalidInput, WeightsError
from linnet.loras import LoraUse, check_loras
from linnet.weights.files import read_header
from linnet.weights.lora_files import lora_file, loras_in, shapes_in
from linnet.weights.lora_formats import Shape
from linnet.weights.resolve_loras import ResolvedLoras, named_use
from linnet.wording import choices


@dataclass(frozen=True)
class Offered:
    """A LoRA whose file was looked at, and the words that it teaches."""

    use: LoraUse
    words: tuple[str, ...]


class LoraFolder:
    """What is in it may change while the server runs. `folder` None: none are offered."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise InvalidInput("loras", folder, "is not a folder", "name a folder of .safetensors files")
        self.folder = folder
        self._known: dict[tuple[object, ...], Offered] = {}
        self._shapes: dict[Path, dict[str, Shape]] = {}

    def names(self, transformer: Path) -> list[str]:
        """Of those that are of the model in this file."""
        fitting: list[str] = []
        for name, path in self._paths().items():
            with suppress(InvalidInput):
                self._offered(name, path, transformer)
                fitting.append(name)
        return fitting

    def resolve(self, wanted: Sequence[tuple[str, float]], transformer: Path) -> ResolvedLoras:
        """InvalidInput for a name that the folder does not have, or a LoRA of another model."""
        paths = self._paths()
        uses: list[LoraUse] = []
        words: list[str] = []
        for name, strength in wanted:
            if name not in paths:
                remedy = choices(name, paths) if paths else "leave it out: this server offers none"
                raise InvalidInput("lora", name, "is not on this server", remedy)
            try:
                offered = self._offered(name, paths[name], transformer)
            except WeightsError as error:  # which names the file, and where it is
                raise InvalidInput("lora", name, error.problem, error.remedy) from None
            uses.append(replace(offered.use, strength=strength))
            words += offered.words
        return ResolvedLoras(check_loras(uses), tuple(words))

    def _paths(self) -> dict[str, Path]:
        return loras_in(self.folder) if self.folder else {}

    def _offered(self, name: str, path: Path, transformer: Path) -> Offered:
        state = lora_file(path).stat()
        key = (name, path, transformer, state.st_mtime_ns, state.st_size)
        if key not in self._known:
            if transformer not in self._shapes:
                self._shapes[transformer] = shapes_in(read_header(transformer))
            use, header = named_use(name, 1.0, path, self._shapes[transformer])
            self._known[key] = Offered(use, header.words)
        return self._known[key]


def again(uses: Iterable[LoraUse]) -> list[tuple[str, float]]:
    """What an earlier request asked for."""
    return [(use.file, use.strength) for use in uses]

"""The captions beside clips: a .txt file of the clip's name, or lines of captions.jsonl or captions.csv.

A .txt file is preferred where there are both. Line breaks and runs of spaces count as one space.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.records import read_object, read_text
from linnet.weights.store import locate

TABLES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
FILE_KEYS = ("file", "file_name", "path", "video", "video_path", "image", "image_path", "media_path")
CAPTION_KEYS = ("caption", "text", "prompt")
LONGEST = 2**20  # bytes of a .txt file


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Of a folder: `table` has the captions of the tables by path, with the table that each is from."""

    folder: Path
    table: Mapping[Path, tuple[str, Path]]

    def of(self, clip: Path) -> tuple[str, str]:
        """The clip's caption, and what is wrong where there is none."""
        beside = text_beside(clip)
        if beside is not None:
            try:
                caption = tidied(read_text(beside, most=LONGEST))
            except InvalidInput as error:
                return "", f"{beside.name} {error.problem}"
            if caption:
                return caption, ""
        if clip in self.table:
            return self.table[clip][0], ""
        return "", f"{beside.name} is empty" if beside else f"there is no {clip.stem}.txt beside it"

    def unused(self, clips: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """Captions whose clips are not there."""
        used = {text for clip in clips if (text := text_beside(clip)) is not None}
        for path in sorted(self.folder.rglob("*.txt")):
            hidden = any(part.startswith(".") for part in path.relative_to(self.folder).parts)
            if path not in used and not hidden:
                yield path, f"there is no clip or image {path.stem} beside it"
        here = set(clips)
        for path, (_, table) in self.table.items():
            if path not in here:
                yield path, f"{table.name} has a caption for it, and the file is not there"


def text_beside(clip: Path) -> Path | None:
    """clip.txt of clip.mp4, or clip.mp4.txt."""
    for name in (f"{clip.stem}.txt", f"{clip.name}.txt"):
        path = clip.with_name(name)
        if path.is_file():
            return path
    return None


def tidied(text: str) -> str:
    return " ".join(text.split())


def read_captions(folder: Path) -> Captions:
    """InvalidInput for a table that cannot be read, with its line."""
    table: dict[Path, tuple[str, Path]] = {}
    for name in TABLES:
        path = folder / name
        if not path.is_file():
            continue
        for number, row in read_rows(path):
            file, caption = (pick(row, keys) for keys in (FILE_KEYS, CAPTION_KEYS))
            if not file or caption is None:
                lacking = "file" if not file else "caption"
                problem = f"line {number} names no {lacking}"
                raise InvalidInput("file", path, problem, 'write "file" and "caption" in each line')
            if tidied(caption):
                table[folder / file] = (tidied(caption), path)
    return Captions(folder=folder, table=table)


def pick(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((str(row[key]) for key in keys if isinstance(row.get(key), str)), None)


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = read_text(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                remedy = 'write {"file": ..., "caption": ...} in each line'
                yield number, read_object(line, field="file", value=f"{path}:{number}", remedy=remedy)
        return
    try:
        rows = csv.DictReader(io.StringIO(text), strict=True)
        for row in rows:
            yield rows.line_num, {str(key).strip().lower(): value for key, value in row.items()}
    except csv.Error as error:
        raise InvalidInput(
            "file", path, f"is not CSV ({error})", "write the columns file and caption"
        ) from None


# --- how much of a caption a model sees -------------------------------------------------------------------------------


def caption_check(spec: ModelSpec) -> tuple[Callable[[str], str], str]:
    """A function that gives the words of a caption that the model does not see; and what to tell of it.

    Without the model's tokenizer on this machine a word counts as one token, which is the least it can be.
    """
    limit = spec.max_prompt_tokens
    files = locate(spec)
    if files is not None and files.tokenizer.exists():
        from linnet.models.text import Tokenizer  # which imports torch

        tokenizer = Tokenizer.open(files.tokenizer)
        return lambda caption: tokenizer.encode(caption, limit).cut, ""
    note = f"the tokenizer of {spec.name} is not here: captions count as long from {limit} words on"
    return lambda caption: " ".join(caption.split()[limit - 1 :]), note

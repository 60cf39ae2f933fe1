"""Latents and text states of a dataset, encoded once and kept on disk by content.

The key of a clip's latents is a hash of the file's bytes, the frames and the part of them that are used, the bucket,
and the autoencoder with the latent space. So a file that was renamed, touched or moved is not encoded again, and a
changed one is. Each clip is a file of its own, which appears when it is whole: what was stopped goes on where it was.
Those of a large dataset may then be packed into archives (see data.shards).

Axes: C channels, T latent frames, H and W latent rows and columns; L tokens, M the text encoder's width.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linnet.data.buckets import Bucket, TrainingClip
from linnet.data.cache_plan import CachePlan, latent_bytes, text_bytes
from linnet.data.dataset import epoch_order
from linnet.data.frames import Frames, read_together
from linnet.data.probe import content_hash
from linnet.data.shards import Shards
from linnet.errors import InvalidInput
from linnet.filesystem import check_folder, complete, make_folder, system_errors
from linnet.loaded_model import LoadedModel
from linnet.models.text import Encoded as Tokens
from linnet.pipeline import Pipeline
from linnet.runtime.text import TextStates
from linnet.weights.files import fingerprint, shards

Latents = Float[Tensor, "C T H W"]
States = Float[Tensor, "L M"]
Tell = Callable[[str, int, int], object]  # hears of a stage, how much of it is done, and of how much

VERSION = 1  # of what a latent stands for; another one encodes anew
FRAMES_AT_ONCE = 256  # of one file, decoded together at the size of their buckets
TEXTS_AT_ONCE = 256  # captions of a pass of the text encoder, which may stream from its file


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A clip as the loop gets it: `latents` in the transformer's space, float32; `text` None if none was encoded."""

    latents: Latents
    text: States | None
    caption: str
    bucket: Bucket


class EncodedDataset:
    """Clips whose latents are on disk. `texts` has the file of each caption's states, and that of the empty one. What
    is packed is in `shards`, under the stem of its file."""

    def __init__(
        self,
        clips: Sequence[TrainingClip],
        latents: Sequence[Path],
        texts: Mapping[str, Path],
        shards: Shards,
    ) -> None:
        self.clips, self.latents, self.texts = tuple(clips), tuple(latents), dict(texts)
        self.shards = shards

    def pack(self, tell: "Tell | None" = None) -> int:
        """Into archives, for a dataset of many clips; how many archives its cache has."""
        kinds = {"latents": self.latents, "text": list(self.texts.values())}
        whole, before, count = len(set(self.latents)) + len(set(self.texts.values())), 0, 0
        for kind, files in kinds.items():
            count = self.shards.pack(
                kind, files, tell=lambda done, before=before: tell and tell("shards", before + done, whole)
            )
            before += len(set(files))
        return count

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def buckets(self) -> list[Bucket]:
        """Of each clip."""
        return [clip.bucket for clip in self.clips]

    @property
    def training(self) -> list[int]:
        return [index for index, clip in enumerate(self.clips) if not clip.sample.held_out]

    @property
    def held_out(self) -> list[int]:
        return [index for index, clip in enumerate(self.clips) if clip.sample.held_out]

    def epoch(self, seed: int, number: int) -> list[int]:
        """The clips that are trained on in one epoch, in its order; one that repeats is there several times."""
        training = self.training
        order = epoch_order([self.clips[index].sample.repeats for index in training], seed, number)
        return [training[index] for index in order]

    def sample(self, index: int) -> Encoded:
        """InvalidInput where its file has gone or is damaged since."""
        clip = self.clips[index]
        caption = clip.sample.caption
        return Encoded(
            latents=read_tensor(self.latents[index], "latents", self.shards).float(),
            text=self.text(caption) if self.texts else None,
            caption=caption,
            bucket=clip.bucket,
        )

    def text(self, caption: str) -> States:
        """The states of one of the dataset's captions, or of the empty one."""
        return read_tensor(self.texts[caption], "states", self.shards)


class Cache:
    """The folder of a dataset's latents and text states, for one model."""

    def __init__(self, folder: Path, model: LoadedModel) -> None:
        self.folder, self.model = folder, model
        self.shards = Shards(folder / "shards")
        space = [*model.latent_space.scale.tolist(), *model.latent_space.bias.tolist()]
        self.autoencoder = f"{fingerprint([model.files.autoencoder])} {space}"
        self.text_encoder = f"{fingerprint(shards(model.files.text_encoder))} {model.dtype}"

    def latents_of(self, clip: TrainingClip) -> Path:
        """The file that has them, or is to have them."""
        facts = [VERSION, clip.content, clip.order, clip.box, clip.bucket, self.autoencoder]
        return self._file("latents", facts)

    def text_of(self, tokens: Sequence[int]) -> Path:
        return self._file("text", [VERSION, [*tokens], self.text_encoder])

    def _file(self, kind: str, facts: Sequence[Any]) -> Path:
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def has(self, path: Path, name: str) -> bool:
        """By itself, or packed."""
        return path.stem in self.shards or is_whole(path, name)

    def tokens(self, captions: Iterable[str]) -> dict[str, Tokens]:
        """Of each caption once."""
        return {caption: self.model.encode(caption) for caption in dict.fromkeys(captions)}

    def plan(self, clips: Sequence[TrainingClip], *, text: bool = True) -> CachePlan:
        """What is to be encoded, and how many bytes it takes. No weights are read, and nothing is written."""
        sizes = {self.latents_of(clip): latent_bytes(clip.bucket) for clip in clips}
        new = {path for path in sizes if not self.has(path, "latents")}
        texts = {}
        if text:
            width, number = self.model.transformer_config.text_dim, self.model.dtype.itemsize
            tokens = self.tokens(["", *(clip.sample.caption for clip in clips)])
            texts = {
                self.text_of(each.ids): text_bytes(len(each.ids), width, number) for each in tokens.values()
            }
        new_texts = {path for path in texts if not self.has(path, "states")}
        everything = sizes | texts
        return CachePlan(
            folder=self.folder,
            clips=len(clips),
            new=sum(self.latents_of(clip) in new for clip in clips),
            texts=len(texts),
            new_texts=len(new_texts),
            bytes=sum(everything[path] for path in new | new_texts),
            whole=sum(everything.values()),
        )


def nobody(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


def encode_dataset(
    pipeline: Pipeline,
    clips: Sequence[TrainingClip],
    folder: Path,
    *,
    text: bool = True,
    captions: Sequence[str] = (),
    tell: Tell = nobody,
) -> EncodedDataset:
    """All clips' latents and captions' states, encoded where the folder does not have them yet.

    `captions` are encoded beside those of the clips. InvalidInput where the disk has no room for them, before anything
    is encoded; and for a clip that has changed since it was probed. What has been written stays.
    """
    cache = Cache(folder, pipeline.model)
    check_folder(folder, field="cache")
    cache.plan(clips, text=text).check_room()
    texts = {}
    if text:
        texts = encode_texts(cache, ["", *(clip.sample.caption for clip in clips), *captions], tell)
    paths = [cache.latents_of(clip) for clip in clips]
    waiting = {path: clip for path, clip in zip(paths, clips, strict=True) if not cache.has(path, "latents")}
    tell("latents", 0, len(waiting))
    done = 0
    for group in read_ahead(waiting, folder):
        for path, clip, frames in group:
            latents = pipeline.runner.encode_frames(lambda frames=frames: iter(frames))[0]
            write_tensor(path, "latents", latents.to("cpu", torch.float16), clip_record(clip))
            done += 1
            tell("latents", done, len(waiting))
    if waiting:
        pipeline.model.free_autoencoder()
    return EncodedDataset(clips, paths, texts, cache.shards)


def read_ahead(
    waiting: Mapping[Path, TrainingClip], folder: Path
) -> Iterator[list[tuple[Path, TrainingClip, Frames]]]:
    """Clips of one file with their frames, a few hundred at once; the next ones are decoded meanwhile. InvalidInput for
    a file that has changed since it was probed."""
    groups: list[list[tuple[Path, TrainingClip]]] = []
    room = 0  # frames that the last group may still take
    for path, clip in sorted(waiting.items(), key=lambda item: item[1].content):
        room -= len(clip.order)
        if room < 0 or groups[-1][0][1].content != clip.content:
            groups.append([])
            room = FRAMES_AT_ONCE - len(clip.order)
        groups[-1].append((path, clip))

    def read(group: Sequence[tuple[Path, TrainingClip]]) -> list[tuple[Path, TrainingClip, Frames]]:
        clips = [clip for _, clip in group]
        frames = read_together(clips)
        if content_hash(clips[0].sample.path, folder) != clips[0].content:
            problem = "changed while it was read"
            raise InvalidInput("file", clips[0].sample.path, problem, "run the same command again")
        return [(path, clip, shown) for (path, clip), shown in zip(group, frames, strict=True)]

    with ThreadPoolExecutor(max_workers=1) as reader:
        coming: Future[list[tuple[Path, TrainingClip, Frames]]] | None = None
        for group in groups:
            ahead, coming = coming, reader.submit(read, group)
            if ahead is not None:
                yield ahead.result()
        if coming is not None:
            yield coming.result()


def encode_texts(cache: Cache, captions: Sequence[str], tell: Tell) -> dict[str, Path]:
    """The file of each caption's states. Of a large encoder, many captions share one passage of its weights."""
    tokens = cache.tokens(captions)
    paths = {caption: cache.text_of(each.ids) for caption, each in tokens.items()}
    by_path = {paths[caption]: each.ids for caption, each in tokens.items()}
    waiting = {path: ids for path, ids in by_path.items() if not cache.has(path, "states")}
    model, done = cache.model, 0
    tell("captions", 0, len(waiting))
    for first in range(0, len(waiting), TEXTS_AT_ONCE):
        part = dict(list(waiting.items())[first : first + TEXTS_AT_ONCE])
        # Its own, which forgets: the states of all captions together may be larger than memory.
        encoder = TextStates(
            model.files.text_encoder,
            device=model.device,
            dtype=model.dtype,
            cache=False,
            format=model.execution.text_format,
        )
        for path, states in zip(part, encoder.of(list(part.values())), strict=True):
            write_tensor(path, "states", states.to("cpu", model.dtype), {})
            done += 1
        tell("captions", done, len(waiting))
    return paths


def clip_record(clip: TrainingClip) -> dict[str, str]:
    """What a person who opens the file wants to know."""
    facts = {"name": clip.sample.name, "bucket": str(clip.bucket), "content": clip.content}
    return {name: value.encode("utf-8", "replace").decode() for name, value in facts.items()}


# --- files ------------------------------------------------------------------------------------------------------------


def write_tensor(path: Path, name: str, tensor: Tensor, record: Mapping[str, str]) -> None:
    make_folder(path.parent, field="cache")
    with complete(path, field="cache") as part, system_errors():
        save_file({name: tensor.contiguous()}, part, {"linnet": "cache", **record})


def is_whole(path: Path, name: str) -> bool:
    """By the file's header and length: a safetensors file knows if it was cut short."""
    try:
        with safe_open(path, "pt") as file:
            return name in file.keys()  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError):
        return False


def read_tensor(path: Path, name: str, shards: Shards) -> Tensor:
    try:
        if path.stem in shards or not path.exists():
            return shards.read(path.stem, name)
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)
    except (OSError, SafetensorError, KeyError) as error:
        problem = "is missing or damaged, and was there when training began"
        raise InvalidInput(
            "cache", path, problem, "run the same command again, which encodes it anew"
        ) from error

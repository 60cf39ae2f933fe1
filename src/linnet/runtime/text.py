"""From a prompt's tokens to the text encoder's states, by the way that costs least: they are in memory, on disk, or
the encoder says them, held whole if there is room for it and streamed from its file otherwise.

Axes: L tokens, M model width.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linnet.catalog import Format
from linnet.errors import InvalidInput
from linnet.models.text import T5Config, T5Encoder, t5_xxl
from linnet.plan.host import cache_folder
from linnet.plan.memory import SMALL_TEXT, count
from linnet.records import read_object
from linnet.runtime.outputs import is_finite, not_finite
from linnet.weights.files import Header, damaged, fingerprint, shards
from linnet.weights.load import config_as, fill, matched

if TYPE_CHECKING:
    from linnet.runtime.text_cache import TextCache

States = Float[Tensor, "L M"]


class TextStates:
    """Asks the encoder for each prompt once. A small encoder stays in memory; a large one does if `held` is set,
    streams otherwise, and what it says is also kept on disk if `cache` allows. `format`: of its weights in memory."""

    def __init__(
        self,
        files: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        cache: bool = True,
        format: Format | None = None,
        loading: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        self.files, self.device, self.dtype, self.cache = files, device, dtype, cache
        self.format: Format | None = format
        self.keep_resident, self.loading = False, loading
        self._known: dict[tuple[int, ...], States] = {}
        self._resident: T5Encoder | None = None
        self._new_rows: Float[Tensor, "n M"] | None = None

    def set_new_rows(self, rows: Float[Tensor, "n M"] | None) -> None:
        """Of words that the model's own vocabulary lacks, for a small encoder; None: there are none."""
        if (rows is None) != (self._new_rows is None) or (
            rows is not None and self._new_rows is not None and not torch.equal(rows, self._new_rows)
        ):
            self._new_rows = rows
            self._known.clear()
            self._extend()

    def _extend(self) -> None:
        if self._resident is not None:
            rows = self._new_rows
            none = torch.empty(0, self._resident.config.d_model)
            self._resident.set_new_rows(none if rows is None else rows)

    @cached_property
    def matched(self) -> tuple[T5Encoder, list[Header]]:
        """The encoder on the meta device, and the headers of its files; WeightsError if they do not match."""
        return matched(lambda: T5Encoder(text_config(self.files)), self.files, quantise=self.format)

    @cached_property
    def bytes(self) -> int:
        """Of the whole encoder, once it is loaded."""
        return count(self.matched[1]).bytes(str(self.dtype).removeprefix("torch."))

    @property
    def small(self) -> bool:
        return self.bytes <= SMALL_TEXT

    def free(self) -> None:
        """Drop the encoder, which streams from its file from now on, unless it is small. The known states stay."""
        self._resident, self.keep_resident = None, False
        self.__dict__.pop("matched", None)  # it was filled in place

    def of(
        self,
        prompts: Sequence[Sequence[int]],
        watch: Callable[[int, int], object] = lambda done, total: None,
    ) -> list[States]:
        """The states of each prompt's tokens, on the device; `watch` hears of the parts of the work that are done."""
        keys = [tuple(ids) for ids in prompts]
        self._remember(keys)
        if new := [ids for ids in dict.fromkeys(keys) if ids not in self._known]:
            tensors = [torch.tensor([ids], device=self.device) for ids in new]
            for ids, states in zip(new, self._encode(tensors, watch), strict=True):
                if not is_finite(states):
                    raise not_finite("in the text stage", self.files)
                self._known[ids] = states[0]
                if self._disk:
                    self._disk.put(ids, states[0])
        return [self._known[ids] for ids in keys]

    def _remember(self, keys: Sequence[tuple[int, ...]]) -> None:
        for ids in keys:
            if ids not in self._known and self._disk and (states := self._disk.get(ids)) is not None:
                self._known[ids] = states.to(self.device)

    @cached_property
    def _disk(self) -> "TextCache | None":
        folder = cache_folder()
        if self.small or not self.cache or folder is None:
            return None

        from linnet.runtime.text_cache import TextCache

        # The last bits depend on these, and the same request shall give the same bytes.
        key = [
            self.device.type,
            self.dtype,
            *([self.format] if self.format else []),
            torch.get_num_threads(),
            torch.__version__,
        ]
        maker = " ".join(map(str, [fingerprint(shards(self.files)), *key]))
        return TextCache(folder=folder / "text", maker=maker)

    def _encode(
        self, prompts: Sequence[Int[Tensor, "1 _"]], watch: Callable[[int, int], object]
    ) -> list[Float[Tensor, "1 _ M"]]:
        encoder, headers = self.matched
        if not (self._resident or self.small or self.keep_resident):
            from linnet.runtime.offload import encode_streamed

            return encode_streamed(
                encoder, headers, prompts, device=self.device, dtype=self.dtype, watch=watch
            )
        resident = self.resident()
        with torch.inference_mode():
            return [resident(ids, torch.ones_like(ids)) for ids in prompts]

    def resident(self) -> T5Encoder:
        """The whole encoder, on the device."""
        if self._resident is None:
            encoder, headers = self.matched
            self.loading(0, 1)
            options = {"device": self.device, "dtype": self.dtype, "watch": self.loading}
            self._resident = fill(encoder, headers, **options).requires_grad_(False).eval()
            self._extend()
        return self._resident


def text_config(files: Path) -> T5Config:
    """As the file itself says, or the config.json in its folder; T5-XXL's if neither does. WeightsError, with the key,
    for one that does not say enough."""
    first = shards(files)[0]
    if config := config_as(T5Config, first):
        return config
    beside = files / "config.json"
    if not beside.is_file():
        return t5_xxl()
    try:
        return T5Config.from_json(read_object(beside.read_text("utf-8"), field="config"))
    except KeyError as error:
        raise damaged(beside, f"says no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError, InvalidInput):
        raise damaged(beside, "is not a JSON object, or is cut short") from None

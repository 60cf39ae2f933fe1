"""A transformer that is too large for its device: some blocks stay there, the others pass through it at each step.

Those others wait in system memory or in their file. Two places on the device take turns: while the block in one
computes, the next is copied into the other, by a thread and, on a GPU, on a stream of its own. So a step takes no
longer as long as a block computes for longer than it is copied, and no memory is allocated on the way.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from linnet.errors import InvalidInput
from linnet.models.quantised import QuantisedLinear
from linnet.models.transformer import Block, Transformer
from linnet.runtime import transfer
from linnet.weights.files import FLOAT32_PARTS, Header
from linnet.weights.load import fill, product_dtypes, read, stored_format

Source = Callable[
    [int], Iterable[tuple[str, Tensor]]
]  # names and values of a block's weights, whatever their dtypes


def is_resident(i: int, resident: int, count: int) -> bool:
    """Whether block `i` is among the `held` of `count` that stay: spread evenly, so that each copy has most time."""
    return (i + 1) * resident // count > i * resident // count


def stream_into(
    model: Transformer,
    headers: Sequence[Header],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    resident_blocks: int,
    blocks_from: Literal["memory", "file"],
    prefix: str = "",
    adapt: Callable[[nn.Module, str], object] | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> "BlockStream":
    """Load `model`, which `weights.load.matched` gave with these headers, onto the device, save the blocks that the
    result brings there; it is what the model's `forward` and `encode_text` take as `blocks`. `adapt` puts LoRAs on a
    part of the model, told its name; they are on the device throughout. `watch` hears how many of the blocks are in
    their place."""
    device, count = torch.device(device), len(model.blocks)
    narrow = any(isinstance(module, QuantisedLinear) for module in model.modules())
    if narrow and blocks_from == "file" and not stored_format(headers):
        problem = "would have the blocks of a file in 16 or 32 bits made 8-bit again at every step"
        raise InvalidInput("blocks from", blocks_from, problem, "make an 8-bit file once: linnet quantize")
    waiting: dict[int, dict[str, Tensor]] = {}
    adapters: dict[int, dict[str, nn.ModuleList]] = {}
    changed: dict[int, dict[str, Tensor]] = {}  # parameters that LoRAs change as a whole
    for name, part in model.named_children():
        if name != "blocks":
            kind = torch.float32 if name in FLOAT32_PARTS else dtype
            fill(part, headers, device=device, dtype=kind, prefix=f"{prefix}{name}.")
            if adapt:
                adapt(part, name)
    for i, block in enumerate(model.blocks):
        prefix_of_block = f"{prefix}blocks.{i}."
        if is_resident(i, resident_blocks, count):
            fill(block, headers, device=device, dtype=dtype, prefix=prefix_of_block)
            if adapt:
                adapt(block, f"blocks.{i}")
        elif blocks_from == "memory" or adapt:
            fill(block, headers, dtype=dtype, prefix=prefix_of_block)
            if adapt:
                changed[i], adapters[i] = adapted(block, f"blocks.{i}", adapt, device)
            if blocks_from == "memory":
                state = block.state_dict()
                waiting[i] = {name: transfer.locked(tensor, device) for name, tensor in state.items()}
            block.to("meta")
        watch(i + 1, count)

    def from_file(i: int) -> Iterator[tuple[str, Tensor]]:
        prefix_of_block = f"{prefix}blocks.{i}."
        other = changed.get(i, {})
        for name, tensor in read(headers, {prefix_of_block + name for name in model.blocks[i].state_dict()}):
            own = name.removeprefix(prefix_of_block)
            yield own, other.get(own, tensor)

    def from_memory(i: int) -> Iterable[tuple[str, Tensor]]:
        return waiting[i].items()

    source = from_memory if blocks_from == "memory" else from_file
    return BlockStream(model.blocks, source, device=device, dtype=dtype, adapters=adapters)


def adapted(
    block: Block, name: str, adapt: Callable[[nn.Module, str], object], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, nn.ModuleList]]:
    """What LoRAs make of a block that will wait elsewhere: the parameters that they change as a whole, which it has
    from now on, and what they add to its layers, on the device."""
    from linnet.models.lora import changed_parameters, take_adapters  # where there are any

    adapt(block, name)
    taken = {path: adapters.to(device) for path, adapters in take_adapters(block).items()}
    return changed_parameters(block), taken


class BlockStream:
    """All blocks in their order, as often as it is iterated over. A block on the meta device is made real, in one of
    two slots, when its turn comes; it must not be used once the next one has been asked for.

    With `ahead` false nothing is copied before it is needed: slower, and the same.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        source: Source,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        ahead: bool = True,
        adapters: Mapping[int, Mapping[str, nn.ModuleList]] | None = None,
    ) -> None:
        self.blocks, self.source, self.device = list(blocks), source, torch.device(device)
        self.absent = [i for i, block in enumerate(self.blocks) if any(p.is_meta for p in block.parameters())]
        self.slots = [room_for(self.blocks[i], self.device, dtype) for i in self.absent[:2]]
        self._places = {id(slot): slot.state_dict() for slot in self.slots}
        self._adapters = adapters or {}
        if self._adapters:
            self._make_room_for_adapters()
        self._reader = ThreadPoolExecutor(max_workers=1) if ahead else None
        self._aside: Any = torch.cuda.Stream(self.device) if ahead and self.device.type == "cuda" else None
        self._coming: tuple[int, Future[Block]] | None = None
        self._turns = 0

    def _make_room_for_adapters(self) -> None:
        """On every layer of the slots that has some in one of the blocks."""
        from linnet.models.lora import wrapped

        for slot, path in product(self.slots, {path for own in self._adapters.values() for path in own}):
            wrapped(slot, path)

    @property
    def real(self) -> list[Block]:
        """What computes: the blocks that stay, and the slots."""
        away = set(self.absent)
        return [*self.slots, *(block for i, block in enumerate(self.blocks) if i not in away)]

    @property
    def slot_bytes(self) -> int:
        """Of one of the two slots."""
        return sum(tensor.nbytes for tensor in self._places[id(self.slots[0])].values()) if self.slots else 0

    def __iter__(self) -> Iterator[Block]:
        following = dict(zip(self.absent, [*self.absent[1:], *self.absent[:1]], strict=True))
        for i, block in enumerate(self.blocks):
            if i not in following:
                yield block
                continue
            if self._coming is None or self._coming[0] != i:  # at the start, or if a round was broken off
                self._drop()
                self._send_for(i)
            slot = self._take()
            if self._reader and len(self.slots) > 1:
                self._send_for(following[i])
            yield slot

    def _send_for(self, i: int) -> None:
        """Have block `i` brought into the slot that is not in use: what computes with it has been queued already."""
        slot = self.slots[self._turns % len(self.slots)]
        self._turns += 1
        used = torch.cuda.current_stream(self.device).record_event() if self._aside else None
        future: Future[Block] = Future()
        if self._reader:
            future = self._reader.submit(self._bring, i, slot, used)
        else:
            future.set_result(self._bring(i, slot, used))
        self._coming = i, future

    def _bring(self, i: int, slot: Block, used: Any) -> Block:
        places = self._places[id(slot)]
        with torch.cuda.stream(self._aside) if self._aside else nullcontext():
            if self._aside:
                self._aside.wait_event(used)
            for name, tensor in self.source(i):
                transfer.copy(places[name], tensor)
            if self._aside:
                self._aside.synchronize()  # only this thread waits
        if self._adapters:
            from linnet.models.lora import set_adapters

            set_adapters(slot, self._adapters.get(i, {}))
        return slot

    def _take(self) -> Block:
        assert self._coming is not None
        (_, future), self._coming = self._coming, None
        return future.result()

    def _drop(self) -> None:
        if self._coming is not None:
            self._coming[1].exception()
        self._coming = None


def room_for(block: Block, device: torch.device, dtype: torch.dtype) -> Block:
    """A block like this one with real memory, to be filled. Ordinary tensors even where inference is under way: a
    thread may write only to those."""
    kinds = product_dtypes(block, dtype)
    with torch.inference_mode(False):
        state = {
            name: torch.empty(tensor.shape, device=device, dtype=kinds.get(name, torch.float32))
            for name, tensor in block.state_dict().items()
        }
        room = deepcopy(block).requires_grad_(False).eval()
        room.load_state_dict(state, assign=True)
    return room

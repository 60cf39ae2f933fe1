"""A model of PyTorch's caching allocator of a CUDA card: what it takes of the card for the tensors that a run makes.

Tensors of many sizes in turn leave gaps, and memory that nothing uses stays with the process until it is short of some.
Both ways of the allocator are here: classic segments, each a piece of the card that is never enlarged, and expandable
ones, which take pages as they need them. Source: c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.11, without streams
(linnet allocates on one), graphs and the settings of PYTORCH_CUDA_ALLOC_CONF but the one.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Literal, NamedTuple

MIB = 2**20
ROUNDED = 512  # bytes: sizes are multiples of this
SMALL = MIB  # up to which a tensor lies in the small pool
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB  # also the pages of expandable segments
OWN_SEGMENT = 10 * MIB  # from which a tensor has a classic segment of its own size
ADDRESSES = 2**44  # of an expandable segment: more than any card has

Segments = Literal["expandable", "classic"]


class Event(NamedTuple):
    """A tensor of `size` bytes is made; it is gone where `size` is 0. All that nothing uses goes back to the card where
    `key` is 0 (torch.cuda.empty_cache)."""

    key: int
    size: int


EMPTY_CACHE = Event(0, 0)


class OutOfMemory(Exception):
    """No room within the limit even after all that nothing uses was given back."""


class Block:
    """A stretch of addresses: mapped to the card or not, and in use or free. Neighbours belong to the same segment."""

    __slots__ = ("address", "after", "before", "mapped", "pool", "size", "used")

    def __init__(self, pool: "Pool", address: int, size: int, *, mapped: bool) -> None:
        self.pool, self.address, self.size, self.mapped = pool, address, size, mapped
        self.used = False
        self.before: Block | None = None
        self.after: Block | None = None

    @property
    def is_free(self) -> bool:
        return self.mapped and not self.used


class Pool:
    """The free blocks of one kind, by size and then by address."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.free: list[tuple[int, int, Block]] = []
        self.first: Block | None = None  # of the expandable segment

    def add(self, block: Block) -> None:
        insort(self.free, (block.size, block.address, block), key=lambda entry: entry[:2])

    def remove(self, block: Block) -> None:
        del self.free[self._place(block.size, block.address)]

    def _place(self, size: int, address: int) -> int:
        return bisect_left(self.free, (size, address), key=lambda entry: entry[:2])

    def best(self, size: int) -> Block | None:
        """The smallest free block that is large enough. One at the end of what is mapped counts as large as it could
        grow, so that it is cut last."""
        index = self._place(size, 0)
        if index == len(self.free):
            return None
        while index + 1 < len(self.free):
            here, following = self.free[index][2], self.free[index + 1][2]
            if room(following) >= room(here):
                break
            index += 1
        return self.free[index][2]


def room(block: Block) -> int:
    after = block.after
    return block.size + (after.size if after and not after.mapped else 0)


def rounded(size: int) -> int:
    return max(ROUNDED, -(-size // ROUNDED) * ROUNDED)


def segment_size(size: int) -> int:
    """Bytes that are asked of the card for a tensor for which there is no room."""
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // SMALL_SEGMENT) * SMALL_SEGMENT


class Allocator:
    """`limit`: the most bytes that it may take of the card; None: no end. Afterwards `peak` tells the most that it had
    taken, `retries` how often it had to give back what nothing used in order to go on."""

    def __init__(self, *, limit: int | None = None, segments: Segments = "expandable") -> None:
        self.limit, self.expandable = limit, segments == "expandable"
        self.pools = {True: Pool(SMALL_SEGMENT), False: Pool(LARGE_SEGMENT)}
        self.blocks: dict[int, Block] = {}
        self.segments = 0  # classic ones so far
        self.taken = self.peak = self.used = self.peak_used = self.retries = 0

    def replay(self, events: Iterable[Event]) -> None:
        """OutOfMemory where the limit is too little."""
        for event in events:
            if event.key == EMPTY_CACHE.key:
                self.empty_cache()
            elif event.size:
                self.allocate(*event)
            else:
                self.release(event.key)

    def allocate(self, key: int, size: int) -> None:
        size = rounded(size)
        pool = self.pools[size <= SMALL]
        block = pool.best(size)
        if block is None:
            if self._is_short_of(size):
                self.retries += 1
                self.empty_cache()
                if self._is_short_of(size):
                    used, taken = f"{self.used / 1e9:.3f}", f"{self.taken / 1e9:.3f}"
                    raise OutOfMemory(f"{size / 1e6:.0f} MB more, with {used} GB in use of {taken} GB taken")
            block = self._grow(pool, size) if self.expandable else self._segment(pool, size)
        pool.remove(block)
        block.used = True
        left = block.size - size
        if left >= ROUNDED if self.expandable or size <= SMALL else left > SMALL:
            pool.add(self._cut(block, size))
        self.blocks[key] = block
        self.used += block.size
        self.peak_used = max(self.peak_used, self.used)

    def release(self, key: int) -> None:
        block = self.blocks.pop(key)
        self.used -= block.size
        block.used = False
        block.pool.add(self._merged(block))

    def empty_cache(self) -> None:
        for pool in self.pools.values():
            for _, _, block in list(pool.free):
                if self.expandable:
                    self._unmap(block)
                elif block.before is None and block.after is None:
                    pool.remove(block)
                    self.taken -= block.size

    def _is_short_of(self, size: int) -> bool:
        return self.limit is not None and self.taken + segment_size(size) > self.limit

    def _take(self, size: int) -> None:
        self.taken += size
        self.peak = max(self.peak, self.taken)

    # --- classic segments -----------------------------------------------------------------------------------------

    def _segment(self, pool: Pool, size: int) -> Block:
        size = segment_size(size)
        self._take(size)
        self.segments += 1
        block = Block(pool, self.segments * ADDRESSES, size, mapped=True)
        pool.add(block)
        return block

    # --- expandable segments --------------------------------------------------------------------------------------

    def _grow(self, pool: Pool, size: int) -> Block:
        """A free block of at least `size`, for which pages are mapped where the lowest addresses allow it."""
        if pool.first is None:
            pool.first = Block(pool, 0, ADDRESSES, mapped=False)
        block = self._unmapped_from(pool.first, size)
        if not block.mapped:
            block = self._map(block, min(block.size, size))
        while block.size < size:
            following = block.after
            assert following is not None
            block = self._map(following, min(size - block.size, following.size))
        return block

    def _unmapped_from(self, first: Block, size: int) -> Block:
        """The lowest block from which `size` bytes in a row are free or not mapped, and not all mapped."""
        block: Block | None = first
        while block is not None:
            if not block.mapped:
                before = block.before
                start = before if before and before.is_free else block
                free_bytes, end = 0, start
                while end is not None and not end.used and free_bytes < size:
                    free_bytes += end.size
                    end = end.after
                if free_bytes >= size:
                    return start
            block = block.after
        raise OutOfMemory("no addresses are left")

    def _map(self, block: Block, size: int) -> Block:
        """Pages for at least `size` bytes of `block`, joined with the free ones around it."""
        page, start = block.pool.page, block.address
        size = min(block.size, -(-(start + size) // page) * page - start)
        if block.size > size:
            self._cut(block, size)
        block.mapped = True
        self._take(size)
        block = self._merged(block)
        block.pool.add(block)
        return block

    def _unmap(self, block: Block) -> None:
        """Give back the whole pages of a free block."""
        page, end = block.pool.page, block.address + block.size
        start = -(-block.address // page) * page
        size = end // page * page - start
        if size <= 0:
            return
        pool = block.pool
        pool.remove(block)
        if start > block.address:
            rest = self._cut(block, start - block.address)
            pool.add(block)
            block = rest
        if block.size > size:
            pool.add(self._cut(block, size))
        block.mapped = False
        self.taken -= size
        self._merged(block)

    # --- neighbours -----------------------------------------------------------------------------------------------

    def _cut(self, block: Block, size: int) -> Block:
        """What is left of `block` behind its first `size` bytes."""
        rest = Block(block.pool, block.address + size, block.size - size, mapped=block.mapped)
        rest.before, rest.after = block, block.after
        if rest.after:
            rest.after.before = rest
        block.after, block.size = rest, size
        return rest

    def _merged(self, block: Block) -> Block:
        """`block`, which is on no list, joined with the neighbours that are as it is."""
        for other in (block.before, block.after):
            if other is None or other.used or other.mapped != block.mapped:
                continue
            if other.mapped:
                other.pool.remove(other)
            first, second = (other, block) if other is block.before else (block, other)
            first.size += second.size
            first.after = second.after
            if first.after:
                first.after.before = first
            if second.pool.first is second:
                second.pool.first = first
            block = first
        return block


def replayed(
    events: Iterable[Event], *, limit: int | None = None, segments: Segments = "expandable"
) -> Allocator:
    allocator = Allocator(limit=limit, segments=segments)
    allocator.replay(events)
    return allocator


def least_limit(events: list[Event], segments: Segments = "expandable", *, exact: int = 10_000_000) -> int:
    """Bytes, to `exact` ones: the least limit with which the run comes to its end, be it with retries."""
    free = replayed(events, segments=segments)
    low, high = free.peak_used, free.peak + LARGE_SEGMENT
    while high - low > exact:
        middle = (low + high) // 2
        try:
            replayed(events, limit=middle, segments=segments)
        except OutOfMemory:
            low = middle
        else:
            high = middle
    return high

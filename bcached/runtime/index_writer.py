"""How a change of keys comes about, whoever asks for it.

A change is accepted in one go, with no await in it: its journal entry, the tree and the live sectors change
together, and that order is the one in which they are replayed. All that may have to be waited for comes
before: nodes that must be read, room in the journal, buckets for the nodes to come. Then everything is asked
again, for no answer outlives an await.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from bcached.errors import DeviceError, DeviceFailed, FormatError, NoFreeBuckets
from bcached.format.bkey import HEAD_WORDS
from bcached.keys import Key
from bcached.runtime.node_buckets import NodeBuckets
from bcached.runtime.services import Services
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.btree.btree import Btree
from bcached.store.journal.journal import Journal

Span = tuple[int, int, int]  # inode, first sector, first sector behind


class KeyChanges:
    """Puts keys into the journal, the tree and the counts of live sectors, once there is room for them."""

    def __init__(
        self,
        btree: Btree,
        journal: Journal,
        sectors: SectorAllocator,
        live: LiveSectors,
        buckets: NodeBuckets,
        services: Services,
    ) -> None:
        self.btree = btree
        self.journal = journal
        self.live = live
        self.buckets = buckets
        self.newest_seq = journal.seq  # the newest entry that may hold keys
        self._tree = btree.tree
        self._caches = sectors.caches
        self._services = services
        self._reclaims = 0  # what the members counted when the allocators looked last
        services.on_refusal.append(btree.give_space)
        journal.on_durable.append(self._entry_durable)

    # Whether it can be made now

    def is_ready(self, spans: Iterable[Span], words: int) -> bool:
        """Whether keys of so many words can take their places in these ranges now."""
        if not self.journal.has_room(words) or self.btree.is_crowded:
            return False
        missing = self._tree.missing
        for inode, start, end in spans:  # noqa: SIM110 (a commit of one key is what there is most of)
            if missing(inode, start, end) is not None:
                return False
        return True

    async def make_ready(self, spans: Sequence[Span], words: int, left_s: float) -> None:
        """Wait for whatever a change still lacks; it lacks nothing until the caller's next await.

        Whether memory is crowded is asked before the nodes are loaded, not after: they may be all it holds.
        NoFreeBuckets after left_s.
        """
        services, journal, btree = self._services, self.journal, self.btree
        services.check_changeable()
        if self.is_ready(spans, words):
            return
        lacks = "btree"
        try:
            async with asyncio.timeout(max(left_s, 0)):
                while btree.is_crowded:
                    services.leaves_wanted()
                    await btree.wait_for_space()
                    services.check_changeable()
                while True:
                    with as_device_failed(services):
                        await btree.load(spans)
                    if journal.has_room(words):
                        break
                    lacks = "journal"
                    with as_device_failed(services):
                        await journal.wait_for_room(words)
                    services.check_changeable()
                    lacks = "btree"
        except TimeoutError:
            raise NoFreeBuckets(lacks, int(max(left_s, 0) * 1000)) from None
        services.check_changeable()

    def may_grow(self) -> bool:
        """Whether there are buckets for the nodes that new keys may need."""
        return self.buckets.may_grow(self._tree)

    async def wait_to_grow(self, left_s: float) -> None:
        """Return when there are, perhaps; NoFreeBuckets after left_s."""
        await self.buckets.wait_to_grow(self._tree, left_s)

    # Making it

    def put(self, keys: Sequence[Key]) -> int:
        """Keys that take the place of others; their ranges are loaded, and the journal has room. Their seq.

        `settle` is to follow when whatever else changes with them has.
        """
        seq = self.journal.append(keys)
        btree, live = self.btree, self.live
        for key in keys:
            removed = btree.insert(key, seq)
            if removed:
                live.went(removed, seq)
            live.came(key)
        self.newest_seq = seq
        if self._tree.wanted:
            self._services.leaves_wanted()
        return seq

    def settle(self) -> None:
        """Have the allocators look again if there is anything in it for them."""
        reclaims = 0
        for cache in self._caches:
            reclaims += cache.reclaims
        if reclaims != self._reclaims:
            self._reclaims = reclaims
            self._services.buckets_moved()

    def change(self, keys: Sequence[Key]) -> int:
        """Put keys that nobody reserved."""
        seq = self.put(keys)
        self.settle()
        return seq

    # Afterwards

    def _entry_durable(self, seq: int) -> None:
        """Buckets whose last keys went by this entry can be used again: nothing brings those back.

        Where dirty data went, not before that stands in no leaf and no needed entry any more: a dirty key
        that is stale makes the kernel complain, though it is overwritten further on.
        """
        if self.live.cleaned_seq >= self.journal.oldest_kept_seq:
            seq = self.journal.oldest_kept_seq - 1
        if sum([cache.emptying_durable(seq) for cache in self._caches]):
            self._services.buckets_moved()


@contextmanager
def as_device_failed(services: Services) -> Iterator[None]:
    """Tell the caller that a device or what is on it is in the way: by what first went wrong.

    What has failed already has the set refuse changes, and tasks end that others wait for.
    """
    try:
        yield
    except (DeviceError, FormatError) as error:
        if isinstance(services.refusal, DeviceFailed):
            raise services.refusal.with_traceback(None) from None
        raise DeviceFailed(str(error)) from None


def spans_of(keys: Iterable[Key]) -> list[Span]:
    """The ranges of keys."""
    return [(key.inode, key.offset, key.end) for key in keys]


def words_of(keys: Sequence[Key]) -> int:
    """The words of keys in the journal."""
    return sum([HEAD_WORDS + len(key.pointers) for key in keys])

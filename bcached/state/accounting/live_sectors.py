"""How much live data each bucket holds, kept as keys come to the index and go from it.

Only pointers whose gen is their bucket's gen of now count. A bucket's gen goes up only when nothing is
counted in it any more, or when all that is in it becomes stale at once; so what was counted in with a gen is
either counted out with it or dropped by the table.
"""

from collections.abc import Callable, Iterable, Sequence

from bcached.keys import Key
from bcached.state.buckets.member_buckets import Cache


class LiveSectors:
    """Tells the caches of a set what comes and goes.

    marking, while a collection runs, hears of every pointer that goes, stale or not (device, bucket, gen):
    the node it stood in may not have been written yet, and the collection may not have come by before.
    on_stale_dirty is told of dirty keys that go, or parts of them, of which a copy was stale.
    """

    def __init__(self, caches: Sequence[Cache], bucket_sectors: int) -> None:
        self.marking: Callable[[int, int, int], None] | None = None
        self.on_stale_dirty: Callable[[Key], None] = lambda _: None
        self.cleaned_seq = 0  # the newest entry by which dirty data went, or became clean
        self._caches = caches
        self._bucket_sectors = bucket_sectors

    def came(self, key: Key) -> None:
        """A key stands in the index now."""
        caches = self._caches
        for pointer in key.pointers:
            if pointer.device < len(caches):
                cache = caches[pointer.device]
                bucket = pointer.sector // self._bucket_sectors
                if cache.table.gens[bucket] == pointer.gen:
                    cache.count_in(bucket, key.sectors, key.dirty)

    def went(self, keys: Iterable[Key], seq: int) -> None:
        """These keys, or parts of keys, stand in the index no more since the journal entry."""
        caches = self._caches
        marking = self.marking
        for key in keys:
            is_stale = False
            if key.dirty:
                self.cleaned_seq = seq
            for pointer in key.pointers:
                if pointer.device < len(caches):
                    cache = caches[pointer.device]
                    bucket = pointer.sector // self._bucket_sectors
                    if marking is not None:
                        marking(pointer.device, bucket, pointer.gen)
                    if cache.table.gens[bucket] == pointer.gen:
                        cache.count_out(bucket, key.sectors, key.dirty, seq)
                    else:
                        is_stale = True
            if is_stale and key.dirty:
                self.on_stale_dirty(key)

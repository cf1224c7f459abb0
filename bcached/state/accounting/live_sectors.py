# SPDX-License-Identifier: GPL-2.0-only
"""How much live data each bucket holds, updated as keys are added to the index and removed from it.

Only pointers with their bucket's present gen count. A bucket's gen goes up only when nothing is counted in it
any more, or when all in it becomes stale at once; so sectors counted in with a gen are either counted out
with it or reset by the table.
"""

from collections.abc import Callable, Iterable, Sequence

from bcached.keys import Key
from bcached.state.accounting.volume_use import VolumeUse
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.sectors.sector_runs import SectorRun


class LiveSectors:
    """Counts added and removed keys in the buckets of every member.

    marking, set while a collection runs, is called for every removed pointer, stale or not (device, bucket,
    gen): the node it was in may not have been written yet, nor marked by the collection. on_stale_dirty is
    called with removed dirty keys, or parts of them, of which a copy was stale. use has the sums by volume.
    """

    def __init__(self, members: Sequence[MemberBuckets], use: VolumeUse | None = None) -> None:
        self.use = use or VolumeUse()
        self.marking: Callable[[int, int, int], None] | None = None
        self.on_stale_dirty: Callable[[Key], None] = lambda _: None
        self.cleaned_seq = 0  # the newest entry that removed dirty data, or marked it clean
        self._members = members
        self._bucket_sectors = members[0].geometry.bucket_sectors  # divided by inline: every commit does it

    @property
    def candidates_are_few(self) -> bool:
        """Whether the last search for buckets to be invalidated found too few, on any member."""
        return any(member.invalidate_needs_gc for member in self._members)

    def add(self, key: Key) -> None:
        """Count a key that was added to the index."""
        members, bucket_sectors = self._members, self._bucket_sectors
        live = 0
        for pointer in key.pointers:
            if pointer.device < len(members):
                member = members[pointer.device]
                bucket = pointer.sector // bucket_sectors
                if member.table.gens[bucket] == pointer.gen:
                    member.add_live(bucket, key.sectors, key.dirty)
                    live += key.sectors
        if live:  # what use.count does, without the call: every commit does it
            use = self.use
            use.live[key.inode] += live
            if key.dirty:
                use.dirty[key.inode] += live
            if use.following is not None:
                use.count_following(key, live)

    def add_runs(self, keys: Sequence[Key], runs: Iterable[SectorRun]) -> None:
        """Count keys that were added to the index, by the runs of their sectors."""
        members, use = self._members, self.use
        for run in runs:
            if run.device < len(members):
                member, sectors = members[run.device], run.end - run.start
                if member.table.gens[run.bucket] == run.gen:
                    member.add_live(run.bucket, sectors, run.dirty)
                    use.live[run.inode] += sectors
                    if run.dirty:
                        use.dirty[run.inode] += sectors
                    if use.following is not None:
                        for key in keys[run.first : run.behind]:
                            use.count_following(key, key.sectors)

    def remove(self, keys: Iterable[Key], seq: int) -> None:
        """Count keys, or parts of keys, that journal entry seq removed from the index."""
        members, bucket_sectors = self._members, self._bucket_sectors
        if self.marking is not None:
            keys = tuple(keys)
            self._mark(keys, self.marking)
        for key in keys:
            is_stale, live = False, 0
            if key.dirty:
                self.cleaned_seq = seq
            for pointer in key.pointers:
                if pointer.device < len(members):
                    member = members[pointer.device]
                    bucket = pointer.sector // bucket_sectors
                    if member.table.gens[bucket] == pointer.gen:
                        member.remove_live(bucket, key.sectors, key.dirty, seq)
                        live += key.sectors
                    else:
                        is_stale = True
            if live:
                self.use.count(key, -live)
            if is_stale and key.dirty:
                self.on_stale_dirty(key)

    def _mark(self, keys: Iterable[Key], marking: Callable[[int, int, int], None]) -> None:
        """Mark the pointers of removed keys for a collection."""
        for key in keys:
            for pointer in key.pointers:
                if pointer.device < len(self._members):
                    marking(pointer.device, pointer.sector // self._bucket_sectors, pointer.gen)

# SPDX-License-Identifier: GPL-2.0-only
"""Why an allocation waits or failed: the statistics explained in sentences."""

from collections.abc import Iterator

from bcached.set_state import MemberState
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.statistics import HolderStatistics, SetStatistics
from bcached.units import SECTOR_BYTES, format_size, plural


def explain(set_statistics: SetStatistics) -> list[str]:
    """Returns sentences, the most urgent first; a single one if nothing waits."""
    sentences = list(_set(set_statistics))
    for member in set_statistics.members:
        sentences += [f"{member.path}: {sentence}" for sentence in _member(member)]
    return sentences or ["nothing waits, and buckets are ready to be used"]


def explain_index(statistics: SetStatistics) -> Iterator[str]:
    """Yields which data in the index no look-up finds, and why.

    1. Nodes vanished. 2. Dirty keys are stale. 3. Keys have an inode without a volume.
    """
    index = statistics.index
    if index.vanished_nodes:
        nodes = plural(index.vanished_nodes, "node")
        yield (
            f"{nodes} of the index vanished: their buckets' gens are ahead of the pointers to them, and no "
            "node replaced them; the keys in them are lost: `bcachectl check` lists the ranges"
        )
    if index.stale_dirty_keys:
        keys, size = plural(index.stale_dirty_keys, "dirty key"), _size(index.stale_dirty_sectors)
        yield (
            f"{keys} of {size} are stale: the gens of their buckets are ahead, and the data is lost when the "
            "buckets are used again; `bcachectl check` lists the keys"
        )
    if index.orphaned_keys:
        keys = plural(index.orphaned_keys, "key")
        data = f"{_size(index.orphaned_dirty_sectors)} dirty, {_size(index.orphaned_clean_sectors)} clean"
        yield (
            f"{keys} ({data}) are under inodes without a volume: {_inodes(statistics)}; no new volume gets "
            "such an inode; `bcachectl volume list` shows them, `bcachectl volume delete --force` drops them"
        )


def _inodes(statistics: SetStatistics) -> str:
    """The inodes without a volume that hold the most."""
    listed = [
        f"{orphan.inode} ({plural(orphan.keys, 'key')}, {_size(orphan.dirty_sectors)} dirty)"
        for orphan in statistics.orphans
    ]
    more = statistics.index.orphaned_inodes - len(listed)
    return ", ".join(listed) + (f" and {more:,} more" if more else "")


def _are(count: int, noun: str) -> str:
    return f"{plural(count, noun)} {'is' if count == 1 else 'are'}"


def _size(sectors: int) -> str:
    return format_size(sectors * SECTOR_BYTES)


def _set(statistics: SetStatistics) -> Iterator[str]:
    if statistics.failed:
        yield f"the set accepts no changes: {statistics.failed}"
    yield from explain_index(statistics)
    for reserve, count in statistics.waiters.items():
        if count:
            oldest_s = statistics.oldest_wait_s
            who = "request waits" if count == 1 else "requests wait"
            yield f"{count} {who} for a bucket of reserve {reserve}, the oldest {oldest_s:.1f} s"
    yield from _waiters(statistics)
    if statistics.gc_running:
        yield "garbage is being collected"
    index = statistics.index
    if index.unwritten_bytes * 2 > index.memory_bytes_max:
        yield f"changes of the index wait until some of {index.unwritten_bytes} bytes of keys are written"
    for reason, count in statistics.allocation_failures.items():
        if count:
            yield f"{plural(count, 'allocation')} failed so far: {FAILURES[reason]}"
    if any(member.invalidate_needs_gc for member in statistics.members):
        yield from _dry(statistics)


def _waiters(statistics: SetStatistics) -> Iterator[str]:
    """Yields whose requests wait, if several do, and whether as many wait as may."""
    total = sum(statistics.waiters.values())
    if total > 1 and statistics.largest_waiters:
        named = ", ".join(f"{count:,} of {_user(user)}" for user, count in statistics.largest_waiters)
        yield f"most of the {total:,} requests that wait: {named}"
    if 0 < statistics.waiters_max <= total:
        yield f"as many requests wait as may ({statistics.waiters_max:,}): others are refused"


def _user(user: int | None) -> str:
    return "the set itself" if user is None else f"uid {user}"


def _dry(statistics: SetStatistics) -> Iterator[str]:
    """Yields what uses the buckets, and what was done to free some."""
    dirty = sorted(statistics.dirty_sectors.items(), key=lambda volume: -volume[1])[:VOLUMES_NAMED]
    if dirty:
        named = ", ".join(f"{_size(sectors)} of {_volume(statistics, inode)}" for inode, sectors in dirty)
        yield f"most of the dirty data, until marked clean or invalidated: {named}"
    if statistics.largest_holders:
        named = ", ".join(map(_holder, statistics.largest_holders))
        yield f"most of the buckets that connections hold or read: {named}"
    index = statistics.index
    if index.evacuations:
        yield (
            f"dirty data was moved together {plural(index.evacuations, 'time')} so far, which emptied "
            f"{plural(index.evacuated_buckets, 'bucket')}; it gains nothing if all data is dirty or held"
        )
    if statistics.open_buckets:
        gone, idle = statistics.open_buckets_gone, statistics.open_buckets_idle
        yield (
            f"{_are(statistics.open_buckets, 'bucket')} open: {gone} of closed connections, closed when a "
            f"request waits, and {idle} of idle writers, whose sectors other writers get then"
        )
    if statistics.gc_found:
        found = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in statistics.gc_found.items())
        yield f"the last garbage collection found: {found}"


def _volume(statistics: SetStatistics, inode: str) -> str:
    """A volume by its label, if that is known."""
    volume = statistics.volumes.get(inode)
    return f"volume {inode} ({volume.label})" if volume is not None and volume.label else f"volume {inode}"


def _holder(holder: HolderStatistics) -> str:
    """A connection by its process and user, and what it holds."""
    parts = [f"{plural(holder.buckets, 'bucket')} held"] if holder.buckets else []
    parts += [f"{holder.read_buckets:,} read"] if holder.read_buckets else []
    return f"{', '.join(parts)} by {holder.name}" + (" (disconnected)" if holder.is_closed else "")


VOLUMES_NAMED = 3
FAILURES = {
    "timeout": "no bucket was free before their deadline",
    "no_wait": "no bucket was ready, and their requests do not wait",
    "cancelled": "their client disconnected while they waited",
    "limit": "too many requests were waiting already",
}


def _member(member: MemberState) -> Iterator[str]:
    buckets = member.buckets
    reclaimable = buckets["clean"] + buckets["empty"]
    coming = buckets["free_inc"] + buckets["unused"]
    if not member.freelist["none"]:
        yield (
            f"no bucket is ready for data: {coming} are on their way to the reserves, "
            f"{reclaimable} could be invalidated"
        )
        if not reclaimable and not coming:
            yield (
                f"all buckets are in use: {buckets['open']} open, {buckets['held']} held by connections, "
                f"{buckets['quarantine']} in quarantine after a closed connection, {buckets['dirty']} dirty "
                f"until marked clean or invalidated, {buckets['free']} in other reserves"
            )
    if member.invalidate_needs_gc:
        yield f"the last search for buckets to invalidate found too few ({reclaimable} are left)"
    if member.held_back_by_gen:
        yield (
            f"{_are(member.held_back_by_gen, 'bucket')} skipped until garbage is collected or prios are "
            f"written: their gens are {GEN_DISTANCE_MAX} ahead"
        )
    if member.journal_free_buckets == 0:
        yield "the journal has no free bucket"

"""Why an allocation waits, or failed: what the numbers mean, in sentences."""

from collections.abc import Iterator

from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.statistics import MemberStatistics, SetStatistics
from bcached.units import SECTOR_BYTES, format_size


def explain(set_statistics: SetStatistics) -> list[str]:
    """Sentences, the most pressing first; one that says so if nothing is wrong."""
    sentences = list(_set(set_statistics))
    for member in set_statistics.members:
        sentences += [f"{member.path}: {sentence}" for sentence in _member(member)]
    return sentences or ["nothing waits, and buckets are ready to be used"]


def explain_index(statistics: SetStatistics) -> Iterator[str]:
    """What of the data in the index no look-up finds, and why."""
    index = statistics.index
    if index.vanished_nodes:
        nodes = _counted(index.vanished_nodes, "node")
        yield (
            f"{nodes} of the index vanished: their buckets' gens are ahead of what names them, and nothing "
            "replaced them; the keys in them are lost: `bcachectl check` says of which ranges"
        )
    if index.stale_dirty_keys:
        keys, size = _counted(index.stale_dirty_keys, "dirty key"), _size(index.stale_dirty_sectors)
        yield (
            f"{keys} of {size} are stale: the gens of their buckets have gone ahead, and the data is lost "
            "when these are used again; `bcachectl check` lists them"
        )
    if index.orphaned_keys:
        keys = _counted(index.orphaned_keys, "key")
        data = f"{_size(index.orphaned_dirty_sectors)} dirty, {_size(index.orphaned_clean_sectors)} clean"
        yield (
            f"{keys} ({data}) stand under inodes without a volume: {_inodes(statistics)}; no new volume gets "
            "such an inode; `bcachectl volume list` shows them, `bcachectl volume delete --force` drops them"
        )


def _inodes(statistics: SetStatistics) -> str:
    """The inodes without a volume that hold the most."""
    told = [
        f"{orphan.inode} ({_counted(orphan.keys, 'key')}, {_size(orphan.dirty_sectors)} dirty)"
        for orphan in statistics.orphans
    ]
    more = statistics.index.orphaned_inodes - len(told)
    return ", ".join(told) + (f" and {more:,} more" if more else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _size(sectors: int) -> str:
    return format_size(sectors * SECTOR_BYTES)


def _set(statistics: SetStatistics) -> Iterator[str]:
    if statistics.failed:
        yield f"nothing can change any more: {statistics.failed}"
    yield from explain_index(statistics)
    for reserve, count in statistics.waiters.items():
        if count:
            oldest_s = statistics.oldest_wait_s
            who = "request waits" if count == 1 else "requests wait"
            yield f"{count} {who} for a bucket of reserve {reserve}, the oldest {oldest_s:.1f} s"
    if statistics.gc_running:
        yield "garbage is being collected"
    index = statistics.index
    if index.unwritten_bytes * 2 > index.memory_bytes_max:
        yield f"changes of the index wait until some of {index.unwritten_bytes} bytes of keys are written out"
    if any(member.invalidate_needs_gc for member in statistics.members):
        yield from _dry(statistics)
    for reason, count in statistics.allocation_failures.items():
        if count:
            what = "allocation" if count == 1 else "allocations"
            yield f"{count} {what} failed so far: {FAILURES[reason]}"


def _dry(statistics: SetStatistics) -> Iterator[str]:
    """What takes the buckets, and what was done about it."""
    if statistics.gc_found:
        found = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in statistics.gc_found.items())
        yield f"the last garbage collection found: {found}"
    volumes = sorted(statistics.dirty_sectors.items(), key=lambda volume: -volume[1])[:VOLUMES_NAMED]
    if volumes:
        named = ", ".join(f"{sectors} sectors of volume {inode}" for inode, sectors in volumes)
        yield f"most of what is dirty, until marked clean or invalidated: {named}"
    index = statistics.index
    if index.evacuations:
        yield (
            f"dirty data was moved together {index.evacuations} times so far, which emptied "
            f"{index.evacuated_buckets} buckets; nothing more is gained where all is dirty or held"
        )
    if statistics.open_buckets:
        gone, idle = statistics.open_buckets_gone, statistics.open_buckets_idle
        yield (
            f"{statistics.open_buckets} buckets are open: {gone} of writers that are gone, which are closed "
            f"when a request waits, and {idle} of idle ones, whose sectors others get then"
        )


VOLUMES_NAMED = 3
FAILURES = {
    "timeout": "no bucket came free before their deadline",
    "no_wait": "no bucket was ready, and they did not want to wait",
    "cancelled": "their client went away while they waited",
    "limit": "too many were waiting already",
}


def _member(member: MemberStatistics) -> Iterator[str]:
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
                f"{buckets['quarantine']} in quarantine after a connection broke, {buckets['dirty']} dirty "
                f"until marked clean or invalidated, {buckets['free']} in other reserves"
            )
    if member.invalidate_needs_gc:
        yield f"the last search for buckets to invalidate found too few ({reclaimable} are left)"
    if member.held_back_by_gen:
        yield (
            f"{member.held_back_by_gen} buckets are passed over until garbage is collected or prios are "
            f"written: their gens are {GEN_DISTANCE_MAX} ahead"
        )
    if member.journal_free_buckets == 0:
        yield "the journal has no free bucket"

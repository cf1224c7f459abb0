"""Why an allocation waits, or failed: what the numbers mean, in sentences."""

from collections.abc import Iterator

from bcached.state.geometry import GEN_DISTANCE_MAX
from bcached.state.statistics import MemberStatistics, SetStatistics


def explain(set_statistics: SetStatistics) -> list[str]:
    """Sentences, the most pressing first; one that says so if nothing is wrong."""
    sentences = list(_set(set_statistics))
    for member in set_statistics.members:
        sentences += [f"{member.path}: {sentence}" for sentence in _member(member)]
    return sentences or ["nothing waits, and buckets are ready to be used"]


def _set(statistics: SetStatistics) -> Iterator[str]:
    if statistics.failed:
        yield f"nothing can change any more: {statistics.failed}"
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
    if any(member.invalidate_needs_gc for member in statistics.members) and statistics.gc_found:
        found = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in statistics.gc_found.items())
        yield f"the last garbage collection found: {found}"
    for reason, count in statistics.allocation_failures.items():
        if count:
            what = "allocation" if count == 1 else "allocations"
            yield f"{count} {what} failed so far: {FAILURES[reason]}"


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

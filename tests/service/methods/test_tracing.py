# SPDX-License-Identifier: GPL-2.0-only
"""The events of a set at work, as Trace sends them."""

from pathlib import Path

import pytest

from bcached.errors import InvalidParameter, LimitExceeded, NoFreeBuckets
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.service.methods import tracing
from bcached.service.methods.tracing import EventStream
from bcached.service.requests.method import Last
from bcached.tracepoints import EVENTS, Tracepoints
from bcached.wire.admin_messages import Trace, Traced, TraceEvent
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time


def all_of(stream: EventStream) -> list[TraceEvent]:
    found: list[TraceEvent] = []
    while (message := stream.following()) is not None:
        results = message.results if isinstance(message, Last) else message
        assert isinstance(results, Traced)
        assert not results.dropped
        found += results.events
    return found


async def work(cache_set: CacheSet) -> None:
    """Fill the set with clean data, so that buckets are invalidated; then have none left at all."""
    holder = cache_set.allocations.new_holder("client")
    for number in range(800):
        ((key,),) = await cache_set.allocations.allocate(holder, [extent(8, offset=8 * number)], 10.0)
        await cache_set.index.commit(holder, [key], 10.0)
    await cache_set.index.flush()
    await cache_set.maintenance.collect_garbage()
    await cache_set.maintenance.write_priorities()
    greedy = cache_set.allocations.new_holder("greedy")
    await take_buckets(cache_set, greedy, patience_s=0.1)
    with pytest.raises(NoFreeBuckets):
        await cache_set.allocations.allocate_bucket(greedy, 1, 0)


@in_virtual_time
async def test_a_set_at_work_emits_what_it_does_with_the_fields_of_each_event(tmp_path: Path) -> None:
    devices = await fresh_members([600], 4 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("volume")
        stream = EventStream(cache_set.shared.trace, Trace())
        before = cache_set.statistics()
        await work(cache_set)
        found, after = all_of(stream), cache_set.statistics()
        assert {
            tuple(event.fields) for event in found if event.fields.keys() != set(EVENTS[event.name])
        } == set()
        assert [event.time_ns for event in found] == sorted(event.time_ns for event in found)
        counts = {name: sum(event.name == name for event in found) for name in EVENTS}
        (old,), (new,) = before.members, after.members
        assert counts["bcache_alloc"] == sum(new.allocations.values()) - sum(old.allocations.values())
        assert counts["bcache_invalidate"] == sum(new.invalidations.values()) - sum(
            old.invalidations.values()
        )
        assert counts["bcache_prio_write"] == new.prio_writes - old.prio_writes
        assert counts["bcache_journal_write"] == after.journal_seq - before.journal_seq
        assert (
            counts["bcache_gc_start"]
            == counts["bcache_gc_end"]
            == sum(after.gc_runs.values()) - sum(before.gc_runs.values())
        )
        assert counts["bcache_cache_insert"] == 800
        assert counts["bcache_btree_write"] > 0
        assert counts["bcache_alloc_fail"] > 0
        stream.close()
        assert not cache_set.shared.trace.listeners


def test_the_first_message_says_that_it_began() -> None:
    trace = Tracepoints()
    stream = EventStream(trace, Trace(("bcache_alloc",)))
    assert stream.following() == Traced((), 0)
    assert stream.following() is None
    trace.emit("bcache_journal_full")
    assert stream.following() is None


def test_it_ends_after_as_many_events_as_were_wanted() -> None:
    trace = Tracepoints()
    stream = EventStream(trace, Trace(limit=2))
    stream.following()
    for _ in range(3):
        trace.emit("bcache_journal_full")
    last = stream.following()
    assert isinstance(last, Last)
    assert isinstance(last.results, Traced)
    assert len(last.results.events) == 2


def test_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EVENTS_A_MESSAGE", 2)
    trace = Tracepoints()
    stream = EventStream(trace, Trace())
    for _ in range(5):
        trace.emit("bcache_journal_full")
    sizes = []
    while isinstance(message := stream.following(), Traced):
        sizes.append(len(message.events))
    assert sizes == [2, 2, 1]


def test_unknown_events_and_too_many_listeners_are_refused() -> None:
    trace = Tracepoints()
    with pytest.raises(InvalidParameter, match="bcache_aloc"):
        EventStream(trace, Trace(("bcache_alloc", "bcache_aloc")))
    assert not trace.listeners
    for _ in range(tracing.LISTENERS_MAX):
        EventStream(trace, Trace())
    with pytest.raises(LimitExceeded):
        EventStream(trace, Trace())

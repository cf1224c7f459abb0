# SPDX-License-Identifier: GPL-2.0-only
"""For each sentence a breach is planted, and exactly that sentence is found."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from bcached.state.accounting.invariants import content, violations
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from instruments.samples.bucket_states import force_state
from instruments.samples.busy_set import BusySet

Breach = Callable[[BusySet], object]

COUNTED = "member 0: 492 buckets are EMPTY, but 493 are counted"


def put(busy: BusySet, bucket: int, state: State) -> None:
    force_state(busy.buckets.table, bucket, state)


def unused_for_another(busy: BusySet) -> None:
    put(busy, busy.buckets.unused.buckets.pop(), State.EMPTY)
    put(busy, 400, State.UNUSED)


def a_prio_bucket_too_many(busy: BusySet) -> None:
    put(busy, 450, State.PRIO)
    busy.buckets.table.prios[450] = 65535


def a_free_inc_bucket_too_many(busy: BusySet) -> None:
    bucket = next(busy.buckets.table.in_state(State.EMPTY))
    put(busy, bucket, State.FREE_INC)
    busy.buckets.free_inc.buckets.append(bucket)


def an_unused_list_too_long(busy: BusySet) -> None:
    for bucket in list(busy.buckets.table.in_state(State.EMPTY))[:3]:
        put(busy, bucket, State.UNUSED)
        busy.buckets.unused.buckets.append(bucket)


def taint(busy: BusySet, bucket: int) -> None:
    busy.buckets.table.tainted[bucket] = True
    busy.buckets.table.gens_on_disk[bucket] = busy.buckets.table.gens[bucket] - 1 & 255
    busy.bucket = bucket


def a_tainted_bucket_for_everybody(busy: BusySet) -> None:
    bucket = busy.buckets.unused.buckets.popleft()
    put(busy, bucket, State.FREE)
    busy.buckets.reserves.push_to(Reserve.NONE, bucket)
    taint(busy, bucket)


def retired_tainted(busy: BusySet, *buckets: int) -> None:
    for bucket in buckets:
        busy.buckets.table.tainted[bucket] = True
        assert busy.buckets.retire(bucket)


def a_bucket_lifted_too_early(busy: BusySet) -> None:
    retired_tainted(busy, 450)
    assert busy.violations() == []
    busy.buckets.unused._untainted = 1


def an_unused_list_for_data_too_long(busy: BusySet) -> None:
    retired_tainted(busy, 450, 451, 452, 453)
    put(busy, 454, State.UNUSED)
    busy.buckets.unused.for_data.append(454)


def a_reserve_too_long(busy: BusySet) -> None:
    bucket = next(busy.buckets.table.in_state(State.EMPTY))
    put(busy, bucket, State.FREE)
    busy.buckets.reserves.lists[Reserve.PRIO].append(bucket)


def a_chain_too_long(busy: BusySet) -> None:
    # A chain of one bucket has no other multiples: the geometry is what changes.
    busy.buckets.geometry = type(busy.buckets.geometry)(2000, 1, 8, 8, 4)


def ready_beyond_the_end(busy: BusySet) -> None:
    table = busy.buckets.table
    table.replace_gens_on_disk(bytearray(table.gens))
    busy.buckets.free_inc.need_no_prios()
    busy.buckets.free_inc._durable_through += 1


def live(busy: BusySet, bucket: int, sectors: int, dirty_sectors: int = 0) -> None:
    table = busy.buckets.table
    table.sectors[bucket], table.dirty_sectors[bucket] = sectors, dirty_sectors
    table.tainted[bucket] = sectors > 0
    table.recount_sectors()


def free_with_data(busy: BusySet) -> None:
    table = busy.buckets.table
    table.sectors[busy.buckets.free_inc.buckets[0]] = 3
    table.recount_sectors()


def gen(busy: BusySet, column: str, behind: int) -> None:
    table = busy.buckets.table
    getattr(table, column)[301] = table.gens[301] - behind & 255


BREACHES: dict[str, tuple[Breach, list[str]]] = {
    "a wrong count": (
        lambda busy: busy.buckets.table.counts.__setitem__(State.EMPTY, 493),
        [COUNTED],
    ),
    "a bucket that is nowhere": (
        unused_for_another,
        ["member 0: the list of UNUSED and the buckets in that state differ"],
    ),
    "a bucket that is in another state": (
        lambda busy: put(busy, busy.buckets.free_inc.buckets[3], State.EMPTY),
        ["member 0: the list of FREE_INC and the buckets in that state differ"],
    ),
    "a bucket that is on a list twice": (
        lambda busy: busy.buckets.unused.buckets.append(400),
        ["member 0: the list of UNUSED has a bucket twice"],
    ),
    "a bucket that is on two reserves": (
        lambda busy: busy.buckets.reserves.lists[Reserve.NONE].append(
            busy.buckets.reserves.lists[Reserve.PRIO][0]
        ),
        ["member 0: the list of FREE has a bucket twice"],
    ),
    "a prio bucket that no chain has": (
        a_prio_bucket_too_many,
        ["member 0: the list of PRIO and the buckets in that state differ"],
    ),
    "a full reserve and one more": (
        a_reserve_too_long,
        ["member 0: reserve PRIO holds 2 buckets, more than its 1"],
    ),
    "a full free_inc and one more": (
        a_free_inc_bucket_too_many,
        ["member 0: free_inc holds 5 buckets, more than its 4"],
    ),
    "a full unused list and one more": (
        an_unused_list_too_long,
        ["member 0: the unused list holds 5 buckets, more than its 4"],
    ),
    "a gen that is not durable": (
        lambda busy: busy.buckets.table.gens_on_disk.__setitem__(
            busy.buckets.free_inc.buckets[1], busy.buckets.table.gens[busy.buckets.free_inc.buckets[1]] - 1
        ),
        ["member 0: bucket 22 is ready in free_inc, but its gen is not durable"],
    ),
    "readiness that ran ahead": (
        lambda busy: setattr(
            busy.buckets.free_inc, "_durable_through", busy.buckets.free_inc._durable_through + 1
        ),
        ["member 0: bucket 25 is ready in free_inc, but its gen is not durable"],
    ),
    "readiness of buckets that are not there": (
        ready_beyond_the_end,
        ["member 0: more buckets of free_inc are ready than it holds"],
    ),
    "a gen far from the index": (
        lambda busy: gen(busy, "last_gc", 97),
        ["member 0: a gen is 97 ahead of the index's"],
    ),
    "a gen behind the index's oldest": (
        lambda busy: gen(busy, "last_gc", -1),
        ["member 0: a gen is 255 ahead of the index's"],
    ),
    "a gen far from the disk's": (
        lambda busy: gen(busy, "gens_on_disk", 97),
        ["member 0: a gen is 97 ahead of the disk's"],
    ),
    "data in a free bucket": (
        free_with_data,
        ["member 0: bucket 21 is FREE_INC, but has 3 sectors"],
    ),
    "a total of live sectors that is wrong": (
        lambda busy: setattr(busy.buckets.table, "sectors_total", 1),
        ["member 0: live and dirty sectors are (8, 3) in all buckets, but (1, 3) in their totals"],
    ),
    "data in an empty bucket": (
        lambda busy: live(busy, 450, 3),
        ["member 0: bucket 450 is EMPTY, but by its sectors should be CLEAN"],
    ),
    "a cached bucket without data": (
        lambda busy: live(busy, 300, 0),
        ["member 0: bucket 300 is CLEAN, but by its sectors should be EMPTY"],
    ),
    "dirty data in a clean bucket": (
        lambda busy: live(busy, 300, 5, 2),
        ["member 0: bucket 300 is CLEAN, but by its sectors should be DIRTY"],
    ),
    "a dirty bucket whose data is clean": (
        lambda busy: live(busy, 301, 3, 0),
        ["member 0: bucket 301 is DIRTY, but by its sectors should be CLEAN"],
    ),
    "more data than a bucket holds": (
        lambda busy: live(busy, 300, 17),
        ["member 0: bucket 300 has 17 sectors, 0 of them dirty"],
    ),
    "more dirty data than data": (
        lambda busy: live(busy, busy.open_bucket, 3, 4),
        ["member 0: bucket 16 has 3 sectors, 4 of them dirty"],
    ),
    "data in a bucket that counts as untainted": (
        lambda busy: busy.buckets.table.tainted.__setitem__(300, 0),
        ["member 0: bucket 300 has 5 sectors, but is not tainted"],
    ),
    "a tainted prio bucket": (
        lambda busy: busy.buckets.table.tainted.__setitem__(busy.buckets.prio_chains.current[0], 1),
        ["member 0: bucket 20 is PRIO, but tainted"],
    ),
    "a tainted bucket for a node": (
        lambda busy: taint(busy, busy.buckets.reserves.lists[Reserve.BTREE][0]),
        ["member 0: bucket {bucket} is tainted, but on reserve BTREE"],
    ),
    "a tainted bucket for prios": (
        lambda busy: taint(busy, busy.buckets.reserves.lists[Reserve.PRIO][0]),
        ["member 0: bucket {bucket} is tainted, but on reserve PRIO"],
    ),
    "a tainted bucket for everybody": (
        a_tainted_bucket_for_everybody,
        ["member 0: bucket {bucket} is tainted, but on reserve NONE"],
    ),
    "a tainted bucket among the unused": (
        lambda busy: taint(busy, busy.buckets.unused.buckets[0]),
        ["member 0: bucket {bucket} is tainted, but on the unused list"],
    ),
    "a tainted bucket that counts as lifted": (
        a_bucket_lifted_too_early,
        ["member 0: bucket 450 is tainted, but on the unused list"],
    ),
    "a full unused list for data and one more": (
        an_unused_list_for_data_too_long,
        ["member 0: the unused list for data holds 5 buckets, more than its 4"],
    ),
    "an emptied bucket that is free": (
        lambda busy: busy.buckets.emptied.__setitem__(busy.buckets.unused.buckets[0], 3),
        ["member 0: bucket {unused} was emptied, but is UNUSED with 0 sectors"],
    ),
    "an emptied bucket that holds something": (
        lambda busy: busy.buckets.emptied.__setitem__(300, 3),
        ["member 0: bucket 300 was emptied, but is CLEAN with 5 sectors"],
    ),
    "emptied buckets out of order": (
        lambda busy: busy.buckets.emptied.update({450: 4, 451: 3}),
        ["member 0: bucket 451 was emptied by entry 3, but is listed behind entry 4"],
    ),
    "metadata with the prio of data": (
        lambda busy: busy.buckets.table.prios.__setitem__(busy.buckets.prio_chains.current[0], 32768),
        ["member 0: bucket 20 is PRIO, but has the prio of data"],
    ),
    "a journal bucket that was given away": (
        lambda busy: put(busy, 4, State.EMPTY),
        ["member 0: JOURNAL buckets are [1, 2, 3], but [1, 2, 3, 4] are in use"],
    ),
    "a node that nothing uses": (
        lambda busy: busy.buckets.table.become_metadata(450, State.BTREE),
        ["member 0: BTREE buckets are [450], but [] are in use"],
    ),
    "a superblock that was given away": (
        lambda busy: put(busy, 0, State.EMPTY),
        ["member 0: RESERVED buckets are [], but [0] are in use"],
    ),
}


def test_a_busy_set_breaks_nothing() -> None:
    assert BusySet().violations() == []


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found_and_nothing_else(name: str) -> None:
    busy = BusySet()
    breach, sentences = BREACHES[name]
    unused = busy.buckets.unused.buckets[0]
    breach(busy)
    assert busy.violations() == [text.format(bucket=busy.bucket, unused=unused) for text in sentences]


def test_part_of_a_prio_chain_is_found() -> None:
    busy = BusySet()
    a_chain_too_long(busy)
    found = [text for text in busy.violations() if "prio chains" in text]
    assert found == ["member 0: prio chains hold 1 buckets, not a multiple of 2"]


def test_every_member_is_looked_at() -> None:
    busy = BusySet()
    busy.members[1].table.sectors[2] = 3
    busy.members[1].table.recount_sectors()
    assert busy.violations() == ["member 1: bucket 2 is JOURNAL, but has 3 sectors"]


def test_what_is_not_synchronous_needs_no_durable_gens() -> None:
    busy = BusySet()
    busy.buckets.synchronous = False
    busy.buckets.free_inc.need_no_prios()
    assert busy.violations() == []


def test_what_is_not_synchronous_knows_no_taint() -> None:
    busy = BusySet()
    busy.buckets.synchronous = False
    busy.buckets.free_inc.need_no_prios()
    taint(busy, busy.buckets.unused.buckets[0])
    assert busy.violations() == []


def test_counts_that_are_not_the_indexes_are_found() -> None:
    busy = BusySet()
    sectors, dirty = (
        column.astype(np.int64)
        for column in (busy.buckets.table.sectors_array, busy.buckets.table.dirty_sectors_array)
    )
    assert list(content(busy.buckets, sectors, dirty)) == []
    sectors[300] -= 1
    dirty[301] += 1
    assert list(content(busy.buckets, sectors, dirty)) == [
        "member 0: bucket 300: 4 live sectors are in the index, but 5 are counted",
        "member 0: bucket 301: 4 live dirty sectors are in the index, but 3 are counted",
    ]


def test_several_breaches_are_all_told() -> None:
    busy = BusySet()
    busy.buckets.table.sectors[20] = 3
    busy.buckets.table.recount_sectors()
    busy.members[1].table.counts[State.EMPTY] += 1
    found = violations(busy.allocator, [busy.first, busy.second, busy.broken], busy.metadata)
    assert len(found) == 2
    assert all(re.match(r"member [01]: ", text) for text in found)

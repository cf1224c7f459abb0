# SPDX-License-Identifier: GPL-2.0-only
import pytest
from msgspec.structs import replace

from bcached.index_state import IndexState, VolumeState
from bcached.set_state import BUCKET_STATES, RESERVES, MemberState
from bcached.state.explanation import FAILURES, explain, explain_index
from bcached.state.statistics import (
    WAIT_BOUNDS_S,
    Histogram,
    HolderStatistics,
    OrphanStatistics,
    SetStatistics,
)

ALL_IS_WELL = ["nothing waits, and buckets are ready to be used"]


def a_member(**changes: object) -> MemberState:
    buckets = dict.fromkeys(BUCKET_STATES, 0) | {"empty": 900, "free": 100, "free_inc": 20, "unused": 4}
    member = MemberState(
        device=0,
        path="/dev/x",
        uuid="00",
        bucket_count=1024,
        bucket_bytes=65536,
        buckets=buckets,
        freelist=dict.fromkeys(RESERVES, 5),
        freelist_capacity=dict.fromkeys(RESERVES, 5),
        freelist_empty_s=dict.fromkeys(RESERVES, 0.0),
        free_inc=20,
        free_inc_capacity=31,
        unused=4,
        unused_capacity=31,
        allocations=dict.fromkeys(RESERVES, 0),
        invalidations={},
        discards=0,
        prio_writes=1,
        gen_distance_index=0,
        gen_distance_disk=0,
        held_back_by_gen=0,
        journal_free_buckets=3,
        journal_bucket_count=8,
        invalidate_needs_gc=False,
        io_errors=0,
    )
    return replace(member, **changes)


def a_set(*members: MemberState, **changes: object) -> SetStatistics:
    statistics = SetStatistics(
        set_uuid="00",
        replacement="lru",
        discard=False,
        synchronous=True,
        failed=None,
        members=members or (a_member(),),
        waiters=dict.fromkeys(RESERVES, 0),
        oldest_wait_s=0.0,
        allocation_failures=dict.fromkeys(FAILURES, 0),
        allocated_sectors=0,
        open_buckets=0,
        open_buckets_gone=0,
        open_buckets_idle=0,
        holders=0,
        quarantined_holders=0,
        reserved_sectors=0,
        gc_runs={},
        gc_running=False,
        gc_found={},
        dirty_sectors={},
        sectors_to_gc=0,
        min_prio=0,
        journal_seq=1,
        index=IndexState(2, 7, 60_000, 100_000, 512, 9, 3, 40, 16, 0, 0),
        lookups=0,
        lookup_hits=0,
        checksum_errors={},
        wait=Histogram(WAIT_BOUNDS_S),
        prio_write=Histogram(WAIT_BOUNDS_S),
        gc=Histogram(WAIT_BOUNDS_S),
        gc_slice=Histogram(WAIT_BOUNDS_S),
        journal_write=Histogram(WAIT_BOUNDS_S),
        evicted_idle=Histogram(WAIT_BOUNDS_S),
    )
    return replace(statistics, **changes)


def test_a_dry_member_is_told_beside_what_the_last_collection_found() -> None:
    told = explain(a_set(a_member(invalidate_needs_gc=True), gc_found={"stale_pointers": 3, "leaves": 2}))
    assert "the last garbage collection found: stale pointers 3, leaves 2" in told


def test_a_dry_member_is_told_beside_whose_dirty_data_there_is() -> None:
    dirty = {"0": 10, "7": 900, "3": 20, "5": 1}
    index = IndexState(2, 7, 60_000, 100_000, 512, 9, 3, 40, 16, 4, 60)
    volumes = {"7": VolumeState("mail", False, 900, 900, 1, 0, 0, 0, 0)}
    holders = (
        HolderStatistics("pid 12 uid 0", 1, 0, False),
        HolderStatistics("pid 13 uid 7", 2, 4, True),
    )
    told = explain(
        a_set(
            a_member(invalidate_needs_gc=True),
            dirty_sectors=dirty,
            index=index,
            volumes=volumes,
            largest_holders=holders,
        )
    )
    most = "450k of volume 7 (mail), 10k of volume 3, 5k of volume 0"
    held = "1 bucket held by pid 12 uid 0, 2 buckets held, 4 read by pid 13 uid 7 (disconnected)"
    assert f"most of the buckets that connections hold or read: {held}" in told
    assert f"most of the dirty data, until marked clean or invalidated: {most}" in told
    assert any("moved together 4 times so far, which emptied 60 buckets" in line for line in told)
    assert explain(a_set(dirty_sectors=dirty, index=index)) == ALL_IS_WELL


def test_a_dry_member_is_told_beside_what_is_open() -> None:
    told = explain(
        a_set(a_member(invalidate_needs_gc=True), open_buckets=9, open_buckets_gone=5, open_buckets_idle=3)
    )
    assert any(line.startswith("9 buckets are open: 5 of closed connections") for line in told)


def test_too_much_that_is_unwritten_is_told() -> None:
    index = IndexState(2, 7, 60_000, 100_000, 60_000, 9, 3, 40, 16, 0, 0)
    assert explain(a_set(index=index))[0].startswith("changes of the index wait until some of 60000 bytes")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vanished_nodes": 1}, "1 node of the index vanished: "),
        ({"stale_dirty_keys": 2000, "stale_dirty_sectors": 4096}, "2,000 dirty keys of 2M are stale: "),
        (
            {
                "orphaned_keys": 12,
                "orphaned_inodes": 5,
                "orphaned_dirty_sectors": 2048,
                "orphaned_clean_sectors": 8,
            },
            (
                "12 keys (1M dirty, 4k clean) are under inodes without a volume: "
                "3 (10 keys, 512k dirty), 0 (1 key, 0 dirty) and 3 more; "
            ),
        ),
    ],
)
def test_what_no_look_up_finds_is_told(changes: dict[str, int], sentence: str) -> None:
    index = replace(a_set().index, **changes)
    orphans = (OrphanStatistics(3, 10, 1024, 8), OrphanStatistics(0, 1, 0, 8))
    damaged = a_set(index=index, orphans=orphans)
    (told,) = explain(damaged)
    assert told.startswith(sentence)
    assert list(explain_index(damaged)) == [told]


def test_a_set_at_ease_says_so() -> None:
    assert explain(a_set()) == ALL_IS_WELL


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"failed": "/dev/x: gone"}, "the set accepts no changes: /dev/x: gone"),
        (
            {"waiters": {"none": 3, "btree": 0}, "oldest_wait_s": 2.25},
            "3 requests wait for a bucket of reserve none, the oldest 2.2 s",
        ),
        ({"gc_running": True}, "garbage is being collected"),
        (
            {"allocation_failures": {"timeout": 2, "limit": 0}},
            "2 allocations failed so far: no bucket was free before their deadline",
        ),
    ],
)
def test_what_concerns_the_set_is_told_once(changes: dict[str, object], sentence: str) -> None:
    assert explain(a_set(**changes)) == [sentence]


def test_whose_requests_wait_is_told_if_there_are_several() -> None:
    waiting = {"waiters": {"none": 1000, "btree": 1}, "waiters_max": 1001}
    lines = explain(a_set(**waiting, largest_waiters=((1000, 990), (7, 10), (None, 1))))
    assert lines[-2:] == [
        "most of the 1,001 requests that wait: 990 of uid 1000, 10 of uid 7, 1 of the set itself",
        "as many requests wait as may (1,001): others are refused",
    ]
    alone = explain(a_set(waiters={"none": 1}, waiters_max=4096, largest_waiters=((7, 1),)))
    assert alone == ["1 request waits for a bucket of reserve none, the oldest 0.0 s"]


@pytest.mark.parametrize("reason", FAILURES)
def test_every_reason_for_a_failure_has_words(reason: str) -> None:
    (sentence,) = explain(a_set(allocation_failures={reason: 1}))
    assert sentence.endswith(FAILURES[reason])


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"freelist": dict.fromkeys(RESERVES, 0)},
            [
                (
                    "/dev/x: no bucket is ready for data: 24 are on their way to the reserves, "
                    "900 could be invalidated"
                )
            ],
        ),
        (
            {
                "freelist": dict.fromkeys(RESERVES, 0),
                "buckets": dict.fromkeys(BUCKET_STATES, 0)
                | {"open": 1, "held": 2, "quarantine": 3, "dirty": 4, "free": 5},
            },
            [
                (
                    "/dev/x: no bucket is ready for data: 0 are on their way to the reserves, "
                    "0 could be invalidated"
                ),
                (
                    "/dev/x: all buckets are in use: 1 open, 2 held by connections, "
                    "3 in quarantine after a closed connection, 4 dirty "
                    "until marked clean or invalidated, 5 in other reserves"
                ),
            ],
        ),
        (
            {"invalidate_needs_gc": True},
            ["/dev/x: the last search for buckets to invalidate found too few (900 are left)"],
        ),
        (
            {"held_back_by_gen": 7},
            [
                (
                    "/dev/x: 7 buckets are skipped until garbage is collected or prios are written: "
                    "their gens are 96 ahead"
                )
            ],
        ),
        ({"journal_free_buckets": 0}, ["/dev/x: the journal has no free bucket"]),
    ],
)
def test_what_concerns_a_member_names_it(changes: dict[str, object], sentences: list[str]) -> None:
    well = a_member(device=1, path="/dev/y")
    assert explain(a_set(a_member(**changes), well)) == sentences

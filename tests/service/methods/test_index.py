# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bcached.errors import DeviceFailed, FlushFailed
from bcached.service.users.access import Access, Role
from bcached.state.buckets.bucket_table import State
from bcached.wire.messages import FOUND_MAX
from instruments.clients.served_set import BUCKET_SECTORS, Served, served
from instruments.clients.talker import Talker, call, outcome
from instruments.devices.memory_device import MemoryDevice
from instruments.time.patience import patience

ADMIN = "io.bcached.Admin"


def extent(offset: int, sectors: int = 8, inode: int = 0, **more: Any) -> dict[str, Any]:
    return {"inode": inode, "offset": offset, "sectors": sectors, **more}


def allocate(offset: int, sectors: int = 8, inode: int = 0, **more: Any) -> bytes:
    return call("Allocate", extent(offset, sectors, inode, **more))


def commit(*keys: Any, **more: Any) -> bytes:
    return call("Commit", {"keys": keys, **more})


def lookup(offset: int, sectors: int = 8, inode: int = 0, **more: Any) -> bytes:
    return call("Lookup", extent(offset, sectors, inode, **more))


def invalidate(offset: int, sectors: int = 8, inode: int = 0, **more: Any) -> bytes:
    return call("Invalidate", extent(offset, sectors, inode, **more))


def mark_clean(*keys: Any, **more: Any) -> bytes:
    return call("MarkClean", {"keys": keys, **more})


def unpin(*keys: Any) -> bytes:
    return call("Unpin", {"keys": keys})


def part(key: Any, skip: int, sectors: int, **more: Any) -> Any:
    """Some sectors of a key."""
    pointers = [{**pointer, "sector": pointer["sector"] + skip} for pointer in key["pointers"]]
    return {**key, "offset": key["offset"] + skip, "sectors": sectors, "pointers": pointers, **more}


async def told(talker: Talker, message: bytes) -> Any:
    reply = await talker.ask(message)
    assert "error" not in reply, reply
    return reply["parameters"]


async def reserved(talker: Talker, offset: int, sectors: int = 8, inode: int = 0, **more: Any) -> Any:
    """One key, reserved."""
    (key,) = (await told(talker, allocate(offset, sectors, inode, **more)))["keys"]
    return key


async def committed(talker: Talker, offset: int, sectors: int = 8, *, dirty: bool = False) -> Any:
    """One key, reserved and committed."""
    key = {**await reserved(talker, offset, sectors), "dirty": dirty}
    await told(talker, commit(key, durable=False))
    return key


async def found(talker: Talker, offset: int, sectors: int = 8, **more: Any) -> list[Any]:
    keys: list[Any] = (await told(talker, lookup(offset, sectors, **more)))["keys"]
    return keys


def state_of(it: Served, key: Any) -> State:
    table = it.cache_set.members[0].buckets.table
    return State(table.states[key["pointers"][0]["sector"] // BUCKET_SECTORS])


class RoleForAll(Access):
    def __init__(self, role: Role) -> None:
        super().__init__([], [], [])
        self._uids[os.geteuid()] = role


def buckets_to_come(it: Served) -> int:
    """How many buckets the allocator has not brought yet, also when it has had no time to."""
    states = [member.buckets for member in it.cache_set.statistics().members]
    return sum(state[name] for state in states for name in ("empty", "free_inc", "unused"))


@contextlib.asynccontextmanager
async def no_split_possible(it: Served) -> AsyncIterator[None]:
    """Every bucket that the tree could grow into is held by somebody else, for as long as the block runs."""
    sectors = it.cache_set.sectors
    async with Talker(it.path) as holder:
        taken = []
        quiet = 0
        async with patience(60):
            while quiet < 30:  # the allocator brings what it still finds
                quiet = 0 if buckets_to_come(it) else quiet + 1
                while outcome(await holder.ask(call("AllocateBucket", {"wait": False}))) == "ok":
                    quiet = 0
                while (place := sectors.take_metadata(State.BTREE)) is not None:
                    taken.append(place)
                    quiet = 0
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            for device, bucket in taken:
                it.cache_set.members[device].buckets.free_metadata([bucket])
            it.cache_set.shared.buckets_moved()


# Committing and looking up


async def test_what_is_committed_is_found_cut_to_the_range(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await reserved(talker, 64, 64)
        assert (await told(talker, commit(key)))["sequence"] > 0
        assert it.cache_set.statistics().reserved_sectors == 0
        assert await found(talker, 64, 64) == [key]
        assert await found(talker, 0, 1024) == [key]
        assert await found(talker, 80, 16) == [part(key, 16, 16)]
        assert await found(talker, 0, 72) == [part(key, 0, 8)]
        assert await found(talker, 120, 800) == [part(key, 56, 8)]
        assert await found(talker, 0, 64) == []
        assert await found(talker, 128, 64) == []
        assert await found(talker, 0, (1 << 62) - 8) == [key]


async def test_part_of_a_reservation_is_committed_and_the_rest_stays_reserved(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await reserved(talker, 0, 64)
        await told(talker, commit(part(key, 16, 16, dirty=True), part(key, 48, 8)))
        assert it.cache_set.statistics().reserved_sectors == 40
        assert await found(talker, 0, 64) == [part(key, 16, 16, dirty=True), part(key, 48, 8)]
        await told(talker, call("Release", {"keys": [part(key, 0, 16), part(key, 32, 16)]}))
        await told(talker, commit(part(key, 56, 8)))
        assert it.cache_set.statistics().reserved_sectors == 0
        assert [one["offset"] for one in await found(talker, 32, 32)] == [48]


async def test_a_bucket_of_ones_own_is_committed_under_any_inode(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        other = (await told(talker, call(f"{ADMIN}.CreateVolume", {"label": "other"})))["inode"]
        bucket = (await told(talker, call("AllocateBucket")))["key"]
        first = {**part(bucket, 0, 64), "offset": 800}
        second = {**part(bucket, 64, 64), "offset": 1600, "inode": other}
        await told(talker, commit(first, second))
        assert await found(talker, 800, 64) == [first]
        assert await found(talker, 1600, 64, inode=other) == [second]
        assert outcome(await talker.ask(call("FreeBucket", {"key": bucket}))) == "NotReserved"


async def test_a_commit_cuts_away_what_it_overlaps(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        old = await committed(talker, 0, 64)
        new = await committed(talker, 16, 16)
        assert await found(talker, 0, 64) == [part(old, 0, 16), new, part(old, 32, 32)]


async def test_a_commit_of_nothing_is_the_newest_entry(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        await committed(talker, 0)
        sequence = (await told(talker, commit()))["sequence"]
        assert it.cache_set.journal.durable_seq >= sequence
        assert await told(talker, mark_clean()) == {"cleaned": []}
        assert await told(talker, call("LookupMany", {"requests": []})) == {"keys": [], "next": []}


async def test_a_durable_commit_is_durable_when_answered_and_a_lazy_one_after_a_flush(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        sequence = (await told(talker, commit(await reserved(talker, 0))))["sequence"]
        assert it.cache_set.journal.durable_seq >= sequence
        lazy = (await told(talker, commit(await reserved(talker, 8), durable=False)))["sequence"]
        assert it.cache_set.journal.durable_seq < lazy
        assert (await told(talker, call("Flush")))["sequence"] >= lazy
        assert it.cache_set.journal.durable_seq >= lazy


# Order


async def test_what_is_sent_in_one_go_takes_effect_in_its_order(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        first = await reserved(talker, 0, 16)
        # Where the next ones will lie is known: behind it, since they continue it.
        second = {**part(first, 16, 16), "dirty": True}
        third = {**part(first, 32, 16), "offset": 0}
        talker.say(
            commit(first),
            lookup(0, 64),
            allocate(16, 16),
            commit(second),
            lookup(0, 64),
            invalidate(8, 16),
            lookup(0, 64),
            allocate(0, 16, write_point=(1 << 40)),
            mark_clean(part(second, 8, 8)),
            lookup(0, 64),
            invalidate(0, 1 << 20, durable=False),
            lookup(0, 64),
        )
        replies = [await talker.hear() for _ in range(12)]
        assert [outcome(reply) for reply in replies] == ["ok"] * 12
        del third
        seen = [reply["parameters"].get("keys") for reply in replies]
        assert seen[1] == [first]
        assert seen[4] == [first, second]
        assert replies[5]["parameters"] == {"sectors": 16}
        assert seen[6] == [part(first, 0, 8), part(second, 8, 8)]
        assert replies[8]["parameters"] == {"cleaned": [True]}
        assert seen[9] == [part(first, 0, 8), part(second, 8, 8, dirty=False)]
        assert replies[10]["parameters"] == {"sectors": 16}
        assert seen[11] == []


async def test_durable_commits_sent_in_one_go_share_entries(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        keys = [await reserved(talker, 8 * index) for index in range(300)]
        before = it.cache_set.journal.seq
        talker.say(*map(commit, keys))
        sequences = [(await talker.hear())["parameters"]["sequence"] for _ in keys]
        assert sequences == sorted(sequences)
        assert it.cache_set.journal.seq - before <= 30  # ten to an entry, also where a turn is over soon
        assert len(await found(talker, 0, 2400, limit=1000)) >= 1


async def test_durable_commits_of_many_clients_share_entries(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, contextlib.AsyncExitStack() as stack:
        talkers = [await stack.enter_async_context(Talker(it.path)) for _ in range(64)]
        for round_number in range(4):
            keys = [
                await reserved(talker, 8 * (64 * round_number + index))
                for index, talker in enumerate(talkers)
            ]
            before = it.cache_set.journal.seq
            await asyncio.gather(
                *(told(talker, commit(key)) for talker, key in zip(talkers, keys, strict=True))
            )
            assert it.cache_set.journal.seq - before <= 16


async def test_a_commit_that_waits_puts_off_what_comes_behind_it_and_others_it_does_not(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker, Talker(it.path) as other:
        first, second = await reserved(talker, 0), await reserved(talker, 8)
        async with no_split_possible(it):
            talker.say(commit(first), lookup(0, 16), commit(second), lookup(0, 16), call("Describe"))
            assert await talker.hears_nothing_for(0.1)
            assert await found(other, 0, 16) == []
        assert outcome(await talker.hear()) == "ok"
        assert (await talker.hear())["parameters"]["keys"] == [first]
        assert outcome(await talker.hear()) == "ok"
        assert (await talker.hear())["parameters"]["keys"] == [{**first, "sectors": 16}]
        assert outcome(await talker.hear()) == "ok"


async def test_a_change_that_waits_in_vain_fails_at_its_deadline_and_changes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        old, key = await committed(talker, 8, dirty=True), await reserved(talker, 0)
        before = it.cache_set.statistics().reserved_sectors
        async with no_split_possible(it):
            reply = await talker.ask(commit(key, timeout_ms=50))
            assert reply["error"] == "io.bcached.Allocator.NoFreeBuckets", reply
            assert reply["parameters"]["reserve"] == "btree"
            assert 40 <= reply["parameters"]["waited_ms"] < 5000
            assert await found(talker, 0, 16) == [old]
            await told(talker, invalidate(8, timeout_ms=50))  # what makes room need not wait for any
            assert await found(talker, 0, 16) == []
        async with patience(20):
            while it.cache_set.statistics().reserved_sectors != before:
                await asyncio.sleep(0.01)
        await told(talker, commit(key))


async def test_a_client_that_goes_away_while_its_commit_waits_leaves_nothing_of_it(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as other:
        async with Talker(it.path) as talker:
            keys = [await reserved(talker, 8 * index) for index in range(3)]
            async with no_split_possible(it):
                talker.say(*map(commit, keys), lookup(0, 64, pin=True))
                await asyncio.sleep(0.05)
                talker.hang_up()
                await asyncio.sleep(0.05)
        assert await found(other, 0, 64) == []
        async with patience(20):
            while it.cache_set.statistics().reserved_sectors:
                await asyncio.sleep(0.01)


async def test_clients_that_go_away_at_any_moment_of_a_commit_leave_a_sound_set(tmp_path: Path) -> None:
    async def one(number: int) -> None:
        async with Talker(it.path) as talker:
            keys = [await reserved(talker, 8 * (number * 100 + index)) for index in range(number % 7 + 1)]
            talker.say(*map(commit, keys), lookup(0, 80, pin=True), invalidate(0, 1 << 14))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            if number % 3 == 0:
                assert outcome(await talker.hear()) == "ok"
            talker.hang_up()

    async with served(tmp_path) as it, patience(60):
        for begin in range(0, 96, 16):
            await asyncio.gather(*(one(number) for number in range(begin, begin + 16)))
            assert it.cache_set.verify() == []
        while it.server.statistics().connections or it.cache_set.statistics().reserved_sectors:
            await asyncio.sleep(0.01)


# Refusals


async def test_what_is_not_reserved_by_the_connection_is_not_committed(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as owner, Talker(it.path) as thief:
        key, fine = await reserved(owner, 0, 16), await reserved(thief, 800)
        reply = await thief.ask(commit(fine, key))
        assert reply == {"error": "io.bcached.Allocator.NotReserved", "parameters": {"key": key}}
        for wrong in (
            [part(key, 8, 16)],
            [key, key],
            [part(key, 0, 16), part(key, 8, 8)],
            [{**key, "pointers": [{"device": 0, "sector": key["pointers"][0]["sector"] + 16, "gen": 1}]}],
        ):
            assert outcome(await owner.ask(commit(*wrong))) in ("NotReserved", "StaleKey")
        assert await found(owner, 0, 1 << 20) == []
        await told(owner, commit(key))
        assert outcome(await owner.ask(commit(key))) == "NotReserved"
        await told(thief, commit(fine))


async def test_a_stale_key_is_refused_with_the_gen_there_is(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await reserved(talker, 0)
        (pointer,) = key["pointers"]
        stale = {**key, "pointers": [{**pointer, "gen": (pointer["gen"] + 1) % 256}]}
        reply = await talker.ask(commit(key, stale))
        assert reply["error"] == "io.bcached.Allocator.StaleKey"
        assert reply["parameters"] == {"key": stale, "bucket_gen": pointer["gen"]}
        assert await found(talker, 0) == []


async def test_without_a_volume_nothing_is_committed_found_or_dropped(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = {**await reserved(talker, 0), "inode": 7}
        many = call("LookupMany", {"requests": [extent(0), extent(0, inode=7)]})
        for message in (commit(key), lookup(0, inode=7), many, invalidate(0, inode=7)):
            reply = await talker.ask(message)
            assert reply == {"error": "io.bcached.Allocator.NoSuchVolume", "parameters": {"inode": 7}}


async def test_a_commit_fits_one_journal_entry_or_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        words = (await told(talker, call("Describe")))["commit_words"]
        key = await reserved(talker, 0, BUCKET_SECTORS)
        reply = await talker.ask(commit(*([part(key, 0, 8)] * (words // 3 + 1))))
        assert reply["error"] == "io.bcached.Allocator.LimitExceeded"
        assert reply["parameters"] == {"limit": "commit_words", "value": (words // 3 + 1) * 3}
        assert await found(talker, 0, BUCKET_SECTORS) == []


async def test_part_of_a_block_is_refused_everywhere(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await reserved(talker, 0, 16)
        askew = [part(key, 1, 8), part(key, 0, 7), {**key, "offset": 4}]
        for message, parameter in (
            *((commit(one), "keys") for one in askew),
            *((mark_clean(one), "keys") for one in askew),
            (lookup(1), "offset"),
            (lookup(0, 9), "sectors"),
            (call("LookupMany", {"requests": [extent(0), extent(3)]}), "offset"),
            (invalidate(0, 1), "sectors"),
        ):
            reply = await talker.ask(message)
            assert reply["error"] == "org.varlink.service.InvalidParameter"
            assert reply["parameters"]["parameter"] == parameter


@pytest.mark.parametrize("role", [Role.READER, Role.NONE])
async def test_roles_bound_what_may_be_asked(tmp_path: Path, role: Role) -> None:
    async with served(tmp_path, access=RoleForAll(role)) as it, Talker(it.path) as talker:
        key: dict[str, Any] = {"inode": 0, "offset": 0, "sectors": 8, "dirty": False}
        key["pointers"] = [{"device": 0, "sector": 8000, "gen": 0}]
        for message in (commit(key), mark_clean(key), invalidate(0), call("Flush")):
            reply = await talker.ask(message)
            assert reply["error"] == "io.bcached.Allocator.PermissionDenied"
            assert reply["parameters"] == {"need": "allocator"}
        many = call("LookupMany", {"requests": [extent(0)]})
        for message in (lookup(0), many, unpin()):
            reply = await talker.ask(message)
            assert outcome(reply) == ("PermissionDenied" if role == Role.NONE else "ok")


async def test_a_failed_set_takes_no_changes_of_its_index(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await committed(talker, 0)
        fresh = await reserved(talker, 8)
        await told(talker, call("Flush"))
        it.cache_set.shared.stop.refuse(DeviceFailed("flush failed"))
        for message in (commit(fresh), commit(fresh, durable=False), mark_clean(key), invalidate(0)):
            reply = await talker.ask(message)
            assert reply["error"] == "io.bcached.Allocator.DeviceFailed", (message, reply)
        assert await found(talker, 0, 16) == [key]


async def test_who_waits_for_a_journal_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(device: MemoryDevice) -> None:
        raise FlushFailed(device.path, "cannot flush: Input/output error")

    async def told_to(talker: Talker, *messages: bytes) -> list[Any]:
        talker.say(*messages)
        return [await talker.hear() for _ in messages]

    listening: list[asyncio.Task[list[Any]]] = []

    async def commit_to_a_failing_device(talker: Talker, other: Talker) -> None:
        async with served(tmp_path):
            await talker.__aenter__()
            await other.__aenter__()
            keys = [await reserved(talker, 8 * index) for index in range(3)]
            monkeypatch.setattr(MemoryDevice, "flush", fail)
            listening.append(asyncio.create_task(told_to(talker, *map(commit, keys))))
            listening.append(asyncio.create_task(told_to(other, call("Flush"))))
            await asyncio.sleep(20)  # cut short by its end

    talkers = [Talker(str(tmp_path / "s")) for _ in range(2)]
    with pytest.raises(FlushFailed):
        await commit_to_a_failing_device(*talkers)
    replies = [reply for heard in listening for reply in await heard]
    for talker in talkers:
        await talker.__aexit__()
    assert [reply["error"] for reply in replies] == ["io.bcached.Allocator.DeviceFailed"] * 4
    reasons = {reply["parameters"]["reason"] for reply in replies}
    assert len(reasons) == 1, "all are told what failed first"
    assert not any("aborted" in reason or "no more changes" in reason for reason in reasons)


async def test_nonsense_between_changes_is_refused_by_itself(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        first, second = await reserved(talker, 0, 8), await reserved(talker, 800, 8)
        talker.say(
            commit(first),
            b'{"method":"io.bcached.Allocator.Commit","parameters":{"keys":[{}]}}\0',
            b"\xff\0",
            call("Commit", {"keys": [{**first, "pointers": []}]}),
            call("Lookup", extent(0, limit=1001)),
            call("Commit", {"keys": [first], "fast": True}),
            commit(second, durable=False),
            lookup(0, 1600),
        )
        replies = [await talker.hear() for _ in range(8)]
        assert [outcome(reply) for reply in replies] == ["ok", *["InvalidParameter"] * 5, "ok", "ok"]
        assert replies[-1]["parameters"]["keys"] == [first, second]


# Limits of a look-up


async def scattered(talker: Talker, count: int) -> list[Any]:
    """So many keys of one block each, none of which can be merged with its neighbour."""
    keys = []
    for begin in range(0, count, 500):
        extents = [extent(16 * index) for index in range(begin, min(begin + 500, count))]
        keys += [key for (key,) in (await told(talker, call("AllocateMany", {"requests": extents})))["keys"]]
    for begin in range(0, count, 500):
        await told(talker, commit(*keys[begin : begin + 500], durable=False))
    return keys


async def test_a_limit_cuts_a_lookup_short_and_next_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        keys = await scattered(talker, 40)
        seen: list[Any] = []
        at: int | None = 0
        while at is not None:
            answer = await told(talker, lookup(at, 4096 - at, limit=7))
            assert len(answer["keys"]) <= 7
            seen += answer["keys"]
            at = answer.get("next")
        assert seen == keys
        assert "next" not in await told(talker, lookup(0, 4096, limit=41))
        assert (await told(talker, lookup(8, 4096, limit=1)))["keys"] == [keys[1]]


async def test_an_answer_holds_a_thousand_keys(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        keys = await scattered(talker, 1500)
        answer = await told(talker, lookup(0, 1 << 20))
        assert answer["keys"] == keys[:FOUND_MAX]
        rest = await told(talker, lookup(answer["next"], 1 << 20))
        assert rest == {"keys": keys[FOUND_MAX:]}


async def test_many_lookups_share_a_thousand_keys(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        keys = await scattered(talker, 1500)
        requests = [extent(0, 16 * 600), extent(16 * 600, 16 * 600), extent(0, 16), extent(24_000, 1 << 20)]
        answer = await told(talker, call("LookupMany", {"requests": requests}))
        assert [len(one) for one in answer["keys"]] == [600, 400, 0, 0]
        assert answer["keys"][1] == keys[600:1000]
        assert answer["next"][0] is None
        assert answer["next"][2:] == [0, 24_000]
        on = answer["next"][1]
        assert await found(talker, on, 16 * 1200 - on) == keys[1000:1200]


async def test_a_thousand_lookups_are_one_request(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker, Talker(it.path) as other:
        keys = await scattered(talker, 1000)
        requests = [extent(16 * index, limit=1) for index in range(1000)]
        talker.say(call("LookupMany", {"requests": requests}), lookup(0), invalidate(0, 1 << 20))
        await told(other, allocate(0))  # others are not kept waiting
        answer = (await talker.hear())["parameters"]
        assert answer["keys"] == [[key] for key in keys]
        assert answer["next"] == [None] * 1000
        assert (await talker.hear())["parameters"]["keys"] == [keys[0]]
        assert (await talker.hear())["parameters"]["sectors"] == 8000


# Pins


async def test_a_pin_holds_its_bucket_until_it_is_let_go(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker, Talker(it.path) as other:
        key = await committed(talker, 0, BUCKET_SECTORS)
        assert state_of(it, key) == State.CLEAN
        assert await found(talker, 0, BUCKET_SECTORS, pin=True) == [key]
        (half,) = await found(talker, 0, BUCKET_SECTORS // 2, pin=True)
        assert state_of(it, key) == State.HELD
        assert outcome(await other.ask(unpin(key))) == "NotReserved"
        await told(talker, unpin(key))
        assert state_of(it, key) == State.HELD
        await told(talker, unpin(half))
        assert state_of(it, key) == State.CLEAN
        reply = await talker.ask(unpin(half))
        assert reply == {"error": "io.bcached.Allocator.NotReserved", "parameters": {"key": half}}


async def test_pins_end_with_their_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as other:
        async with Talker(it.path) as talker:
            key = await committed(talker, 0, BUCKET_SECTORS)
            assert await found(talker, 0, BUCKET_SECTORS, pin=True) == [key]
            many = {"requests": [extent(0, BUCKET_SECTORS, pin=True)] * 3}
            await told(talker, call("LookupMany", many))
            talker.hang_up()
        async with patience(20):
            while state_of(it, key) != State.CLEAN:
                await asyncio.sleep(0.01)
        assert await found(other, 0, BUCKET_SECTORS) == [key]


async def test_pins_have_a_limit_and_one_too_many_pins_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, pins=10) as it, Talker(it.path) as talker:
        keys = await scattered(talker, 12)
        reply = await talker.ask(lookup(0, 1024, pin=True))
        assert reply["error"] == "io.bcached.Allocator.LimitExceeded"
        assert reply["parameters"]["limit"] == "pins_per_connection"
        many = {"requests": [extent(0, 16 * 6, pin=True), extent(16 * 6, 16 * 6, pin=True)]}
        assert outcome(await talker.ask(call("LookupMany", many))) == "LimitExceeded"
        assert await found(talker, 0, 1024, pin=True, limit=10) == keys[:10]
        assert outcome(await talker.ask(lookup(0, pin=True))) == "LimitExceeded"
        await told(talker, unpin(*keys[:10]))
        assert await found(talker, 0, pin=True) == [keys[0]]


# Dirty, clean, gone


async def test_dirty_keys_are_marked_clean_where_they_are_still_the_same(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        old = await committed(talker, 0, BUCKET_SECTORS, dirty=True)
        other = await committed(talker, 800, 16, dirty=True)
        assert state_of(it, old) == State.DIRTY
        new = await committed(talker, 16, 16, dirty=True)
        answer = await told(talker, mark_clean(old, other, new, {**other, "offset": 1600}))
        assert answer["cleaned"] == [False, True, True, False]
        assert {key["dirty"] for key in await found(talker, 16, 16)} == {False}
        assert await found(talker, 800, 16) == [{**other, "dirty": False}]
        await told(talker, mark_clean(part(old, 0, 16), part(old, 32, BUCKET_SECTORS - 32)))
        assert not any(key["dirty"] for key in await found(talker, 0, 1600))
        assert state_of(it, old) == State.CLEAN


async def test_a_flash_only_volume_holds_nothing_clean(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        made = await told(talker, call(f"{ADMIN}.CreateVolume", {"label": "flash", "sectors": 8000}))
        inode = made["inode"]
        key = {**await reserved(talker, 0, inode=inode), "dirty": False}
        reply = await talker.ask(commit(key))
        assert reply["error"] == "org.varlink.service.InvalidParameter"
        assert reply["parameters"]["parameter"] == "keys"
        assert await found(talker, 0, inode=inode) == []
        dirty = {**key, "dirty": True}
        await told(talker, commit(dirty))
        assert await told(talker, mark_clean(dirty)) == {"cleaned": [False]}
        assert await found(talker, 0, inode=inode) == [dirty]


async def test_what_is_reserved_for_a_flash_only_volume_can_be_committed_as_it_is(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        made = await told(talker, call(f"{ADMIN}.CreateVolume", {"label": "flash", "sectors": 8000}))
        key = await reserved(talker, 0, inode=made["inode"])
        assert key["dirty"]
        await told(talker, commit(key))
        assert not (await reserved(talker, 0))["dirty"]


async def test_invalidating_drops_dirty_ones_too_and_cuts_what_reaches_out(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await committed(talker, 0, 64, dirty=True)
        assert await told(talker, invalidate(16, 16)) == {"sectors": 16}
        assert await told(talker, invalidate(16, 16)) == {"sectors": 0}
        assert await found(talker, 0, 64) == [part(key, 0, 16), part(key, 32, 32)]
        assert await told(talker, invalidate(0, (1 << 62) - 8, durable=False)) == {"sectors": 48}
        assert await found(talker, 0, 64) == []


async def test_a_volume_with_dirty_keys_goes_only_by_force(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        await committed(talker, 0, 64)
        await committed(talker, 800, 24, dirty=True)
        reply = await talker.ask(call(f"{ADMIN}.DeleteVolume", {"inode": 0}))
        assert reply["error"] == f"{ADMIN}.VolumeInUse"
        assert reply["parameters"] == {"inode": 0, "dirty_sectors": 24}
        assert len(await found(talker, 0, 1600)) == 2
        await told(talker, call(f"{ADMIN}.DeleteVolume", {"inode": 0, "force": True}))
        assert outcome(await talker.ask(lookup(0))) == "NoSuchVolume"
        assert (await told(talker, call(f"{ADMIN}.CreateVolume", {"label": "next"})))["inode"] == 0
        assert await found(talker, 0, 1600) == []


async def test_a_volume_without_dirty_keys_needs_no_force(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        await committed(talker, 0, 64)
        await told(talker, call(f"{ADMIN}.DeleteVolume", {"inode": 0}))
        assert outcome(await talker.ask(lookup(0))) == "NoSuchVolume"


async def test_lookups_and_hits_are_counted(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        await committed(talker, 0)
        for offset in (0, 0, 800):
            await found(talker, offset)
        await told(talker, call("LookupMany", {"requests": [extent(0), extent(800)]}))
        statistics = it.cache_set.statistics()
        assert (statistics.lookups, statistics.lookup_hits) == (5, 3)


async def test_a_hit_renews_its_bucket_unless_it_is_not_to(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await committed(talker, 0, BUCKET_SECTORS)
        table = it.cache_set.members[0].buckets.table
        bucket = key["pointers"][0]["sector"] // BUCKET_SECTORS
        table.prios[bucket] = 100
        await found(talker, 0, touch=False)
        assert table.prios[bucket] <= 100
        await found(talker, 0)
        assert table.prios[bucket] > 30_000


async def test_a_set_that_keeps_nothing_refuses_to_promise(tmp_path: Path) -> None:
    async with served(tmp_path, synchronous=False) as it, Talker(it.path) as talker:
        key = await reserved(talker, 0)
        for message in (commit(key), commit({**key, "dirty": True}, durable=False)):
            assert outcome(await talker.ask(message)) == "InvalidParameter"
        await told(talker, commit(key, durable=False))
        assert await found(talker, 0) == [key]
        assert await told(talker, invalidate(0)) == {"sectors": 8}

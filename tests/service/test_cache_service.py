# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from bcached import __version__
from bcached.errors import DeviceFailed
from bcached.service.users.socket_limits import SocketLimits
from bcached.wire.methods import METHODS
from instruments.clients.served_set import BUCKET_SECTORS, Served, served
from instruments.clients.talker import Talker, call, outcome
from instruments.time.patience import patience

ADMIN, MONITOR = "io.bcached.Admin", "io.bcached.Monitor"


def allocate(offset: int = 0, sectors: int = 8, inode: int = 0, **more: Any) -> bytes:
    return call("Allocate", {"inode": inode, "offset": offset, "sectors": sectors, **more})


async def keys_of(talker: Talker, message: bytes) -> list[Any]:
    reply = await talker.ask(message)
    assert "error" not in reply, reply
    keys: list[Any] = reply["parameters"]["keys"]
    return keys


async def exhaust(it: Served, talker: Talker) -> list[Any]:
    """Every bucket there is, held by the talker."""
    keys: list[Any] = []
    async with patience(60):
        while True:
            reply = await talker.ask(call("AllocateBucket", {"timeout_ms": 300}))
            if "error" not in reply:
                keys.append(reply["parameters"]["key"])
                continue
            assert outcome(reply) == "NoFreeBuckets"
            if it.is_exhausted:
                return keys


async def test_every_method_of_the_interfaces_is_served(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        assert set(it.server._service.operations) == {method.request for method in METHODS.values()}


async def test_describe_tells_what_a_client_needs(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        told = (await talker.ask(call("Describe")))["parameters"]
        assert told["set_uuid"] == str(it.cache_set.set_uuid)
        assert told["version"] == __version__
        assert told["role"] == "admin"
        assert Path(told["lease_path"]).exists()
        assert told["commit_words"] > 1000
        geometry = it.cache_set.geometry
        assert told["devices"] == [
            {
                "device": 0,
                "path": "memory0",
                "uuid": it.cache_set.members[0].uuid,
                "bucket_sectors": BUCKET_SECTORS,
                "block_sectors": 8,
                "bucket_count": geometry.bucket_count,
                "first_bucket": geometry.first_bucket,
                "data_path": "memory0",
            }
        ]


async def test_allocations_of_a_stream_follow_each_other(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        (first,) = await keys_of(talker, allocate(0, 8))
        (second,) = await keys_of(talker, allocate(8, 8))
        assert second["pointers"][0]["sector"] == first["pointers"][0]["sector"] + 8
        assert first == {
            "inode": 0,
            "offset": 0,
            "sectors": 8,
            "dirty": False,
            "pointers": first["pointers"],
        }


async def test_one_key_may_be_shorter_and_whole_is_all(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        (key,) = await keys_of(talker, allocate(0, BUCKET_SECTORS * 3))
        assert key["sectors"] == BUCKET_SECTORS
        keys = await keys_of(talker, allocate(0, BUCKET_SECTORS * 3, whole=True))
        assert sum(key["sectors"] for key in keys) == BUCKET_SECTORS * 3
        ends = [key["offset"] + key["sectors"] for key in keys]
        assert [key["offset"] for key in keys] == [0, *ends[:-1]]


async def test_the_write_point_is_the_peers_pid_unless_it_says_another(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as one, Talker(it.path) as other:
        (a,) = await keys_of(one, allocate(0))
        (b,) = await keys_of(other, allocate(8000))
        (c,) = await keys_of(other, allocate(16000, write_point=77))
        buckets = [key["pointers"][0]["sector"] // BUCKET_SECTORS for key in (a, b, c)]
        assert buckets[0] == buckets[1] != buckets[2]


def a_batch(seed: int) -> list[bytes]:
    """Allocates that go on or jump, for a few writers and volumes, some of which cannot be served."""
    rng = random.Random(seed)
    end, batch = 0, list[bytes]()
    for _ in range(60):
        offset = end if rng.random() < 0.8 else 8 * rng.randrange(100)
        sectors = rng.choice([8, 8, 16, 40])
        end = offset + sectors
        long = {"whole": True, "sectors": 200}
        odd = [{"inode": 1}, {"offset": 4}, {"sectors": 4}, {"replicas": 2}, {"replicas": 1}, long]
        more = rng.choice(odd) if rng.random() < 0.1 and len(batch) % 12 else {}
        if rng.random() < 0.1:
            more["write_point"] = rng.randrange(2)
        batch.append(allocate(**{"offset": offset, "sectors": sectors} | more))
    return batch


def whichever_buckets(replies: list[Any]) -> list[Any]:
    """The same with its buckets numbered as they come, and without gens."""
    buckets: dict[int, int] = {}
    for reply in replies:
        for key in reply["parameters"].get("keys", []):
            for pointer in key["pointers"]:
                bucket, sector = divmod(pointer.pop("sector"), BUCKET_SECTORS)
                pointer["at"] = (buckets.setdefault(bucket, len(buckets)), sector)
                del pointer["gen"]
    return replies


@pytest.mark.parametrize("reservations", [1000, 40])
@pytest.mark.parametrize("seed", range(4))
async def test_a_batch_is_answered_as_its_requests_are_one_by_one(
    tmp_path: Path, seed: int, reservations: int
) -> None:
    replies: list[list[Any]] = []
    for name in ("together", "apart"):
        (tmp_path / name).mkdir()
        async with (
            served(tmp_path / name, reservations=reservations, size_bytes=1 << 30) as it,
            Talker(it.path) as talker,
        ):
            while it.cache_set.members[0].buckets.reserves.room():  # so that none has to wait
                await asyncio.sleep(0.01)
            batch = a_batch(seed)
            if name == "together":
                replies.append([])
                for at in range(0, len(batch), 12):
                    talker.say(*batch[at : at + 12])
                    replies[0] += [await talker.hear() for _ in batch[at : at + 12]]
            else:
                replies.append([await talker.ask(message) for message in batch])
                last = await talker.ask(allocate(0, 8))
                assert outcome(last) == ("ok" if reservations > len(batch) else "LimitExceeded")
            counted = it.server.statistics().requests["io.bcached.Allocator.Allocate"]
            assert counted == len(batch) + (name == "apart")
    assert whichever_buckets(replies[0]) == whichever_buckets(replies[1])
    told = {outcome(reply) for reply in replies[0]}
    assert "ok" in told
    assert len(told) > 1, "none was refused"


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        (allocate(4, 8), "offset"),
        (allocate(8, 4), "sectors"),
        (call("AllocateMany", {"requests": [{"inode": 0, "offset": 1, "sectors": 8}]}), "offset"),
        (call(f"{ADMIN}.CreateVolume", {"label": "x", "uuid": "not a uuid"}), "uuid"),
        (call(f"{ADMIN}.CreateVolume", {"label": "x" * 33}), "label"),
    ],
)
async def test_what_the_set_cannot_take_is_refused_by_name(
    tmp_path: Path, message: bytes, parameter: str
) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        reply = await talker.ask(message)
        assert outcome(reply) == "InvalidParameter"
        assert reply["parameters"]["parameter"] == parameter
        assert it.cache_set.statistics().reserved_sectors == 0


async def test_part_of_a_reservation_can_be_released_part_of_a_block_cannot(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        (key,) = await keys_of(talker, allocate(0, 32))
        place = key["pointers"][0]
        half = {**key, "offset": 16, "sectors": 16, "pointers": [{**place, "sector": place["sector"] + 16}]}
        for bad in ({**key, "sectors": 4}, {**key, "pointers": [{**place, "sector": place["sector"] + 4}]}):
            assert outcome(await talker.ask(call("Release", {"keys": [bad]}))) == "InvalidParameter"
        assert outcome(await talker.ask(call("Release", {"keys": [half]}))) == "ok"
        assert outcome(await talker.ask(call("Release", {"keys": [half]}))) == "NotReserved"
        assert outcome(await talker.ask(call("Release", {"keys": [key]}))) == "NotReserved"
        assert it.cache_set.statistics().reserved_sectors == 16


async def test_what_is_not_ours_cannot_be_released(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as owner, Talker(it.path) as thief:
        (key,) = await keys_of(owner, allocate())
        place = key["pointers"][0]
        reply = await thief.ask(call("Release", {"keys": [key]}))
        assert reply["error"] == "io.bcached.Allocator.NotReserved"
        assert reply["parameters"] == {"key": key}
        stale = {**key, "pointers": [{**place, "gen": (place["gen"] + 1) % 256}]}
        reply = await owner.ask(call("Release", {"keys": [stale]}))
        assert reply["error"] == "io.bcached.Allocator.StaleKey"
        assert reply["parameters"]["bucket_gen"] == place["gen"]
        far = {**key, "pointers": [{"device": 4095, "sector": (1 << 43) - 8, "gen": 0}]}
        assert outcome(await owner.ask(call("Release", {"keys": [far]}))) == "StaleKey"
        assert outcome(await owner.ask(call("Release", {"keys": [key]}))) == "ok"


async def test_allocate_many_is_all_or_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        extents = [{"inode": 0, "offset": 8 * index, "sectors": 8} for index in range(64)]
        keys = await keys_of(talker, call("AllocateMany", {"requests": extents}))
        assert [key["offset"] for (key,) in keys] == [8 * index for index in range(64)]
        before = it.cache_set.statistics().reserved_sectors
        reply = await talker.ask(call("AllocateMany", {"requests": [*extents, {**extents[0], "inode": 9}]}))
        assert reply["parameters"] == {"inode": 9}
        assert it.cache_set.statistics().reserved_sectors == before
        reply = await talker.ask(
            call("AllocateMany", {"requests": [*extents[:3], {**extents[0], "inode": 9}]})
        )
        assert reply["parameters"] == {"inode": 9}
        assert it.cache_set.statistics().reserved_sectors == before
        assert await keys_of(talker, call("AllocateMany", {"requests": []})) == []
        whole = {**extents[0], "sectors": 3 * BUCKET_SECTORS, "whole": True}
        keys = await keys_of(talker, call("AllocateMany", {"requests": [whole, extents[1]]}))
        assert [sum(key["sectors"] for key in each) for each in keys] == [3 * BUCKET_SECTORS, 8]


async def test_allocate_many_that_cannot_have_all_keeps_none(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as holder, Talker(it.path) as talker:
        buckets = await exhaust(it, holder)
        for key in buckets[:3]:
            assert outcome(await holder.ask(call("FreeBucket", {"key": key}))) == "ok"
        held = it.cache_set.statistics().reserved_sectors
        extents = [{"inode": 0, "offset": BUCKET_SECTORS * index, "sectors": 64} for index in range(100)]
        for options in ({"wait": False}, {"timeout_ms": 50}):
            reply = await talker.ask(call("AllocateMany", {"requests": extents, **options}))
            assert outcome(reply) == "NoFreeBuckets"
            assert it.cache_set.statistics().reserved_sectors == held
        talker.say(call("AllocateMany", {"requests": extents}), call("Describe"))
        for key in buckets[3:70]:
            assert outcome(await holder.ask(call("FreeBucket", {"key": key}))) == "ok"
        reply = await talker.hear()
        assert [keys[0]["offset"] for keys in reply["parameters"]["keys"]] == [
            BUCKET_SECTORS * index for index in range(100)
        ]


async def test_with_few_buckets_allocate_many_needs_no_more_than_one_by_one(tmp_path: Path) -> None:
    """Seventeen blocks, with fifteen left of an open bucket: one more bucket is enough."""
    async with served(tmp_path) as it, Talker(it.path) as holder, Talker(it.path) as talker:
        await keys_of(talker, allocate())
        buckets = await exhaust(it, holder)
        extents = [{"inode": 0, "offset": 8 * index, "sectors": 8} for index in range(17)]
        talker.say(call("AllocateMany", {"requests": extents}))
        async with patience(20):
            while not it.cache_set.shared.queue.total:
                await asyncio.sleep(0.001)
            assert outcome(await holder.ask(call("FreeBucket", {"key": buckets[0]}))) == "ok"
            assert outcome(await talker.hear()) == "ok"


async def test_a_bucket_is_whole_and_freed_whole(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = (await talker.ask(call("AllocateBucket")))["parameters"]["key"]
        assert key["sectors"] == BUCKET_SECTORS
        assert key["pointers"][0]["sector"] % BUCKET_SECTORS == 0
        part = {**key, "sectors": 8}
        assert outcome(await talker.ask(call("FreeBucket", {"key": part}))) == "NotReserved"
        assert outcome(await talker.ask(call("FreeBucket", {"key": key}))) == "ok"
        assert outcome(await talker.ask(call("FreeBucket", {"key": key}))) != "ok"


async def test_copies_lie_on_different_devices(tmp_path: Path) -> None:
    async with served(tmp_path, members=3) as it, Talker(it.path) as talker:
        (key,) = await keys_of(talker, allocate(replicas=3))
        assert sorted(pointer["device"] for pointer in key["pointers"]) == [0, 1, 2]
        reply = await talker.ask(allocate(replicas=4))
        assert reply["parameters"] == {"limit": "replicas", "value": 4}
        key = (await talker.ask(call("AllocateBucket", {"replicas": 2})))["parameters"]["key"]
        assert len({pointer["device"] for pointer in key["pointers"]}) == 2


async def test_reserve_of_moving_gc_is_drawn_on_with_write_prio(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        before = it.cache_set.statistics().members[0].allocations["movinggc"]
        await keys_of(talker, allocate(write_prio=1))
        taken = it.cache_set.statistics().members[0].allocations
        assert taken["movinggc"] + taken["none"] > before


async def test_limits_are_told_with_their_numbers(tmp_path: Path) -> None:
    async with served(tmp_path, reservations=10) as it, Talker(it.path) as talker:
        for index in range(10):
            await keys_of(talker, allocate(8 * index))
        reply = await talker.ask(allocate(800))
        assert reply["parameters"] == {"limit": "reservations_per_connection", "value": 11}
        reply = await talker.ask(allocate(0, 1 << 40, whole=True))
        assert outcome(reply) == "LimitExceeded"
        reply = await talker.ask(allocate(0, BUCKET_SECTORS * 900, whole=True))
        assert outcome(reply) == "LimitExceeded"


async def test_an_inode_without_a_volume_is_no_such_volume(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        reply = await talker.ask(allocate(inode=5))
        assert reply == {"error": "io.bcached.Allocator.NoSuchVolume", "parameters": {"inode": 5}}
        reply = await talker.ask(call(f"{ADMIN}.DeleteVolume", {"inode": 5}))
        assert reply == {"error": "io.bcached.Admin.NoSuchVolume", "parameters": {"inode": 5}}


async def test_near_exhaustion_a_waiting_one_is_served_once_something_is_released(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as holder, Talker(it.path) as waiter:
        keys = await exhaust(it, holder)
        reply = await waiter.ask(allocate(timeout_ms=50))
        assert outcome(await waiter.ask(allocate(wait=False))) == "NoFreeBuckets"
        assert reply["parameters"]["reserve"] == "none"
        assert reply["parameters"]["waited_ms"] >= 45
        waiter.say(allocate(), call("Describe"))
        assert await waiter.hears_nothing_for(0.05)
        for key in keys[:5]:
            assert outcome(await holder.ask(call("FreeBucket", {"key": key}))) == "ok"
        assert [outcome(await waiter.hear()) for _ in range(2)] == ["ok", "ok"]


async def test_a_release_behind_a_waiting_allocate_of_the_same_connection_serves_it(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        keys = await exhaust(it, talker)
        talker.say(allocate(), call("Release", {"keys": keys[:8]}))
        assert [outcome(await talker.hear()) for _ in range(2)] == ["ok", "ok"]


async def test_what_a_lost_connection_held_comes_back(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as other:
        async with Talker(it.path) as talker:
            await exhaust(it, talker)
            talker.say(allocate())  # it waits when its connection goes
            await asyncio.sleep(0.02)
            talker.hang_up()
        assert outcome(await other.ask(allocate())) == "ok"
        async with patience(20):  # its buckets are given back in steps
            while it.cache_set.statistics().reserved_sectors != 8:
                await asyncio.sleep(0.001)


async def test_64_clients_some_dying_get_extents_that_never_overlap(tmp_path: Path) -> None:
    """Every extent given is recorded before its client may die; those of the living stay apart."""
    living: dict[int, tuple[int, int]] = {}

    async def client(path: str, number: int) -> None:
        random_number = random.Random(number)
        async with Talker(path) as talker:
            held = []
            for step in range(40):
                sectors = 8 * random_number.randint(1, 8)
                reply = await talker.ask(allocate(8 * 64 * step, sectors, write_point=number % 7))
                assert outcome(reply) == "ok"
                (key,) = reply["parameters"]["keys"]
                start = key["pointers"][0]["sector"]
                for other, (begin, end) in living.items():
                    assert end <= start or begin >= start + key["sectors"], (other, number)
                held.append(key)
                living[start] = (start, start + key["sectors"])
                if len(held) > 3:
                    keys = [held.pop(0) for _ in range(2)]
                    for key in keys:
                        del living[key["pointers"][0]["sector"]]
                    assert outcome(await talker.ask(call("Release", {"keys": keys}))) == "ok"
                if random_number.random() < 0.02:
                    break
            for key in held:
                del living[key["pointers"][0]["sector"]]
            if number % 2:
                talker.hang_up()

    async with served(tmp_path) as it:
        geometry = it.cache_set.geometry
        first_data = geometry.journal_buckets.stop * BUCKET_SECTORS
        async with patience(60):
            await asyncio.gather(*(client(it.path, number) for number in range(64)))
            while it.server.statistics().connections or it.cache_set.statistics().quarantined_holders:
                await asyncio.sleep(0.01)
        assert not living
        assert first_data > 0
        statistics = it.cache_set.statistics()
        assert statistics.reserved_sectors == 0
        assert statistics.holders == 0


async def test_administration(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:

        async def admin(method: str, **parameters: Any) -> Any:
            reply = await talker.ask(call(f"{ADMIN}.{method}", parameters))
            assert "error" not in reply, reply
            return reply["parameters"]

        state = (await admin("Status"))["state"]
        assert state["set_uuid"] == str(it.cache_set.set_uuid)
        assert sum(state["members"][0]["buckets"].values()) == state["members"][0]["bucket_count"]
        assert isinstance((await admin("Explain"))["lines"], list)
        assert await admin("Verify") == {"violations": []}
        assert await admin("SetReplacement", policy="fifo") == {}
        assert await admin("SetDiscard", discard=True) == {}
        assert await admin("WritePriorities") == {}
        assert await admin("CollectGarbage") == {}
        assert await admin("CollectGarbage", wait=False) == {}
        state = (await admin("Status"))["state"]
        assert (state["replacement"], state["discard"]) == ("fifo", True)
        assert state["gc_runs"]["asked"] >= 1
        inode = (await admin("CreateVolume", label="second", sectors=8000))["inode"]
        volumes = (await admin("ListVolumes"))["volumes"]
        assert volumes[inode] == {
            "inode": inode,
            "uuid": volumes[inode]["uuid"],
            "label": "second",
            "sectors": 8000,
            "flash_only": True,
        }
        await keys_of(talker, allocate(inode=inode))
        assert await admin("DeleteVolume", inode=inode, force=True) == {}
        assert [volume["label"] for volume in (await admin("ListVolumes"))["volumes"]] == ["first"]
        assert outcome(await talker.ask(allocate(inode=inode))) == "NoSuchVolume"


async def test_a_watch_tells_the_state_and_then_what_changed(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as watcher, Talker(it.path) as talker:
        watcher.say(call(f"{MONITOR}.Watch", {"interval_ms": 100}, more=True))
        first = await watcher.hear()
        assert first["continues"]
        assert first["parameters"]["state"]["allocated_sectors"] == 0
        await keys_of(talker, allocate(0, 16))
        seen: dict[str, Any] = {}
        while seen.get("allocated_sectors") != 16:
            news = await watcher.hear()
            assert "state" not in news["parameters"]
            seen |= {change["name"]: change["value"] for change in news["parameters"]["changes"]}
        assert seen["members.0.allocations.none"] == 1


async def test_a_failed_set_refuses_changes_and_answers_questions(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        it.cache_set.shared.stop.refuse(DeviceFailed("flush failed"))
        changes = [
            allocate(),
            allocate(whole=True),
            call("AllocateBucket"),
            call("AllocateMany", {"requests": []}),
            call(f"{ADMIN}.CreateVolume", {"label": "x"}),
            call(f"{ADMIN}.SetDiscard", {"discard": True}),
            call(f"{ADMIN}.WritePriorities"),
            call(f"{ADMIN}.CollectGarbage"),
        ]
        for message in changes:
            reply = await talker.ask(message)
            assert reply["error"].endswith(".DeviceFailed"), (message, reply)
            assert reply["parameters"] == {"reason": "flush failed"}
        assert outcome(await talker.ask(call("Describe"))) == "ok"
        state = (await talker.ask(call(f"{ADMIN}.Status")))["parameters"]["state"]
        assert "flush failed" in state["failed"]


async def test_stopping_while_requests_wait_tells_them(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        talker = Talker(it.path)
        await talker.__aenter__()
        await exhaust(it, talker)
        talker.say(allocate(), call("Describe"))
        await asyncio.sleep(0.02)
    assert [outcome(await talker.hear()) for _ in range(2)] == ["ShuttingDown", "ok"]
    await talker.__aexit__()


async def test_a_message_of_every_kind_of_nonsense_leaves_others_served(tmp_path: Path) -> None:
    async with served(tmp_path, limits=SocketLimits(message_bytes=100_000)) as it, Talker(it.path) as good:
        for nonsense in (b"\0" * 100, b"{}\0", b"[" * 50_000 + b"\0", b"\xff" * 1000 + b"\0", b"x" * 200_000):
            async with Talker(it.path) as bad:
                reply = await bad.ask(nonsense)
                assert "error" in reply
            (key,) = await keys_of(good, allocate())
            assert outcome(await good.ask(call("Release", {"keys": [key]}))) == "ok"


async def test_gen_maps_are_told(tmp_path: Path) -> None:
    async with served(tmp_path, members=2) as it, Talker(it.path) as talker:
        maps = (await talker.ask(call("MapGens")))["parameters"]["maps"]
        assert [one["device"] for one in maps] == [0, 1]
        for one in maps:
            assert Path(one["path"]).stat().st_size == one["bytes"]
            assert Path(one["path"]).stat().st_mode & 0o777 == 0o440

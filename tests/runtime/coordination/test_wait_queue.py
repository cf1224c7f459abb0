# SPDX-License-Identifier: GPL-2.0-only
"""First come, first served, with deadlines; whoever goes away gives back and passes the turn on."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from bcached.errors import LimitExceeded, NoFreeBuckets, NoSuchVolume, ShuttingDown
from bcached.runtime.coordination.wait_queue import WaitQueue
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.volume_rights import VolumeRights
from instruments.samples.small_member import GEOMETRY
from instruments.time.virtual_time import in_virtual_time


class Pot:
    """What is waited for: so many tokens. `log` tells who was given all that he wanted, in order."""

    def __init__(self) -> None:
        self.tokens = 0
        self.to_come = 1 << 30  # tokens there may be in the end
        self.log: list[str] = []


class Draw:
    """Work that takes tokens one by one as there are any, until it has what it wants."""

    def __init__(
        self,
        pot: Pot,
        name: str,
        wanted: int = 1,
        *,
        reserve: Reserve = Reserve.NONE,
        inode: int = 0,
        user: int | None = None,
    ) -> None:
        self.reserve = reserve
        self.holder = Holder(name, 10, GEOMETRY, rights=VolumeRights(user, is_admin=False))
        self.is_small = wanted == 1
        self.inodes = frozenset({inode})
        self.gathered = 0
        self._pot = pot
        self._name = name
        self._wanted = wanted

    def advance(self) -> str | None:
        if -1 in self.inodes:
            raise NoSuchVolume(-1)
        while self.gathered < self._wanted and self._pot.tokens:
            self._pot.tokens -= 1
            self.gathered += 1
        if self.gathered < self._wanted:
            return None
        self._pot.log.append(self._name)
        return self._name

    def may_complete(self) -> bool:
        return self._wanted - self.gathered <= self._pot.to_come

    def undo(self) -> None:
        self._pot.tokens += self.gathered
        self.gathered = 0


def unguarded(callback: Callable[..., None]) -> Callable[..., None]:
    return callback


class Changes:
    """How often the queue said that something changed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def queue_of(limit: int = 100) -> tuple[WaitQueue, Pot, Changes]:
    changes = Changes()
    return WaitQueue(limit, changes, unguarded), Pot(), changes


def put(queue: WaitQueue, pot: Pot, tokens: int) -> None:
    pot.tokens += tokens
    queue.serve()


@in_virtual_time
async def test_what_is_there_is_given_at_once_and_nobody_is_made_to_wait() -> None:
    queue, pot, _ = queue_of()
    pot.tokens = 1
    assert queue.submit(Draw(pot, "a"), 5).result() == "a"
    assert queue.total == 0
    assert queue.waiting() == frozenset()


@in_virtual_time
async def test_they_are_served_in_the_order_they_came() -> None:
    queue, pot, _ = queue_of()
    futures = [queue.submit(Draw(pot, name), 50) for name in "abcde"]
    for served in range(5):
        put(queue, pot, 1)
        await asyncio.sleep(0)
        assert [future.done() for future in futures] == [at <= served for at in range(5)]
    assert pot.log == list("abcde")
    assert queue.total == 0


@in_virtual_time
async def test_nobody_overtakes_who_wants_more_than_there_is() -> None:
    queue, pot, _ = queue_of()
    greedy = queue.submit(Draw(pot, "greedy", 3), 50)
    put(queue, pot, 2)
    small = queue.submit(Draw(pot, "small"), 50)
    with pytest.raises(NoFreeBuckets):
        queue.submit(Draw(pot, "hasty"), 0)
    put(queue, pot, 1)
    assert greedy.done()
    assert not small.done()
    put(queue, pot, 1)
    assert pot.log == ["greedy", "small"]


@in_virtual_time
async def test_who_gathers_lets_as_many_pass_as_it_got_pieces() -> None:
    queue, pot, _ = queue_of()
    greedy = queue.submit(Draw(pot, "greedy", 6), 50)
    small = [queue.submit(Draw(pot, name), 50) for name in "abcdef"]
    served = []
    for _ in range(12):
        put(queue, pot, 1)
        served.append(sum(future.done() for future in small))
    assert served == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert greedy.done()
    assert pot.log == [*"abcde", "greedy", "f"]


@in_virtual_time
async def test_who_gathers_keeps_nothing_that_cannot_become_enough() -> None:
    queue, pot, _ = queue_of()
    pot.tokens, pot.to_come = 3, 4
    greedy = queue.submit(Draw(pot, "greedy", 9), 50)
    assert pot.tokens == 0  # alone, it takes what there is
    small = [queue.submit(Draw(pot, name), 50) for name in "ab"]
    put(queue, pot, 0)
    assert all(future.done() for future in small)
    assert pot.tokens == 0  # alone again
    pot.to_come = 10
    put(queue, pot, 8)
    assert greedy.done()


@in_virtual_time
async def test_another_user_is_not_served_behind_all_of_the_first() -> None:
    queue, pot, _ = queue_of()
    for number in range(5):
        queue.submit(Draw(pot, f"many {number}", user=1), 50)
    queue.submit(Draw(pot, "one", user=2), 50)
    queue.submit(Draw(pot, "two", user=2), 50)
    put(queue, pot, 7)
    assert pot.log == ["many 0", "one", "many 1", "two", "many 2", "many 3", "many 4"]


@in_virtual_time
async def test_another_user_finds_room_among_all_the_waiters_of_the_first() -> None:
    queue, pot, _ = queue_of(4)
    many = [queue.submit(Draw(pot, f"many {number}", user=1), 50) for number in range(4)]
    with pytest.raises(LimitExceeded):
        queue.submit(Draw(pot, "one more", user=1), 50)
    one, two = (queue.submit(Draw(pot, name, user=2), 50) for name in ("one", "two"))
    assert [isinstance(future.exception(), LimitExceeded) for future in many if future.done()] == [True, True]
    with pytest.raises(LimitExceeded):  # nobody has more than half
        queue.submit(Draw(pot, "three", user=2), 50)
    put(queue, pot, 4)
    assert pot.log == ["many 0", "one", "many 1", "two"]
    assert one.done()
    assert two.done()


@in_virtual_time
async def test_with_a_lower_limit_those_with_more_than_half_make_room() -> None:
    queue, pot, _ = queue_of(100)
    counts = {1: 7, 2: 5}
    many = {
        user: [queue.submit(Draw(pot, f"{user} {number}", user=user), 50) for number in range(count)]
        for user, count in counts.items()
    }
    queue.set_limit(8)
    for number in range(4):
        queue.submit(Draw(pot, f"new {number}", user=3), 50)
    with pytest.raises(LimitExceeded):  # nobody has more than half
        queue.submit(Draw(pot, "one more", user=3), 50)
    refused = [sum(future.done() for future in many[user]) for user in (1, 2)]
    assert refused == [3, 1]
    assert queue.total == sum(counts.values())


@in_virtual_time
async def test_a_reserve_does_not_hold_up_another() -> None:
    queue, pot, _ = queue_of()
    data = queue.submit(Draw(pot, "data", 2), 50)
    node = queue.submit(Draw(pot, "node", reserve=Reserve.BTREE), 50)
    assert queue.waiting() == {Reserve.NONE, Reserve.BTREE}
    assert queue.count(Reserve.BTREE) == 1
    put(queue, pot, 1)  # served in the order of the reserves: metadata first
    assert node.done()
    assert not data.done()


@in_virtual_time
async def test_a_deadline_ends_the_wait_and_gives_back_all_that_was_gathered() -> None:
    queue, pot, _ = queue_of()
    loop = asyncio.get_running_loop()
    greedy = queue.submit(Draw(pot, "greedy", 3), 2.0)
    small = queue.submit(Draw(pot, "small", 2), 9.0)
    put(queue, pot, 2)
    with pytest.raises(NoFreeBuckets) as refused:
        await greedy
    assert loop.time() == pytest.approx(2.0)
    assert refused.value.fields == {"reserve": "none", "waited_ms": 2000}
    assert small.result() == "small"  # served with it in the same instant
    assert queue.failures["timeout"] == 1


@in_virtual_time
async def test_deadlines_come_in_any_order() -> None:
    queue, pot, _ = queue_of()
    futures = [queue.submit(Draw(pot, str(deadline)), deadline) for deadline in (9, 2, 5)]
    await asyncio.sleep(3)
    assert [future.done() for future in futures] == [False, True, False]
    put(queue, pot, 1)
    assert futures[0].result() == "9"
    await asyncio.sleep(3)
    assert isinstance(futures[2].exception(), NoFreeBuckets)
    assert isinstance(futures[1].exception(), NoFreeBuckets)
    assert queue.total == 0


@in_virtual_time
async def test_a_head_that_is_cancelled_gives_back_and_passes_its_turn_on() -> None:
    queue, pot, _ = queue_of()
    greedy = queue.submit(Draw(pot, "greedy", 3), 50)
    small = queue.submit(Draw(pot, "small", 2), 50)
    put(queue, pot, 2)
    greedy.cancel()
    assert await small == "small"
    assert pot.tokens == 0
    assert queue.failures["cancelled"] == 1


@in_virtual_time
async def test_a_grant_to_who_goes_in_the_same_turn_of_the_loop_is_not_lost() -> None:
    """CPython gh-112202: with Condition.notify(1) on Python before 3.13, it is."""
    queue, pot, _ = queue_of()
    first, second = (queue.submit(Draw(pot, name), 50) for name in ("first", "second"))
    first.cancel()  # its callback has not run yet
    put(queue, pot, 1)
    assert await second == "second"
    assert pot.tokens == 0


@in_virtual_time
async def test_one_who_goes_after_his_grant_has_it() -> None:
    queue, pot, _ = queue_of()
    first, second = (queue.submit(Draw(pot, name), 50) for name in ("first", "second"))
    put(queue, pot, 1)
    assert not first.cancel(), "he was served; what he has ends with his holder"
    await asyncio.sleep(1)
    assert not second.done()


@in_virtual_time
async def test_one_in_the_middle_can_go() -> None:
    queue, pot, _ = queue_of()
    futures = [queue.submit(Draw(pot, name), 50) for name in "abc"]
    futures[1].cancel()
    await asyncio.sleep(0)
    assert queue.total == 2
    put(queue, pot, 2)
    assert pot.log == ["a", "c"]


@in_virtual_time
async def test_there_is_a_limit_to_how_many_wait() -> None:
    queue, pot, _ = queue_of(limit=2)
    futures = [queue.submit(Draw(pot, name), 50) for name in "ab"]
    pot.tokens = 1  # there for the first, who does not know of it yet
    with pytest.raises(LimitExceeded) as refused:
        queue.submit(Draw(pot, "c", 2, reserve=Reserve.BTREE), 50)
    assert refused.value.fields == {"limit": "waiters", "value": 3}
    assert pot.tokens == 1, "what the refused one gathered is back"
    assert queue.failures["limit"] == 1
    queue.serve()
    queue.submit(Draw(pot, "c"), 50).cancel()
    assert futures[0].done()


@in_virtual_time
async def test_the_oldest_is_told_of_also_behind_others_that_came_later_and_go_first() -> None:
    queue, pot, _ = queue_of()
    waits = []
    for name, first in (("a", False), ("b", True), ("c", True), ("d", False)):
        waits.append(queue.submit(Draw(pot, name), 1000, first=first))
        await asyncio.sleep(10)
    assert queue.oldest_wait_s() == 40
    waits[0].cancel()
    await asyncio.sleep(0)
    assert queue.oldest_wait_s() == 30
    put(queue, pot, 3)
    assert queue.oldest_wait_s() == 0


@in_virtual_time
async def test_now_or_never_takes_nothing_along() -> None:
    queue, pot, _ = queue_of()
    pot.tokens = 2
    with pytest.raises(NoFreeBuckets) as refused:
        queue.submit(Draw(pot, "hasty", 3), 0)
    assert refused.value.fields == {"reserve": "none", "waited_ms": 0}
    assert pot.tokens == 2
    assert queue.total == 0
    assert queue.failures["no_wait"] == 1


@in_virtual_time
async def test_a_request_that_turns_out_to_be_wrong_holds_up_nobody() -> None:
    queue, pot, _ = queue_of()
    greedy = Draw(pot, "greedy", 3)
    wrong = queue.submit(greedy, 50)
    small = queue.submit(Draw(pot, "small"), 50)
    put(queue, pot, 1)
    greedy.inodes = frozenset({-1})
    put(queue, pot, 0)
    assert isinstance(wrong.exception(), NoSuchVolume)
    assert small.done()
    with pytest.raises(NoSuchVolume):
        queue.submit(Draw(pot, "also wrong", inode=-1), 50)


@in_virtual_time
async def test_who_waits_for_a_volume_that_goes_is_told_so_before_it_is_gone() -> None:
    queue, pot, _ = queue_of()
    going = [queue.submit(Draw(pot, name, 2, inode=7), 50) for name in "ab"]
    staying = queue.submit(Draw(pot, "c", 2, inode=8), 50)
    put(queue, pot, 1)
    queue.end_volume(7)
    assert [type(future.exception()) for future in going] == [NoSuchVolume, NoSuchVolume]
    assert pot.tokens == 0, "c gathers now"
    put(queue, pot, 1)
    assert staying.done()


@in_virtual_time
async def test_who_waits_for_a_holder_that_goes_gets_nothing_more() -> None:
    queue, pot, _ = queue_of()
    work = Draw(pot, "gone", 2)
    gone, other = queue.submit(work, 50), queue.submit(Draw(pot, "other"), 50)
    put(queue, pot, 1)
    gone.cancel()  # as a connection does, just before it says that its holder is gone
    queue.end_holder(work.holder)
    assert work.gathered == 0, "given back at once, and not when the loop comes round to it"
    assert other.done()
    assert queue.failures["cancelled"] == 1


@in_virtual_time
async def test_when_the_set_refuses_everybody_is_told_and_whoever_comes_later() -> None:
    queue, pot, _ = queue_of()
    futures = [queue.submit(Draw(pot, name, 2), 50) for name in "ab"]
    put(queue, pot, 1)
    queue.refuse(ShuttingDown())
    assert [type(future.exception()) for future in futures] == [ShuttingDown, ShuttingDown]
    assert pot.tokens == 1
    with pytest.raises(ShuttingDown):
        queue.submit(Draw(pot, "late"), 50)
    assert queue.total == 0
    await asyncio.sleep(100)  # no deadline is left behind


@in_virtual_time
async def test_taking_is_announced_since_it_leaves_room_somewhere() -> None:
    queue, pot, changes = queue_of()
    queue.serve()
    assert changes.count == 0, "nobody waits, nothing changes"
    future = queue.submit(Draw(pot, "a", 2), 50)
    assert changes.count == 1
    put(queue, pot, 1)
    assert changes.count == 2, "it was only gathered, and yet it was taken"
    put(queue, pot, 1)
    assert changes.count == 3
    assert future.done()


@in_virtual_time
async def test_thousands_that_go_at_once_are_no_trouble() -> None:
    queue, pot, _ = queue_of(limit=10_000)
    futures = [queue.submit(Draw(pot, str(number)), 50) for number in range(5000)]
    last = queue.submit(Draw(pot, "last"), 50)
    for future in futures:
        future.cancel()
    put(queue, pot, 1)
    assert last.done()
    assert queue.total == 0


@pytest.mark.parametrize("seed", range(20))
@in_virtual_time
async def test_by_chance_nothing_is_lost_and_everybody_has_an_end(seed: int) -> None:
    queue, pot, _ = queue_of()
    random = Random(seed)
    works: list[tuple[Draw, asyncio.Future[str]]] = []
    put_in = 0
    for number in range(300):
        match random.randrange(4):
            case 0:
                tokens = random.randint(0, 3)
                put_in += tokens
                put(queue, pot, tokens)
            case 1 if works:
                random.choice(works)[1].cancel()
            case 2:
                await asyncio.sleep(random.random())
            case _:
                reserve = random.choice([Reserve.NONE, Reserve.NONE, Reserve.BTREE])
                work = Draw(pot, str(number), random.randint(1, 4), reserve=reserve)
                works.append((work, queue.submit(work, 0.001 + random.random() * 10)))
    await asyncio.sleep(20)
    assert all(future.done() for _, future in works)
    assert queue.total == 0
    assert put_in == pot.tokens + sum(work.gathered for work, _ in works)
    assert all(
        (work.gathered > 0) == (not future.cancelled() and future.exception() is None)
        for work, future in works
    )


@in_virtual_time
async def test_its_repr_says_who_waits_for_what_and_how_long() -> None:
    queue, pot, _ = queue_of()
    assert repr(queue) == "<WaitQueue empty, oldest 0.0 s>"
    futures = [queue.submit(Draw(pot, name), 50) for name in "ab"]
    await asyncio.sleep(1.5)
    assert repr(queue) == "<WaitQueue {'none': 2}, oldest 1.5 s>"
    queue.refuse(ShuttingDown())
    assert repr(queue).startswith("<WaitQueue empty, oldest 0.0 s, refused: ")
    for future in futures:
        assert isinstance(future.exception(), ShuttingDown)

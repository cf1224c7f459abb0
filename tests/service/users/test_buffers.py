# SPDX-License-Identifier: GPL-2.0-only
import random
import time

from bcached.service.users.access import Role
from bcached.service.users.buffers import Buffers
from bcached.service.users.socket_limits import SocketLimits

LIMIT = 1 << 20
CONNECTIONS = 16
LIMITS = SocketLimits(CONNECTIONS, buffer_bytes=LIMIT, buffer_bytes_without_role=LIMIT // 8)
SPARED = LIMIT // (2 * CONNECTIONS)


class Holder:
    """As much of a connection as the account sees."""

    def __init__(
        self, held_bytes: int = 0, age_s: float = 1.0, *, has_no_role: bool = False, user: int = 1
    ) -> None:
        self.held_bytes = held_bytes
        self.holds_since_ns = time.perf_counter_ns() - int(age_s * 1e9)
        self.role = Role.NONE if has_no_role else Role.ALLOCATOR
        self.user_id = user
        self.gave_way_with: int | None = None
        self.gave_way_for = ""

    def give_way(self, limit: str, held_bytes: int) -> None:
        self.gave_way_with, self.gave_way_for = held_bytes, limit
        self.held_bytes = 0


def account(holders: list[Holder]) -> Buffers:
    buffers = Buffers(LIMITS)
    for holder in holders:
        buffers.note(holder, holder.held_bytes)
    return buffers


def gone(holders: list[Holder]) -> list[int]:
    return [number for number, holder in enumerate(holders) if holder.gave_way_with is not None]


def test_what_is_held_is_summed_and_let_go() -> None:
    holders = [Holder(100), Holder(200)]
    buffers = account(holders)
    assert buffers.held_bytes == 300
    buffers.note(holders[0], 50)
    buffers.forget(holders[1])
    buffers.forget(holders[1])
    assert (buffers.held_bytes, buffers.peak_bytes, buffers.gave_way) == (50, 300, 0)


def test_those_that_held_most_for_longest_give_way() -> None:
    old, large, young = Holder(300_000, 30), Holder(600_000, 20), Holder(300_000, 0.001)
    buffers = account([old, large, young])
    assert gone([old, large, young]) == [1]
    assert (large.gave_way_with, buffers.gave_way, buffers.held_bytes) == (600_000, 1, 600_000)


def test_a_large_request_that_has_just_come_goes_through_while_others_sit_on_theirs() -> None:
    sitting = [Holder(60_000, 5) for _ in range(17)]
    fresh = Holder(500_000, 0.001)
    buffers = account([*sitting, fresh])
    assert fresh.gave_way_with is None
    assert buffers.held_bytes <= LIMIT


def test_a_peer_that_may_do_nothing_gives_way_first() -> None:
    stranger, member, other = Holder(SPARED + 1, 1, has_no_role=True), Holder(900_000, 30), Holder(140_000, 0)
    account([member, stranger, other])
    assert gone([member, stranger, other])[:2] == [0, 1]
    stranger, member, other = Holder(200_000, 1, has_no_role=True), Holder(800_000, 30), Holder(50_000, 0)
    account([member, stranger, other])
    assert gone([member, stranger, other]) == [1]


def test_those_that_hold_little_never_give_way() -> None:
    small = [Holder(SPARED, 1000) for _ in range(CONNECTIONS)]
    large = [Holder(SPARED + 1, 0.1) for _ in range(CONNECTIONS)]
    buffers = account([*small, *large])
    assert gone(small) == []
    assert buffers.held_bytes <= LIMIT


def test_the_bound_holds_whatever_comes() -> None:
    draw = random.Random(3)
    holders = [Holder(age_s=draw.random()) for _ in range(CONNECTIONS)]
    buffers = Buffers(LIMITS)
    for _ in range(5000):
        holder = draw.choice(holders)
        holder.held_bytes = draw.choice((0, 10, SPARED, 2 * SPARED, LIMIT // 4, LIMIT))
        buffers.note(holder, holder.held_bytes)
        assert buffers.held_bytes == sum(it.held_bytes for it in holders) <= LIMIT
    assert buffers.gave_way > 100


def test_what_the_kernel_has_taken_meanwhile_is_not_held_against_anyone() -> None:
    read_since, sitting = Holder(900_000, 30), Holder(200_000, 1)
    buffers = account([read_since])
    read_since.held_bytes = 0
    buffers.note(sitting, sitting.held_bytes)
    assert gone([read_since, sitting]) == []
    assert buffers.held_bytes == 200_000


def test_a_lower_limit_counts_at_once() -> None:
    holders = [Holder(100_000, 1) for _ in range(10)]
    buffers = account(holders)
    buffers.set_limits(SocketLimits(CONNECTIONS, buffer_bytes=LIMIT // 2))
    assert buffers.held_bytes <= LIMIT // 2
    assert 0 < buffers.gave_way < 10


def test_a_user_with_more_than_half_gives_way_before_another_one_that_held_more_for_longer() -> None:
    honest = Holder(400_000, 30, user=2)
    greedy = [Holder(SPARED + 1000, 10) for _ in range(15)]
    account([honest, *greedy, Holder(200_000, 0.01)])
    assert gone([honest]) == []
    assert 0 < len(gone(greedy)) < 15, "down to half, or to what is low, and no further"
    assert {it.gave_way_for for it in greedy} == {"", "buffer_bytes"}


def test_a_user_alone_may_have_it_all() -> None:
    many = [Holder(60_000, 1) for _ in range(17)]
    buffers = account(many)
    assert gone(many) == []
    assert buffers.largest_user_bytes == 17 * 60_000 > LIMIT // 2


def test_a_larger_part_of_a_user_is_kept_if_it_is_allowed() -> None:
    greedy, honest = Holder(700_000, 1), Holder(400_000, 30, user=2)
    buffers = Buffers(SocketLimits(CONNECTIONS, buffer_bytes=LIMIT, user_percent=70))
    for holder in (greedy, honest):
        buffers.note(holder, holder.held_bytes)
    assert gone([greedy, honest]) == [1]


def test_peers_without_a_role_have_a_limit_of_their_own_and_no_share() -> None:
    strangers = [Holder(10_000, age, has_no_role=True, user=age) for age in range(1, 14)]
    small = Holder(100, 100)
    buffers = account([small, *strangers])
    assert buffers.by_role()["none"] == 130_000
    late = Holder(5_000, 0.1, has_no_role=True, user=99)
    buffers.note(late, late.held_bytes)
    assert gone([small, *strangers, late]) == [11, 12, 13], "the oldest"
    assert {it.gave_way_for for it in strangers} == {"", "buffer_bytes_without_role"}
    assert buffers.by_role() == {"allocator": 100, "none": 105_000}


def test_a_role_that_changes_takes_what_is_held_along() -> None:
    holder = Holder(1000)
    buffers = account([holder])
    holder.role = Role.NONE
    buffers.note(holder, 2000)
    assert {name: held for name, held in buffers.by_role().items() if held} == {"none": 2000}
    buffers.forget(holder)
    assert (buffers.held_bytes, buffers.largest_user_bytes) == (0, 0)

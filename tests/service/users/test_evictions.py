# SPDX-License-Identifier: GPL-2.0-only
"""Which connection is closed for a new one; tests/service/test_users.py tries it over a socket."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from bcached.service.users.evictions import LOOKED_AT, Evictions
from instruments.time.lines_run import lines_run


@dataclass(eq=False)
class Connected:
    """What is known of a connection."""

    user_id: int
    active_at_ns: int = 0
    is_busy: bool = False
    has_no_role: bool = False


def of_users(*counts: int) -> Evictions[Connected]:
    """Connections of users 0, 1, ..., as many as given."""
    it: Evictions[Connected] = Evictions()
    for uid, count in enumerate(counts):
        for number in range(count):
            it.add(Connected(uid, number))
    return it


def test_the_user_with_more_than_half_is_known_after_any_changes() -> None:
    chance = random.Random(1)
    it: Evictions[Connected] = Evictions()
    connected: list[Connected] = []
    found = 0
    for _ in range(3000):
        if len(connected) == 20 or (connected and chance.random() < 0.4):
            connection = connected.pop(chance.randrange(len(connected)))
            it.remove(connection)
        else:
            connected.append(Connected(chance.choice([0, 0, 0, 1, 1, 2, 3])))
            it.add(connected[-1])
        counts = Counter(each.user_id for each in connected)
        assert it.most_of_a_user == max(counts.values(), default=0)
        for uid, count in counts.items():
            assert it.count_of(uid) == count
            if count > 10:  # half of as many as may be connected
                found += 1
                assert it.largest_uid == uid
    assert found > 100


def test_with_a_lower_limit_the_user_with_the_most_is_found_again() -> None:
    it = of_users(0, 8, 5)
    first = [it.least_active(1) for _ in range(6)]
    for connection in first[:1]:
        it.remove(connection)
    for _ in range(5):
        it.remove(it.least_active(1))
    assert it.largest_uid == 1, "it had the most when it connected last"
    it.recount()
    assert it.largest_uid == 2


@pytest.mark.parametrize("number", range(2))
def test_one_idle_for_longest_goes_first_and_a_busy_one_last(number: int) -> None:
    it: Evictions[Connected] = Evictions()
    busy, lately, long_ago = Connected(1, 1, is_busy=True), Connected(1, 9), Connected(1, 5)
    for connection in ((busy, lately, long_ago), (long_ago, lately, busy))[number]:
        it.add(connection)
    order = []
    for _ in range(3):
        order.append(it.least_active(1))
        it.remove(order[-1])
    assert order == [long_ago, lately, busy]
    assert it.count_of(1) == 0


def test_a_peer_that_gets_a_role_is_not_taken_for_one_without() -> None:
    it: Evictions[Connected] = Evictions()
    stranger = Connected(1, has_no_role=True)
    it.add(stranger)
    assert it.without_role() is stranger
    stranger.has_no_role = False
    it.note_role(stranger)
    assert it.without_role() is None


def test_a_choice_takes_as_many_steps_among_ten_thousand_as_among_a_few() -> None:
    few, many = of_users(LOOKED_AT, 1), of_users(10_000, 1)

    def choose(it: Evictions[Connected]) -> int:
        return lines_run(lambda: (it.without_role(), it.count_of(it.largest_uid), it.least_active(0)))

    assert choose(many) == choose(few)

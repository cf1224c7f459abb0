# SPDX-License-Identifier: GPL-2.0-only
"""The order is that of a plain model, and no step looks at more waiters, the more there are."""

from random import Random
from typing import Any

import pytest

from bcached.runtime.coordination.fair_queue import FairQueue, Round


class Entry:
    """What is queued. looked_at counts how often the queue asked any entry for anything."""

    looked_at = 0

    def __init__(self, user: int | None, name: int = 0) -> None:
        self._user = user
        self._round: Round[Any] | None = None
        self.name = name

    def __hash__(self) -> int:
        Entry.looked_at += 1
        return id(self)

    def __eq__(self, other: object) -> bool:
        Entry.looked_at += 1
        return self is other

    @property
    def user(self) -> int | None:
        Entry.looked_at += 1
        return self._user

    @property
    def in_round(self) -> Round[Any] | None:
        Entry.looked_at += 1
        return self._round

    @in_round.setter
    def in_round(self, value: Round[Any] | None) -> None:
        Entry.looked_at += 1
        self._round = value


class Model:
    """The same order, kept in a list of rounds, each a list."""

    def __init__(self) -> None:
        self.first: list[Entry] = []
        self.rounds: list[list[Entry]] = []

    def append(self, entry: Entry) -> None:
        users = [[it._user for it in a_round] for a_round in self.rounds]
        last = max((number for number, there in enumerate(users) if entry._user in there), default=-1)
        if last + 1 == len(self.rounds):
            self.rounds.append([])
        self.rounds[last + 1].append(entry)

    def remove(self, entry: Entry) -> None:
        self.first = [it for it in self.first if it is not entry]
        without = ([it for it in a_round if it is not entry] for a_round in self.rounds)
        self.rounds = [a_round for a_round in without if a_round]

    def entries(self) -> list[Entry]:
        return [*self.first, *(entry for a_round in self.rounds for entry in a_round)]

    def of(self, user: int | None) -> list[Entry]:
        return [entry for a_round in self.rounds for entry in a_round if entry._user == user]


@pytest.mark.parametrize("seed", range(10))
def test_the_order_is_that_of_the_model(seed: int) -> None:
    random, queue, model = Random(seed), FairQueue[Entry](), Model()
    for name in range(400):
        match random.randrange(8):
            case 0:
                entry = Entry(random.choice([None, 1]), name)
                queue.put_first(entry)
                model.first.insert(0, entry)
            case 1 | 2 | 3 if model.entries():
                entry = random.choice(model.entries())
                queue.remove(entry)
                model.remove(entry)
            case _:
                entry = Entry(random.choice([None, 1, 1, 1, 2, 3]), name)
                queue.append(entry)
                model.append(entry)
        assert [entry.name for entry in queue] == [entry.name for entry in model.entries()]
        assert len(queue) == len(model.entries())
        assert queue.first == model.first
        assert not model.entries() or queue.head is model.entries()[0]
        users = [user for user in (None, 1, 2, 3) if model.of(user)]
        assert [queue.last_of(user) for user in users] == [model.of(user)[-1] for user in users]
        assert {entry.name for entry in queue.oldest()} == {model.of(user)[0].name for user in users}


def test_an_empty_queue_has_no_last_one_and_begins_again() -> None:
    queue = FairQueue[Entry]()
    one = Entry(1)
    queue.append(one)
    queue.remove(one)
    assert (len(queue), list(queue), queue.last_of(1), list(queue.oldest())) == (0, [], None, [])
    queue.append(one)
    assert queue.head is one


def steps_looked_at(waiting: int) -> list[int]:
    """Returns how much each kind of step looks at among so many waiters, most of them of one user."""
    queue = FairQueue[Entry]()
    entries = [Entry(number % 3 and 1, number) for number in range(waiting)]
    for entry in entries:
        queue.append(entry)
    late, other = Entry(1), Entry(5)
    found = []
    for step in (
        lambda: queue.append(late),
        lambda: queue.append(other),
        lambda: queue.head,
        lambda: queue.last_of(1),
        lambda: list(queue.oldest()),
        lambda: queue.remove(entries[waiting // 2]),
        lambda: queue.remove(late),
        lambda: queue.remove(queue.head),
    ):
        Entry.looked_at = 0
        step()
        found.append(Entry.looked_at)
    return found


def test_no_step_looks_at_more_among_thousands() -> None:
    assert steps_looked_at(3000) == steps_looked_at(30)

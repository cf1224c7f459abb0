# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Callable

from bcached.service.users.turns import PATIENCE, STEP_NS, TURN_NS, Turns, User
from instruments.time.lines_run import lines_run

MS = 1_000_000


class Bench:
    """Turns, with a clock that only what runs moves on."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.scheduled: list[Callable[[], None]] = []
        self.turns = Turns(self.scheduled.append, lambda: self.now_ns)
        self.log: list[str] = []

    def round(self) -> list[str]:
        """What ran in the next round."""
        self.log.clear()
        scheduled, self.scheduled[:] = self.scheduled[:], []
        for run in scheduled:
            run()
        return list(self.log)

    def rounds(self) -> list[list[str]]:
        """What ran in each round until nothing is scheduled any more."""
        found = []
        while self.scheduled:
            found.append(self.round())
        return found


class Work:
    """A connection with so much to do that it takes some turns, each equally long."""

    def __init__(self, bench: Bench, user: User, name: str, turn_ns: int, count: int = 1) -> None:
        self.took_ns = self.ran_ns = turn_ns
        self._bench = bench
        self._user = user
        self._name = name
        self._count = count
        bench.turns.wait(user, self)

    def take_turn(self) -> None:
        self._bench.now_ns += self.took_ns
        self._bench.log.append(self._name)
        self._count -= 1
        if self._count:
            self._bench.turns.wait(self._user, self)


def test_a_user_with_many_connections_has_one_turn_a_round() -> None:
    it = Bench()
    greedy, honest = it.turns.join(1), it.turns.join(2)
    for number in range(100):
        Work(it, greedy, f"greedy {number}", TURN_NS // 4)
    Work(it, honest, "honest", 1000)
    assert it.round() == [*(f"greedy {number}" for number in range(4)), "honest"]


def test_every_user_has_its_turn() -> None:
    it = Bench()
    for uid in range(10):
        for _ in range(2):
            Work(it, it.turns.join(uid), str(uid), TURN_NS)
    rounds = it.rounds()
    assert [name for one in rounds for name in one] == [str(uid) for uid in range(10)] * 2
    assert {len(one) for one in rounds} == {2}  # then events are handled


def test_a_little_request_goes_ahead_of_long_ones() -> None:
    it = Bench()
    user = it.turns.join(1)
    for number in range(100):
        Work(it, user, f"long {number}", 2 * TURN_NS, count=2)
    assert it.round() == ["long 0"]
    Work(it, user, "little", 1000)
    assert it.round()[0] == "little"


def test_a_long_request_is_not_put_off_for_ever() -> None:
    it = Bench()
    user = it.turns.join(1)
    Work(it, user, "long", MS)
    ran: list[str] = []
    while "long" not in ran:  # more little ones arrive than can be served
        for _ in range(11):
            Work(it, user, "little", TURN_NS // 10)
        ran = it.round()
        assert it.now_ns <= 2 * PATIENCE * MS
    assert it.now_ns > PATIENCE * MS // 2


def test_a_turn_that_is_over_begins_again_with_the_next_round() -> None:
    it = Bench()
    user = it.turns.join(1)
    user.spent_ns = TURN_NS + 1
    it.turns.end(user)
    before = user.is_over
    assert it.rounds() == [[]]
    assert (before, user.is_over, user.spent_ns) == (True, False, 0)


def test_what_was_used_of_a_turn_is_forgotten_with_the_iteration() -> None:
    it = Bench()
    user, _ = it.turns.join(1), it.turns.join(2)
    for _ in range(10):  # more than a turn in all, and never more than most of one at a time
        user.spent_ns += TURN_NS * 3 // 4
        it.turns.note_spent(user)
        assert (user.is_over, it.round(), user.spent_ns) == (False, [], 0)
    user.spent_ns += TURN_NS + 1
    it.turns.note_spent(user)
    assert user.is_over
    assert it.rounds() == [[]]
    assert (user.is_over, user.spent_ns) == (False, 0)


def test_a_user_whose_connections_wait_is_over_until_they_ran() -> None:
    it = Bench()
    user = it.turns.join(1)
    Work(it, user, "first", TURN_NS)
    Work(it, user, "second", TURN_NS)
    over = []
    while it.scheduled:
        it.round()
        over.append(user.is_over)
    assert over == [True, False]


def test_users_without_connections_are_forgotten() -> None:
    it = Bench()
    user = it.turns.join(7)
    assert it.turns.join(7) is user
    it.turns.leave(user)
    assert it.turns.users == {7: user}
    it.turns.leave(user)
    assert it.turns.users == {}


async def test_a_pause_ends_with_the_turn_and_counts_as_a_step() -> None:
    it = Bench()
    user = it.turns.join(1)
    coroutines = [it.turns.pause(user) for _ in range(5)]
    for coroutine in coroutines:
        coroutine.send(None)  # the first only begins a new turn; the others wait for one
    steps = TURN_NS // STEP_NS
    waiting = []
    while it.scheduled:
        it.round()
        waiting.append(len(user.waiting))
    assert waiting == [4 - steps, 4 - 2 * steps]
    for coroutine in coroutines:
        coroutine.close()


def test_a_round_takes_as_many_steps_however_many_users_wait() -> None:
    """It ends when its time is used up; those behind cost nothing, and have their turns later."""
    steps = []
    for users in (10, 2000):
        it = Bench()
        for uid in range(users):
            Work(it, it.turns.join(uid), str(uid), TURN_NS)
        steps.append([lines_run(it.round) for _ in range(3)])
        assert it.log == ["4", "5"]
    few, many = steps
    assert many == few

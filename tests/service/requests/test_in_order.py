# SPDX-License-Identifier: GPL-2.0-only
from bcached.service.requests.in_order import InOrderRequests
from bcached.service.requests.method import Operation, Outcome, Session
from bcached.service.requests.reply_queue import ReplySlot
from bcached.service.users.access import Role
from bcached.wire import messages
from bcached.wire.methods import METHODS, Request


def never(_session: Session, _parameters: object) -> Outcome:
    raise AssertionError("run")


CHANGE = Operation(Role.ALLOCATOR, never, changes=True, in_order=True)
READ = Operation(Role.READER, never, in_order=True)
REQUEST: Request = METHODS["io.bcached.Allocator.Flush"].request(parameters=messages.Nothing())


def new_slot() -> ReplySlot:
    return ReplySlot(Request, 0)


def test_a_read_waits_for_no_other_read() -> None:
    running = InOrderRequests()
    running.begin(new_slot(), READ)
    assert not running.must_wait(READ)
    assert running.must_wait(CHANGE)


def test_everything_waits_for_a_change_until_it_is_made() -> None:
    running, slot = InOrderRequests(), new_slot()
    running.begin(slot, CHANGE)
    assert running.must_wait(READ)
    assert running.must_wait(CHANGE)
    running.end(slot)
    assert not running.must_wait(CHANGE)


def test_a_change_waits_for_every_read() -> None:
    running, slots = InOrderRequests(), [new_slot(), new_slot()]
    for slot in slots:
        running.begin(slot, READ)
    running.end(slots[1])
    assert running.must_wait(CHANGE)
    running.end(slots[0])
    assert not running.must_wait(CHANGE)


def test_nothing_overtakes_what_is_deferred() -> None:
    running, read, change, late = InOrderRequests(), new_slot(), new_slot(), new_slot()
    running.begin(read, READ)
    running.defer(change, REQUEST, CHANGE)
    assert running.must_wait(READ)
    running.defer(late, REQUEST, READ)
    assert running.next() is None
    running.end(read)
    assert running.next() == (change, REQUEST)
    running.begin(change, CHANGE)
    assert running.next() is None
    running.end(change)
    assert running.next() == (late, REQUEST)
    assert running.next() is None


def test_the_end_of_any_other_request_is_ignored() -> None:
    running = InOrderRequests()
    running.begin(new_slot(), CHANGE)
    running.end(new_slot())
    assert running.must_wait(READ)


def test_cleared_nothing_is_deferred() -> None:
    running, slot = InOrderRequests(), new_slot()
    running.begin(slot, CHANGE)
    running.defer(new_slot(), REQUEST, READ)
    assert repr(running) == "<InOrderRequests: a change and 0 reads run, 1 deferred>"
    running.clear()
    running.end(slot)
    assert running.next() is None
    assert repr(running) == "<InOrderRequests: no change and 0 reads run, 0 deferred>"

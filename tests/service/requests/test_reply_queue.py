# SPDX-License-Identifier: GPL-2.0-only
import msgspec

from bcached.service.requests.reply_queue import (
    REPLY_BYTES_BEHIND_MAX,
    REQUEST_BYTES_BEHIND_MAX,
    REQUESTS_BEHIND_MAX,
    ReplyQueue,
    ReplySlot,
)

RAW = msgspec.Raw(b"{}")


def appended(queue: ReplyQueue, request_bytes: int = 10, *, silent: bool = False) -> ReplySlot:
    slot = ReplySlot(int, 0, request_bytes, silent)
    queue.append(slot)
    return slot


def filled(queue: ReplyQueue, slot: ReplySlot, reply: msgspec.Raw) -> list[msgspec.Raw]:
    """What can be sent once this reply is set."""
    queue.set_reply(slot, reply)
    return queue.pop_ready()


def test_a_reply_waits_for_those_before_it() -> None:
    queue = ReplyQueue()
    first, second, third = (appended(queue) for _ in range(3))
    assert filled(queue, second, RAW) == []
    assert filled(queue, first, RAW) == [RAW, RAW]
    assert queue.waiting() == [third]
    assert filled(queue, third, RAW) == [RAW]
    assert (queue.head, queue.held_bytes) == (None, 0)


def test_a_silent_slot_sends_nothing_and_lets_what_is_behind_it_pass() -> None:
    queue = ReplyQueue()
    silent, behind = appended(queue, silent=True), appended(queue)
    assert filled(queue, behind, RAW) == []
    assert filled(queue, silent, RAW) == [RAW]
    assert queue.held_bytes == 0


def test_a_silent_slot_is_removed_even_behind_one_that_waits() -> None:
    queue = ReplyQueue()
    appended(queue)
    before = queue.held_bytes
    for _ in range(REQUESTS_BEHIND_MAX + 1):
        filled(queue, appended(queue, silent=True), RAW)
    assert (queue.held_bytes, queue.is_full) == (before, False)


def test_it_is_full_with_too_many_slots() -> None:
    queue = ReplyQueue()
    for _ in range(REQUESTS_BEHIND_MAX):
        appended(queue, 0)
    assert not queue.is_full
    appended(queue, 0)
    assert queue.is_full


def test_it_is_full_with_too_many_bytes_of_replies() -> None:
    queue = ReplyQueue()
    appended(queue)
    filled(queue, appended(queue), msgspec.Raw(b"x" * (REPLY_BYTES_BEHIND_MAX - 1)))
    assert not queue.is_full
    filled(queue, appended(queue), msgspec.Raw(b"x"))
    assert queue.is_full


def test_it_is_full_with_too_many_bytes_of_requests_but_the_first_may_be_of_any_size() -> None:
    queue = ReplyQueue()
    appended(queue, 2 * REQUEST_BYTES_BEHIND_MAX)
    assert not queue.is_full
    appended(queue, REQUEST_BYTES_BEHIND_MAX - 1)
    assert not queue.is_full
    appended(queue, 1)
    assert queue.is_full


def test_cleared_it_holds_nothing() -> None:
    queue = ReplyQueue()
    slots = [appended(queue), appended(queue)]
    filled(queue, slots[1], RAW)
    assert queue.waiting() == slots[:1]
    assert queue.clear() == slots
    assert (queue.held_bytes, queue.head, queue.is_full) == (0, None, False)


def test_its_repr_shows_what_waits_and_what_is_behind() -> None:
    queue = ReplyQueue()
    assert repr(queue) == "<ReplyQueue: 0 replies of 0 bytes behind nothing>"
    appended(queue)
    filled(queue, appended(queue), RAW)
    assert repr(queue) == "<ReplyQueue: 1 replies of 2 bytes behind int>"

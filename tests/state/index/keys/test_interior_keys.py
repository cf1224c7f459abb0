# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Callable

from bcached.keys import Key, Pointer
from bcached.state.index.keys.interior_keys import classify, is_freeing


def child(end: int, bucket: int, gen: int = 0) -> Key:
    return Key(0, end - 64, 64, False, (Pointer(0, bucket * 64, gen),))


def staleness(**gens: int) -> Callable[[Pointer], int]:
    return lambda pointer: max(0, gens.get(f"b{pointer.sector // 64}", 0) - pointer.gen)


def test_live_children_come_in_the_order_of_their_positions() -> None:
    keys = [child(30, 3), child(10, 1), child(20, 2)]
    assert classify(keys, staleness()).live == [keys[1], keys[2], keys[0]]


def test_of_two_at_one_position_the_one_that_is_not_stale_counts() -> None:
    old, new = child(10, 1), child(10, 2)
    for keys in ([old, new], [new, old], [old, new, child(0, 1, 1)]):
        children = classify(keys, staleness(b1=1))
        assert (children.live, children.doubled, children.vanished) == ([new], [], [])


def test_a_freeing_key_is_no_child() -> None:
    freeing = child(0, 1, 1)
    assert is_freeing(freeing)
    assert not is_freeing(child(10, 1))
    assert classify([freeing], staleness(b1=1)).live == []


def test_of_several_that_are_live_at_one_position_the_newest_comes_first() -> None:
    newest, newer, old = (child(10, bucket) for bucket in (3, 1, 2))
    others = [child(5, 4), child(20, 5)]
    children = classify([others[1], newest, newer, others[0], old], staleness())
    assert (children.live, children.doubled) == ([others[0], newest, others[1]], [newer, old])
    assert children.below(newest) == [newer, old]
    assert children.below(others[0]) == []
    assert children.all_live == [others[0], newest, newer, old, others[1]]


def test_a_stale_one_that_nothing_replaced_has_vanished() -> None:
    keys = [child(10, 1), child(20, 2)]
    assert classify(keys, staleness(b1=1)).vanished == [keys[0]]
    # Another's freeing key says nothing of it.
    assert classify([*keys, child(0, 3, 1)], staleness(b1=1, b3=1)).vanished == [keys[0]]
    assert classify([*keys, child(0, 1, 1)], staleness(b1=1)).vanished == []

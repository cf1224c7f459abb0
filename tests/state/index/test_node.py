# SPDX-License-Identifier: GPL-2.0-only
"""What a leaf and an interior node know of themselves."""

import pytest

from bcached.format.bkey import END_MAX
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.extents import NO_LIMIT, Extents
from bcached.state.index.node import Interior, Leaf, bound_of

BUCKET = 64


def node_key(inode: int, end: int, bucket: int = 5) -> Key:
    return Key(inode, end - BUCKET, BUCKET, False, (Pointer(0, bucket * BUCKET, 1),))


def data(start: int, size: int, sector: int = 6400, *, gen: int = 1) -> Key:
    return Key(0, start, size, False, (Pointer(0, sector, gen),))


def a_leaf() -> Leaf:
    return Leaf(node_key(INODE_MAX, END_MAX), 7, 1, Extents(merge_within=BUCKET))


def test_what_is_inserted_is_unwritten_until_its_write_ends() -> None:
    leaf = a_leaf()
    assert leaf.is_clean
    leaf.insert(data(0, 8), 3)
    leaf.insert(data(100, 8), 4)
    assert (leaf.oldest_seq, leaf.unwritten.newest_seq, leaf.is_clean) == (3, 4, False)
    writing = leaf.begin_write()
    leaf.insert(data(200, 8), 5)
    assert list(writing.extents) == [data(0, 8), data(100, 8)]
    assert list(leaf.unwritten.extents) == [data(200, 8)]
    assert leaf.oldest_seq == 3
    assert leaf.end_write(2) is writing
    assert (leaf.blocks_used, leaf.oldest_seq, leaf.is_clean) == (3, 5, False)
    leaf.begin_write()
    leaf.end_write(1)
    assert leaf.is_clean


def test_two_writes_at_once_are_refused() -> None:
    leaf = a_leaf()
    leaf.begin_write()
    with pytest.raises(AssertionError):
        leaf.begin_write()


def test_what_stands_behind_a_cut_out_middle_is_written_again() -> None:
    leaf = a_leaf()
    leaf.insert(data(0, 30), 1)
    leaf.begin_write()
    leaf.end_write(1)
    assert leaf.insert(data(10, 5, 12800), 2) == [data(10, 5, 6410)]
    assert list(leaf.unwritten.extents) == [data(10, 5, 12800), data(15, 15, 6415)]


def test_a_neighbour_that_is_whole_is_not_written_again() -> None:
    leaf = a_leaf()
    leaf.insert(data(0, 10), 1)
    leaf.insert(data(10, 10, 9600), 1)
    leaf.begin_write()
    leaf.end_write(1)
    leaf.insert(data(5, 5, 12800), 2)
    leaf.insert(data(30, 5), 2)
    assert list(leaf.unwritten.extents) == [data(5, 5, 12800), data(30, 5)]


def test_a_deletion_is_kept_for_the_write_and_leaves_nothing() -> None:
    leaf = a_leaf()
    gone = Key(0, 4, 100, False, ())
    leaf.insert(data(0, 10), 1)
    assert leaf.insert(gone, 2) == [data(4, 6, 6404)]
    assert list(leaf.live) == [data(0, 4)]
    assert list(leaf.unwritten.extents) == [data(0, 4), gone]


def test_a_stale_key_is_dropped_only_as_it_was_and_when_it_is_written() -> None:
    leaf = a_leaf()
    leaf.insert(data(0, 10), 1)
    assert not leaf.drop(data(0, 10)), "not written yet: a read of the leaf would bring it back as new"
    leaf.begin_write()
    leaf.end_write(1)
    assert not leaf.drop(data(0, 10, gen=2))
    assert not leaf.drop(data(0, 12))
    assert leaf.drop(data(0, 10))
    assert list(leaf.live) == []
    assert leaf.is_clean


def test_a_leaf_ends_for_an_inode_where_its_range_says() -> None:
    leaf = Leaf(node_key(3, 500), 7, 1, Extents())
    assert leaf.end_within(3) == 500
    assert leaf.end_within(2) == NO_LIMIT


def an_interior() -> Interior:
    children = [node_key(0, 100), node_key(0, 200), node_key(4, 50), node_key(INODE_MAX, END_MAX)]
    return Interior(node_key(INODE_MAX, END_MAX), 1, 9, 1, list(children))


@pytest.mark.parametrize(
    ("inode", "sector", "index"),
    [(0, 0, 0), (0, 99, 0), (0, 100, 1), (0, 199, 1), (0, 200, 2), (3, 1 << 40, 2), (4, 49, 2), (4, 50, 3)],
)
def test_a_sector_is_in_the_first_child_that_ends_behind_it(inode: int, sector: int, index: int) -> None:
    assert an_interior().index_at(inode, sector) == index


def test_a_childs_own_key_leads_to_it() -> None:
    interior = an_interior()
    assert [interior.index_of_key(child) for child in interior.children if isinstance(child, Key)] == [
        0,
        1,
        2,
        3,
    ]


def test_children_are_replaced_by_others_of_the_same_range() -> None:
    interior = an_interior()
    new = [Leaf(node_key(0, 150, 8), 1, 1, Extents()), Leaf(node_key(4, 50, 9), 1, 1, Extents())]
    interior.replace(1, 2, new)
    assert interior.bounds == [
        bound_of(node_key(0, 100)),
        *(leaf.bound for leaf in new),
        interior.bounds[-1],
    ]
    with pytest.raises(AssertionError):
        interior.replace(0, 1, new)


def test_an_interior_whose_children_end_elsewhere_is_refused() -> None:
    with pytest.raises(AssertionError):
        Interior(node_key(INODE_MAX, END_MAX), 1, 9, 1, [node_key(0, 100)])

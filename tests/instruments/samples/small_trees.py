# SPDX-License-Identifier: GPL-2.0-only
"""Trees of a few leaves, without a device."""

from collections.abc import Sequence

from bcached.format.bkey import END_MAX
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.node import Interior, Leaf
from bcached.state.index.node_shape import NodeShape
from bcached.state.index.tree import Missing, Tree

BUCKET = 64
SHAPE = NodeShape(node_sectors=8, block_bytes=512, bucket_sectors=BUCKET)
LAST = (INODE_MAX, END_MAX)


def node_key(inode: int, end: int, bucket: int) -> Key:
    return Key(inode, end - 8, 8, False, (Pointer(0, bucket * BUCKET, 1),))


def data(start: int, size: int) -> Key:
    return Key(0, start, size, True, (Pointer(0, 64000 + start, 1),))


def leaf_of(key: Key) -> Leaf:
    return Leaf(key, 1, 1, Extents(merge_within=BUCKET))


def a_tree() -> tuple[Tree, list[Key]]:
    """Three leaves, none of them loaded: up to 0:100, up to 0:200, the rest."""
    keys = [node_key(0, 100, 10), node_key(0, 200, 11), node_key(*LAST, 12)]
    return Tree(Interior(node_key(*LAST, 13), 1, 1, 1, list(keys)), SHAPE), keys


def load(tree: Tree, inode: int, sector: int, keys: Sequence[Key] = ()) -> Leaf:
    """Load a leaf that has these keys on disk."""
    missing = tree.find(inode, sector)
    assert isinstance(missing, Missing)
    leaf = leaf_of(missing.key)
    for key in keys:
        leaf.live.insert(key)
    assert tree.attach(missing, leaf)
    return leaf

# SPDX-License-Identifier: GPL-2.0-only
"""A change of the tree's shape: neighbours replaced by new nodes with the same keys.

Splitting, rewriting and coalescing are one operation here: adjacent children of a node are replaced by
others. Their parent gets the new keys, and keys that free the old ones, in one bset of one block. If that
does not fit the parent is replaced, too, and so on up to the root. The journal names a new root.

All is decided before anything is written, so it is known how many buckets it takes, and nothing in memory
changes before it is durable. There is only one change at a time. But nodes are loaded and evicted, and keys
inserted, while it is being written: new nodes get the children, and the keys inserted since, when they are
installed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bcached.format.bkey import END_MAX, pack_key
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.bset_packing import PackedKeys
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import position_of
from bcached.state.index.keys.unwritten import Unwritten
from bcached.state.index.node import Interior, Leaf, Node, key_of
from bcached.state.index.node_paths import NodePath, path_to
from bcached.state.index.node_shape import CHILD_WORDS, NodeShape
from bcached.state.index.tree import Tree

CHILDREN_A_PART = 256  # to be packed per slice: a millisecond
MAX_POSITION = (INODE_MAX, END_MAX)


@dataclass(slots=True, eq=False)
class NewNode:
    """A new node, to be written whole. It has a key once it has a bucket."""

    level: int
    position: tuple[int, int]  # inode and end: no key of it ends behind
    word_count: int  # of its keys
    keys: bytes = b""  # a leaf's
    children: list["Source"] = field(default_factory=list)  # an interior node's
    node_key: Key | None = None
    seq: int = 0  # of its bset

    @property
    def key(self) -> Key:
        """Its key; it must have a bucket."""
        assert self.node_key is not None
        return self.node_key

    def packed(self) -> Iterator[bytes]:
        """Yields its keys, packed for its bset, in parts: an interior node may have ten thousand."""
        if not self.level:
            yield self.keys
        for start in range(0, len(self.children), CHILDREN_A_PART):
            part = self.children[start : start + CHILDREN_A_PART]
            yield b"".join([pack_key(_source_key(child)) for child in part])


Source: TypeAlias = NewNode | tuple[Interior, int]  # a new child, or an existing one by its parent


@dataclass(slots=True, eq=False)
class Append:
    """The bset that makes a change effective, in a node that is not replaced."""

    parent: Interior
    index: int  # of the first child that is replaced
    replaced: list[Key]  # the keys of the children that are replaced
    new_nodes: list[NewNode]  # the nodes that replace the children

    def freeing(self, gens: Sequence[int]) -> list[Key]:
        """The keys that free the old nodes: their pointers, with the new gens of their buckets."""
        return [
            Key(0, -key.sectors, key.sectors, False, (Pointer(old.device, old.sector, gen),))
            for key, gen in zip(self.replaced, gens, strict=True)
            for old in key.pointers[:1]
        ]


@dataclass(slots=True, eq=False)
class TreeChange:
    """What is to be written, and which nodes it replaces."""

    replaced: list[Node]  # the nodes to be replaced, all of one level
    new_nodes: list[NewNode]  # all new nodes, children before their parents
    below: list[Key] = field(default_factory=list)  # keys of the nodes below the last of those replaced
    replaced_parents: list[Interior] = field(default_factory=list)  # parents that are replaced too
    append: Append | None = None
    root: NewNode | None = None  # the new root; None if there is an append

    @property
    def growth(self) -> int:
        """How many nodes the tree gains by it."""
        return len(self.new_nodes) - len(self.freed())

    def freed(self) -> list[Key]:
        """The keys of the nodes whose buckets are free after it."""
        return [*(node.key for node in [*self.replaced, *self.replaced_parents]), *self.below]

    def assign_buckets(self, pointers: Sequence[Pointer], shape: NodeShape, seqs: Iterator[int]) -> None:
        """Give each new node its bucket and its seq."""
        for new_node, pointer in zip(self.new_nodes, pointers, strict=True):
            inode, end = new_node.position
            new_node.node_key = Key(inode, end - shape.node_sectors, shape.node_sectors, False, (pointer,))
            new_node.seq = next(seqs)


def replace_leaves(
    tree: Tree,
    leaves: Sequence[Leaf],
    may_free: Callable[[Key], bool],
    *,
    coalesce: bool = False,
    tight: bool = False,
) -> TreeChange | None:
    """Returns the change that rewrites adjacent leaves; None if coalesce would not make them fewer.

    The caller must begin_write each leaf before it awaits. tight: into as few nodes as possible.
    """
    shape = tree.shape
    packed = PackedKeys([leaf.live for leaf in leaves])
    cuts = _cuts(packed.word_count, len(leaves), shape, coalesce=coalesce, tight=tight)
    if cuts is None:
        return None
    new_nodes, begin = [], 0
    for cut in [*cuts, packed.word_count]:
        end = packed.behind(cut)
        last = end == len(packed)
        key = leaves[-1].key
        position = (key.inode, key.end) if last else packed.end_of(end - 1)
        keys = packed.cut(begin, end)
        new_nodes.append(NewNode(0, position, len(keys) // 8, keys))
        begin = end
        if last:
            break
    return _climb(tree, list(leaves), new_nodes, may_free, tight=tight)


def replace_interiors(
    tree: Tree,
    nodes: Sequence[Interior],
    may_free: Callable[[Key], bool],
    *,
    coalesce: bool = False,
    tight: bool = False,
) -> TreeChange | None:
    """Returns the change that rewrites adjacent interior nodes; None as in `replace_leaves`."""
    children: list[Source] = [(node, index) for node in nodes for index in range(len(node.children))]
    cuts = _cuts(len(children) * CHILD_WORDS, len(nodes), tree.shape, coalesce=coalesce, tight=tight)
    if cuts is None:
        return None
    new_nodes = _new_interiors(nodes[0].level, children, cuts)
    return _climb(tree, list(nodes), new_nodes, may_free, tight=tight)


def _cuts(words: int, count: int, shape: NodeShape, *, coalesce: bool, tight: bool) -> list[int] | None:
    return shape.coalescence(words, count) if coalesce else shape.division(words, tight=tight)


def _climb(
    tree: Tree,
    replaced: list[Node],
    new_nodes: list[NewNode],
    may_free: Callable[[Key], bool],
    *,
    tight: bool,
) -> TreeChange:
    """Add the changes of parents, as far up the tree as necessary. Returns the whole change."""
    change = TreeChange(replaced, list(new_nodes))
    path: NodePath = path_to(tree.root, replaced[0])
    count = len(replaced)
    while path:
        parent, index = path.pop()
        # Older leaves at the position of the last one are in its rewrite, and are freed with it.
        change.below += parent.below(index + count - 1)
        count += parent.count_below(index + count - 1)
        old = [key_of(child) for child in parent.children[index : index + count]]
        words = CHILD_WORDS * (len(new_nodes) + count)
        has_block = parent.blocks_used < tree.shape.blocks_of(parent.key.sectors)
        # 1. The parent has space for a bset: that makes the change effective. Freeing keys raise the gens of
        #    the old nodes' buckets, so each gen must be able to go up.
        if has_block and words <= tree.shape.block_words and all(map(may_free, old)):
            change.append = Append(parent, index, old, new_nodes)
            return change
        # 2. It has none: it is replaced, too, and its parent is next.
        change.replaced_parents.append(parent)
        children: list[Source] = [(parent, child) for child in range(len(parent.children))]
        children[index : index + count] = new_nodes
        cuts = tree.shape.division(len(children) * CHILD_WORDS, tight=tight)
        new_nodes = _new_interiors(parent.level, children, cuts)
        change.new_nodes += new_nodes
        count = 1
    # 3. The root is replaced. If that takes several nodes, new levels above them end in one.
    while len(new_nodes) > 1:
        above: list[Source] = list(new_nodes)
        cuts = tree.shape.division(len(above) * CHILD_WORDS, tight=tight)
        new_nodes = _new_interiors(new_nodes[0].level + 1, above, cuts)
        change.new_nodes += new_nodes
    assert new_nodes[0].position == MAX_POSITION
    change.root = new_nodes[0]
    return change


def _new_interiors(level: int, children: list[Source], cuts: list[int]) -> list[NewNode]:
    new_nodes, begin = [], 0
    for cut in [*cuts, len(children) * CHILD_WORDS]:
        end = -(-cut // CHILD_WORDS)
        while end < len(children) and _position(children[end]) == _position(children[end - 1]):
            end += 1  # leaves below another one stay with it
        part = children[begin:end]
        if part:
            new_nodes.append(NewNode(level, _position(part[-1]), len(part) * CHILD_WORDS, children=part))
        begin = end
    return new_nodes


def _position(source: Source) -> tuple[int, int]:
    return source.position if isinstance(source, NewNode) else position_of(_source_key(source))


def _source_key(source: Source) -> Key:
    if isinstance(source, NewNode):
        return source.key
    interior, index = source
    return key_of(interior.children[index])


# Installing a change


def install(tree: Tree, change: TreeChange, freed: Sequence[Key]) -> None:
    """Replace the old nodes in memory by the new ones, which are durable and referenced.

    freed are the freeing keys that were written.
    """
    assert (change.append is None) != (change.root is None)
    # 1. The old leaves go first: the new ones take over their extents.
    leaves = [node for node in change.replaced if isinstance(node, Leaf)]
    for leaf in leaves:
        tree.leaves.remove(leaf)
    nodes: dict[NewNode, Node] = _new_leaves(tree.shape, leaves, change.new_nodes) if leaves else {}
    # 2. New interior nodes, children first. Of an existing node they take the child as it is now: it may have
    #    been loaded or evicted since the change was planned.
    for new_node in change.new_nodes:
        if new_node.level:
            children = [
                nodes[child] if isinstance(child, NewNode) else child[0].children[child[1]]
                for child in new_node.children
            ]
            blocks = tree.shape.blocks_for(new_node.word_count)
            nodes[new_node] = Interior(new_node.key, new_node.level, new_node.seq, blocks, children)
    # 3. A parent that stays gets the new nodes, and remembers the keys that its new bset made stale.
    if change.append:
        append = change.append
        append.parent.replace(
            append.index, len(append.replaced), [nodes[new_node] for new_node in append.new_nodes]
        )
        append.parent.replaced += [*append.replaced, *freed]
        append.parent.blocks_used += 1
    # 4. Or there is a new root.
    else:
        assert change.root is not None
        tree.root = nodes[change.root]
    for node in nodes.values():
        if isinstance(node, Leaf):
            tree.leaves.add(node)
    for node in [*change.replaced, *change.replaced_parents]:
        node.is_detached = True
    for leaf in leaves:  # after the new ones have pinned the same entries
        tree.leaves.unpin(leaf)


def _new_leaves(shape: NodeShape, old: list[Leaf], new_nodes: list[NewNode]) -> dict[NewNode, Node]:
    """The new leaves, with the keys inserted since their write began."""
    live = _joined([leaf.live for leaf in old])
    unwritten = _joined([leaf.unwritten.extents for leaf in old])
    seqs = [leaf.unwritten for leaf in old if leaf.unwritten.oldest_seq]
    nodes: dict[NewNode, Node] = {}
    for new_node in [new_node for new_node in new_nodes if not new_node.level]:
        leaf = Leaf(new_node.key, new_node.seq, shape.blocks_for(new_node.word_count), live)
        upper, unwritten_upper = live.split_off(*new_node.position), unwritten.split_off(*new_node.position)
        if unwritten.key_count:
            oldest, newest = min(part.oldest_seq for part in seqs), max(part.newest_seq for part in seqs)
            leaf.unwritten = Unwritten(unwritten, oldest, newest)
        live, unwritten = upper, unwritten_upper
        nodes[new_node] = leaf
    assert not live.key_count
    assert not unwritten.key_count
    return nodes


def _joined(parts: list[Extents]) -> Extents:
    """Join adjacent parts into the first, which is returned; the others must not be used any more."""
    for part in parts[1:]:
        parts[0].join(part)
    return parts[0]

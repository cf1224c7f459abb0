# SPDX-License-Identifier: GPL-2.0-only
"""Ways through the nodes in memory, from the root down: to a node, to a level, along all interior nodes."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from bcached.keys import Key
from bcached.state.index.node import Child, Interior, Node, position_at

NodePath = list[tuple[Interior, int]]  # from the root down: a node, and the index of the next child


def path_to(root: Node, node: Node) -> NodePath:
    """Returns the path from the root down to a node's parent; empty for the root itself."""
    path: NodePath = []
    here: Child = root
    while here is not node:
        assert isinstance(here, Interior), "the node is not in the tree"
        index = here.index_of_key(node.key)
        path.append((here, index))
        here = here.children[index]
    return path


def node_at(root: Node, level: int, inode: int, sector: int) -> Node:
    """Returns the node of a level that holds a sector, or the root if that is lower; it must be loaded."""
    node = root
    while node.level > level:
        assert isinstance(node, Interior)
        child = node.children[node.index_at(inode, sector)]
        assert not isinstance(child, Key), "the caller has not loaded the child"
        node = child
    return node


def are_siblings(root: Node, nodes: Sequence[Node]) -> bool:
    """Whether nodes are neighbours under one parent, in this order."""
    if nodes[0] is root:
        return len(nodes) == 1
    parent, index = path_to(root, nodes[0])[-1]
    return all(
        child is node for child, node in zip_longest(parent.children[index : index + len(nodes)], nodes)
    )


def low_of(root: Node, key: Key) -> tuple[int, int]:
    """Returns where the range of the node with this key begins: (inode, sector)."""
    low, here = 0, root
    while isinstance(here, Interior) and here.key is not key:
        index = here.index_of_key(key)
        low = here.bounds[index - 1] if index else low
        child = here.children[index]
        if isinstance(child, Key):
            break
        here = child
    return position_at(low)


def interiors(root: Node) -> Iterator[Interior]:
    """Yields all interior nodes that are loaded, parents first."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Interior):
            yield node
            waiting += [child for child in node.children if isinstance(child, Interior)]

# SPDX-License-Identifier: GPL-2.0-only
"""What the leaves of a tree hold, also those that are not in memory: a ledger looks where its set may not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.state.index.keys.extents import Extents
from bcached.state.index.node import Leaf, Node, bound_of
from bcached.state.index.node_paths import interiors
from bcached.state.index.tree_change import NewNode, TreeChange
from bcached.store.btree.node_reader import read_node
from bcached.store.membership import MemberFound
from instruments.crash.crash_judge import without_loop
from instruments.crash.crash_states import State, StateDevice
from instruments.devices.memory_device import MemoryDevice


@dataclass
class TreeFigures:
    """What became of the trees of a story, in all of its lives."""

    evicted: int = 0
    read_again: int = 0
    levels: int = 0  # the most there were
    interiors_divided: int = 0  # parents of leaves
    interiors_coalesced: int = 0

    def add(self, other: "TreeFigures") -> None:
        self.evicted += other.evicted
        self.read_again += other.read_again
        self.levels = max(self.levels, other.levels)
        self.interiors_divided += other.interiors_divided
        self.interiors_coalesced += other.interiors_coalesced


def _lowest(nodes: "Sequence[Node | NewNode]") -> int:
    """How many of these are parents of leaves."""
    return sum(node.level == 1 for node in nodes)


@dataclass
class LeavesAway:
    """The leaves of a living set that are evicted, from the moment at which it is open."""

    cache_set: CacheSet
    disks: Sequence[MemoryDevice]  # that it lives on
    figures: TreeFigures
    _held: dict[Key, list[Key]] = field(default_factory=dict)  # by the leaf's key

    def __post_init__(self) -> None:
        tree, figures = self.cache_set.index.nodes.tree, self.figures
        detach, attach = tree._detach, tree.attach

        def detaching(leaf: Leaf) -> None:
            self._held[leaf.key] = list(leaf.live)
            figures.evicted += 1
            detach(leaf)

        def attaching(missing: object, node: Node) -> bool:
            figures.read_again += self._held.pop(node.key, None) is not None
            return attach(missing, node)  # type: ignore[arg-type]

        tree._detach, tree.attach = detaching, attaching  # type: ignore[method-assign]
        self._watch_shape()

    def _watch_shape(self) -> None:
        shape, figures = self.cache_set.index.write_back.replacement, self.figures
        execute, tree = shape._execute, self.cache_set.index.nodes.tree

        async def executing(change: TreeChange) -> None:
            before, after = _lowest([*change.replaced, *change.replaced_parents]), _lowest(change.new_nodes)
            await execute(change)
            figures.interiors_divided += 0 < before < after
            figures.interiors_coalesced += 0 < after < before
            figures.levels = max(figures.levels, tree.root.level + 1)

        shape._execute = executing  # type: ignore[method-assign]
        figures.levels = max(figures.levels, tree.root.level + 1)

    def all_keys(self) -> Iterator[Key]:
        """All keys, stale or not."""
        tree = self.cache_set.index.nodes.tree
        for leaf in tree.leaves:
            yield from leaf.live
        for interior in interiors(tree.root):
            for child in interior.children if interior.level == 1 else ():
                if isinstance(child, Key):
                    yield from self._with_waiting(child)

    def _with_waiting(self, leaf: Key) -> Iterator[Key]:
        """What an evicted leaf holds, with the changes that wait for it."""
        waiting = self.cache_set.index.nodes.tree.leaves.waiting.by_bound.get(bound_of(leaf))
        live = Extents()
        for key in [*self._of(leaf), *(waiting.extents if waiting else ())]:
            live.insert(key)
        return iter(live)

    def _of(self, leaf: Key) -> list[Key]:
        """What an evicted leaf holds; one that was away at first is what lies on the device."""
        if leaf not in self._held:
            # StateDevice only reads what is certain, and a view will do for that.
            contents = [cast(bytearray, disk.disk.contents) for disk in self.disks]
            members = [
                MemberFound(StateDevice(State(certain, {}, set(), None)), member.superblock)
                for certain, member in zip(contents, self.cache_set.members, strict=True)
            ]
            live = Extents()
            for key in without_loop(read_node(members, leaf, 0)).all_keys():
                live.insert(key)
            owed = self.cache_set.index.nodes.tree.leaves.deferred.get(bound_of(leaf))
            for key in owed.extents if owed else ():
                live.insert(key)
            self._held[leaf] = list(live)
        return self._held[leaf]

# SPDX-License-Identifier: GPL-2.0-only
"""The whole btree of a set, node by node, with the journal's keys on top: what the index holds.

The order is the kernel's. A node's keys raise the gens of the buckets they point to before its children are
judged; the children that are not stale are read, left to right. A leaf's bsets are merged, later ones win,
then the journal's keys of the leaf's range; of leaves at one position (state/index/keys/interior_keys.py) the
newest wins. Whether a key is stale is checked only when all of that is done (key_check.py).

The rules are those of an opening (node_rules.py, bucket_checks.py). Damage is reported and what is below it
left out; the journal's keys count nevertheless.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

from bcached.errors import DeviceError
from bcached.format.bkey import Bounds
from bcached.keys import Key, Pointer
from bcached.state.buckets.gens import behind
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import START, Position, position_of
from bcached.state.index.keys.key_rows import KeyRows
from bcached.store.btree.node_reader import NodeFound, read_node, read_node_in_parts
from bcached.store.btree.node_rules import claim_bucket, judge_children, judge_damage, leaf_extents
from bcached.store.btree.plain_leaf import read_plain_leaf
from bcached.store.finding import Report
from bcached.store.reading.bucket_checks import BucketContents
from bcached.store.reading.torn_append import MappedSectors, may_be_torn


class NodeGens:
    """The gens that nodes name, recorded in the censuses and in contents."""

    def __init__(self, contents: BucketContents) -> None:
        self._contents = contents

    def raise_gen(self, pointer: Pointer) -> None:
        """Follow a pointer, and remember the gen it names."""
        census = self._contents.censuses[pointer.device]
        census.raise_gen(census.geometry.bucket_of(pointer.sector), pointer.gen)
        self._contents.name_pointer(pointer)

    def staleness(self, pointer: Pointer) -> int:
        """Returns how many gens the pointer is behind its bucket."""
        census = self._contents.censuses[pointer.device]
        return behind(pointer.gen, int(census.gens[census.geometry.bucket_of(pointer.sector)]))


class TreeReader:
    """Reads one tree; replayed is the journal's merged keys, deletions included, journaled what all map."""

    def __init__(
        self,
        contents: BucketContents,
        bounds: Bounds,
        replayed: Extents,
        journaled: MappedSectors,
        report: Report,
    ) -> None:
        self._contents = contents
        self._gens = NodeGens(contents)
        self._bounds = bounds
        self._replayed = replayed
        self._journaled = journaled
        self._report = report
        self.rows = KeyRows()  # of all leaves read so far
        # Keys that name gens and hold no data: leaves' keys superseded by the journal, and interior nodes'.
        self.superseded: list[Key] = []
        self.node_keys: list[Key] = []
        self.node_pointers: list[tuple[Pointer, str]] = []  # of all nodes read so far
        self.nodes_by_level: Counter[int] = Counter()
        # For who asks what can be relied on: nodes that are damaged or hide keys, and the range of each leaf
        # that is neither.
        self._doubtful: list[tuple[Key, int, Position]] = []
        self.sound_leaves: list[tuple[Position, Position]] = []

    async def nodes(self, root: Key, level: int, *, in_columns: bool = False) -> AsyncIterator[NodeFound]:
        """Yields every node that can be reached, a parent before its children, these from left to right.

        Sound leaves that are read in columns have no bsets.
        """
        members, censuses = self._contents.members, self._contents.censuses
        self._gens.raise_gen(root.pointers[0])
        waiting: list[tuple[list[Key], int, Position]] = [([root], level, START)]
        while waiting:
            keys, level, low = waiting.pop()
            layers: list[NodeFound] = []
            children: list[list[Key]] = []
            for key in reversed(keys):
                node = NodeFound(key, level, low)
                if claim_bucket(members, censuses, node, self._report):
                    census = censuses[key.pointers[0].device]
                    census.sectors[census.geometry.bucket_of(key.pointers[0].sector)] += key.sectors
                    is_plain = in_columns and level == 0 and len(keys) == 1
                    node = await self._read(node, is_plain=is_plain)
                    self.node_pointers.append((key.pointers[0], node.where))
                    self.nodes_by_level[level] += 1
                    judge_damage(node, self._may_be_torn, self._report)
                    node.bsets += node.behind  # bsets behind damage count as far as they can be read
                    self._note(node)
                    yield node
                    children = self._children(node) if level else []
                layers.append(node)
            if not children:
                self._add(layers if level == 0 else [], layers[-1])
            lows = [low, *(position_of(child) for child, *_ in children)]
            below = [(child, level - 1, lows[number]) for number, child in enumerate(children)]
            waiting += reversed(below)

    async def doubtful_nodes(self) -> AsyncIterator[NodeFound]:
        """Yields once more the nodes that were damaged or hid keys, in their order; nothing is reported."""
        for key, level, low in self._doubtful:
            node = await read_node(self._contents.members, key, level, low)
            node.is_torn = node.is_torn and self._may_be_torn(node)
            node.bsets += node.behind
            yield node

    async def _read(self, node: NodeFound, *, is_plain: bool) -> NodeFound:
        """Returns a claimed node with its contents, in columns if it may be plain and is."""
        members = self._contents.members
        if is_plain:
            try:
                plain = await read_plain_leaf(members, node.key, node.low, self._bounds)
            except DeviceError as error:  # not read whole again, so that the error of a failing device counts
                return await read_node_in_parts(members, node.key, node.level, node.low, error)
            if plain is not None:
                node.merged, node.hidden = plain.extents, plain.hidden
                node.appended = plain.appended
                return node
        return await read_node(members, node.key, node.level, node.low)

    def _note(self, node: NodeFound) -> None:
        if node.damage is not None or node.hidden:
            self._doubtful.append((node.key, node.level, node.low))
        elif node.level == 0:
            self.sound_leaves.append((node.low, node.high))

    def are_journaled(self, keys: Sequence[Key]) -> bool:
        """Whether every sector of these keys is in the journal, at the same place."""
        return all(map(self._journaled.have, keys))

    def _may_be_torn(self, node: NodeFound) -> bool:
        return may_be_torn(node, self._journaled)

    def _children(self, node: NodeFound) -> list[list[Key]]:
        """Returns the live children of an interior node, each with older ones at its position."""
        keys, children = judge_children(node, self._bounds, self._gens, self._report)
        self.node_keys += keys
        return [[key, *(children.below(key) if node.level == 1 else ())] for key in children.live]

    def _add(self, layers: Sequence[NodeFound], node: NodeFound) -> None:
        """Add a leaf's keys, merged with the journal's; only these of a node that could not be read."""
        extents = node.merged if layers and node.merged is not None else self._merge(layers)
        self._contents.count_leaf(extents)
        for key in self._replayed.between(node.low, node.high):
            self.superseded += extents.insert(key)
        self.rows.add(extents)

    def _merge(self, layers: Sequence[NodeFound]) -> Extents:
        return leaf_extents(layers, self._bounds, self._report)

"""The whole btree of a set, node by node, with the journal's keys on top: what the index holds.

The order is the kernel's. A node's keys raise the gens of the buckets they point to before its children are
judged; the children that are not stale are read, left to right. A leaf's bsets are laid over each other, the
later ones on top, and on them what the journal says of the leaf's range; of leaves at one position
(state/children.py) the newest is on top. Whether a key is stale is asked only
when all of that is done (key_check.py).

Damage is reported and what lies below it left out; the journal's keys count nevertheless.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence

import numpy as np

from bcached.errors import FormatError
from bcached.format.bkey import Bounds, check_extent, check_node_key
from bcached.keys import Key, Pointer
from bcached.state.census import Census, Use, stale_by
from bcached.state.children import START, Position, position_of, sort_out
from bcached.state.extents import Extents
from bcached.state.key_rows import KeyRows
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.membership import MemberFound
from bcached.store.node_reader import NodeFound, read_node

NODE = "node"


class TreeReader:
    """Reads one tree.

    censuses are those of the members, filled from the prios on disk; replayed is what the journal lays over
    the tree, deletions included.
    """

    def __init__(
        self,
        members: Sequence[MemberFound],
        censuses: Sequence[Census],
        bounds: Bounds,
        replayed: Extents,
        report: Report,
    ) -> None:
        self._members = members
        self._censuses = censuses
        self._bounds = bounds
        self._replayed = replayed
        self._report = report
        self.rows = KeyRows()  # of all leaves read so far
        # What names gens and holds nothing: leaves' keys below the journal's, and all keys of interior nodes.
        self.bygone: list[Key] = []
        self.node_keys: list[Key] = []
        self.places: list[tuple[Pointer, str]] = []  # of all nodes read so far
        self.nodes_by_level: Counter[int] = Counter()
        self.torn_nodes = 0

    async def nodes(self, root: Key, level: int) -> AsyncIterator[NodeFound]:
        """Every node that can be reached, a parent before its children, and these from left to right."""
        self._raise_gens(root)
        waiting: list[tuple[list[Key], int, Position]] = [([root], level, START)]
        while waiting:
            keys, level, low = waiting.pop()
            layers: list[NodeFound] = []
            children: list[list[Key]] = []
            for key in reversed(keys):
                node = NodeFound(key, level, low)
                if self._claim(node):
                    node = await read_node(self._members, key, level, low)
                    self.places.append((key.pointers[0], node.where))
                    self.nodes_by_level[level] += 1
                    self._report_damage(node)
                    yield node
                    children = self._children(node) if level else []
                layers.append(node)
            if not children:
                self.rows.add(self._extents(layers))
            lows = [low, *(position_of(child) for child, *_ in children)]
            below = [(child, level - 1, lows[number]) for number, child in enumerate(children)]
            waiting += reversed(below)

    def _claim(self, node: NodeFound) -> bool:
        """Whether the node has its bucket for itself. It is not read if not: it could contain itself."""
        pointer = node.key.pointers[0]
        census = self._censuses[pointer.device]
        bucket = census.geometry.bucket_of(pointer.sector)
        node.where = f"{self._members[pointer.device].path} node in bucket {bucket}, level {node.level}"
        used_for = census.claim(bucket, Use.BTREE)
        if used_for == Use.FREE:
            census.sectors[bucket] += node.key.sectors
            return True
        problem = f"expected a bucket of its own, found one used for {used_for.name.lower()}"
        lost = f"the keys from {node.range}"
        self._report(Finding("bucket-shared", Severity.FATAL, NODE, node.where, problem, lost))
        return False

    def _report_damage(self, node: NodeFound) -> None:
        if node.damage is None:
            return
        if node.is_torn and (node.level or any(self._replayed.between(node.low, node.high))):
            self.torn_nodes += 1
            lost = "nothing: it had not taken effect" if node.level else "nothing: the journal has its keys"
            self._report(finding_of(node.damage, "node-torn", Severity.TORN, lost))
            return
        lost = f"the keys of it from {node.range}"
        if node.level == 0 and node.claimed:
            sectors = sum(key.sectors for key in node.claimed)
            dirty = sum(key.sectors for key in node.claimed if key.dirty)
            lost = f"{len(node.claimed)} keys of {sectors} sectors, {dirty} of them dirty, from {node.range}"
        self._report(finding_of(node.damage, "node-damaged", Severity.FATAL, lost))

    def _children(self, node: NodeFound) -> list[list[Key]]:
        """The live children of an interior node, each with those below it; all have raised their gens."""
        keys = [key for key in node.keys_of_newest_first() if self._is_node_key(key, node)]
        for key in keys:
            self._raise_gens(key)
        self.node_keys += keys
        children = sort_out(keys, self._staleness)
        for key in children.doubled:
            problem = f"two live children at position {key.inode}:{key.end}"
            severity, lost = Severity.FATAL, "one of them"
            if node.level == 1:
                # Kernel: leaves this behind where a deletion was inserted into a full leaf.
                severity, lost = Severity.NOTE, ""
                problem += ", the newer over the older; the kernel may miss what is in the older"
            self._report(Finding("node-doubled", severity, NODE, node.where, problem, lost))
        for key in children.vanished:
            self._report_vanished(node, key, children.live)
        is_whole = node.damage is None or node.is_torn
        if is_whole and (not children.live or position_of(children.live[-1]) != node.high):
            found = position_of(children.live[-1]) if children.live else "no child"
            problem = f"expected the last child at {node.high}, found {found}"
            lost = f"keys up to inode {node.high[0]} sector {node.high[1]}"
            self._report(Finding("node-last-child", Severity.FATAL, NODE, node.where, problem, lost))
        return [[key, *(children.below(key) if node.level == 1 else ())] for key in children.live]

    def _raise_gens(self, key: Key) -> None:
        for pointer in key.pointers:
            census = self._censuses[pointer.device]
            bucket = census.geometry.bucket_of(pointer.sector)
            census.raise_gens(np.array([bucket]), np.array([pointer.gen]))

    def _report_vanished(self, node: NodeFound, key: Key, live: Sequence[Key]) -> None:
        pointer = key.pointers[0]
        low = max(
            (position_of(child) for child in live if position_of(child) < position_of(key)), default=node.low
        )
        gen = int(self._censuses[pointer.device].gens[self._bucket(pointer)])
        problem = (
            f"the child at {key.inode}:{key.end} has gen {pointer.gen} and its bucket gen {gen}, "
            "and nothing says that it was replaced"
        )
        lost = f"the keys from inode {low[0]} sector {low[1]} to inode {key.inode} sector {key.end}"
        self._report(Finding("node-vanished", Severity.DAMAGE, NODE, node.where, problem, lost))

    def _extents(self, layers: Sequence[NodeFound]) -> Extents:
        """What a leaf holds, over those below it, with the journal's keys on top.

        Of a node that could not be read these are all there is.
        """
        extents = Extents(merge_within=self._bounds.bucket_sectors)
        for node in layers:
            for placed in node.bsets if node.level == 0 else ():
                for key in self._in_order(node, placed.offset_bytes, placed.bset.keys):
                    extents.insert(key)
        for key in self._replayed.between(layers[-1].low, layers[-1].high):
            self.bygone += extents.insert(key)
        return extents

    def _in_order(self, node: NodeFound, byte: int, keys: Iterable[Key]) -> Iterable[Key]:
        """The keys of one bset that may stand where they are."""
        behind: Position = node.low
        for number, key in enumerate(keys):
            where = f"{node.where}, byte {byte}, key {number}"
            if key.sectors == 0 or not self._is_extent(key, where):
                continue
            begin = (key.inode, key.offset)
            if begin < node.low:
                problem = (
                    f"expected keys from {node.range}, found one that begins at {key.inode}:{key.offset}"
                )
                lost = f"{key.sectors} sectors: nobody looks for them here"
                self._report(Finding("key-misplaced", Severity.FATAL, "extent", where, problem, lost))
                continue
            if begin < behind:
                problem = f"it begins at {key.inode}:{key.offset}, before the end of the one before, {behind}"
                self._report(Finding("key-order", Severity.DAMAGE, "extent", where, problem))
            behind = position_of(key)
            yield key

    def _is_extent(self, key: Key, where: str) -> bool:
        try:
            check_extent(key, self._bounds, where)
        except FormatError as error:
            self._report(finding_of(error, "key-invalid", Severity.FATAL, f"{key.sectors} sectors"))
            return False
        return True

    def _is_node_key(self, key: Key, node: NodeFound) -> bool:
        try:
            check_node_key(key, self._bounds, f"{node.where}, child {key.inode}:{key.end}")
        except FormatError as error:
            lost = f"the keys up to inode {key.inode} sector {key.end}"
            self._report(finding_of(error, "node-child", Severity.FATAL, lost))
            return False
        return True

    def _bucket(self, pointer: Pointer) -> int:
        return self._censuses[pointer.device].geometry.bucket_of(pointer.sector)

    def _staleness(self, pointer: Pointer) -> int:
        return stale_by(int(self._censuses[pointer.device].gens[self._bucket(pointer)]), pointer.gen)

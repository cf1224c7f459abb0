# SPDX-License-Identifier: GPL-2.0-only
"""What a node of the btree must be: the rules by which an opening and a check judge what they read.

Each reports what is wrong with a node, or with its keys, and returns what is left of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from bcached.errors import BadField, FormatError
from bcached.format.bkey import Bounds, check_extent, check_node_key
from bcached.keys import Key, Pointer
from bcached.state.accounting.check_counts import Census, Use
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Children, Position, classify, position_of
from bcached.store.btree.node_reader import NodeFound
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.membership import MemberFound

NODE = "node"
MayBeTorn = Callable[[NodeFound], bool]


class BucketGens(Protocol):
    """The gens of buckets, as far as the nodes read so far name them."""

    def raise_gen(self, pointer: Pointer) -> None:
        """Follow a pointer found in a node: it may be ahead of the gen that was on the device."""

    def staleness(self, pointer: Pointer) -> int:
        """Returns how many gens the pointer is behind its bucket."""


def claim_bucket(
    members: Sequence[MemberFound], censuses: Sequence[Census], node: NodeFound, report: Report
) -> bool:
    """Whether the node's bucket is used for nothing else. Else it is not read: it could contain itself."""
    pointer = node.key.pointers[0]
    census = censuses[pointer.device]
    bucket = census.geometry.bucket_of(pointer.sector)
    node.where = f"{members[pointer.device].path} node in bucket {bucket}, level {node.level}"
    used_for = census.claim(bucket, Use.BTREE)
    if used_for == Use.FREE:
        return True
    problem = f"expected a bucket of its own, found one used for {used_for.name.lower()}"
    lost = f"the keys from {node.range}"
    report(Finding("bucket-shared", Severity.FATAL, NODE, node.where, problem, lost))
    return False


def judge_damage(node: NodeFound, may_be_torn: MayBeTorn, report: Report) -> None:
    """Report what is wrong with a node's bsets: torn if its last append was interrupted, else damaged.

    1. Nothing. 2. A torn append. 3. Damage.
    """
    if node.damage is None:
        return
    node.is_torn = node.is_torn and may_be_torn(node)
    if node.is_torn:
        lost = "nothing: the change was not complete" if node.level else "nothing: the journal has its keys"
        report(finding_of(node.damage, "node-torn", Severity.TORN, lost))
        return
    report(finding_of(node.damage, "node-damaged", Severity.FATAL, _what_is_lost(node)))


def _what_is_lost(node: NodeFound) -> str:
    parts = []
    if node.level == 0 and node.claimed:
        parts.append(f"{_sum(node.claimed)}, from {node.range}")
    else:
        parts.append(f"its keys from {node.range}")
    if node.behind:
        keys = [key for placed in node.behind for key in placed.bset.keys]
        parts.append(f"not lost are {_sum(keys)}, in {len(node.behind)} sound bsets behind it")
    return "; ".join(parts)


def _sum(keys: Sequence[Key]) -> str:
    dirty = [key for key in keys if key.dirty]
    sectors, dirty_sectors = sum(key.sectors for key in keys), sum(key.sectors for key in dirty)
    return f"{len(keys)} keys of {sectors} sectors, {dirty_sectors} of them dirty ({len(dirty)} keys)"


def judge_children(
    node: NodeFound, bounds: Bounds, gens: BucketGens, report: Report
) -> tuple[list[Key], Children]:
    """Returns all valid keys of an interior node, after raising their gens, and its children by them."""
    keys = [key for key in node.keys_of_newest_first() if _is_node_key(key, node, bounds, report)]
    for key in keys:
        for pointer in key.pointers:
            gens.raise_gen(pointer)
    children = classify(keys, gens.staleness)
    for key in children.doubled:
        _report_doubled(node, key, report)
    for key in children.vanished:
        _report_vanished(node, key, children.live, gens, report)
    is_whole = node.damage is None or node.is_torn
    if is_whole and (not children.live or position_of(children.live[-1]) != node.high):
        found = position_of(children.live[-1]) if children.live else None
        error = BadField(NODE, f"{node.where}, last child", node.high, found)
        lost = f"keys up to inode {node.high[0]} sector {node.high[1]}"
        report(finding_of(error, "node-last-child", Severity.FATAL, lost))
    return keys, children


def _report_doubled(node: NodeFound, key: Key, report: Report) -> None:
    if node.level > 1:
        error = BadField(
            NODE, f"{node.where}, children", "one at a position", f"two at {key.inode}:{key.end}"
        )
        report(finding_of(error, "node-doubled", Severity.FATAL, "one of them"))
        return
    # Kernel: leaves this behind where a deletion was inserted into a full leaf.
    problem = (
        f"two live children at position {key.inode}:{key.end}, of which the newer wins; the kernel may miss "
        "keys of the older"
    )
    report(Finding("node-doubled", Severity.NOTE, NODE, node.where, problem))


def _report_vanished(
    node: NodeFound, key: Key, live: Sequence[Key], gens: BucketGens, report: Report
) -> None:
    pointer = key.pointers[0]
    low = max(
        (position_of(child) for child in live if position_of(child) < position_of(key)), default=node.low
    )
    problem = (
        f"the child at {key.inode}:{key.end} has gen {pointer.gen}, the gen of its bucket is "
        f"{gens.staleness(pointer)} ahead, and no key replaces it"
    )
    lost = f"the keys from inode {low[0]} sector {low[1]} to inode {key.inode} sector {key.end}"
    report(Finding("node-vanished", Severity.DAMAGE, NODE, node.where, problem, lost))


def _is_node_key(key: Key, node: NodeFound, bounds: Bounds, report: Report) -> bool:
    try:
        check_node_key(key, bounds, f"{node.where}, child {key.inode}:{key.end}")
    except FormatError as error:
        lost = f"the keys up to inode {key.inode} sector {key.end}"
        report(finding_of(error, "node-child", Severity.FATAL, lost))
        return False
    return True


def leaf_extents(layers: Sequence[NodeFound], bounds: Bounds, report: Report) -> Extents:
    """Returns the keys of a leaf, the last of these layers, merged over those below it."""
    extents = Extents(merge_within=bounds.bucket_sectors)
    for node in layers:
        for placed in node.bsets:
            for key in _in_order(node, placed.offset_bytes, placed.bset.keys, bounds, report):
                extents.insert(key)
    return extents


def _in_order(
    node: NodeFound, byte: int, keys: Iterable[Key], bounds: Bounds, report: Report
) -> Iterable[Key]:
    """Yields the keys of one bset that are valid in this node.

    1. Deleted: skipped. 2. Invalid: as a deletion, so that nothing older comes back. 3. Before the node's
    range: skipped. 4. Out of order: reported, yielded.
    """
    behind: Position = node.low
    for number, key in enumerate(keys):
        where = f"{node.where}, byte {byte}, key {number}"
        if key.sectors == 0:
            continue
        if not is_extent(key, bounds, where, report):
            yield deletion_of(key)
            continue
        begin = (key.inode, key.offset)
        if begin < node.low:
            error = BadField("extent", f"{where}, start", f"keys from {node.range}", f"{begin[0]}:{begin[1]}")
            lost = f"{key.sectors} sectors: look-ups go to another node"
            report(finding_of(error, "key-misplaced", Severity.FATAL, lost))
            continue
        if begin < behind:
            problem = f"it begins at {key.inode}:{key.offset}, before the previous key's end {behind}"
            report(Finding("key-order", Severity.DAMAGE, "extent", where, problem))
        behind = position_of(key)
        yield key


def deletion_of(key: Key) -> Key:
    """Returns a key that deletes what another one covers."""
    start = max(key.offset, 0)
    return Key(key.inode, start, max(key.end - start, 0), False, ())


def is_extent(key: Key, bounds: Bounds, where: str, report: Report) -> bool:
    """Whether a key is valid in a leaf, or in the journal."""
    try:
        check_extent(key, bounds, where)
    except FormatError as error:
        report(finding_of(error, "key-invalid", Severity.FATAL, f"{key.sectors} sectors"))
        return False
    return True

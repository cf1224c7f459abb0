# SPDX-License-Identifier: GPL-2.0-only
"""The tree of a set that was checked just now, for a reader that begins with the same metadata.

To read the tree takes nearly all of the time and memory of a check.
"""

from collections.abc import Sequence

import numpy as np

from bcached.format.prio_set import PrioSet
from bcached.store.check.checker import CheckedSet

Chain = Sequence[tuple[int, PrioSet]]


def take_tree(checked: CheckedSet, known: CheckedSet) -> bool:
    """Move the tree of a known set to one of which only the metadata was read; False if they differ.

    The known one has no tree afterwards, in either case: its memory is needed.
    """
    tree, known.tree = known.tree, None
    if tree is None or not _begin_alike(checked, known):
        return False
    checked.tree = tree
    checked.metadata.censuses = known.metadata.censuses
    checked.totals, checked.superseded = known.totals, known.superseded
    checked.outdated, checked.end_by_index = known.outdated, known.end_by_index
    if checked.journal is not None and checked.end_by_index is not None:
        checked.journal.end = checked.end_by_index
    checked.tree_findings = known.tree_findings
    checked.findings.add(known.tree_findings)
    return True


def _begin_alike(one: CheckedSet, other: CheckedSet) -> bool:
    """Whether two readings found all that reading the tree begins with to be the same."""
    if [member.superblock for member in one.members] != [member.superblock for member in other.members]:
        return False
    if one.journal is None or other.journal is None or one.journal.entries != other.journal.entries:
        return False
    if one.journal.sound_by_seq() != other.journal.sound_by_seq():
        return False
    return (
        one.metadata.metadata_keys == other.metadata.metadata_keys
        and len(one.chains) == len(other.chains)
        and all(map(_are_same, one.chains, other.chains))
    )


def _are_same(one: Chain, other: Chain) -> bool:
    return len(one) == len(other) and all(
        bucket == others_bucket and np.array_equal(prios.gens, others.gens)
        for (bucket, prios), (others_bucket, others) in zip(one, other, strict=True)
    )

# SPDX-License-Identifier: GPL-2.0-only
"""Whether the uuid table and the root can be where the newest journal entry says they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from bcached.errors import BadField, FormatError
from bcached.format.bkey import END_MAX, Bounds, check_node_key
from bcached.format.jset import JournalEntry
from bcached.format.superblock import Superblock
from bcached.keys import INODE_MAX, Key
from bcached.store.finding import Finding, Report, Severity, finding_of

STRUCTURE = "node key"
ROOT_POSITION = (INODE_MAX, END_MAX)


@dataclass(frozen=True, slots=True)
class MetadataKeys:
    """The keys of the two; None if invalid."""

    uuid_bucket: Key | None = None
    root: Key | None = None


def bounds_of(superblocks: Sequence[Superblock]) -> Bounds:
    """Returns the bounds that pointers of a set must lie in."""
    return Bounds(
        bucket_sectors=superblocks[0].bucket_sectors,
        first_bucket=max(superblock.first_bucket for superblock in superblocks),
        bucket_counts=tuple(superblock.bucket_count for superblock in superblocks),
    )


def check_locations(
    superblocks: Sequence[Superblock], newest: JournalEntry, where: str, report: Report
) -> MetadataKeys:
    """Returns the locations that the newest entry names; an invalid one is reported and left out."""
    bounds = bounds_of(superblocks)
    table = _checked(
        newest.uuid_bucket, bounds, f"{where}, uuid_bucket", "uuid-bucket", "all volumes", report
    )
    lost = "all keys that are not in the journal"
    root = _checked(newest.root, bounds, f"{where}, btree_root", "btree-root", lost, report)
    if root is not None and (root.inode, root.end) != ROOT_POSITION:
        # Kernel: does not check this, and fails when a key beyond it is inserted.
        problem = f"expected {INODE_MAX}:{END_MAX}, the end of all keys, found {root.inode}:{root.end}"
        here = f"{where}, btree_root, position"
        report(Finding("root-position", Severity.FATAL, STRUCTURE, here, problem))
    return MetadataKeys(table, root)


def _checked(key: Key, bounds: Bounds, where: str, rule: str, lost: str, report: Report) -> Key | None:
    try:
        check_node_key(key, bounds, where)
        if len(key.pointers) != 1:
            raise BadField(STRUCTURE, f"{where}, pointers", 1, len(key.pointers))
    except FormatError as error:
        report(finding_of(error, rule, Severity.FATAL, lost))
        return None
    return key

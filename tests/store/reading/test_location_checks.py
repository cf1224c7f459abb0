# SPDX-License-Identifier: GPL-2.0-only
"""Where the uuid table and the root may be."""

from dataclasses import replace

import pytest

from bcached.errors import BcachedError
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.store.finding import Findings, refuse_fatal
from bcached.store.reading.location_checks import MetadataKeys, check_locations
from instruments.samples.format_samples import ENTRY, SUPERBLOCK

MEMBERS = [replace(SUPERBLOCK, journal_buckets=tuple(range(1, 9)))] * 2
BUCKET = 1024  # sectors


def moved(key: Key, **fields: int) -> Key:
    there = key.pointers[0]
    pointer = Pointer(**{"device": there.device, "sector": there.sector, "gen": there.gen, **fields})
    return Key(key.inode, key.offset, key.sectors, key.dirty, (pointer,))


def test_good_places_pass_on_any_member() -> None:
    elsewhere = replace(ENTRY, root=moved(ENTRY.root, device=1))
    for entry in (ENTRY, elsewhere):
        found = check_locations(MEMBERS, entry, "here", refuse_fatal)
        assert found == MetadataKeys(entry.uuid_bucket, entry.root)


WRONG = [
    (replace(ENTRY, root=moved(ENTRY.root, device=2)), "btree_root, device"),
    (replace(ENTRY, root=moved(ENTRY.root, sector=0)), "btree_root, bucket: expected at least 1"),
    (replace(ENTRY, uuid_bucket=moved(ENTRY.uuid_bucket, sector=1024 * BUCKET)), "uuid_bucket, bucket"),
    (replace(ENTRY, root=Key(0, 0, 512, False, ENTRY.root.pointers)), "btree_root, position"),
    (
        replace(ENTRY, root=Key(0, 0, 512, False, ENTRY.root.pointers * 2)),
        "btree_root, pointers: expected 1, found 2",
    ),
]


@pytest.mark.parametrize(("changed", "says"), WRONG)
def test_other_places_are_refused(changed: JournalEntry, says: str) -> None:
    with pytest.raises(BcachedError, match=says):
        check_locations(MEMBERS, changed, "here", refuse_fatal)


@pytest.mark.parametrize(("changed", "says"), WRONG)
def test_other_places_are_told_and_the_good_one_is_kept(changed: JournalEntry, says: str) -> None:
    findings = Findings()
    keys = check_locations(MEMBERS, changed, "here", findings.report)
    assert [finding for finding in findings.listed if says in finding.text]
    assert (keys.root is None) + (keys.uuid_bucket is None) <= 1

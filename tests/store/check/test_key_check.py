# SPDX-License-Identifier: GPL-2.0-only
"""All keys of an index: which are live, what they add up to, and which are wrong."""

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from bcached.format.uuid_entry import BURNT_UUID, UuidEntry
from bcached.keys import Key, Pointer
from bcached.state.accounting.check_counts import Census, Use
from bcached.state.index.keys.key_rows import KeyRows
from bcached.store.check.key_check import KeyCheck, KeyTotals, VolumeSectors, report_unknown_volumes
from bcached.store.finding import Finding, Findings, Severity
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.format_samples import SUPERBLOCK

BUCKET = 8
VOLUME = UuidEntry(UUID(int=1), "plain", 1, 1, 0, flash_only=False, sectors=0)
FIRST = 20 * BUCKET  # of a bucket for data
MEMBER = replace(
    SUPERBLOCK,
    bucket_count=700,
    bucket_sectors=BUCKET,
    block_sectors=1,
    first_bucket=3,
    journal_buckets=tuple(range(3, 11)),
)


class Index:
    """Keys of a set of some members, and what is found of them."""

    def __init__(self, members: int = 1) -> None:
        geometry = geometry_of(MEMBER)
        self.censuses = [Census(geometry, np.full(700, 7, np.uint8)) for _ in range(members)]
        self.rows = KeyRows()
        self.findings = Findings()
        found = [MemberFound(MemoryDevice(4096, path=f"d{n}"), MEMBER) for n in range(members)]
        self.check = KeyCheck(found, self.censuses, self.rows, self.findings.report)

    def judge(self, *keys: Key) -> KeyTotals:
        for key in keys:
            self.rows.add_key(key)
        self.check.raise_gens()
        return self.check.judge()

    @property
    def found(self) -> list[tuple[str, Severity]]:
        return [(finding.rule, finding.severity) for finding in self.findings.listed]


def key(offset: int, sectors: int = 4, at: int = FIRST, gen: int = 7, *, dirty: bool = False) -> Key:
    return Key(1, offset, sectors, dirty, (Pointer(0, at, gen),))


def test_live_keys_are_added_up_by_inode_and_kind() -> None:
    index = Index()
    totals = index.judge(key(0), key(4, 2, FIRST + 4, dirty=True), Key(2, 0, 0, False, ()))
    assert (totals.keys, totals.live_keys) == (3, 2)
    assert totals.volumes == {1: VolumeSectors(2, 2, 4)}
    assert (totals.dirty_sectors, totals.clean_sectors) == (2, 4)
    assert index.censuses[0].uses[20] == Use.DATA
    assert index.found == []


def test_a_key_with_copies_counts_once_and_in_each_bucket() -> None:
    index = Index(2)
    totals = index.judge(Key(1, 0, 4, True, (Pointer(0, FIRST, 7), Pointer(1, FIRST + 8, 7))))
    assert (totals.live_keys, totals.dirty_sectors) == (1, 4)
    assert [census.sectors[20] for census in index.censuses] == [4, 0]
    assert [census.sectors[21] for census in index.censuses] == [0, 4]


def test_a_pointer_ahead_of_the_gen_on_disk_makes_the_others_stale() -> None:
    index = Index()
    totals = index.judge(key(0, dirty=True), key(8, 4, FIRST, 8))
    assert totals.live_keys == 1
    (found,) = index.findings.listed
    assert (found.rule, found.severity) == ("key-stale-dirty", Severity.DAMAGE)
    assert found.where == f"inode 1 sector 0, d0 sector {FIRST}"
    assert found.lost == "4 dirty sectors"


@pytest.mark.parametrize("gen", [6, 7])
def test_a_stale_clean_key_is_sound(gen: int) -> None:
    index = Index()
    assert index.judge(key(0, gen=gen)).live_keys == (gen == 7)
    assert index.found == []


def test_superseded_keys_and_node_keys_have_a_gen_and_no_data() -> None:
    index = Index()
    index.check.add_superseded(key(0, gen=9))
    index.check.add_node_key(key(0, 512, FIRST + 8, gen=10))
    totals = index.judge(key(8))
    assert (totals.keys, totals.live_keys) == (1, 0)
    census = index.censuses[0]
    assert (census.gens[20], census.gens[21]) == (9, 10)
    assert (census.sectors[20], census.sectors[21]) == (0, 0)
    assert census.oldest[20] == 7


def test_live_keys_that_share_a_sector_are_named() -> None:
    index = Index()
    index.judge(key(0, 4, FIRST), key(8, 2, FIRST + 3, dirty=True), key(16, 3, FIRST + 5))
    (found,) = index.findings.listed
    assert (found.rule, found.severity) == ("key-overlap", Severity.DAMAGE)
    assert found.where == f"d0 sector {FIRST + 3}"
    assert found.problem == "more than one live key has these sectors: 1:0 (clean) and 1:8 (dirty)"
    assert found.lost == "2 sectors of one of them"


def test_a_long_key_overlaps_all_that_it_covers_not_only_the_next() -> None:
    index = Index()
    index.judge(key(0, 8, FIRST), key(16, 1, FIRST + 1), key(24, 1, FIRST + 6))
    assert [finding.where for finding in index.findings.listed] == [
        f"d0 sector {FIRST + 1}",
        f"d0 sector {FIRST + 6}",
    ]


def test_keys_on_different_members_or_of_old_gens_share_nothing() -> None:
    index = Index(2)
    index.judge(key(0), Key(1, 8, 4, False, (Pointer(1, FIRST, 7),)), key(16, gen=6))
    assert index.found == []


def test_keys_of_an_inode_without_a_volume_are_damage_and_of_a_deleted_one_a_note() -> None:
    totals = KeyTotals()
    totals.volumes = {0: VolumeSectors(1, 2, 3), 1: VolumeSectors(1, 0, 8), 5: VolumeSectors(2, 4, 0)}
    findings: list[Finding] = []
    burnt = replace(VOLUME, uuid=BURNT_UUID)
    report_unknown_volumes(totals, [VOLUME, burnt], "d0", findings.append)
    assert [(one.rule, one.severity, one.where) for one in findings] == [
        ("volume-gone", Severity.NOTE, "d0, slot 1"),
        ("volume-missing", Severity.DAMAGE, "d0, slot 5"),
    ]
    assert findings[1].lost == "4 dirty sectors, until the volume exists again"

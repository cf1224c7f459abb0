# SPDX-License-Identifier: GPL-2.0-only
"""Whether devices are all the members of one set, of a geometry that bcached can run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.errors import GeometryRefused, SetRefused
from bcached.format.sizes import BLOCK_SECTORS_MAX, PAGE_BYTES
from bcached.format.superblock import (
    FEATURE_INCOMPAT_BCACHED_SET,
    FEATURE_INCOMPAT_LOG_LARGE_BUCKET,
    VERSION_FEATURES,
    VERSION_IN_USE,
    Superblock,
    journal_bucket_count_for,
)
from bcached.store.geometry_limits import buckets_needed
from bcached.store.member import geometry_of
from bcached.units import format_size

JOURNAL_BUCKETS_MIN = 2  # the newest entry's, and the next


@dataclass(frozen=True, slots=True)
class MemberFound:
    """A member whose superblock was read."""

    block_device: BlockDevice
    superblock: Superblock

    @property
    def path(self) -> str:
        """The device's path."""
        return self.block_device.path


def check_members(members: Sequence[MemberFound]) -> None:
    """Refuse devices that are not all members of one set, in order, of a geometry that bcached can run."""
    first = members[0]
    expected = first.superblock
    for number, member in enumerate(members):
        path, found = member.path, member.superblock
        if found.set_uuid != expected.set_uuid:
            raise SetRefused(
                f"{path}: is of set {found.set_uuid}, but {first.path} is of {expected.set_uuid}"
            )
        if found.members != len(members):
            raise SetRefused(f"{path}: its set has {found.members} members, but {len(members)} were given")
        if found.member != number:
            raise SetRefused(f"{path}: is member {found.member} of its set, and member {number} is missing")
        for field in ("bucket_sectors", "block_sectors"):
            here, there = getattr(found, field), getattr(expected, field)
            if here != there:
                raise SetRefused(f"{path}: {field} is {here}, but {there} on {first.path}")
        _check_features(path, found)
        _check_size(path, found if found.synchronous else with_new_journal(found))


def refuse_copies(members: Sequence[MemberFound], newest_seqs: Sequence[int | None]) -> None:
    """Refuse two devices that are one member: the same device under two names, or a copy of it.

    newest_seqs are those of their journals, None where none can be read.
    """
    seen: dict[UUID, int] = {}
    for number, member in enumerate(members):
        first = seen.setdefault(member.superblock.uuid, number)
        if first == number:
            continue
        one, here, there = members[first], newest_seqs[number], newest_seqs[first]
        which = "one of them is a copy of the other, or they are one device under two names"
        if here is not None and there is not None and here != there:
            older, newer = (one, member) if there < here else (member, one)
            low, high = sorted((here, there))
            which = (
                f"{older.path} is an older copy: its newest journal entry is {low}, but {high} on "
                f"{newer.path}, {high - low} later"
            )
        raise SetRefused(
            f"{member.path} and {one.path}: both are member {member.superblock.member} of set "
            f"{member.superblock.set_uuid} (device uuid {member.superblock.uuid}); {which}. Give one of them"
        )


def refuse_older_copies(members: Sequence[MemberFound], newest_seqs: Sequence[int]) -> None:
    """Refuse a member that lacks what was written to the set since it was copied.

    Every entry goes to all members before the next is begun, and the first one of a run to members in order,
    the furthest behind first. So however often the power fails, none is behind by as many entries as there
    are members.
    """
    newest = max(newest_seqs)
    ahead = members[newest_seqs.index(newest)]
    for member, seq in zip(members, newest_seqs, strict=True):
        if newest - seq >= len(members):
            holds = f"its newest journal entry is {seq}" if seq else "its journal holds no entry"
            raise SetRefused(
                f"{member.path}: is an older copy of member {member.superblock.member}: {holds}, but "
                f"{newest} on {ahead.path}, {newest - seq} later; it lacks what was written since. Give "
                "the device that was in use last, or copies of all members from the same moment"
            )


def renumbered(superblock: Superblock, member: int, members: int) -> Superblock:
    """Returns the superblock of a member of a set with fewer members; the kernel knows sets of one only."""
    version, features = superblock.version, superblock.feature_incompat
    if members == 1:
        version, features = VERSION_IN_USE, 0
    return replace(
        superblock,
        member=member,
        members=members,
        version=version,
        feature_incompat=features,
        seq=superblock.next_seq,
    )


def with_new_journal(superblock: Superblock) -> Superblock:
    """Returns the superblock with the journal that a first run gives it."""
    first, count = superblock.first_bucket, journal_bucket_count_for(superblock.bucket_count)
    return replace(superblock, journal_buckets=tuple(range(first, first + count)))


def _check_features(path: str, superblock: Superblock) -> None:
    """Refuse unknown features: one member has none, several have bcached's own bit."""
    ours = FEATURE_INCOMPAT_BCACHED_SET if superblock.members > 1 else 0
    found = superblock.feature_incompat if superblock.version >= VERSION_FEATURES else 0
    found &= ~FEATURE_INCOMPAT_LOG_LARGE_BUCKET  # only another way to write the bucket's size
    if found != ours:
        raise SetRefused(
            f"{path}: feature_incompat is {found:#x}, expected {ours:#x} in a set of {superblock.members}"
        )


def _check_size(path: str, superblock: Superblock) -> None:
    """Refuse too few buckets for the next journal entry or for the allocator, and blocks larger than a page.

    Kernel: accepts any number of buckets.
    """
    geometry = geometry_of(superblock)
    if superblock.block_sectors > BLOCK_SECTORS_MAX:
        raise GeometryRefused(
            f"{path}: its blocks of {format_size(superblock.block_bytes)} are larger than a page of "
            f"{format_size(PAGE_BYTES)}: only kernels with larger pages take it; `bcachectl rescue` and "
            "`view` read it"
        )
    if geometry.journal_bucket_count < JOURNAL_BUCKETS_MIN:
        raise GeometryRefused(
            f"{path}: has a journal of {geometry.journal_bucket_count} bucket, "
            f"and at least {JOURNAL_BUCKETS_MIN} are needed"
        )
    needed = buckets_needed(geometry)
    if geometry.bucket_count < needed:
        raise GeometryRefused(
            f"{path}: has {geometry.bucket_count} buckets, the first one {geometry.first_bucket}, "
            f"and at least {needed} are needed"
        )

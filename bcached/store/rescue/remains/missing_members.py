# SPDX-License-Identifier: GPL-2.0-only
"""Members of a set that are not there: read as devices of which nothing can be read.

The journal is on all members, so it is whole without one. What only that member has is counted as unreadable.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.device.missing_device import MissingDevice
from bcached.store.finding import Finding, Report, Severity
from bcached.store.membership import MemberFound
from bcached.store.rescue.remains.superblock_left import MemberLeft
from bcached.units import SECTOR_BYTES

TIMES_LARGER = 4  # than the largest of the others, at most: its size is in its own superblock only


def with_missing(members: Sequence[MemberLeft], report: Report) -> list[MemberLeft]:
    """Returns all members of a set in order, those that are missing as such."""
    found = {member.found.superblock.member: member for member in members}
    count = members[0].found.superblock.members
    return [found.get(number) or _missing(number, members, report) for number in range(count)]


def is_missing(device: BlockDevice) -> bool:
    """Whether a device stands for one that is not there."""
    return isinstance(device, MissingDevice)


def readable_sectors(device: BlockDevice) -> int:
    """Returns how many sectors of a device there are to be read."""
    return 0 if is_missing(device) else device.size_bytes // SECTOR_BYTES


def _missing(number: int, members: Sequence[MemberLeft], report: Report) -> MemberLeft:
    first = members[0].found.superblock
    count = TIMES_LARGER * max(member.found.superblock.bucket_count for member in members)
    superblock = replace(
        first, uuid=UUID(int=0), member=number, bucket_count=count, journal_buckets=()
    )  # a journal that is there would be read
    path = f"member {number}"
    device = MissingDevice(path, count * first.bucket_bytes)
    problem = f"member {number} of {first.members} is missing"
    report(Finding("member-missing", Severity.FATAL, "set", path, problem, "what no other member has"))
    return MemberLeft(MemberFound(device, superblock), is_guess=False)

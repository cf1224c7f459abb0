"""Whether devices are the members of one set, all of them, and of a shape that can be served."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bcached.device.block_device import BlockDevice
from bcached.errors import GeometryRefused, SetRefused
from bcached.format.superblock import (
    FEATURE_INCOMPAT_BCACHED_SET,
    FEATURE_INCOMPAT_LOG_LARGE_BUCKET,
    VERSION_FEATURES,
    Superblock,
    journal_bucket_count_for,
)
from bcached.store.fitting import buckets_needed
from bcached.store.member import geometry_of

JOURNAL_BUCKETS_MIN = 2  # the newest entry's, and the next


@dataclass(frozen=True, slots=True)
class MemberFound:
    """A member before anything is done with it."""

    block_device: BlockDevice
    superblock: Superblock

    @property
    def path(self) -> str:
        """Where the device is found."""
        return self.block_device.path


def check_members(members: Sequence[MemberFound]) -> None:
    """Refuse what is not one whole set, by the numbers of its members, in a shape that can be served."""
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
        _check_room(path, found if found.synchronous else with_new_journal(found))


def with_new_journal(superblock: Superblock) -> Superblock:
    """The superblock with the journal that a first run gives it."""
    first, count = superblock.first_bucket, journal_bucket_count_for(superblock.bucket_count)
    return replace(superblock, journal_buckets=tuple(range(first, first + count)))


def _check_features(path: str, superblock: Superblock) -> None:
    """Only what we understand: nothing, or, for several members, our own bit."""
    ours = FEATURE_INCOMPAT_BCACHED_SET if superblock.members > 1 else 0
    found = superblock.feature_incompat if superblock.version >= VERSION_FEATURES else 0
    found &= ~FEATURE_INCOMPAT_LOG_LARGE_BUCKET  # only another way to write the bucket's size
    if found != ours:
        raise SetRefused(
            f"{path}: feature_incompat is {found:#x}, expected {ours:#x} in a set of {superblock.members}"
        )


def _check_room(path: str, superblock: Superblock) -> None:
    """Kernel: takes any. There must be a bucket for the next journal entry, and enough to get on with."""
    geometry = geometry_of(superblock)
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

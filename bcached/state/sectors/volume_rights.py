# SPDX-License-Identifier: GPL-2.0-only
"""What one connection may do with the volumes that have an owner.

Kept as two sets of inodes, mostly empty, so that a request costs one look at one of them. Where a volume may
not even be read, the refusal is that of a volume that does not exist.
"""

from collections.abc import Collection, Container, Mapping
from typing import Any

from bcached.errors import NoSuchVolume, PermissionDenied
from bcached.format.volume_owner import EntryOwner

NONE: frozenset[int] = frozenset()
OWNER = "owner"  # what PermissionDenied says is needed


class VolumeRights:
    """The inodes of others' volumes: foreign ones it may not change, hidden ones it may not read either.

    user and groups are those of the peer; an admin has all rights, and so has a holder without a peer.
    """

    __slots__ = ("foreign", "groups", "hidden", "is_admin", "user")

    def __init__(self, user: int | None = None, groups: Collection[int] = (), *, is_admin: bool) -> None:
        self.user = user
        self.groups = groups
        self.is_admin = is_admin
        self.foreign = NONE
        self.hidden = NONE

    def __repr__(self) -> str:
        return f"<VolumeRights of user {self.user}: not {set(self.foreign)}, nor to read {set(self.hidden)}>"

    def owns(self, owner: EntryOwner) -> bool:
        """Whether the peer is the owner, or one of the group."""
        return owner.id in self.groups if owner.is_group else owner.id == self.user

    def update(self, owners: Mapping[int, EntryOwner]) -> None:
        """Apply the owners of all volumes that have one, by inode."""
        if self.is_admin:
            self.foreign = self.hidden = NONE
            return
        foreign = {inode: owner for inode, owner in owners.items() if not self.owns(owner)}
        self.foreign = frozenset(foreign) if foreign else NONE
        self.hidden = frozenset(inode for inode, owner in foreign.items() if not owner.others_read) or NONE

    def refuse_change(self, inode: int) -> None:
        """Raises PermissionDenied for a foreign volume; NoSuchVolume if it is hidden."""
        if inode in self.hidden:
            raise NoSuchVolume(inode)
        raise PermissionDenied(OWNER)

    def check_changes(self, parts: Collection[Any], volumes: Container[int]) -> None:
        """Raises NoSuchVolume or PermissionDenied for the first part whose inode it may not change.

        In one pass, so that the refusal of several does not tell a hidden volume from none.
        """
        for part in parts:
            if part.inode not in volumes:
                raise NoSuchVolume(part.inode)
            if part.inode in self.foreign:
                self.refuse_change(part.inode)


ALL_RIGHTS = VolumeRights(is_admin=True)  # of holders without a peer, which no table ever changes

# SPDX-License-Identifier: GPL-2.0-only
"""Owners of volumes as the socket says them, and which of them a peer may name."""

from bcached.errors import InvalidParameter, PermissionDenied
from bcached.format.volume_owner import EntryOwner
from bcached.service.requests.method import Session
from bcached.service.users.access import Role
from bcached.wire.volume_messages import Others, VolumeOwner


def parse_owner(owner: VolumeOwner | None) -> EntryOwner | None:
    """Returns the owner of a request. Raises InvalidParameter unless it is one user or one group."""
    if owner is None:
        return None
    if (owner.user is None) == (owner.group is None):
        raise InvalidParameter("owner", "expected one of user and group")
    others_read = owner.others != "nothing"
    if owner.group is not None:
        return EntryOwner(owner.group, is_group=True, others_read=others_read)
    assert owner.user is not None
    return EntryOwner(owner.user, others_read=others_read)


def check_may_give(session: Session, owner: EntryOwner | None) -> None:
    """Raises PermissionDenied if only an admin may make this the owner: it is not the peer, nor its group."""
    if owner is not None and session.role < Role.ADMIN and not session.holder.rights.owns(owner):
        raise PermissionDenied(Role.ADMIN.label)


def owner_document(owner: EntryOwner | None) -> VolumeOwner | None:
    """Returns an owner as the socket says it."""
    if owner is None:
        return None
    others: Others = "read" if owner.others_read else "nothing"
    if owner.is_group:
        return VolumeOwner(group=owner.id, others=others)
    return VolumeOwner(user=owner.id, others=others)

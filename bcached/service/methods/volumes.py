# SPDX-License-Identifier: GPL-2.0-only
"""The methods on volumes: those of io.bcached.Admin, and what io.bcached.Allocator has of them."""

from typing import Any
from uuid import UUID

from bcached.errors import InvalidParameter
from bcached.runtime.cache_set import CacheSet
from bcached.service.methods.allocator import DONE
from bcached.service.methods.owners import check_may_give, owner_document, parse_owner
from bcached.service.requests.method import Later, Operation, Outcome, Session
from bcached.service.users.access import Role
from bcached.store.uuid_table import VolumeInfo
from bcached.wire import volume_messages
from bcached.wire.methods import ADMIN, ALLOCATOR, METHODS


class VolumeOperations:
    """The methods that list, create, open and delete volumes."""

    def __init__(self, cache_set: CacheSet) -> None:
        self._volumes = cache_set.volumes
        table = {
            f"{ADMIN}.ListVolumes": Operation(Role.ADMIN, self.list_all),
            f"{ADMIN}.CreateVolume": Operation(Role.ADMIN, self.create, changes=True),
            f"{ADMIN}.DeleteVolume": Operation(Role.ADMIN, self.delete, changes=True),
            f"{ADMIN}.SetVolumeOwner": Operation(Role.ADMIN, self.set_owner, changes=True),
            f"{ALLOCATOR}.Volumes": Operation(Role.READER, self.list_all),
            f"{ALLOCATOR}.OpenVolume": Operation(Role.ALLOCATOR, self.open, changes=True),
        }
        self.operations = {METHODS[name].request: each for name, each in table.items()}

    def list_all(self, session: Session, _request: Any) -> Outcome:
        """Returns the volumes that the peer may see, and the inodes without a volume that still have keys."""
        hidden = session.holder.rights.hidden
        volumes = tuple(_document(one) for one in self._volumes.all() if one.inode not in hidden)
        orphans = tuple(
            volume_messages.Orphan(one.inode, one.keys, one.dirty_sectors, one.clean_sectors)
            for one in self._volumes.orphans()
        )
        return volume_messages.ListedVolumes(volumes, orphans)

    def create(self, _session: Session, request: volume_messages.CreateVolume) -> Outcome:
        """Create a volume."""
        try:
            uuid = None if request.uuid is None else UUID(request.uuid)
        except ValueError:
            raise InvalidParameter("uuid", f"expected a uuid, found {request.uuid!r}") from None
        owner = parse_owner(request.owner)
        creating = self._volumes.create(request.label, request.sectors or 0, uuid, owner)
        return Later(creating, volume_messages.NewVolume)

    def open(self, session: Session, request: volume_messages.OpenVolume) -> Outcome:
        """Find a volume by its label, or create it."""
        owner = parse_owner(request.owner)
        check_may_give(session, owner)
        opening = self._volumes.open(request.label, request.sectors, owner, session.holder.rights)
        return Later(opening, lambda opened: volume_messages.OpenedVolume(*opened))

    def delete(self, _session: Session, request: volume_messages.DeleteVolume) -> Outcome:
        """Delete a volume and its keys."""
        return Later(self._volumes.delete(request.inode, force=bool(request.force)), lambda _: DONE)

    def set_owner(self, _session: Session, request: volume_messages.SetVolumeOwner) -> Outcome:
        """Give a volume another owner, or none."""
        return Later(self._volumes.set_owner(request.inode, parse_owner(request.owner)), lambda _: DONE)


def _document(one: VolumeInfo) -> volume_messages.Volume:
    owner, uuid = owner_document(one.owner), str(one.uuid)
    return volume_messages.Volume(one.inode, uuid, one.label, one.sectors, one.flash_only, owner, one.maker)

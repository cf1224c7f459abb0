# SPDX-License-Identifier: GPL-2.0-only
"""Every method of the socket on a cache set: the table of the role each needs and the function it runs."""

from functools import partial

from bcached.errors import LimitExceeded
from bcached.runtime.cache_set import CacheSet
from bcached.service.logs.log import get_logger
from bcached.service.methods.administration import Administration
from bcached.service.methods.allocator import Allocation
from bcached.service.methods.index import IndexOperations
from bcached.service.methods.varlink import Interfaces
from bcached.service.methods.volumes import VolumeOperations
from bcached.service.requests.method import Operations, Session
from bcached.service.users.access import Role
from bcached.service.users.peer import Peer
from bcached.state.sectors.volume_rights import VolumeRights

log = get_logger(__name__)


class CacheService:
    """The service behind the socket: a cache set and its methods."""

    def __init__(self, cache_set: CacheSet) -> None:
        self._set = cache_set
        self.operations: Operations = {
            **Interfaces().operations,
            **Allocation(cache_set).operations,
            **IndexOperations(cache_set).operations,
            **VolumeOperations(cache_set).operations,
            **Administration(cache_set).operations,
        }

    def open_session(self, peer: Peer, role: Role) -> Session:
        """Returns the session of a new connection, with a holder for its reservations."""
        name = f"pid {peer.pid} uid {peer.uid}"
        rights = VolumeRights(peer.uid, peer.groups, is_admin=role == Role.ADMIN)
        rights.update(self._set.volumes.owners)
        session = Session(peer, role, self._set.allocations.new_holder(name, role.label, rights))
        session.holder.give_way = partial(_give_way, session)
        return session

    def note_role(self, session: Session) -> None:
        """Count what the session holds for its present role, and give it the role's rights."""
        session.holder.role = session.role.label
        session.holder.rights.is_admin = session.role == Role.ADMIN
        session.holder.rights.update(self._set.volumes.owners)

    def close_session(self, session: Session) -> None:
        """End the session's reservations as soon as its process can write no more."""
        session.holder.give_way = None
        self._set.allocations.drop_holder(session.holder, session.peer.pid)


def _give_way(session: Session, buckets: int) -> None:
    """Close a connection whose user holds more than half of all buckets, while another user waits for one."""
    peer = session.peer
    log.warning(
        "client disconnected: its user holds most buckets", pid=peer.pid, uid=peer.uid, buckets=buckets
    )
    session.disconnect(LimitExceeded("held_buckets", buckets))

# SPDX-License-Identifier: GPL-2.0-only
"""Every method of the socket on a cache set: the table of the role each needs and the function it runs."""

from functools import partial
from typing import Any

from bcached.errors import LimitExceeded
from bcached.runtime.cache_set import CacheSet
from bcached.service.logs.log import get_logger
from bcached.service.methods.allocator import DONE, Allocation
from bcached.service.methods.index import IndexOperations
from bcached.service.methods.state_changes import StateChanges
from bcached.service.methods.tracing import INTERVAL_S, EventStream
from bcached.service.methods.varlink import Interfaces
from bcached.service.methods.volumes import VolumeOperations
from bcached.service.socket.access import Role
from bcached.service.socket.method import Handler, Later, Operation, Operations, Outcome, Session, Stream
from bcached.service.socket.peer import Peer
from bcached.set_state import Replacement
from bcached.wire import messages
from bcached.wire.methods import ADMIN, METHODS, MONITOR

log = get_logger(__name__)

VIOLATIONS_MAX = 1000  # listed one by one; a set so broken needs no longer list


class Administration:
    """io.bcached.Admin and io.bcached.Monitor."""

    def __init__(self, cache_set: CacheSet) -> None:
        self._set = cache_set
        reading: dict[str, Handler] = {
            "Status": self.status,
            "Explain": self.explain,
            "Verify": self.verify,
        }
        changing: dict[str, Handler] = {
            "CollectGarbage": self.collect_garbage,
            "WritePriorities": self.write_priorities,
            "SetReplacement": self.set_replacement,
            "SetDiscard": self.set_discard,
        }
        table = {name: Operation(Role.ADMIN, run) for name, run in reading.items()}
        table |= {name: Operation(Role.ADMIN, run, changes=True) for name, run in changing.items()}
        self.operations = {METHODS[f"{ADMIN}.{name}"].request: each for name, each in table.items()}
        self.operations[METHODS[f"{MONITOR}.Watch"].request] = Operation(
            Role.READER, self.watch, streams=True
        )
        self.operations[METHODS[f"{MONITOR}.Trace"].request] = Operation(
            Role.READER, self.trace, streams=True
        )

    def status(self, _session: Session, _request: Any) -> Outcome:
        """Returns the state of the set."""
        return messages.StatusNow(self._set.statistics().state())

    def explain(self, _session: Session, _request: Any) -> Outcome:
        """Returns why allocations wait or fail."""
        return messages.Lines(tuple(self._set.explain()))

    def verify(self, _session: Session, _request: Any) -> Outcome:
        """Returns the set's violated invariants."""
        found = self._set.verify()
        listed = found[:VIOLATIONS_MAX]
        if len(found) > len(listed):
            listed.append(f"and {len(found) - len(listed)} more")
        return messages.Violations(tuple(listed))

    def collect_garbage(self, _session: Session, request: messages.CollectGarbage) -> Outcome:
        """Collect garbage, or only request it."""
        if request.wait is False:
            self._set.shared.collections.request("asked")
            return DONE
        return Later(self._set.maintenance.collect_garbage(), _done)

    def write_priorities(self, _session: Session, _request: Any) -> Outcome:
        """Write prios and gens."""
        return Later(self._set.maintenance.write_priorities(), _done)

    def set_replacement(self, _session: Session, request: messages.SetReplacement) -> Outcome:
        """Set the replacement policy."""
        return Later(self._set.maintenance.set_replacement(Replacement[request.policy.upper()]), _done)

    def set_discard(self, _session: Session, request: messages.SetDiscard) -> Outcome:
        """Turn discards on or off."""
        return Later(self._set.maintenance.set_discard(request.discard), _done)

    def watch(self, _session: Session, request: messages.Watch) -> Outcome:
        """Returns a stream: the state, then its changes."""
        interval_ms = messages.INTERVAL_MS if request.interval_ms is None else request.interval_ms
        return Stream(StateChanges(self._set.statistics).following, interval_ms / 1000)

    def trace(self, _session: Session, request: messages.Trace) -> Outcome:
        """Returns a stream of events."""
        events = EventStream(self._set.shared.trace, request)
        return Stream(events.following, INTERVAL_S, events.close)


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
        session = Session(peer, role, self._set.allocations.new_holder(name, role.label, peer.uid))
        session.holder.give_way = partial(_give_way, session)
        return session

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


def _done(_: object) -> messages.Results:
    return DONE

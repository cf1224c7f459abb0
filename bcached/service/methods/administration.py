# SPDX-License-Identifier: GPL-2.0-only
"""io.bcached.Admin and io.bcached.Monitor on a cache set, without the methods on volumes."""

from typing import Any

from bcached.runtime.cache_set import CacheSet
from bcached.service.methods.allocator import DONE
from bcached.service.methods.state_changes import StateChanges
from bcached.service.methods.tracing import INTERVAL_S, EventStream
from bcached.service.requests.method import Handler, Later, Operation, Outcome, Session, Stream
from bcached.service.users.access import Role
from bcached.set_state import Replacement
from bcached.wire import admin_messages, messages
from bcached.wire.methods import ADMIN, METHODS, MONITOR

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
        return admin_messages.StatusNow(self._set.statistics().state())

    def explain(self, _session: Session, _request: Any) -> Outcome:
        """Returns why allocations wait or fail."""
        return admin_messages.Lines(tuple(self._set.explain()))

    def verify(self, _session: Session, _request: Any) -> Outcome:
        """Returns the set's violated invariants."""
        found = self._set.verify()
        listed = found[:VIOLATIONS_MAX]
        if len(found) > len(listed):
            listed.append(f"and {len(found) - len(listed)} more")
        return admin_messages.Violations(tuple(listed))

    def collect_garbage(self, _session: Session, request: admin_messages.CollectGarbage) -> Outcome:
        """Collect garbage, or only request it."""
        if request.wait is False:
            self._set.shared.collections.request("asked")
            return DONE
        return Later(self._set.maintenance.collect_garbage(), _done)

    def write_priorities(self, _session: Session, _request: Any) -> Outcome:
        """Write prios and gens."""
        return Later(self._set.maintenance.write_priorities(), _done)

    def set_replacement(self, _session: Session, request: admin_messages.SetReplacement) -> Outcome:
        """Set the replacement policy."""
        return Later(self._set.maintenance.set_replacement(Replacement[request.policy.upper()]), _done)

    def set_discard(self, _session: Session, request: admin_messages.SetDiscard) -> Outcome:
        """Turn discards on or off."""
        return Later(self._set.maintenance.set_discard(request.discard), _done)

    def watch(self, session: Session, request: admin_messages.Watch) -> Outcome:
        """Returns a stream: the state, then its changes."""
        interval_ms = admin_messages.INTERVAL_MS if request.interval_ms is None else request.interval_ms
        return Stream(StateChanges(self._set.statistics, session.holder.rights).following, interval_ms / 1000)

    def trace(self, session: Session, request: admin_messages.Trace) -> Outcome:
        """Returns a stream of events."""
        events = EventStream(self._set.shared.trace, request, session.holder.rights)
        return Stream(events.following, INTERVAL_S, events.close)


def _done(_: object) -> messages.Results:
    return DONE

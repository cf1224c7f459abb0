# SPDX-License-Identifier: GPL-2.0-only
"""What Trace sends: events as they happen, in messages of bounded size."""

from bcached.errors import InvalidParameter, LimitExceeded
from bcached.service.requests.method import Last
from bcached.state.sectors.volume_rights import ALL_RIGHTS, VolumeRights
from bcached.tracepoints import EVENTS, Listener, Tracepoints
from bcached.wire.admin_messages import Trace, Traced, TraceEvent

EVENTS_A_MESSAGE = 512  # a millisecond to encode
INTERVAL_S = 0.02
LISTENERS_MAX = 16


class EventStream:
    """One listener's events, for a stream of the socket; the first message, without any, is sent at once."""

    def __init__(self, trace: Tracepoints, request: Trace, rights: VolumeRights = ALL_RIGHTS) -> None:
        self._trace = trace
        self._rights = rights
        self._has_begun = False
        self._listener = self._listen(request)

    def _listen(self, request: Trace) -> Listener:
        """Returns a listener for the events of a request. Raises InvalidParameter, LimitExceeded."""
        for name in request.events or ():
            if name not in EVENTS:
                raise InvalidParameter("events", f"expected names of events, found {name!r}")
        if len(self._trace.listeners) >= LISTENERS_MAX:
            raise LimitExceeded("trace_listeners", LISTENERS_MAX + 1)
        return self._trace.listen(request.events or EVENTS, request.limit, lambda: self._rights.hidden)

    def following(self) -> Traced | Last | None:
        """Returns the next events, the last ones if the limit is reached, or None if there are none."""
        taken, dropped = self._listener.take(EVENTS_A_MESSAGE)
        if not (taken or dropped or not self._has_begun):
            return None
        self._has_begun = True
        results = Traced(tuple(TraceEvent(*event) for event in taken), dropped)
        return Last(results) if self._listener.is_done else results

    def close(self) -> None:
        """Stop listening."""
        self._trace.stop(self._listener)

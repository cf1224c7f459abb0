# SPDX-License-Identifier: MIT
"""The parameters and results of the methods of Admin and Monitor, but for those on volumes."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from bcached.set_state import POLICY_NAMES, SetState
from bcached.wire.messages import Parameters, Results

EVENTS_MAX = (1 << 31) - 1  # of one trace with a limit
INTERVAL_MS, INTERVAL_MS_MIN, INTERVAL_MS_MAX = 1000, 100, 3_600_000

if TYPE_CHECKING:
    Policy: TypeAlias = str  # one of POLICY_NAMES, which no type checker can know
else:
    Policy = Literal[POLICY_NAMES]


# io.bcached.Admin


class StatusNow(Results):
    """Status' results."""

    state: SetState


class Lines(Results):
    """Explain's results."""

    lines: tuple[str, ...]


class Violations(Results):
    """Verify's results."""

    violations: tuple[str, ...]


class CollectGarbage(Parameters, frozen=True):
    """A garbage collection: whether to wait for its end."""

    wait: bool | None = None


class SetReplacement(Parameters, frozen=True):
    """The replacement policy to set."""

    policy: Policy


class SetDiscard(Parameters, frozen=True):
    """Whether to discard buckets before reuse."""

    discard: bool


# io.bcached.Monitor


class Watch(Parameters, frozen=True):
    """A stream of the state and its changes."""

    interval_ms: Annotated[int, Meta(ge=INTERVAL_MS_MIN, le=INTERVAL_MS_MAX)] | None = None


class Change(Struct, gc=False):
    """A value that has changed, by its dotted path."""

    name: str
    value: Any


class News(Results, omit_defaults=True):
    """One of Watch's replies."""

    state: SetState | None = None
    changes: tuple[Change, ...] | None = None


class Trace(Parameters, frozen=True):
    """A stream of events: those with these names, and at most so many."""

    events: tuple[str, ...] | None = None
    limit: Annotated[int, Meta(ge=1, le=EVENTS_MAX)] | None = None


class TraceEvent(Struct, gc=False):
    """An event; time_ns is the system's monotonic clock."""

    time_ns: int
    name: str
    fields: Any


class Traced(Results):
    """One of Trace's replies: the events since the last, and how many more were dropped before them."""

    events: tuple[TraceEvent, ...]
    dropped: int

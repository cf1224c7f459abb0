# SPDX-License-Identifier: GPL-2.0-only
"""What the socket server knows about a method: the role it needs, and the outcomes it may have.

1. Results: the reply is ready. 2. Long: so is it, but it is sent by itself. 3. Later: results to be waited
for. 4. Decided: results whose reply waits for what other requests wait for, too. 5. Stream: results at
intervals. The server does not know what a method does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from bcached.errors import LimitExceeded
from bcached.service.users.access import Role
from bcached.service.users.peer import Peer
from bcached.wire.messages import Results
from bcached.wire.methods import Request


async def next_iteration() -> None:
    """Continue in the next iteration of the loop."""
    await asyncio.sleep(0)


def not_connected(_: LimitExceeded) -> None:
    """There is no connection yet."""


class Session:
    """A connection as the methods see it: its peer, its role, and the service's holder for it.

    pause: to be awaited between two steps of a longer request, until the user may run another one.
    disconnect: closes the connection at once, with a refusal.
    """

    __slots__ = ("disconnect", "holder", "pause", "peer", "role", "write_point")

    def __init__(self, peer: Peer, role: Role, holder: Any) -> None:
        self.peer = peer
        self.role = role
        self.holder = holder
        self.write_point = peer.pid or 0
        self.pause: Callable[[], Awaitable[None]] = next_iteration
        self.disconnect: Callable[[LimitExceeded], None] = not_connected


class Later(Struct, frozen=True):
    """Results that are still to come; the first outcome may be another Later.

    A future is cancelled when its connection closes or the server stops. A coroutine runs on, unless it is
    cancellable: then it is cancelled too, and does not continue from where it is.
    """

    pending: "asyncio.Future[Any] | Coroutine[Any, Any, Any]"
    results: "Callable[[Any], Outcome]"
    cancellable: bool = False


class Decided(Struct, frozen=True, gc=False):
    """Short results of a request that is done; its reply is sent once a future is, which such requests share.

    So it is never cancelled, and stopping waits for it. The replies of a connection are sent by one write.
    """

    recorded: "asyncio.Future[None]"
    results: Results


class Long(NamedTuple):
    """Results of a brief operation that turned out long: no other replies are added to their write."""

    results: Results


def _nothing() -> None:
    """Close a stream that holds nothing."""


class Last(NamedTuple):
    """The results that end a stream."""

    results: Results


class Stream(NamedTuple):
    """Repeated results: polled at each interval, None while nothing has changed; closed at its end."""

    following: Callable[[], Results | Last | None]
    interval_s: float
    close: Callable[[], None] = _nothing


Outcome = Results | Long | Later | Decided | Stream
Handler = Callable[[Session, Any], Outcome]
BatchHandler = Callable[[Session, Sequence[Any]], Sequence[Results]]


class Operation(NamedTuple):
    """A method.

    run_several: runs the first of several requests, as many as are ready; the next is then to be run alone.
    brief: its results are a few hundred bytes, nearly always ready at once. changes: it changes the set.
    in_order: it runs only after all earlier in-order changes of its connection are made, and if it changes
    the set itself, also after all earlier in-order reads are answered.
    """

    role: Role
    run: Handler
    brief: bool = False
    changes: bool = False
    streams: bool = False
    in_order: bool = False
    run_several: BatchHandler | None = None


Operations = Mapping[type[Request], Operation]


class Service(Protocol):
    """The service behind a socket."""

    operations: Operations

    def open_session(self, peer: Peer, role: Role) -> Session:
        """Returns the session of a new connection."""

    def note_role(self, session: Session) -> None:
        """Take note of the session's role, which a reload may have changed."""

    def close_session(self, session: Session) -> None:
        """Release all that a connection held."""

"""What the socket server knows about a method: who may call it, and what running it can come to.

Running gives the results at once, or Later, or a Stream. The server does not know what a method does.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from bcached.service.socket.access import Role
from bcached.service.socket.peer import Peer
from bcached.wire.messages import Results
from bcached.wire.methods import Request


class Session:
    """A connection as the methods see it: who it is, and what it holds (the service's own matter)."""

    __slots__ = ("holder", "peer", "role", "write_point")

    def __init__(self, peer: Peer, role: Role, holder: Any) -> None:
        self.peer = peer
        self.role = role
        self.holder = holder
        self.write_point = peer.pid or 0


class Later(Struct, frozen=True):
    """Results that are still to come; what comes first may be another Later.

    A future is cancelled when its connection goes or the server stops, unless is_decided: then what was
    asked is done, only not told yet, and stopping waits for it. A coroutine runs on, unless it is for_asker:
    then it is cancelled too, and never goes on from where it is.
    """

    pending: "asyncio.Future[Any] | Coroutine[Any, Any, Any]"
    results: "Callable[[Any], Results | Later]"
    for_asker: bool = False
    is_decided: bool = False


class Long(NamedTuple):
    """Results of a brief operation that are long after all: others do not pile up on them in one write."""

    results: Results


class Stream(NamedTuple):
    """Results that come again and again: asked for every interval, None while there is nothing to tell."""

    following: Callable[[], Results | None]
    interval_s: float


Outcome = Results | Long | Later | Stream
Run = Callable[[Session, Any], Outcome]
RunSeveral = Callable[[Session, Sequence[Any]], Sequence[Results]]


class Operation(NamedTuple):
    """A method.

    run_several: runs the first of several requests, as many as are ready; the next is then to be run alone.
    brief: its results are a few hundred bytes, nearly always there at once. changes: it alters the set.
    in_order: it runs only when all changes in order that its connection asked for before have been made, and
    if it changes something itself, also when all questions in order before it have been answered.
    """

    role: Role
    run: Run
    brief: bool = False
    changes: bool = False
    streams: bool = False
    in_order: bool = False
    run_several: RunSeveral | None = None


Operations = Mapping[type[Request], Operation]


class Service(Protocol):
    """What stands behind a socket."""

    operations: Operations

    def welcome(self, peer: Peer, role: Role) -> Session:
        """Take note of a new connection."""

    def farewell(self, session: Session) -> None:
        """End all that a connection held."""

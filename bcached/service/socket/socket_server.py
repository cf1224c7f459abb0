# SPDX-License-Identifier: GPL-2.0-only
"""The socket server: connections, their limits and roles, and a clean stop.

    server = SocketServer(service, Access(admin, allocator, reader), SocketLimits(connections, ...))
    async with server:              # must be entered in the task that a bug is to end
        server.listen(listener)     # from listening.bind_unix, or inherited; may be called several times
        ...
        server.statistics()         # ServerStatistics, for metrics
        server.reload(access, limits)
        server.drain()              # no new connections or changes; what waits is refused: ShuttingDown
    # here all connections are closed

`service` is methods.cache_service.CacheService(cache_set), which runs the methods. A bug in a method ends the
`async with` with that exception: the daemon does not continue with a set whose state is uncertain.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from bcached.device.heap import trim_heap
from bcached.errors import LimitExceeded, RequestError
from bcached.service.logs.log import get_logger
from bcached.service.requests.method import Operation, Service
from bcached.service.requests.request_counts import Connected, RequestCounts
from bcached.service.socket.acceptor import Acceptor
from bcached.service.socket.connection import Connection
from bcached.service.statistics import ServerStatistics
from bcached.service.users.access import Access, Role
from bcached.service.users.buffers import Buffers
from bcached.service.users.evictions import Evictions
from bcached.service.users.peer import Peer, peer_of
from bcached.service.users.socket_limits import SocketLimits
from bcached.service.users.turns import Turns
from bcached.wire.codec import Refusal, encode_replies
from bcached.wire.methods import Request

LAST_REPLIES_S = 1.0  # how long the last replies may take to be sent
SWEEP_S = 1.0
SWEPT_AT_ONCE = 512  # a millisecond
TRIM_BYTES = 8 << 20
TRIM_PAUSE_S = 10.0
ADMIN_SHARE = (
    64  # one connection in so many is reserved for admins, who connect when other clients hold all the rest
)


log = get_logger(__name__)


class CancellableResult(asyncio.Future[Any]):
    """The result of a coroutine whose caller may go away: cancelling it cancels the coroutine at once.

    From that call on the coroutine only unwinds, even if it was just about to resume.
    """

    task: "asyncio.Task[None] | None" = None

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the future and its coroutine."""
        child, self.task = self.task, None
        if child is not None and not self.done():
            child.cancel()
        return super().cancel(msg)


class SocketServer:
    """Owns all connections and the tasks they start.

    identify: returns the peer of a new connection. It has many attributes: those of connections, of their
    limits, and of the stop.
    """

    def __init__(
        self,
        service: Service,
        access: Access,
        limits: SocketLimits,
        identify: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        self.counts = RequestCounts()
        self.buffers = Buffers(limits)
        self.turns = Turns(lambda run: asyncio.get_running_loop().call_soon(run), time.perf_counter_ns)
        self.draining = False  # no new connections and no changes
        self._service = service
        self._identify = identify
        self._access = access
        self._limits = limits
        self._connections: set[Connection] = set()
        self._evictions: Evictions[Connection] = Evictions()
        self._acceptors: list[Acceptor] = []  # one for each listening socket
        self._tasks = asyncio.TaskGroup()
        self._children: set[asyncio.Task[None]] = set()  # those of the group, cancelled at the end
        self._failure: asyncio.Future[None] | None = None  # gets the first bug, which ends the group
        self._all_closed: asyncio.Future[None] | None = None  # at the end: done with the last connection
        self._sweeping: asyncio.Handle | None = None  # until the next sweep
        self._next_trim_s = 0.0  # not before that time memory is released to the system again

    async def __aenter__(self) -> Self:
        """Start; nothing listens yet."""
        await self._tasks.__aenter__()
        self._failure = asyncio.get_running_loop().create_future()
        self._start_task(self._raise_failure(self._failure))
        self._sweep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: send outstanding replies, then close every connection and end every task."""
        self.drain()
        if self._sweeping is not None:
            self._sweeping.cancel()
        try:
            await self._close_connections()
        finally:
            for child in self._children:
                child.cancel()
            await self._tasks.__aexit__(kind, error, trace)

    def listen(self, listener: socket.socket) -> None:
        """Accept connections from a listening socket, and own it from here on."""
        self._acceptors.append(Acceptor(listener, self._admit))

    def drain(self) -> None:
        """Accept no more connections and changes, and refuse what waits. Read-only methods still run."""
        if self.draining:
            return
        self.draining = True
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in list(self._connections):
            connection.set_role(connection.session.role)
            connection.give_up_waiting()

    def reload(self, access: Access, limits: SocketLimits) -> None:
        """Apply other rules: roles at once for all connections, limits for new ones."""
        self._access, self._limits = access, limits
        for connection in self._connections:
            connection.set_role(access.role_of(connection.session.peer))
            self._service.note_role(connection.session)
            self._evictions.note_role(connection)
        self._evictions.recount()
        self.buffers.set_limits(limits)

    def statistics(self) -> ServerStatistics:
        """Returns how many are connected, and the counts of requests so far."""
        roles = Counter(connection.session.role.label for connection in self._connections)
        connected = Connected(roles, self._evictions.most_of_a_user, self._limits.connections)
        return self.counts.statistics(connected, self.buffers)

    # For connections

    def operation_of(self, kind: type[Request]) -> Operation:
        """Returns the operation of a request's class."""
        return self._service.operations[kind]

    def ready_operations(self, role: Role) -> dict[type, Operation]:
        """Returns the brief operations a role may run now; none while draining, so that each is checked."""
        if self.draining:
            return {}
        operations = self._service.operations.items()
        return {
            kind: operation for kind, operation in operations if operation.brief and role >= operation.role
        }

    def spawn(self, coroutine: Coroutine[Any, Any, Any], cancellable: bool) -> "asyncio.Future[Any]":
        """Returns a future of a coroutine's result, which cancels the coroutine only if it is cancellable."""
        done = CancellableResult() if cancellable else asyncio.get_running_loop().create_future()
        child = self._start_task(self._finish(coroutine, done))
        child.add_done_callback(lambda _: coroutine.close())  # in case it was cancelled before it began
        if isinstance(done, CancellableResult):
            done.task = child
        return done

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection and release what it held."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._evictions.remove(connection)
        self.turns.leave(connection.user)
        try:
            self._service.close_session(connection.session)
        except Exception as error:
            self.fail(error)
        if self._all_closed is not None and not self._connections and not self._all_closed.done():
            self._all_closed.set_result(None)

    def fail(self, error: Exception) -> None:
        """Report a bug: the first one ends the server."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # Opening and closing connections

    def _admit(self, connected: socket.socket) -> None:
        try:
            peer = self._identify(connected)
        except OSError:
            connected.close()
            return
        role = self._access.role_of(peer)
        count, limit = len(self._connections), self._limits.connections
        is_full = count >= (limit if role == Role.ADMIN else limit - limit // ADMIN_SHARE)
        if is_full and not (role > Role.NONE and (self._evict_without_role() or self._evict_for(peer.uid))):
            self.counts.disconnections["refused"] += 1
            _refuse(connected, LimitExceeded("connections", count + 1))
            return
        connection = Connection(self, self._service.open_session(peer, role), self._limits.message_bytes)
        self._connections.add(connection)
        self._evictions.add(connection)
        self._start_task(self._attach(connection, connected))

    def _evict_without_role(self) -> bool:
        """Close the connection of a peer without a role, if there is one; returns whether there was."""
        return self._evict(self._evictions.without_role(), "without_role")

    def _evict_for(self, uid: int) -> bool:
        """Close a connection of another user that has more than its part of all; returns whether one has."""
        greedy, limits = self._evictions.largest_uid, self._limits
        count = self._evictions.count_of(greedy)
        if greedy in (uid, None) or 100 * count <= limits.user_percent * limits.connections:
            return False
        log.warning("client disconnected for another user's", uid=greedy, connections=count)
        return self._evict(self._evictions.least_active(greedy), "connections")

    def _evict(self, evicted: Connection | None, why: str) -> bool:
        if evicted is not None:
            self.counts.disconnections[why] += 1
            evicted.abort()
            self.forget(evicted)
        return evicted is not None

    async def _attach(self, connection: Connection, connected: socket.socket) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: connection, connected)
        except OSError:  # it was closed before it was accepted
            connected.close()
            self.forget(connection)

    async def _close_connections(self) -> None:
        """Close every connection; abort those whose peers do not read in time."""
        for close in (Connection.end, Connection.abort):
            if not self._connections:
                return
            self._all_closed = asyncio.get_running_loop().create_future()
            for connection in list(self._connections):
                close(connection)
            await asyncio.wait([self._all_closed], timeout=LAST_REPLIES_S)

    # Tasks

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        child = self._tasks.create_task(coroutine)
        self._children.add(child)
        child.add_done_callback(self._children.discard)
        return child

    async def _finish(self, coroutine: Coroutine[Any, Any, Any], done: "asyncio.Future[Any]") -> None:
        """Any error but a RequestError is a bug or a failing device, and propagates to the task group."""
        try:
            result = await coroutine
        except RequestError as error:
            if not done.done():
                done.set_exception(error)
        except BaseException:
            done.cancel()
            raise
        else:
            if not done.done():
                done.set_result(result)

    async def _raise_failure(self, broken: "asyncio.Future[None]") -> None:
        await broken

    def _sweep(self) -> None:
        self._sweep_some(list(self._connections))

    def _sweep_some(self, left: list[Connection]) -> None:
        """Sweep some connections now, and the rest in the next iterations of the loop."""
        for connection in left[-SWEPT_AT_ONCE:]:
            if connection in self._connections:
                connection.sweep()
        del left[-SWEPT_AT_ONCE:]
        if left:
            self._sweeping = asyncio.get_running_loop().call_soon(self._sweep_some, left)
            return
        self._give_memory_back()
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _give_memory_back(self) -> None:
        """Release memory to the system once large buffers are freed; in a thread: it takes milliseconds."""
        now_s = asyncio.get_running_loop().time()
        if self.buffers.peak_bytes - self.buffers.held_bytes > TRIM_BYTES and now_s > self._next_trim_s:
            self._next_trim_s = now_s + TRIM_PAUSE_S
            self.buffers.peak_bytes = self.buffers.held_bytes
            asyncio.get_running_loop().run_in_executor(None, trim_heap)


def _refuse(connected: socket.socket, error: RequestError) -> None:
    """Send a refusal to a peer before its first request, and close."""
    try:
        connected.send(encode_replies([Refusal(error.NAME, error.fields)]))
    except OSError:
        pass
    finally:
        connected.close()

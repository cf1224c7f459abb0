# SPDX-License-Identifier: MIT
"""The blocking client: the same methods for programs without an event loop, on a plain socket."""

import functools
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

from bcached.client.arguments import flags, patience, socket_path
from bcached.client.attachment import SOCKET_PATH, Attachment, SocketPath
from bcached.client.method_face import with_face
from bcached.client.protocol import fetching, plans, storing, verbs
from bcached.client.protocol.exchange import Call
from bcached.client.protocol.plans import Plan
from bcached.client.protocol.transfers import Reads, Writes
from bcached.client.side_by_side import side_by_side
from bcached.client.socket_channel import SocketChannel
from bcached.client.state_view import StateView
from bcached.errors import ConnectionLost
from bcached.set_state import SetState
from bcached.units import SECTOR_BYTES
from bcached.wire.admin_messages import Traced
from bcached.wire.messages import Description

P = ParamSpec("P")
T = TypeVar("T")

WORTH_THREADS_BYTES = 1 << 19  # smaller transfers end before threads have started


def _calls(
    verb: Callable[Concatenate[Attachment, P], Call[T]],
) -> "Callable[Concatenate[BlockingClient, P], T]":
    def ask(client: "BlockingClient", /, *arguments: P.args, **named: P.kwargs) -> T:
        return client._ask(verb(client._at, *arguments, **named))  # noqa: SLF001 - its own method

    return with_face(ask, verb, "BlockingClient")


def _runs_plan(
    plan: Callable[Concatenate[Attachment, P], Plan[T]],
) -> "Callable[Concatenate[BlockingClient, P], T]":
    def run_plan(client: "BlockingClient", /, *arguments: P.args, **named: P.kwargs) -> T:
        return client._run_plan(plan(client._at, *arguments, **named))  # noqa: SLF001 - its own method

    return with_face(run_plan, plan, "BlockingClient")


class BlockingClient:
    """A connection to the daemon and its state, with the methods of Client, which return their results.

    Several threads may use it: their requests are pipelined. An exception in the middle of a call (Ctrl-C,
    a signal handler) leaves the client usable or closed: no reply is taken for another call's.
    """

    def __init__(
        self, path: SocketPath = SOCKET_PATH, *, patience_s: float = 0.0, direct: bool = True
    ) -> None:
        """Connects by `with` or connect(). The parameters are those of Client."""
        flags(direct=direct)
        self.path = socket_path(path)
        self._patience_s = patience(patience_s)
        self._at = Attachment(self.path, direct=direct)
        self._channel: SocketChannel

    def __reduce__(self) -> NoReturn:
        """Raises TypeError: neither a copy nor another process may use the connection."""
        raise TypeError(f"a client is one connection of one process: connect another one to {self.path}")

    def __enter__(self) -> Self:
        """Connect, and take the lease."""
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect, and release the lease."""
        self.close()

    def connect(self) -> Self:
        """Connect, and take the lease; a client that is connected stays so."""
        self._at.check_new()
        if self._at.is_open:
            return self
        channel = SocketChannel(self.path, self._patience_s)
        try:
            self._at.begin(channel, channel.ask(verbs.describe()))
            channel.settle_at_end(self._at)
        except BaseException:
            self._at.abandon()
            channel.close()
            raise
        self._channel = channel
        return self

    def close(self) -> None:
        """Disconnect; the lease is released when the last write of any thread has returned. Idempotent."""
        if self._at.is_foreign:  # all of it is the parent's
            return
        if self._at.close():
            self._channel.close()
            self._at.settle()

    @property
    def description(self) -> Description:
        """Returns the set, its devices, and our role."""
        return self._at.description

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open; without it reservations, pins and known gens are void."""
        return self._at.is_connected

    def atomic_bytes(self, replicas: int = 1) -> int:
        """Returns how many bytes a store commits atomically, however they are split over buckets."""
        return storing.atomic_bytes(self.description, replicas)

    allocate = _calls(verbs.allocate)
    allocate_many = _calls(verbs.allocate_many)
    allocate_bucket = _calls(verbs.allocate_bucket)
    free_bucket = _calls(verbs.free_bucket)
    release = _calls(verbs.release)
    commit = _calls(verbs.commit)
    commit_if = _calls(verbs.commit_if)
    mark_clean = _calls(verbs.mark_clean)
    lookup = _calls(verbs.lookup)
    lookup_many = _calls(verbs.lookup_many)
    unpin = _calls(verbs.unpin)
    invalidate = _calls(verbs.invalidate)
    map_changes = _calls(verbs.map_changes)
    touch = _calls(verbs.touch)
    open_volume = _calls(verbs.open_volume)
    volumes = _calls(verbs.volumes)
    flush = _calls(verbs.flush)

    store = _runs_plan(storing.store)
    store_many = _runs_plan(storing.store_many)
    fetch = _runs_plan(fetching.fetch)
    fetch_many = _runs_plan(fetching.fetch_many)
    write = _runs_plan(plans.write)
    read = _runs_plan(plans.read)
    now = _runs_plan(plans.now)
    is_current = _runs_plan(plans.is_current)
    current_pointers = _runs_plan(plans.current_pointers)

    status = _calls(verbs.status)
    explain = _calls(verbs.explain)
    verify = _calls(verbs.verify)
    collect_garbage = _calls(verbs.collect_garbage)
    write_priorities = _calls(verbs.write_priorities)
    set_replacement = _calls(verbs.set_replacement)
    set_discard = _calls(verbs.set_discard)
    list_volumes = _calls(verbs.list_volumes)
    list_orphans = _calls(verbs.list_orphans)
    create_volume = _calls(verbs.create_volume)
    delete_volume = _calls(verbs.delete_volume)
    set_volume_owner = _calls(verbs.set_volume_owner)

    def watch(self, interval_ms: int | None = None) -> Iterator[SetState]:
        """Yields the state, and again whenever it has changed; over a connection of its own."""
        view, call = StateView(), verbs.watch(self._at, interval_ms)
        channel = SocketChannel(self.path, self._patience_s)
        try:
            channel.send(call)
            while channel.news(call):
                yield view.take(call.news.popleft())
                self._at.check()
            call.outcome()
        finally:
            if not self._at.is_foreign:
                channel.close()

    def trace(self, *events: str, limit: int | None = None) -> Iterator[Traced]:
        """Yields the daemon's events, all or those named, as they happen; over a connection of its own."""
        call = verbs.trace(self._at, events, limit)
        channel = SocketChannel(self.path, self._patience_s)
        try:
            channel.send(call)
            while channel.news(call):
                yield call.news.popleft()
            yield call.outcome()
        finally:
            if not self._at.is_foreign:
                channel.close()

    # Inside

    def _ask(self, call: Call[T]) -> T:
        try:
            return self._channel.ask(call)
        except ConnectionLost:
            self._at.settle()  # the lease goes with the connection
            raise

    def _run_plan(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                try:
                    if isinstance(step, Call):
                        done: Any = self._ask(step)
                    elif isinstance(step, Reads):
                        done = self._read(step)
                    else:
                        done = self._write(step)
                except BaseException as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(done)
        except StopIteration as end:
            result: T = end.value
            return result

    def _read(self, reads: Reads) -> Sequence[bytes]:
        jobs = reads.jobs
        try:
            self._at.begin_read(reads)
            read = self._at.data.read
            if len(jobs) == 1:
                return (read(*jobs[0]),)
            if _is_worth_threads([sectors for _, sectors in jobs]):
                return reads.whole(side_by_side([functools.partial(read, *job) for job in jobs]))
            return reads.whole([read(pointer, sectors) for pointer, sectors in jobs])
        finally:
            self._at.end_read(reads)

    def _write(self, writes: Writes) -> Any:
        try:
            self._at.begin_write(writes)
            write = self._at.data.write
            if _is_worth_threads([key.sectors for key, _ in writes.jobs]):
                side_by_side([functools.partial(write, *job) for job in writes.jobs])
            else:
                for key, data in writes.jobs:
                    write(key, data)
        finally:
            self._at.end_write(writes)


def _is_worth_threads(sectors: Sequence[int]) -> bool:
    return len(sectors) > 1 and sum(sectors) * SECTOR_BYTES >= WORTH_THREADS_BYTES

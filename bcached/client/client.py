# SPDX-License-Identifier: MIT
"""The asyncio client: one method for each of the socket's, and reading and writing the data itself."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

from bcached.client.arguments import flags, patience, socket_path
from bcached.client.attachment import SOCKET_PATH, Attachment, SocketPath
from bcached.client.channel import Channel
from bcached.client.method_face import with_face
from bcached.client.protocol import fetching, plans, storing, verbs
from bcached.client.protocol.exchange import Call
from bcached.client.protocol.fetching import Piece
from bcached.client.protocol.plans import Plan, Step
from bcached.client.protocol.transfers import Reads, Writes
from bcached.client.side_by_side import THREADS
from bcached.client.state_view import StateView
from bcached.errors import ClientClosed
from bcached.keys import Key
from bcached.set_state import SetState
from bcached.wire.admin_messages import Traced
from bcached.wire.messages import Description

__all__ = ["SOCKET_PATH", "Client", "Piece"]

P = ParamSpec("P")
T = TypeVar("T")


def _calls(
    verb: Callable[Concatenate[Attachment, P], Call[T]],
) -> "Callable[Concatenate[Client, P], Coroutine[Any, Any, T]]":
    async def ask(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await client._ask(verb(client._at, *arguments, **named))  # noqa: SLF001 - its own method

    return with_face(ask, verb, "Client")


def _runs_plan(
    plan: Callable[Concatenate[Attachment, P], Plan[T]],
) -> "Callable[Concatenate[Client, P], Coroutine[Any, Any, T]]":
    async def run_plan(client: "Client", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await client._run_plan(plan(client._at, *arguments, **named))  # noqa: SLF001 - its own method

    return with_face(run_plan, plan, "Client")


class Client:
    """A connection to the daemon and its state.

    It has a method for each of the socket's, made from protocol/verbs.py, and for each operation of several
    steps (store, fetch), made from the plans beside it: most of its methods are one line each.

    Calls may be made concurrently: they are pipelined, and start in the order they were made. A client whose
    role is below allocator takes no lease and cannot write. patience_s is how long to wait for a daemon that
    is not running, as during a restart. With direct=False data goes through the page cache, which needs
    blocks of whole pages; cached pages are then read without leaving the loop.
    """

    def __init__(
        self, path: SocketPath = SOCKET_PATH, *, patience_s: float = 0.0, direct: bool = True
    ) -> None:
        """Connects by `async with` or connect(). The parameters are explained above."""
        flags(direct=direct)
        self.path = socket_path(path)
        self._patience_s = patience(patience_s)
        self._at = Attachment(self.path, direct=direct)
        self._channel: Channel  # once connected
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="bcached-client")

    def __reduce__(self) -> NoReturn:
        """Raises TypeError: neither a copy nor another process may use the connection."""
        raise TypeError(f"a client is one connection of one process: connect another one to {self.path}")

    async def __aenter__(self) -> Self:
        """Connect, and take the lease."""
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; release the lease when the last write has returned."""
        await self.close()

    async def connect(self) -> Self:
        """Connect, and take the lease; a client that is connected stays so."""
        self._at.check_new()
        if self._at.is_open:
            return self
        channel = await Channel.open(self.path, self._patience_s)
        try:
            self._at.begin(channel, await channel.ask(verbs.describe()))
            channel.settle_at_end(self._at)
        except BaseException:
            self._at.abandon()
            channel.abort()
            await channel.lost
            raise
        self._channel = channel
        return self

    async def close(self) -> None:
        """Disconnect; release the lease when the last write has returned. Idempotent."""
        if self._at.is_foreign:  # all of it is the parent's
            return
        if self._at.close():
            await self._channel.close()
            await asyncio.to_thread(self._pool.shutdown)
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

    async def watch(self, interval_ms: int | None = None) -> AsyncGenerator[SetState, None]:
        """Yields the state, and again whenever it has changed; over a connection of its own."""
        view, call = StateView(), verbs.watch(self._at, interval_ms)
        channel = await Channel.open(self.path, self._patience_s)
        try:
            channel.send(call)
            while await channel.news(call):
                yield view.take(call.news.popleft())
                self._at.check()
            call.outcome()
        finally:
            if not self._at.is_foreign:
                channel.abort()
                await channel.lost

    async def trace(self, *events: str, limit: int | None = None) -> AsyncGenerator[Traced, None]:
        """Yields the daemon's events, all or those named, as they happen; over a connection of its own."""
        call = verbs.trace(self._at, events, limit)
        channel = await Channel.open(self.path, self._patience_s)
        try:
            channel.send(call)
            while await channel.news(call):
                yield call.news.popleft()
            yield call.outcome()
        finally:
            if not self._at.is_foreign:
                channel.abort()
                await channel.lost

    # Inside

    async def _ask(self, call: Call[T]) -> T:
        return await self._channel.ask(call)

    async def _run_plan(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                try:
                    done = await self._perform(step)
                except BaseException as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(done)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Reads):
            return await self._read(step)
        if isinstance(step, Writes):
            return await self._write(step)
        return await self._channel.ask(step)

    async def _read(self, reads: Reads) -> Sequence[bytes]:
        """Read cached pages at once, the rest in threads."""
        try:
            self._at.begin_read(reads)
            data = self._at.data
            parts: list[Any] = [data.read_at_once(pointer, sectors) for pointer, sectors in reads.jobs]
            waiting = [number for number, part in enumerate(parts) if part is None]
            if waiting:
                jobs = [self._in_thread(functools.partial(data.read, *reads.jobs[at])) for at in waiting]
                for number, part in zip(waiting, await asyncio.gather(*jobs), strict=True):
                    parts[number] = part
            return reads.whole(parts)
        finally:
            self._at.end_read(reads)

    async def _write(self, writes: Writes) -> None:
        self._at.begin_write(writes)
        writes.job_begins()  # one extra, so that the count does not reach 0 before all have begun
        try:
            jobs = [self._begin_write(writes, key, data) for key, data in writes.jobs]
        finally:
            writes.when_returned(functools.partial(self._at.end_write, writes))
            writes.job_returned()
        for outcome in await asyncio.shield(asyncio.gather(*jobs, return_exceptions=True)):
            if outcome is not None:
                raise outcome

    def _begin_write(self, writes: Writes, key: Key, data: memoryview) -> "asyncio.Future[None]":
        job = self._in_thread(functools.partial(self._at.data.write, key, data))
        writes.job_begins()
        job.add_done_callback(lambda _: writes.job_returned())
        return job

    def _in_thread(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, call)
        except RuntimeError:  # the pool is shut down
            raise ClientClosed(self.path) from None

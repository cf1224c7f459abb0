"""The blocking client: the same methods for programs without an event loop.

It is the asyncio client with a loop of its own that runs only during a call; not to be used from a thread
whose loop is running, nor from two threads at once.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from bcached.client.client import SOCKET_PATH, Client
from bcached.wire.messages import Description, State

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[BlockingClient, P], T]":
    @functools.wraps(method)
    def call(client: "BlockingClient", /, *arguments: P.args, **named: P.kwargs) -> T:
        return client.runner.run(method(client.client, *arguments, **named))

    return call


class BlockingClient:
    """A connection to the daemon, with all that it holds; see Client for what each method does."""

    def __init__(self, path: str = SOCKET_PATH, *, patience_s: float = 0.0) -> None:
        self.runner = asyncio.Runner()
        self.client = Client(path, patience_s=patience_s)

    def __enter__(self) -> Self:
        """Connect, and take the lease."""
        try:
            self.runner.run(self.client.__aenter__())
        except BaseException:
            self.runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect, and let the lease go."""
        try:
            self.runner.run(self.client.__aexit__(kind, error, trace))
        finally:
            self.runner.close()

    @property
    def description(self) -> Description:
        """The set and its devices, and our role."""
        return self.client.description

    @property
    def is_connected(self) -> bool:
        """Whether the connection stood when last looked at; only a call looks."""
        return self.client.is_connected

    allocate = _blocking(Client.allocate)
    allocate_many = _blocking(Client.allocate_many)
    allocate_bucket = _blocking(Client.allocate_bucket)
    free_bucket = _blocking(Client.free_bucket)
    release = _blocking(Client.release)
    commit = _blocking(Client.commit)
    mark_clean = _blocking(Client.mark_clean)
    lookup = _blocking(Client.lookup)
    lookup_many = _blocking(Client.lookup_many)
    unpin = _blocking(Client.unpin)
    invalidate = _blocking(Client.invalidate)
    flush = _blocking(Client.flush)
    store = _blocking(Client.store)
    fetch = _blocking(Client.fetch)
    write = _blocking(Client.write)
    read = _blocking(Client.read)
    now = _blocking(Client.now)
    is_current = _blocking(Client.is_current)
    current_pointers = _blocking(Client.current_pointers)
    status = _blocking(Client.status)
    explain = _blocking(Client.explain)
    verify = _blocking(Client.verify)
    collect_garbage = _blocking(Client.collect_garbage)
    write_priorities = _blocking(Client.write_priorities)
    set_replacement = _blocking(Client.set_replacement)
    set_discard = _blocking(Client.set_discard)
    list_volumes = _blocking(Client.list_volumes)
    list_orphans = _blocking(Client.list_orphans)
    create_volume = _blocking(Client.create_volume)
    delete_volume = _blocking(Client.delete_volume)

    def watch(self, interval_ms: int | None = None) -> Iterator[State]:
        """The state, and again whenever it has changed."""
        states = self.client.watch(interval_ms)

        async def following() -> State | None:
            return await anext(states, None)

        try:
            while (state := self.runner.run(following())) is not None:
                yield state
        finally:
            self.runner.run(states.aclose())

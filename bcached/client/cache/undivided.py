# SPDX-License-Identifier: MIT
"""A change of several steps, made completely or not at all.

An exception may be raised at any instruction of the main thread (Ctrl-C, a signal handler). In the middle of
a change it would leave keys that are neither gathered nor sent, or sectors that are cut twice. Then the
connection ends: what was not answered is dropped with the session, as after any other loss.
"""

from types import TracebackType

from bcached.client.socket_channel import SocketChannel
from bcached.errors import BcachedError


class Undivided:
    """A context for changes of what belongs to one connection, whose lock is held."""

    def __init__(self, channel: SocketChannel) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, BcachedError):  # those are raised between two changes
            self._channel.end_interrupted()

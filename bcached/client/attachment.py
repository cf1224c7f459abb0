"""What a client's connection holds: its process, the set's description, data paths, lease, gens.

It ends in three steps that may lie apart: the connection is gone or closed, the last write has returned (now
the lease is let go), the last transfer of any kind has (now the data paths are closed).
"""

import os
import threading
from collections.abc import Sequence
from typing import Protocol

from bcached.client.data_paths import DataPaths
from bcached.client.forks import end_in_children
from bcached.client.gens import Gens, Instant
from bcached.client.lease import Lease
from bcached.errors import ClientClosed, ConnectionLost, ForkedClient
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES
from bcached.wire.messages import Description, GenMapFile

SOCKET_PATH = "/run/bcached/io.bcached"
NOT_ENTERED = "it is made by `with` or `async with`, or by connect()"
WRITER_ROLES = ("allocator", "admin")


class Connected(Protocol):
    """The connection, whichever client's."""

    @property
    def stands(self) -> bool:
        """Whether it is there: the kernel is asked."""

    def tell(self, message: bytes) -> None:
        """Send what is not answered."""


class Attachment:
    """Everything that is good only as long as the connection stands. Safe to use from several threads."""

    def __init__(self, path: str, *, direct: bool) -> None:
        self.path = path
        self.direct = direct
        self.connected: Connected | None = None
        self.data: DataPaths
        self.gens: Gens | None = None
        self._pid = 0
        self._is_open = False
        self._is_closed = False
        self._description: Description | None = None
        self._lease: Lease | None = None
        self._lock = threading.RLock()  # reentrant, so that no handler of a signal waits for it
        self._writes: set[object] = set()  # under way
        self._reads: set[object] = set()

    # Whether the client may be used

    def check(self) -> None:
        """Raise unless a connected client is used in its own process: ForkedClient, ClientClosed, ..."""
        if self._is_open and os.getpid() == self._pid:
            return
        self.check_process()
        if self._is_closed:
            raise ClientClosed(self.path)
        raise ConnectionLost(self.path, NOT_ENTERED)

    def check_process(self) -> None:
        """ForkedClient in any process but the one that connected."""
        if self.is_foreign:
            raise ForkedClient(self.path, self._pid, os.getpid())

    def check_new(self) -> None:
        """Raise if the client cannot be connected: it belongs to another process, or was closed."""
        self.check_process()
        if self._is_closed:
            raise ClientClosed(self.path)

    @property
    def is_open(self) -> bool:
        """Whether it was connected and not closed since."""
        return self._is_open

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a child of the one that connected."""
        return self._pid not in (0, os.getpid())

    @property
    def stands(self) -> bool:
        """Whether the connection is there, for us."""
        mine = self._is_open and os.getpid() == self._pid
        return mine and self.connected is not None and self.connected.stands

    # Beginning and end

    def begin(self, connected: Connected, description: Description) -> None:
        """Take the lease, if we may write; from here on the client can be used."""
        self._pid = os.getpid()
        if description.role in WRITER_ROLES:
            self._lease = Lease(description.lease_path)
        self.data = DataPaths(description.devices, direct=self.direct)
        self._description = description
        self.connected = connected
        self._is_open = True
        end_in_children(self)

    def close(self) -> bool:
        """Say that the client is closed; whether it was not already. The caller ends the connection."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
            self._is_closed = True
        return was_open

    def settle(self) -> None:
        """Let go of what the end of the connection, or of the last transfer, leaves without use."""
        with self._lock:
            if self._lease is not None and not self._writes and not self.stands:
                self._lease.let_go()
            if self._is_closed and not self._writes and not self._reads and self._description is not None:
                self.data.close()
                self.gens = None  # unmapped when no judgement is under way any more

    def end_in_child(self) -> None:
        """In a child of our process: close its copies, which leaves the parent's lock and files alone."""
        if self._lease is not None:
            self._lease.let_go()
        self.data.close()

    @property
    def description(self) -> Description:
        """The set and its devices, and our role."""
        if self._description is None:
            raise ConnectionLost(self.path, NOT_ENTERED)
        return self._description

    @property
    def block_bytes(self) -> int:
        """What data is written in."""
        return self.description.devices[0].block_sectors * SECTOR_BYTES

    # Transfers

    # Where an interruption may come between, end is called for what did not begin, too.

    def begin_write(self, write: object) -> None:
        """A write is about to begin, if it may; end_write once it has returned."""
        self.check()
        with self._lock:
            may_write = self.stands and self._lease is not None and self._lease.is_held
            if may_write:
                self._writes.add(write)
        if not may_write:
            self.settle()
            raise ConnectionLost(self.path, "nothing may be written without the connection and its lease")

    def end_write(self, write: object) -> None:
        """It has returned."""
        self._writes.discard(write)
        if not self._writes:
            self.settle()

    def begin_read(self, read: object) -> None:
        """A read is about to begin; end_read once it has returned."""
        with self._lock:
            self.check()  # in here, since close() is followed by the end of the data paths
            self._reads.add(read)

    def end_read(self, read: object) -> None:
        """It has returned."""
        self._reads.discard(read)
        if self._is_closed and not self._reads:
            self.settle()

    def tell(self, message: bytes) -> None:
        """Send what is not answered, if there is a connection and it is ours."""
        if self._is_open and not self.is_foreign and self.connected is not None:
            self.connected.tell(message)

    # Gens

    def map_gens(self, files: Sequence[GenMapFile]) -> Gens:
        """The gens, mapped; the first to be here with the answer maps them."""
        if self.gens is None:
            self.gens = Gens(files, self.description.devices)
        return self.gens

    def current(self, gens: Gens, key: Key, since: Instant) -> tuple[Pointer, ...]:
        """The places of the key that are good now, if the key was good then. Ask after the read."""
        good = gens.current(key, since)
        return good if self.stands else ()

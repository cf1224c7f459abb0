# SPDX-License-Identifier: MIT
"""The state of a client's connection: its process, the set's description, data paths, lease, gens.

It ends in three steps, perhaps at different times: 1. the connection is closed, by either side; 2. the last
write has returned, and the lease is released; 3. the last transfer has returned, and the data paths are
closed and the gens unmapped: the device may then be unmounted, or its file's space freed.
"""

import os
import threading
from collections.abc import Sequence
from os import getpid
from typing import Any, NoReturn, Protocol, TypeVar

from bcached.client.data.data_paths import DataPaths
from bcached.client.forks import end_in_children
from bcached.client.gens import Gens
from bcached.client.lease import Lease
from bcached.client.protocol.request_check import check_request, request_of
from bcached.errors import ClientClosed, ConnectionLost, ForkedClient
from bcached.wire.messages import Description, GenMapFile, Parameters

P = TypeVar("P", bound=Parameters)

SocketPath = str | os.PathLike[str]
SOCKET_PATH = "/run/bcached/io.bcached"
NOT_ENTERED = "it is made by `with` or `async with`, or by connect()"
WRITER_ROLES = ("allocator", "admin")


class OpenConnection(Protocol):
    """The connection of either client."""

    @property
    def is_connected(self) -> bool:
        """Whether it is open, according to the kernel."""

    def send_oneway(self, message: bytes) -> None:
        """Send what is not answered."""


class Attachment:
    """Everything that is valid only while the connection is open. Thread-safe.

    Its methods are those of four steps of one life, which share the lock: it is checked before each call,
    begun once, notes each transfer, and ends.
    """

    def __init__(
        self, path: str, *, direct: bool, whole_buckets: bool = False, checks_requests: bool = True
    ) -> None:
        self.path = path
        self._checks_requests = checks_requests  # unless its own code makes all of them
        self.whole_buckets = whole_buckets  # that the client writes to no others than those it holds whole
        self.direct = direct
        self.connection: OpenConnection  # from `begin` on, also after its end: it knows whether it is open
        self.data: DataPaths  # of every member, from `begin` on
        self.gens: Gens | None = None  # mapped when first needed
        self._pid = 0  # the process that connected; 0 before that
        self._is_open = False  # connected, and not closed by the caller
        self._is_closed = False  # closed by the caller, for good
        self._has_ended = False  # the connection, by either side
        self._description: Description | None = None
        self._lease: Lease | None = None  # of a client that may write
        self._lock = threading.RLock()  # reentrant, so that a signal handler does not wait for it
        self._writes: set[object] = set()  # in flight: the lease is kept for them
        self._reads: set[object] = set()  # in flight: the data paths are kept open for them

    # Whether the client may be used

    def check(self, request: Parameters | None = None) -> None:
        """Raises ForkedClient, ClientClosed or ConnectionLost unless the client is usable in this process.

        Raises InvalidType or InvalidValue for a request that is none.
        """
        if self._is_open and getpid() == self._pid:
            if request is not None and self._checks_requests:
                check_request(request)
            return
        self._refuse()

    def request(self, kind: type[P], fields: dict[str, Any]) -> P:
        """Returns a request whose fields are of no struct; raises what `check` does."""
        if not self._is_open or getpid() != self._pid:
            self._refuse()
        return request_of(kind, fields) if self._checks_requests else kind(**fields)

    def _refuse(self) -> NoReturn:
        self._check_process()
        if self._is_closed:
            raise ClientClosed(self.path)
        raise ConnectionLost(self.path, NOT_ENTERED)

    def _check_process(self) -> None:
        """Raises ForkedClient in any process but the one that connected."""
        if self.is_foreign:
            raise ForkedClient(self.path, self._pid, getpid())

    def check_new(self) -> None:
        """Raises an error if the client cannot be connected: it belongs to another process, or was closed."""
        self._check_process()
        if self._is_closed:
            raise ClientClosed(self.path)

    @property
    def is_open(self) -> bool:
        """Whether it was connected and not closed since."""
        return self._is_open

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a child of the one that connected."""
        return self._pid not in (0, getpid())

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open and belongs to this process."""
        return self._is_open and self.connection.is_connected and getpid() == self._pid

    # Beginning and end

    def begin(self, connection: OpenConnection, description: Description) -> None:
        """Take the lease if the role permits writes. From here on the client can be used."""
        self._pid = getpid()
        if description.role in WRITER_ROLES:
            self._lease = Lease(description.lease_path)
        self.data = DataPaths(description.devices, direct=self.direct, whole_buckets=self.whole_buckets)
        self._description = description
        self.connection = connection
        self._is_open = True
        end_in_children(self)

    def abandon(self) -> None:
        """Release what `begin` has taken: the client could not be connected, and may be once more."""
        with self._lock:
            self._is_open, self._description, self._pid, self.gens = False, None, 0, None
            if self._lease is not None:
                self._lease.release()

    def close(self) -> bool:
        """Mark the client as closed; returns whether it was open. The caller closes the connection."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
            self._is_closed = True
        return was_open

    def settle(self) -> None:
        """Release what is unused after the end of the connection or of the last transfer."""
        with self._lock:
            if self._description is None or self.is_connected:
                return
            self._has_ended = True
            if self._lease is not None and not self._writes:
                self._lease.release()
            if not self._writes and not self._reads:
                self.data.close()
                self.gens = None  # unmapped when no check refers to it any more

    def end_in_child(self) -> None:
        """In a child process: close its copies, which does not affect the parent's lock and files."""
        if self._lease is not None:
            self._lease.release()
        self.data.close_at_once()

    @property
    def description(self) -> Description:
        """Returns the set, its devices, and our role."""
        if self._description is None:
            raise ConnectionLost(self.path, NOT_ENTERED)
        return self._description

    # Transfers

    # An interruption may come between: end_... is called for transfers that did not begin, too.

    def begin_write(self, write: object) -> None:
        """Register a write; raises ConnectionLost without a lease. end_write() follows its return."""
        with self._lock:
            self.check()
            may_write = self.connection.is_connected and self._lease is not None and self._lease.is_held
            if may_write:
                self._writes.add(write)
        if not may_write:
            self.settle()
            raise ConnectionLost(self.path, "nothing may be written without the connection and its lease")

    def end_write(self, write: object) -> None:
        """It has returned."""
        self._writes.discard(write)
        if not self._writes and not (self._is_open and self.connection.is_connected):
            self.settle()

    def begin_read(self, read: object) -> None:
        """Register a read; end_read() follows once it has returned."""
        # In this order, and without the lock: close() ends the usability first, and then looks for reads.
        self._reads.add(read)
        if not self._is_open:
            self._refuse()

    def end_read(self, read: object) -> None:
        """It has returned."""
        self._reads.discard(read)
        if self._has_ended and not self._reads:
            self.settle()

    def send_oneway(self, message: bytes) -> None:
        """Send a oneway request, if the connection is open and ours."""
        if self._is_open and not self.is_foreign:
            self.connection.send_oneway(message)

    # Gens

    def map_gens(self, files: Sequence[GenMapFile]) -> Gens:
        """Returns the gens, mapped by the first caller with the reply."""
        gens = self.gens
        if gens is None:
            gens = self.gens = Gens(files, self.description.devices)
        return gens

"""The lease: a shared lock that says "I may still be writing" to a later life of the daemon."""

import fcntl
import os

from bcached.errors import DeviceError
from bcached.wire.lease_lock import whole_file


class Lease:
    """Held from before the first write until `let_go`, or until no client refers to it any more."""

    _descriptor = -1

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise DeviceError(path, f"cannot open the lease: {error.strerror}") from None
        try:
            # Not flock: any reader of the file could hold that exclusively, and keep all others out.
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, whole_file(fcntl.F_RDLCK))
        except OSError as error:
            self.let_go()
            raise DeviceError(path, f"cannot lock the lease: {error.strerror}") from None

    def __del__(self) -> None:
        """Let go of the lease of a client that was not closed: a write that is under way keeps the client."""
        self.let_go()

    @property
    def is_held(self) -> bool:
        """Whether we may write."""
        return self._descriptor >= 0

    def let_go(self) -> None:
        """Promise to write no more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

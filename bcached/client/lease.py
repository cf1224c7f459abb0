# SPDX-License-Identifier: MIT
"""The lease: a shared lock by which a later run of the daemon knows that the client may still write."""

import fcntl
import os

from bcached.errors import DeviceError
from bcached.wire.lease_lock import whole_file


class Lease:
    """Held from before the first write until `release`, or until it is no longer referenced."""

    _descriptor = -1

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise DeviceError(path, f"cannot open the lease: {error.strerror}") from None
        try:
            # Not flock: any reader of the file could hold that exclusively, and block all others.
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, whole_file(fcntl.F_RDLCK))
        except OSError as error:
            self.release()
            raise DeviceError(path, f"cannot lock the lease: {error.strerror}") from None

    def __del__(self) -> None:
        """Release the lease of a client that was not closed: a write in flight keeps a reference."""
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether we may write."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Release the lock: the client writes no more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

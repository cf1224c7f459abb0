"""A file of our own that is mapped into memory, for others to map read-only."""

import contextlib
import mmap
import os
import secrets

from bcached.errors import DeviceError

MODE = 0o440


class MappedFile:
    """Zeroed shared memory under a path. Whatever stood there before is replaced, never reused."""

    def __init__(self, path: str, size_bytes: int, gid: int | None = None) -> None:
        self.path = path
        self.size_bytes = size_bytes
        temporary = f"{path}.{secrets.token_hex(4)}"
        try:
            descriptor = os.open(
                temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE
            )
            try:
                os.fchmod(descriptor, MODE)
                if gid is not None:
                    os.fchown(descriptor, -1, gid)
                os.posix_fallocate(descriptor, 0, size_bytes)  # or a full tmpfs would kill us at some store
                self._map = mmap.mmap(descriptor, size_bytes)
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DeviceError(path, f"cannot map it: {error.strerror}") from None
        self.memory = memoryview(self._map)

    def remove(self) -> None:
        """Take the name away; who has it mapped keeps the memory."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

# SPDX-License-Identifier: GPL-2.0-only
"""An image file or a block device behind one interface that never blocks the event loop.

All I/O is direct where the file system supports it: what a failed write left in the page cache would be read
back as if it were on the device. Each operation is one call in a thread. Three groups of threads keep one
kind of call from delaying another: reads and writes; flushes and durable writes, one at a time; and discards,
which may take seconds.
"""

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aiofiles.os import wrap

from bcached.device.aligned_io import ShortTransferError
from bcached.device.block_device import BytesLike, check_extent
from bcached.device.blocking_file import BlockingFile
from bcached.device.claims.patience import BRIEF, Patience
from bcached.device.io_threads import IoThreads, ended
from bcached.device.opening import OpenFile, Opening
from bcached.errors import DeviceError, DeviceRefused, FlushFailed, reason

T = TypeVar("T")

# Four large transfers in flight are twice as fast as one; more gain nothing.
TRANSFER_THREADS = 4


class FileDevice:
    """A device behind a file descriptor.

    Eight of its attributes are the properties of BlockDevice and of the opening; the others are the file, its
    wrapped calls and the threads for these.

    `direct`: whether I/O bypasses the page cache. `discards`: whether discard has an effect; it turns false
    when the device reports that it does not support it, and discard is then a no-op, never an error.
    """

    def __init__(self, path: str, file: OpenFile) -> None:
        self.path = path  # as given: the name in messages
        # Measured at the opening (OpenFile); of these only `discards` changes later, and an image's size.
        self.data_path = file.target
        self.size_bytes = file.size_bytes
        self.logical_block_bytes = file.logical_block_bytes
        self.direct = file.direct
        self.writable = file.writable
        self.is_block = file.is_block
        self.discards = file.writable
        self.errors = 0  # operations that failed
        # Its calls block, so each is wrapped by aiofiles: it runs in the threads that are given to it.
        self._file = BlockingFile(path, file)
        self._read, self._write = wrap(self._file.read), wrap(self._file.write)
        self._read_sectors = wrap(self._file.read_sectors)
        self._write_durably, self._flush = wrap(self._file.write_durably), wrap(self._file.flush)
        self._discard, self._change_size = wrap(self._file.discard), wrap(self._file.change_size)
        self._transfer_threads = IoThreads("device-io", TRANSFER_THREADS)
        self._barrier_thread = IoThreads("device-flush", 1)  # one: see BlockingFile
        self._discard_thread = IoThreads("device-discard", 1)
        self._closing: Future[None] | None = None  # the call that closes it, from the first `close` on

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        writable: bool = True,
        exclusive: bool = True,
        direct: bool = True,
        patience: Patience = BRIEF,
    ) -> "FileDevice":
        """Open an existing file or device; nothing is created or changed.

        exclusive is for programs that run or format a set: the device is locked, and refused if another
        process still uses it when patience ends. Otherwise no lock is taken, which allows inspecting a
        device while its daemon runs.
        """
        thread = IoThreads("device-open", 1)
        opening = Opening(path, writable=writable, exclusive=exclusive, direct=direct)
        try:
            file = await patience.see_through(path, partial(thread.run, wrap(opening.attempt)))
            if opening.ignored:
                patience.report(f"{path}: ignoring the lock of {', '.join(map(str, opening.ignored))}")
        except BaseException:
            await ended(thread.run_last(opening.close))
            raise
        thread.run_last(lambda: None)
        return cls(path, file)

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset; works after a failed flush, too."""
        self._check("read", offset, length)
        what = f"read {length} bytes at {offset}"
        return await self._perform(what, self._transfer_threads, self._read, offset, length)

    async def read_sectors(self, offsets: Sequence[int]) -> list[bytes | None]:
        """Returns the sector at each of these offsets, which ascend; None for one that cannot be read."""
        self._refuse_if_closed()
        found = await self._perform("read", self._transfer_threads, self._read_sectors, offsets)
        self.errors += found.count(None)
        return found

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Write all of data at offset; a durable write that fails is as fatal as a failed flush."""
        source = memoryview(data).cast("B")
        self._check_change("write", offset, source.nbytes)
        threads = self._barrier_thread if durable else self._transfer_threads
        call = self._write_durably if durable else self._write
        await self._perform(f"write {source.nbytes} bytes at {offset}", threads, call, offset, source)

    async def flush(self) -> None:
        """Make every write and discard that has returned before this call durable."""
        self._refuse_if_closed()
        self._file.refuse_if_failed()
        await self._perform("flush", self._barrier_thread, self._flush)

    async def discard(self, offset: int, length: int) -> None:
        """Discard the extent; an image then reads as zeros there, a block device as anything."""
        self._check_change("discard", offset, length)
        if not self.discards:
            return
        what = f"discard {length} bytes at {offset}"
        if not await self._perform(what, self._discard_thread, self._discard, offset, length):
            self.discards = False

    async def change_size(self, size_bytes: int) -> None:
        """Make an image file longer, with zeros, or shorter. Raises DeviceRefused for a block device."""
        if self.is_block:
            raise DeviceRefused(self.path, "a block device has the size it has")
        await self._perform(
            f"make it {size_bytes} bytes long", self._barrier_thread, self._change_size, size_bytes
        )
        self.size_bytes = size_bytes

    async def close(self) -> None:
        """Wait for operations in flight and release the device; a second close waits for the first."""
        if self._closing is None:
            self._closing = IoThreads("device-close", 1).run_last(self._close_now)
        await ended(self._closing)

    async def _perform(
        self, what: str, threads: IoThreads, call: Callable[..., Awaitable[T]], *args: object
    ) -> T:
        """Run one call in a thread. Raises its OSError as DeviceError, with the operation and its offset."""
        try:
            return await threads.run(call, *args)
        except FlushFailed:
            self.errors += 1
            raise
        except (OSError, ShortTransferError) as error:
            self.errors += 1
            raise DeviceError(self.path, f"cannot {what}: {reason(error)}") from None

    def _close_now(self) -> None:
        for threads in (self._transfer_threads, self._barrier_thread, self._discard_thread):
            threads.drain()
        with suppress(OSError):  # about data that was never flushed, so never reported as durable
            self._file.close()

    def _check_change(self, verb: str, offset: int, length: int) -> None:
        self._check(verb, offset, length)
        assert offset % self.logical_block_bytes == 0
        assert length % self.logical_block_bytes == 0
        self._file.refuse_if_failed()
        if not self.writable:
            raise DeviceError(self.path, f"cannot {verb} {length} bytes at {offset}: it is open read-only")

    def _check(self, verb: str, offset: int, length: int) -> None:
        self._refuse_if_closed()
        check_extent(self, verb, offset, length)

    def _refuse_if_closed(self) -> None:
        if self._closing is not None:
            raise DeviceError(self.path, "the device is closed")

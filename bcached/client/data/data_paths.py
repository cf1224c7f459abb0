# SPDX-License-Identifier: MIT
"""The client's I/O: reads and writes at the sectors of a key.

Direct I/O through an aligned buffer, or through the page cache if the client requests that or the file
system has no direct I/O. The page cache needs blocks of whole pages: with smaller ones it would write back
old bytes of another client's block with ours.
"""

import errno
import mmap
import os
from collections.abc import Callable, Sequence

from bcached.client.data.aligned_buffers import PART_BYTES, AlignedBuffers
from bcached.client.data.scattered_reads import NOT_IN_MEMORY, FileRange, ScatteredRead
from bcached.client.data.write_back import begin_write_back
from bcached.errors import DeviceError, is_of_a_handler
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES
from bcached.wire.messages import Device

FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
AT_ONCE_BYTES = 1 << 16  # copied from the page cache in a few microseconds


class DataPath:
    """An open data path: until `close`, or until nothing refers to it any more.

    So a reader that holds a reference reads no other file that got its descriptor after it was closed.
    """

    __slots__ = ("descriptor", "is_direct")

    def __init__(self, path: str, flags: int, *, is_direct: bool) -> None:
        self.descriptor = -1
        self.is_direct = is_direct
        self.descriptor = os.open(path, flags | FLAGS | (os.O_DIRECT if is_direct else 0))

    def __del__(self) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close it now, also under a reader. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class DataPaths:
    """The members' data paths, opened when first needed. Thread-safe."""

    def __init__(
        self, devices: Sequence[Device], *, direct: bool = True, whole_buckets: bool = False
    ) -> None:
        # Whether the client writes to buckets that it holds alone: then no block shares a page with another
        # client's, even if a page has several blocks.
        self._whole_buckets = whole_buckets
        self._devices = {device.device: device for device in devices}
        self._direct = direct
        self._readers: dict[int, DataPath] = {}
        self._writers: dict[int, DataPath] = {}
        self._buffers = AlignedBuffers()

    def write(self, key: Key, data: "bytes | bytearray | memoryview") -> None:
        """Write an extent's bytes at every pointer of the key; returns when all writes have returned."""
        view = memoryview(data).cast("B")
        if view.nbytes != key.sectors * SECTOR_BYTES:
            raise ValueError(f"the key has {key.sectors * SECTOR_BYTES} bytes, the data {view.nbytes}")
        for pointer in key.pointers:
            path = self._path(pointer.device, write=True)
            if path.is_direct:
                self._write_aligned(path, pointer, view)
            else:
                self._transfer(os.pwritev, path, pointer, view, 0)

    def read(self, pointer: Pointer, sectors: int) -> bytes:
        """Returns the bytes at one of a key's pointers, without a check of validity."""
        path = self._readers.get(pointer.device) or self._path(pointer.device, write=False)
        end = sectors * SECTOR_BYTES
        if not path.is_direct:
            return self._read_cached(path, pointer, end)
        parts = []
        buffer = self._buffers.take()
        try:
            for start in range(0, end, PART_BYTES):
                with buffer[: min(PART_BYTES, end - start)] as part:
                    self._transfer(os.preadv, path, pointer, part, start)
                    parts.append(bytes(part))
        finally:
            self._buffers.give(buffer)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_bytes(self, pointer: Pointer, length: int) -> bytes:
        """Returns so many bytes at a pointer, from the page cache, with the fewest copies."""
        path = self._path(pointer.device, write=False)
        assert not path.is_direct, "direct read into unaligned memory"
        return self._read_cached(path, pointer, length)

    def fill(self, scattered: ScatteredRead, extents: "Sequence[tuple[Pointer, int]]") -> None:
        """Read so many bytes at each pointer, one behind the other, from the page cache."""
        paths = [self._path(pointer.device, write=False) for pointer, _ in extents]  # open until the end
        assert not any(path.is_direct for path in paths), "direct read into unaligned memory"
        try:
            scattered.fill(
                [
                    FileRange(path.descriptor, pointer.sector * SECTOR_BYTES, length)
                    for path, (pointer, length) in zip(paths, extents, strict=True)
                ]
            )
        except OSError as error:
            raise self._failed("read", extents[0][0], error) from None

    def _read_cached(self, path: DataPath, pointer: Pointer, length: int) -> bytes:
        try:
            data = os.pread(path.descriptor, length, pointer.sector * SECTOR_BYTES)
        except OSError as error:
            raise self._failed("read", pointer, error) from None
        return data if len(data) == length else self._rest(path, pointer, length, data)

    def _rest(self, path: DataPath, pointer: Pointer, length: int, data: bytes) -> bytes:
        """Returns all bytes, after a read that was cut short. Raises DeviceError at the device's end."""
        whole = bytearray(length)
        done = len(data) - len(data) % SECTOR_BYTES
        whole[:done] = data[:done]
        with memoryview(whole) as view, view[done:] as rest:
            self._transfer(os.preadv, path, pointer, rest, done)
        return bytes(whole)

    def write_parts(
        self, pointer: Pointer, parts: "Sequence[bytes | memoryview]", *, write_back: bool = False
    ) -> None:
        """Write the parts, one behind the other, at a pointer, into the page cache.

        write_back: begin to write them to the device, too.
        """
        path = self._path(pointer.device, write=True)
        assert not path.is_direct, "direct write from unaligned memory"
        length = sum(map(len, parts))
        try:
            written = os.pwritev(path.descriptor, parts, pointer.sector * SECTOR_BYTES)
        except OSError as error:
            raise self._failed("write", pointer, error) from None
        if written < length:  # a signal, or the device is full: the next write says which
            with memoryview(b"".join(parts)) as view:
                self._transfer(os.pwritev, path, pointer, view, 0)
        if write_back:
            begin_write_back(path.descriptor, pointer.sector * SECTOR_BYTES, length)

    def read_at_once(self, pointer: Pointer, sectors: int) -> bytes | None:
        """Returns the bytes if they are few and in the page cache, else None. Never waits for a device."""
        length = sectors * SECTOR_BYTES
        path = self._readers.get(pointer.device)
        if path is None or path.is_direct or length > AT_ONCE_BYTES:
            return None
        buffer = self._buffers.take()
        try:
            with buffer[:length] as part:
                found = os.preadv(path.descriptor, [part], pointer.sector * SECTOR_BYTES, os.RWF_NOWAIT)
                return bytes(part) if found == length else None
        except OSError as error:
            if error.errno in NOT_IN_MEMORY:
                return None
            raise self._failed("read", pointer, error) from None
        finally:
            self._buffers.give(buffer)

    def reader(self, device: int) -> DataPath:
        """Returns the open path of a member, for reads."""
        return self._path(device, write=False)

    def close(self) -> None:
        """Close what was opened, once no reader refers to it."""
        self._readers.clear()
        self._writers.clear()

    def close_at_once(self) -> None:
        """Close what was opened, in a child process that has it from its parent."""
        for paths in (self._readers, self._writers):
            while paths:
                paths.popitem()[1].close()

    def _write_aligned(self, path: DataPath, pointer: Pointer, view: memoryview) -> None:
        buffer = self._buffers.take()
        try:
            for start in range(0, view.nbytes, PART_BYTES):
                with view[start : start + PART_BYTES] as source, buffer[: source.nbytes] as part:
                    part[:] = source
                    self._transfer(os.pwritev, path, pointer, part, start)
        finally:
            self._buffers.give(buffer)

    def _transfer(
        self, verb: Callable[..., int], path: DataPath, pointer: Pointer, view: memoryview, start: int
    ) -> None:
        """Read or write the whole view, from byte start of the extent on."""
        offset = pointer.sector * SECTOR_BYTES + start
        done = 0
        try:
            while done < view.nbytes:
                with view[done:] as rest:
                    count = verb(path.descriptor, [rest], offset + done)
                count -= count % SECTOR_BYTES  # direct I/O can continue only at a sector boundary
                if count == 0:
                    raise OSError(errno.EIO, "the device ends before the extent does")
                done += count
        except OSError as error:
            raise self._failed("write" if verb is os.pwritev else "read", pointer, error) from None

    def _failed(self, what: str, pointer: Pointer, error: OSError) -> DeviceError | OSError:
        if is_of_a_handler(error):
            return error
        path = self._devices[pointer.device].data_path
        return DeviceError(path, f"cannot {what} at sector {pointer.sector}: {error.strerror}")

    def _path(self, number: int, *, write: bool) -> DataPath:
        paths = self._writers if write else self._readers
        path = paths.get(number)
        if path is None:
            device = self._devices.get(number)
            if device is None:
                raise DeviceError(f"device {number}", "the set has no such member")
            access = os.O_RDWR if write else os.O_RDONLY
            opened = _open(device, access, direct=self._direct, own_pages=self._has_own_pages(device))
            path = paths.setdefault(number, opened)  # another thread may be faster
        return path

    def _has_own_pages(self, device: Device) -> bool:
        """Whether no page contains sectors of two clients."""
        unit = device.bucket_sectors if self._whole_buckets else device.block_sectors
        return unit * SECTOR_BYTES % mmap.PAGESIZE == 0


def _open(device: Device, access: int, *, direct: bool, own_pages: bool) -> DataPath:
    path = device.data_path
    if direct:
        try:
            return DataPath(path, access, is_direct=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise DeviceError(path, f"cannot open: {error.strerror}") from None
    if not own_pages:
        why = "no direct I/O here" if direct else "the page cache is to be used"
        raise DeviceError(path, f"{why}, and the set's blocks are smaller than a page")
    try:
        return DataPath(path, access, is_direct=False)
    except OSError as error:
        raise DeviceError(path, f"cannot open: {error.strerror}") from None


def read_cached(descriptor: int, length: int, offset: int) -> bytes:
    """Returns bytes of a file if they are in the page cache. Raises OSError otherwise, without waiting."""
    buffer = bytearray(length)
    if os.preadv(descriptor, (buffer,), offset, os.RWF_NOWAIT) != length:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return bytes(buffer)
